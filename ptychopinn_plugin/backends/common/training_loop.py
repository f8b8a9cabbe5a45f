"""The training loop: epochs of sub-scans, averaged, best and last weights, and when to stop."""

import dataclasses
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.backends.common.sampling import (
    REPEATS,
    Batch,
    SubScan,
    TrainingScan,
    validation_batches,
)
from ptychopinn_plugin.backends.common.schedules import PLATEAU_EPOCHS, schedule_factor
from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.model import Model

REPORT_SECONDS = 0.5

PROBE_RMS = 5.0
"""Size of a probe's pixels as the optimizer sees them: about that of 1e5 photons on 64 x 64."""

Arrays = Mapping[str, RealArray]


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
class ResumePoint:
    """All that an epoch starts from; a stop inside one goes back to it.

    Attributes
    ----------
    weights : mapping of str to ndarray
        Of network and illumination.
    optimizer : mapping of str to ndarray
        Under the number of a parameter and the name of a slot, '0/exp_avg'.
    scaler : mapping
        Of the gradients of float16; empty where there is none.
    state : LoopState
    """

    weights: Arrays
    optimizer: Arrays
    scaler: Mapping[str, Any]
    state: LoopState


class _Stopped(Exception):
    """The observer asked to stop while an epoch was validated."""


class TrainingLoop(ABC):
    """Trains a network on scans; a framework computes gradients and takes steps.

    Parameters
    ----------
    scans : sequence of TrainingScan
    config : Config
    held_out : callable
        Makes the validation sub-scans with the network as it is.
    started : float
        `time.perf_counter` when the run began; `max_minutes` counts from there.
    observer : callable
    """

    def __init__(
        self,
        scans: Sequence[TrainingScan],
        config: Config,
        held_out: Callable[[], list[SubScan]],
        started: float,
        observer: Observer,
    ) -> None:
        self.scans = scans
        self.config = config
        self.held_out = held_out
        self.started = started
        self.observer = observer
        self.state = LoopState()
        self.first_second = time.perf_counter()
        self.learning_rate = config.training.learning_rate
        self.latest_loss = math.nan
        self.resume_point: ResumePoint

    @abstractmethod
    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the batches of an epoch."""

    @abstractmethod
    def zero_grad(self) -> None:
        """Drop what was gathered."""

    @abstractmethod
    def accumulate_gradients(self, batch: Batch) -> dict[str, float]:
        """Add a batch's gradients, as a share of a step; return its terms and 'loss'."""

    @abstractmethod
    def step(self) -> None:
        """Let the optimizer use the gradients at `learning_rate`, and forget them."""

    @abstractmethod
    def validation_loss(self, batch: Batch) -> float:
        """Return the loss of held-out groups."""

    @abstractmethod
    def use_probes(self) -> None:
        """Let the scans' forward models use the probes as training has left them."""

    @abstractmethod
    def state_dict(self) -> dict[str, RealArray]:
        """Return copies of all weights, network and illumination, under PyTorch's names."""

    @abstractmethod
    def load_state_dict(self, weights: Arrays) -> None:
        """Put back what `snapshot` took."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, RealArray]:
        """Return copies of the optimizer's state, as `ResumePoint.optimizer`."""

    @abstractmethod
    def load_optimizer_state(self, arrays: Arrays) -> None:
        """Put back what `optimizer_state` took."""

    @abstractmethod
    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler, as plain values."""

    @abstractmethod
    def load_scaler_state(self, values: Mapping[str, Any]) -> None:
        """Put back what `scaler_state` took."""

    @abstractmethod
    def network_weights(self) -> dict[str, RealArray]:
        """Return the network's weights as a model file holds them."""

    @abstractmethod
    def probes(self) -> tuple[list[ComplexArray], float]:
        """Return the probe of each scan, without the intensity scale, and that scale."""

    def run(self, model_so_far: Callable[[], Model]) -> LoopState:
        """Train until an end is reached; observers may ask for the model after each epoch."""
        settings, state = self.config.training, self.state
        if not state.best_weights:
            state.best_weights = self.state_dict()
        self._save_resume_point()
        while state.epoch < settings.epochs:
            if state.history and self.is_time_up():
                state.stopped = 'max-minutes'
                break
            begun = time.perf_counter()
            losses, n_patterns = self._train_epoch(
                np.random.default_rng([settings.seed, state.epoch])
            )
            if not losses or (state.history and state.stopped in ('request', 'diverged')):
                # What whole epochs have left is kept, and nobody waits for this one's judgement.
                break
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
            rate = n_patterns / (time.perf_counter() - begun)
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

    def _train_epoch(self, rng: np.random.Generator) -> tuple[list[dict[str, float]], int]:
        settings = self.config.training
        losses: list[dict[str, float]] = []
        n_patterns, reported, begun = 0, time.perf_counter(), time.perf_counter()
        self.zero_grad()
        expected = self._batches_in_epoch()
        for number, batch in enumerate(self.batches(rng)):
            self._set_learning_rate(min(1.0, number / expected))
            losses.append(self.accumulate_gradients(batch))
            if not math.isfinite(losses[-1]['loss']):
                self._diverge(losses[-1]['loss'])
                break
            self.latest_loss = losses[-1]['loss']
            if (number + 1) % settings.gradient_accumulation_steps == 0:
                self.step()
            n_patterns += batch.groups.size
            now = time.perf_counter()
            if now - reported > REPORT_SECONDS:
                reported = now
                if self._report(losses[-1]['loss'], n_patterns / (now - begun)):
                    self.state.stopped = 'request'
                    break
            if self.is_time_up():
                self.state.stopped = 'max-minutes'
                break
        if len(losses) % settings.gradient_accumulation_steps:
            # What is left over counts too; an epoch may hold fewer batches than share a step.
            self.step()
        return losses, n_patterns

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
        state = self.state
        state.average = average
        if validation is None:
            validation = _mean(losses)['loss']
        if validation < state.best_loss:
            state.best_loss, state.epochs_without_gain = validation, 0
            state.best_weights = state.average
        else:
            state.epochs_without_gain += 1
            waited = state.epochs_without_gain % PLATEAU_EPOCHS == 0
            if waited and self.config.training.schedule == 'plateau':
                state.plateau_factor /= 2
        state.history.append(
            {
                'epoch': float(len(state.history) + 1),
                'seconds': time.perf_counter() - self.started,
                'learning_rate': self.learning_rate,
                **_mean(losses),
                'validation_loss': validation,
                'patterns_per_second': rate,
            }
        )

    def _validated_average(self) -> tuple[Arrays, float | None]:
        """Return the weights averaged up to this epoch, and their loss; training goes on as is."""
        running = self.state_dict()
        number = len(self.state.history) + 1
        average = update_ema(self.state.average, running, self.config.training.ema_decay, number)
        self.load_state_dict(average)
        self.use_probes()
        try:
            validation = self.validate()
        finally:
            self.load_state_dict(running)
            self.use_probes()
        return average, validation

    def validate(self) -> float | None:
        """Return the mean loss over the held-out sub-scans; None where there are none."""
        total, count, reported = 0.0, 0, time.perf_counter()
        # A first epoch is judged to its end: without it there is nothing to keep.
        may_stop = self.state.stopped == 'epochs' and bool(self.state.history)
        for subscan in self.held_out():
            for batch in validation_batches(subscan):
                total += self.validation_loss(batch) * len(batch.groups)
                count += len(batch.groups)
                if time.perf_counter() - reported > REPORT_SECONDS:
                    reported = time.perf_counter()
                    if self._report(self.latest_loss, None) and may_stop:
                        raise _Stopped
        return total / count if count else None

    def _save_resume_point(self) -> None:
        """Take down what the next epoch starts from."""
        state = dataclasses.replace(self.state, history=list(self.state.history))
        self.resume_point = ResumePoint(
            self.state_dict(), self.optimizer_state(), self.scaler_state(), state
        )

    def _report(self, loss: float, rate: float | None) -> bool:
        return bool(self.observer(self._progress({'loss': loss}, rate)))

    def _report_epoch(self, model_so_far: Callable[[], Model]) -> bool:
        row = self.state.history[-1]
        losses = {name: row[name] for name in ('loss', 'validation_loss')}
        progress = self._progress(losses, row['patterns_per_second'])
        return bool(self.observer(dataclasses.replace(progress, model=model_so_far)))

    def _progress(self, losses: Mapping[str, float], rate: float | None) -> Progress:
        epochs = self.config.training.epochs
        step, total = self.state.epoch, epochs
        if self._minutes_share() > step / epochs:
            step, total = round(1000 * min(1.0, self._minutes_share())), 1000
        return Progress('train', step, total, losses, rate)

    def is_time_up(self) -> bool:
        """Tell whether the minutes that were asked for have passed."""
        return self._minutes_share() >= 1

    def _minutes_share(self) -> float:
        limit = self.config.training.max_minutes
        if limit is None:
            return 0.0
        return (time.perf_counter() - self.started) / (60 * limit)

    def _batches_in_epoch(self) -> float:
        """Return how many batches an epoch has where no sub-scan is thinned."""
        settings = self.config.training
        limit = settings.n_groups
        groups = sum(min(limit or len(s.members), len(s.members)) for s in self.scans)
        per_batch = max(1, settings.batch_size // self.config.model.gridsize**2)
        return max(1.0, REPEATS * groups / per_batch)

    def _set_learning_rate(self, share_of_epoch: float) -> None:
        settings = self.config.training
        progress = (self.state.epoch + share_of_epoch) / settings.epochs
        if settings.max_minutes is not None:
            # Training starts after the target, and the schedule with it.
            late = self.first_second - self.started
            elapsed = time.perf_counter() - self.first_second
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
        return weights
    share = min(decay, (1 + epoch) / (10 + epoch))
    return {
        name: (value + share * (average[name] - value)).astype(value.dtype)
        for name, value in weights.items()
    }


def _mean(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in losses])) for name in losses[0]}
