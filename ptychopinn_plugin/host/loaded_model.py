"""The model that the window has loaded, and the file that the worker opens."""

import logging
from collections.abc import Callable
from pathlib import Path

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host.wording import BUILT_IN_NAME
from ptychopinn_plugin.host.worker.jobs import file_identity
from ptychopinn_plugin.model_file import BUILT_IN_PATH, Model, read_model, write_model

MODEL_EXTENSION = '.zip'
MODEL_NAME = f'model{MODEL_EXTENSION}'
"""Ptychodus looks for a model under this name."""

logger = logging.getLogger('ptychopinn_plugin')


def name_of_model(path: Path) -> str:
    """Return what people call a model file: its name, with that of its folder."""
    folder = path.absolute().parent.name
    return f'{folder}/{path.name}' if folder else path.name


class LoadedModel:
    """A model without its training state, which the worker reads from the file where it needs it.

    Attributes
    ----------
    model : Model
        The one that comes with the package until another one is loaded.
    when_loaded : callable
        Gets the path of each model that is loaded; None for the one of the package.
    """

    def __init__(self) -> None:
        self.model = Model.built_in()
        self._path = BUILT_IN_PATH
        self._identity = file_identity(BUILT_IN_PATH)
        self.when_loaded: Callable[[Path | None], None] = lambda path: None

    @property
    def is_built_in(self) -> bool:
        """Whether it is the model that comes with the package."""
        return self._path == BUILT_IN_PATH

    @property
    def name(self) -> str:
        """What people call it: its file with the folder, or `BUILT_IN_NAME`."""
        return BUILT_IN_NAME if self.is_built_in else name_of_model(self._path)

    @property
    def path(self) -> Path:
        """Its file."""
        return self._path

    def load(self, path: Path) -> Model:
        """Read a model file.

        Raises
        ------
        ArchiveError
            If it is no model file, damaged, or of a newer format.
        """
        # This is taken before the file is read: one that is replaced meanwhile is read again.
        identity = file_identity(path)
        model = read_model(path, with_training_state=False)
        self.model, self._path, self._identity = model, path, identity
        self.when_loaded(path)
        return model

    def use_built_in(self) -> None:
        """Go back to the model that comes with the package."""
        self.model, self._path = Model.built_in(), BUILT_IN_PATH
        self._identity = file_identity(BUILT_IN_PATH)
        self.notify()

    def notify(self) -> None:
        """Call `when_loaded` with the model that is loaded."""
        self.when_loaded(None if self.is_built_in else self._path)

    def is_of(self, path: Path) -> bool:
        """Return whether the model is that of a file."""
        return self._path.absolute() == path.absolute()

    def current(self, purpose: str) -> tuple[Model, Path]:
        """Return the model as its file, which the worker will open, holds it now, and the file.

        Parameters
        ----------
        purpose : str
            What it is needed for; the error begins with it.

        Raises
        ------
        DataError
            If its file is gone.
        """
        model, path = self.model, self._path
        identity = file_identity(path)
        if identity is None:
            raise DataError(
                f'{purpose} needs the model file {path}, which is gone. Put it back, open another '
                'one with Load Model..., or train.'
            )
        if identity != self._identity:
            model = self.load(path)
            logger.warning('%s has changed since it was loaded, and was read again.', path)
        return model, path

    def save(self, target: Path, *, keep_training_state: bool) -> None:
        """Write the model to another file.

        Parameters
        ----------
        target : Path
        keep_training_state : bool
            Whether the file is to hold what resuming needs. That comes from the file that was
            loaded; where it has changed since, a warning is logged and it is left out.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        model, path = self.model, self._path
        if keep_training_state and file_identity(path) == self._identity:
            model = read_model(path)
        elif keep_training_state:
            logger.warning(
                '%s is gone or has changed since it was loaded, so %s is saved without what '
                'resuming its training needs.',
                path,
                target,
            )
        write_model(target, model, inference_only=not keep_training_state)
