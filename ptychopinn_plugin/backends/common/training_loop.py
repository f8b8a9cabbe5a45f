"""The training loop: epochs of sub-scans, averaged, best and last weights, and when to stop."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ptychopinn_plugin.backends.common.sampling import Batch
from ptychopinn_plugin.backends.common.schedules import PLATEAU_EPOCHS, schedule_factor
from ptychopinn_plugin.backends.common.training_step import Arrays, TrainingStep
from ptychopinn_plugin.backends.protocol import Observer, Progress, ignore_progress
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.model import Model

REPORT_SECONDS = 0.5
"""Observers are called about once in this number of seconds."""

RESUME_POINT_SECONDS = 5.0
"""Inside an epoch, observers may take the model about once in this number of seconds."""

Clock = Callable[[], float]
"""It returns seconds, from any start."""


@dataclass
class LoopState:
    """What changes from epoch to epoch.

    Attributes
    ----------
    average : mapping of str to ndarray
        Weights averaged over the epochs so far; these are validated, and kept where best.
    """

    epoch: int = 0
    best_loss: float = math.inf
    best_weights: Arrays = field(default_factory=dict)
    average: Arrays = field(default_factory=dict)
    epochs_without_gain: int = 0
    plateau_factor: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = 'epochs'


@dataclass(frozen=True)
class EpochSoFar:
    """The part of an epoch that was trained before a resume point inside of it.

    Attributes
    ----------
    parts : int
        This number of parts is done; see `TrainingData.parts`.
    losses : mapping of str to ndarray of float64, shape (n_batches,)
        Of each batch.
    seconds : float
        Of the whole run.
    """

    parts: int = 0
    losses: Arrays = field(default_factory=dict)
    seconds: float = 0.0

    def rows(self) -> list[dict[str, float]]:
        """Return the losses of each batch."""
        columns = [array.tolist() for array in self.losses.values()]
        return [dict(zip(self.losses, row, strict=True)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class ResumePoint:
    """All that training continues from; a stop after it goes back to it.

    Attributes
    ----------
    weights : mapping of str to ndarray
        Of network and illumination.
    optimizer : mapping of str to ndarray
        Under the number of a parameter and the name of a slot, '0/exp_avg'.
    scaler : mapping
        Of the gradients of float16; empty where there is none.
    state : LoopState
    epoch_so_far : EpochSoFar
        Without a part where it is the beginning of an epoch.
    """

    weights: Arrays
    optimizer: Arrays
    scaler: Mapping[str, Any]
    state: LoopState
    epoch_so_far: EpochSoFar = field(default_factory=EpochSoFar)


class _Stopped(Exception):
    """The observer requests the end of the training while an epoch is validated."""


class TrainingData(Protocol):
    """Where the batches come from."""

    @property
    def batches_per_epoch(self) -> float:
        """About how many batches the parts of an epoch hold; the learning rate follows it."""
        ...

    def parts(self, seeds: Sequence[int], first: int = 0) -> Iterator[list[Batch]]:
        """Yield the batches of an epoch in parts, from the one of number `first`.

        A part is drawn when the loop comes to it, by the network and the probes of that moment.
        """
        ...

    def validation_batches(self) -> Iterator[Batch]:
        """Yield the held-out groups, seen by the network as it is; none where none are held out."""
        ...


class TrainingLoop:
    """Trains a network: epochs, averages, schedules, and when to stop.

    Nothing here depends on a framework: `step` computes gradients and moves weights.

    Parameters
    ----------
    step : TrainingStep
    data : TrainingData
    config : Config
    observer : callable
    started : float
        `clock` when the run began; `max_minutes` counts from there.
    clock : callable
        Returns seconds.

    Attributes
    ----------
    state : LoopState
    epochs_started : float
        `clock` when the loop was made; schedules by the clock begin there, after the target.
    epoch_so_far : EpochSoFar
        What a resumed training has of its first epoch.
    resume_point : ResumePoint
        From the beginning of `run`.
    """

    def __init__(
        self,
        step: TrainingStep,
        data: TrainingData,
        config: Config,
        observer: Observer = ignore_progress,
        started: float | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.step = step
        self.data = data
        self.config = config
        self.observer = observer
        self.clock = clock
        self.epochs_started = clock()
        self.started = self.epochs_started if started is None else started
        self.state = LoopState()
        self.learning_rate = config.training.learning_rate
        self.latest_loss = math.nan
        self.epoch_so_far = EpochSoFar()
        self.resume_point: ResumePoint

    def run(self, model_so_far: Callable[[], Model]) -> LoopState:
        """Train until an end is reached; observers may take the model after each epoch."""
        settings, state = self.config.training, self.state
        # A resumed training has its best already.
        if not state.best_weights:
            state.best_weights = self.step.state_dict()
        self._save_resume_point(self.epoch_so_far)
        while state.epoch < settings.epochs:
            # A target may have used up the time: one epoch begins all the same.
            if state.history and self.is_time_up():
                state.stopped = 'max-minutes'
                break
            begun = self.clock()
            losses, n_patterns = self._train_epoch(model_so_far)
            if not losses or (state.history and state.stopped in ('request', 'diverged')):
                # What whole epochs have left is kept, and nobody waits for this one's judgement.
                break
            # One that was cut short goes on from the newest resume point.
            complete = state.stopped == 'epochs'
            try:
                average, validation = self._validated_average()
            except _Stopped:
                state.stopped = 'request'
                break
            if validation is not None and not math.isfinite(validation):
                self._diverge(validation)
                break
            if complete:
                state.epoch += 1
            # A coarse clock may not have moved.
            rate = n_patterns / max(1e-9, self.clock() - begun)
            self._end_epoch(losses, rate, average, validation)
            if complete:
                self._save_resume_point()
            if self._report_epoch(model_so_far):
                state.stopped = 'request'
            if state.stopped != 'epochs':
                break
            patience = settings.early_stop_patience
            if patience is not None and state.epochs_without_gain >= patience:
                state.stopped = 'early-stop'
                break
        return state

    def _train_epoch(self, model_so_far: Callable[[], Model]) -> tuple[list[dict[str, float]], int]:
        """Train on each batch once; return the losses of each, and the number of patterns.

        It ends early, with `state.stopped` as the reason, where the loss is no number, the observer
        requests it or the time is up. Gradients add up over `gradient_accumulation_steps` batches.
        """
        settings, before = self.config.training, self.epoch_so_far
        self.epoch_so_far = EpochSoFar()
        losses = before.rows()
        n_patterns, begun = 0, self.clock()
        self._reported = offered = begun
        if before.parts:
            # It may have been the last part, and what is left of its gradients is stepped below.
            self._set_learning_rate(self._share_of_epoch(len(losses) - 1))
        else:
            self.step.zero_grad()
        # Each epoch has numbers of its own, so that a resumed training draws the same.
        seeds = [settings.seed, self.state.epoch]
        for number, part in enumerate(self.data.parts(seeds, before.parts), before.parts + 1):
            for batch in part:
                self._train_batch(batch, losses)
                n_patterns += batch.groups.size
                self._look_around(losses, n_patterns / max(1e-9, self.clock() - begun))
                if self.state.stopped != 'epochs':
                    break
            if self.state.stopped != 'epochs':
                break
            # The next part is drawn with them, and so it is where training resumes.
            self.step.use_probes()
            if self.clock() - offered > RESUME_POINT_SECONDS:
                self._offer_model(model_so_far, number, losses)
                offered = self.clock()
        if len(losses) % settings.gradient_accumulation_steps:
            # What is left over counts too; an epoch may hold fewer batches than share a step.
            self.step.step(self.learning_rate)
        return losses, n_patterns

    def _train_batch(self, batch: Batch, losses: list[dict[str, float]]) -> None:
        """Add a batch's gradients and losses, and take a step where that is due."""
        self._set_learning_rate(self._share_of_epoch(len(losses)))
        losses.append(self.step.accumulate_gradients(batch))
        if not math.isfinite(losses[-1]['loss']):
            self._diverge(losses[-1]['loss'])
            return
        self.latest_loss = losses[-1]['loss']
        if len(losses) % self.config.training.gradient_accumulation_steps == 0:
            self.step.step(self.learning_rate)

    def _look_around(self, losses: Sequence[Mapping[str, float]], rate: float) -> None:
        """Report now and then; end the epoch where the observer returns True or the time is up."""
        now = self.clock()
        if self.state.stopped == 'epochs' and now - self._reported > REPORT_SECONDS:
            self._reported = now
            if self._report(losses[-1]['loss'], rate):
                self.state.stopped = 'request'
        if self.state.stopped == 'epochs' and self.is_time_up():
            self.state.stopped = 'max-minutes'

    def _offer_model(
        self,
        model_so_far: Callable[[], Model],
        parts: int,
        losses: Sequence[Mapping[str, float]],
    ) -> None:
        """Let the observer take the model inside an epoch, with what continues from there."""

        def make_model() -> Model:
            columns = {name: np.array([row[name] for row in losses]) for name in losses[0]}
            seconds = self.clock() - self.started
            self._save_resume_point(EpochSoFar(parts, columns, seconds))
            return model_so_far()

        progress = self._progress({'loss': self.latest_loss}, None)
        if self.observer(dataclasses.replace(progress, make_model=make_model)):
            self.state.stopped = 'request'

    def _diverge(self, loss: float) -> None:
        """End with what earlier epochs have left, if there are any."""
        message = (
            f'The loss became {loss} in epoch {self.state.epoch + 1}. '
            'Lower the learning rate, or look at the patterns with: ptychopinn inspect.'
        )
        if not self.state.history:
            raise DataError(message)
        warnings.warn(f'{message} The best of the epochs before is kept.', stacklevel=2)
        self.state.stopped = 'diverged'

    def _end_epoch(
        self,
        losses: list[dict[str, float]],
        rate: float,
        average: Arrays,
        validation: float | None,
    ) -> None:
        """Take down an epoch, keep its weights where they are the best, and note a plateau.

        Parameters
        ----------
        losses : list of dict
            Of each batch; their mean is the epoch's.
        rate : float
            Patterns per second.
        average : mapping of str to ndarray
            The weights after this epoch, averaged over those before.
        validation : float, optional
            The loss of `average`; the mean training loss takes its place.
        """
        state = self.state
        state.average = average
        if validation is None:
            validation = _mean(losses)['loss']
        # An epoch that is as good as the best is no gain: a loss that no longer moves must end a
        # training that waits for one.
        if validation < state.best_loss:
            state.best_loss, state.epochs_without_gain = validation, 0
            state.best_weights = state.average
        else:
            state.epochs_without_gain += 1
            # The count goes on, so that the rate is halved again after each further wait.
            waited = state.epochs_without_gain % PLATEAU_EPOCHS == 0
            if waited and self.config.training.schedule == 'plateau':
                state.plateau_factor /= 2
        state.history.append(
            {
                # An epoch that was cut short has a row too, and `state.epoch` leaves it out.
                'epoch': float(len(state.history) + 1),
                'seconds': self.clock() - self.started,
                'learning_rate': self.learning_rate,
                **_mean(losses),
                'validation_loss': validation,
                'patterns_per_second': rate,
            }
        )

    def _validated_average(self) -> tuple[Arrays, float | None]:
        """Return the weights averaged up to this epoch, and their loss; training goes on as is."""
        # The average is only looked at: training goes on from the newest weights.
        running = self.step.state_dict()
        number = len(self.state.history) + 1
        average = update_ema(self.state.average, running, self.config.training.ema_decay, number)
        self.step.load_state_dict(average)
        self.step.use_probes()
        try:
            validation = self.validate()
        finally:
            self.step.load_state_dict(running)
            self.step.use_probes()
        return average, validation

    def validate(self) -> float | None:
        """Return the mean loss over the held-out groups; None where there are none.

        Raises
        ------
        _Stopped
            If the observer requests the end of the training, and an epoch before has left a model.
        """
        total, count, reported = 0.0, 0, self.clock()
        # A first epoch is judged to its end: without it there is nothing to keep.
        may_stop = self.state.stopped == 'epochs' and bool(self.state.history)
        for batch in self.data.validation_batches():
            # Batches differ in size, and the mean is that over groups.
            total += self.step.validation_loss(batch) * len(batch.groups)
            count += len(batch.groups)
            if self.clock() - reported > REPORT_SECONDS:
                reported = self.clock()
                if self._report(self.latest_loss, None) and may_stop:
                    raise _Stopped
        return total / count if count else None

    def _save_resume_point(self, epoch_so_far: EpochSoFar | None = None) -> None:
        """Take down what the next epoch, or the rest of this one, starts from."""
        # The loop's history grows on, and the point's must not.
        state = dataclasses.replace(self.state, history=list(self.state.history))
        self.resume_point = ResumePoint(
            self.step.state_dict(),
            self.step.optimizer_state(),
            self.step.scaler_state(),
            state,
            epoch_so_far or EpochSoFar(),
        )

    def _report(self, loss: float, rate: float | None) -> bool:
        return bool(self.observer(self._progress({'loss': loss}, rate)))

    def _report_epoch(self, model_so_far: Callable[[], Model]) -> bool:
        row = self.state.history[-1]
        losses = {name: row[name] for name in ('loss', 'validation_loss')}
        progress = self._progress(losses, row['patterns_per_second'])
        is_cut = self.state.stopped != 'epochs'
        whole = dataclasses.replace(progress, is_cut=is_cut, make_model=model_so_far)
        return bool(self.observer(whole))

    def _progress(self, losses: Mapping[str, float], rate: float | None) -> Progress:
        epochs = self.config.training.epochs
        step, total = self.state.epoch, epochs
        # Progress follows the end that is nearer, of epochs or of minutes.
        if self._minutes_share() > step / epochs:
            step, total = round(1000 * min(1.0, self._minutes_share())), 1000
        return Progress('train', step, total, losses, rate)

    def is_time_up(self) -> bool:
        """Return whether the minutes of the settings have passed."""
        return self._minutes_share() >= 1

    def _minutes_share(self) -> float:
        limit = self.config.training.max_minutes
        if limit is None:
            return 0.0
        return (self.clock() - self.started) / (60 * limit)

    def _share_of_epoch(self, n_batches: int) -> float:
        # The expected number is rough; the schedule stays within the epoch.
        return min(1.0, n_batches / self.data.batches_per_epoch)

    def _set_learning_rate(self, share_of_epoch: float) -> None:
        settings = self.config.training
        progress = (self.state.epoch + share_of_epoch) / settings.epochs
        if settings.max_minutes is not None:
            # Training starts after the target, and the schedule with it.
            late = self.epochs_started - self.started
            elapsed = self.clock() - self.epochs_started
            progress = max(progress, elapsed / max(1e-3, 60 * settings.max_minutes - late))
        factor = schedule_factor(settings, min(1.0, progress)) * self.state.plateau_factor
        self.learning_rate = settings.learning_rate * factor


def update_ema(average: Arrays, weights: Arrays, decay: float, epoch: int) -> Arrays:
    """Return the exponential moving average of weights after one more epoch.

    Parameters
    ----------
    average : mapping of str to ndarray
        After the epochs before; empty before the first.
    weights : mapping of str to ndarray
        As this epoch left them.
    decay : float
        Share of `average` that stays in the long run, at least 0 and below 1.
    epoch : int
        Counted from 1; the share grows with it as (1 + epoch) / (10 + epoch), so that first
        weights do not linger.

    Notes
    -----
    Polyak and Juditsky, SIAM J. Control Optim. 30 (1992) 838, with the exponential weights and
    the slow start that are usual in deep learning.
    """
    if not average:
        # As they are, and no mean with the random ones of the start, which nothing was learned by.
        return weights
    share = min(decay, (1 + epoch) / (10 + epoch))
    return {
        # In this form weights that do not change stay the same to the last bit.
        name: (value + share * (average[name] - value)).astype(value.dtype)
        for name, value in weights.items()
    }


def _mean(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in losses])) for name in losses[0]}
