"""The model that the window has loaded, and the file that the worker opens."""

import logging
from pathlib import Path

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host.wording import BUILT_IN
from ptychopinn_plugin.host.worker.jobs import file_identity
from ptychopinn_plugin.model_file import Model, read_model, write_model

MODEL_EXTENSION = '.zip'
MODEL_NAME = f'model{MODEL_EXTENSION}'
"""Ptychodus looks for a model under this name."""

logger = logging.getLogger('ptychopinn_plugin')


class LoadedModel:
    """A model without its training state, which the worker reads from the file where it needs it.

    Attributes
    ----------
    model : Model, optional
        None where no model is loaded.
    """

    def __init__(self) -> None:
        self.model: Model | None = None
        self._path: Path | None = None
        self._identity: tuple[str, int, int] | None = None

    @property
    def name(self) -> str:
        """What people call it: its file with the folder, or `BUILT_IN`; empty without a model."""
        if self.model is None:
            return ''
        if self._path is None:
            return BUILT_IN
        folder = self._path.absolute().parent.name
        return f'{folder}/{self._path.name}' if folder else self._path.name

    @property
    def tool_tip(self) -> str:
        """The whole path of its file; empty without one."""
        return '' if self._path is None else str(self._path)

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
        return model

    def current(self, purpose: str) -> tuple[Model, Path]:
        """Return the model as its file, which the worker will open, holds it now, and the file.

        Parameters
        ----------
        purpose : str
            What it is needed for; the error begins with it.

        Raises
        ------
        DataError
            If no model is loaded, or its file is gone.
        """
        model, path = self._held(purpose)
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
        DataError
            If no model is loaded.
        OutputError
            If the file cannot be written.
        """
        model, path = self._held('Saving')
        if keep_training_state and file_identity(path) == self._identity:
            model = read_model(path)
        elif keep_training_state:
            logger.warning(
                '%s is gone or has changed since it was loaded, so %s is saved without what '
                'ptychopinn train --resume needs.',
                path,
                target,
            )
        write_model(target, model, inference_only=not keep_training_state)

    def _held(self, purpose: str) -> tuple[Model, Path]:
        if self.model is None or self._path is None:
            raise DataError(
                f'{purpose} needs a model, and none is loaded. Train one from scratch, or open a '
                f'file with Load Model... in the menu beside it; in batch mode put {MODEL_NAME} '
                'into the input folder.'
            )
        return self.model, self._path
