"""A training as the window sees it: what the worker reports, and how it ends."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ptychodus.api.product import LossValue
from ptychodus.api.reconstruct import TrainOutput

from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host.loaded_model import LoadedModel
from ptychopinn_plugin.host.log_messages import EpochLog, StageLog, kept_checkpoint
from ptychopinn_plugin.host.previews import has_window
from ptychopinn_plugin.host.run_state import Activity, Outcome
from ptychopinn_plugin.host.wording import ending, epochs_in_words, share_done
from ptychopinn_plugin.host.worker.client import Event
from ptychopinn_plugin.host.worker.messages import RunProgress, TrainingDone
from ptychopinn_plugin.text import count

TRAINING_GOAL = 1000
"""The progress bar of a training has this number of steps."""

_OUTCOMES: dict[str, Outcome] = {'request': 'stopped', 'diverged': 'diverged'}
"""A training that ends for one of these reasons has this outcome, and else 'done'."""

logger = logging.getLogger('ptychopinn_plugin')


class TrainingWatch:
    """Takes in what a worker reports of a training, and loads the model at its end.

    Parameters
    ----------
    activity : Activity
    loaded : LoadedModel
    output : Path
        The model file to come.
    """

    def __init__(self, activity: Activity, loaded: LoadedModel, output: Path) -> None:
        self._activity, self._loaded, self._output = activity, loaded, output
        self._begun = time.time()
        self._epochs, self._stages = EpochLog(), StageLog(activity)

    def note(self, event: Event | None) -> bool:
        """Take in an event, or that there was none; return whether the training has ended."""
        report = None if event is None else event.report
        if isinstance(report, TrainingDone):
            self._finish(report)
            return True
        if isinstance(report, RunProgress):
            if self._activity.note(report) and report.stage == 'target':
                logger.info('The target takes %d iterations of the training scan.', report.total)
            if report.stage == 'train':
                self._epochs.note(report)
            if event is not None and event.picture is not None:
                self._activity.show(report.stage, event.picture.object_)
        if not has_window():
            self._stages.note()
        return False

    def output(self) -> TrainOutput:
        """Return what the host gets."""
        epochs = self._activity.epochs
        return TrainOutput(
            training_loss=_loss_values(epochs, 'loss'),
            validation_loss=_loss_values(epochs, 'validation_loss'),
            progress=int(TRAINING_GOAL * share_done(self._activity, time.monotonic())),
        )

    def note_failure(self, error: PtychoPinnError) -> None:
        """Add to an error what the failed run has left: the panel shows the last message alone."""
        error.args = (f'{error} {kept_checkpoint(self._output, self._begun)}'.rstrip(),)

    def finish_stopped(self, last: Event | None, reason: str) -> None:
        """End a run that was stopped.

        Parameters
        ----------
        last : Event, optional
            Its last event; None where it has none.
        reason : str
            Why there is none, as a sentence.
        """
        activity, n_epochs = self._activity, len(self._activity.epochs)
        activity.outcome = 'stopped'
        if last is not None and self.note(last):
            return
        if not n_epochs:
            self._note_nothing_learned(reason)
            return
        activity.outcome = 'failed'
        kept = kept_checkpoint(self._output, self._begun)
        logger.error(
            'There is no model of the %s. %s %s %s',
            count(n_epochs, 'epoch'),
            reason,
            kept or 'There is no checkpoint yet, as one comes once a minute: train again.',
            which_model_stays(self._loaded),
        )

    def _finish(self, done: TrainingDone) -> None:
        activity = self._activity
        activity.outcome = _OUTCOMES.get(done.reason, 'done')
        if done.epochs == 0:
            self._note_nothing_learned()
            return
        # It is read back, so that Infer uses what was written and not what was meant.
        self._loaded.load(self._output)
        best = ''
        if done.best_loss is not None:
            best = f'; its best loss is {done.best_loss:.5g}{_of_epoch(activity.epochs)}'
        diverged = done.reason == 'diverged'
        logger.log(
            logging.ERROR if diverged else logging.INFO,
            'Trained %s until %s%s. %sThe model%s is loaded; it lies in %s.%s',
            epochs_in_words(done.whole_epochs, is_last_cut=done.epochs > done.whole_epochs),
            ending(done.reason, done.epochs, activity.limit_s),
            best,
            f'{done.quality} ' if done.quality else '',
            ' of the best of these epochs' if diverged else '',
            self._output,
            ' Lower the learning rate, and train again.' if diverged else '',
        )

    def _note_nothing_learned(self, reason: str = '') -> None:
        logger.warning(
            'Stopped before the first epoch ended: there is no new model. %s',
            f'{reason} {which_model_stays(self._loaded)}'.lstrip(),
        )


def which_model_stays(loaded: LoadedModel) -> str:
    """Return which model Infer will use, although a training has left none, as a sentence."""
    if loaded.is_built_in:
        return 'Infer still uses the built-in model.'
    return f'Infer still uses the model that was loaded before, {loaded.name}.'


def _of_epoch(epochs: Sequence[Mapping[str, float]]) -> str:
    """Return which epoch became the model, to be appended; empty where that is unknown."""
    losses = [row.get('validation_loss', math.nan) for row in epochs]
    known = [loss for loss in losses if math.isfinite(loss)]
    # Of a single epoch there is nothing to choose from.
    return f', that of epoch {losses.index(min(known)) + 1}' if known and len(losses) > 1 else ''


def _loss_values(epochs: Sequence[Mapping[str, float]], name: str) -> list[LossValue]:
    return [LossValue(number, row[name]) for number, row in enumerate(epochs, 1) if name in row]
