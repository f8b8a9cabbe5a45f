"""The model so far, on disk while training goes on: what a killed run has learned is not lost."""

import time
import warnings
from pathlib import Path

from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.model_file import is_intact, write_model
from ptychopinn_plugin.storage.atomic import keep_predecessor, keep_previous, predecessor_path

MIN_SECONDS = 60.0
"""At least this many seconds pass between two checkpoints."""

MAX_WRITING_FRACTION = 0.01
"""Writing takes at most this share of the training, also with large networks on slow disks."""


class Checkpoints:
    """Writes the model so far to a file, at the end of an epoch about once a minute.

    The file holds the best weights and, for ``train --resume``, the newest. It is replaced in one
    go, and the one before stays as ``NAME.predecessor.zip``, from which `read_model` reads where
    a disk has damaged the newest. What lay there before the first is kept as
    ``NAME.previous.zip``.

    Parameters
    ----------
    path : Path
    continues : bool
        Training continues what lies at `path`, which may then be replaced.

    Attributes
    ----------
    path : Path
    is_written : bool
        Whether there is one of this training.
    """

    def __init__(self, path: Path, *, continues: bool = False) -> None:
        self.path = path
        self.is_written = False
        self._continues = continues
        self._due = time.monotonic() + MIN_SECONDS

    def beside(self, observer: Observer) -> Observer:
        """Return an observer that does what another one does, and writes checkpoints."""

        def observe(progress: Progress) -> bool | None:
            is_ending = observer(progress)
            self._write_if_due(progress)
            return is_ending

        return observe

    def _write_if_due(self, progress: Progress) -> None:
        begun = time.monotonic()
        if progress.make_model is None or begun < self._due:
            return
        try:
            self._keep_older()
            write_model(self.path, progress.make_model())
            self.is_written = True
        except OutputError as error:
            # It may work again the next time.
            warnings.warn(f'No checkpoint: {error} Training goes on.', stacklevel=2)
        now = time.monotonic()
        self._due = now + max(MIN_SECONDS, (now - begun) / MAX_WRITING_FRACTION)

    def _keep_older(self) -> None:
        if not self._is_ours:
            keep_previous(self.path)
        # A damaged one must not take the place of the good one before it.
        elif self.path.is_file() and (self.is_written or is_intact(self.path)):
            keep_predecessor(self.path)

    def remove(self) -> None:
        """Remove the file and the one before it, where this training wrote or continued them."""
        if self._is_ours:
            self.path.unlink(missing_ok=True)
            predecessor_path(self.path).unlink(missing_ok=True)

    @property
    def _is_ours(self) -> bool:
        return self.is_written or self._continues
