"""What the package logs: in the file of a training run, and as notes to who runs a command."""

import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ptychopinn_plugin.cli.experiment_logs import ExperimentLog
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.log import logging_warnings

if TYPE_CHECKING:
    from ptychopinn_plugin.backends.protocol import Progress

logger = logging.getLogger('ptychopinn_plugin')


class _LogFile(logging.FileHandler):
    """A log that does not end a training because a line cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the line out where the disk is full; whatever follows reports that."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def keeping_log(path: Path) -> Iterator[None]:
    """Write what the package logs to a file, while the block runs."""
    handler = _LogFile(path, encoding='utf-8')
    handler.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(message)s'))
    former = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(former)
        logger.removeHandler(handler)
        handler.close()


_collections: list[list[str]] = []
"""Each is a list that notes are added to while `collecting_notes` goes on."""


def show_note(text: str) -> None:
    """Print a note as a line on stderr, and keep it for who collects notes."""
    for collection in _collections:
        collection.append(text)
    typer.echo(f'note: {text}', err=True)


@contextmanager
def collecting_notes() -> Iterator[list[str]]:
    """Yield a list that gets every note which is shown while the block runs."""
    collection: list[str] = []
    _collections.append(collection)
    try:
        yield collection
    finally:
        _collections[:] = [other for other in _collections if other is not collection]


def notes_by_scan(shown: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Return notes by the scan that they begin with.

    Parameters
    ----------
    shown : sequence of str
        As they were shown.
    names : sequence of str
        Of the scans. A note that begins with none of them is of the only scan, or of the run: it
        is then under an empty name.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    for text in shown:
        name = next((each for each in names if text.startswith(f'{each}: ')), None)
        if name is not None:
            text = text.removeprefix(f'{name}: ')
        elif len(found) == 1:
            (name,) = found
        notes = found.setdefault(name or '', [])
        if text not in notes:
            notes.append(text)
    return found


class _Notes(logging.Handler):
    """Prints the package's warnings as notes, as the commands print theirs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line on stderr."""
        show_note(record.getMessage())


@contextmanager
def showing_warnings() -> Iterator[None]:
    """Print what the package warns of as notes, while the block runs."""
    handler = _Notes(logging.WARNING)
    logger.addHandler(handler)
    try:
        with logging_warnings():
            yield
    finally:
        logger.removeHandler(handler)


class LossLog:
    """Logs the losses of each epoch.

    Parameters
    ----------
    epochs_before : int
        How many the model had when this training began.
    experiment : ExperimentLog, optional
        Gets them as well.
    """

    def __init__(self, epochs_before: int, experiment: ExperimentLog | None = None) -> None:
        self._epoch, self._experiment = epochs_before, experiment
        self._stage = ''

    def __call__(self, progress: 'Progress') -> None:
        """Log a step, where it is the end of an epoch or the first of a stage."""
        if progress.stage != self._stage:
            self._stage = progress.stage
            logger.info('stage: %s', progress.stage)
        if progress.stage == 'train' and 'validation_loss' in progress.losses:
            self._epoch += 1
            losses = ', '.join(f'{name} {value:.6g}' for name, value in progress.losses.items())
            rate = progress.patterns_per_second
            speed = '' if rate is None else f', {rate:.0f} patterns/s'
            logger.info('epoch %d: %s%s', self._epoch, losses, speed)
            self._add_to_experiment(progress.losses)

    def _add_to_experiment(self, losses: Mapping[str, float]) -> None:
        if self._experiment is None:
            return
        finite = {name: value for name, value in losses.items() if math.isfinite(value)}
        try:
            self._experiment.add(self._epoch, finite)
        except (OSError, OutputError) as error:
            # A tracker that cannot be reached is not worth a training.
            logger.warning('Epoch %d did not reach the logger: %s', self._epoch, error)
