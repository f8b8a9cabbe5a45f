"""A network of one weight in NumPy, its data and its clock: training in milliseconds."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.backends.common.sampling import Batch, SubScan
from ptychopinn_plugin.backends.common.training_loop import LoopState, TrainingLoop
from ptychopinn_plugin.backends.common.training_step import TrainingStep
from ptychopinn_plugin.backends.protocol import Observer, Progress, ignore_progress
from ptychopinn_plugin.config import Config

if TYPE_CHECKING:
    from ptychopinn_plugin.model import Model

NOTHING = SubScan(0, 1.0, None, np.zeros((0, 1), dtype=np.int64), [None], None, None)


class Clock:
    """Seconds that pass by `tick` with every look at the clock, and where a test sets it."""

    def __init__(self, tick: float = 0.0) -> None:
        self.tick = tick
        self.now = 100.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


class ToyData:
    """Batches whose numbers the weight follows, drawn anew for each epoch.

    Parameters
    ----------
    batches : int
        In an epoch.
    held_out : int
        Batches to validate on.
    patterns : int
        In a batch.
    """

    def __init__(self, batches: int = 4, held_out: int = 1, patterns: int = 2) -> None:
        self.n_batches, self.n_held_out, self.patterns = batches, held_out, patterns
        self.drawn: list[list[int]] = []

    @property
    def batches_per_epoch(self) -> float:
        """How many there are."""
        return float(self.n_batches)

    def parts(self, seeds: Sequence[int], first: int = 0) -> Iterator[list[Batch]]:
        """Yield the batches of an epoch, each of them as a part."""
        self.drawn.append([])
        for number in range(first, self.n_batches):
            groups = np.random.default_rng([*seeds, number]).integers(0, 100, (self.patterns, 1))
            self.drawn[-1] += groups.ravel().tolist()
            yield [Batch(NOTHING, 0, groups)]

    def validation_batches(self) -> Iterator[Batch]:
        """Yield as many batches of 1, 2, 3 ... groups."""
        for number in range(self.n_held_out):
            yield Batch(NOTHING, 0, np.zeros((number + 1, 1), dtype=np.int64))


class ToyStep(TrainingStep):
    """Gradient descent with momentum on the distance of one weight from the batches' numbers.

    Parameters
    ----------
    config : Config
    path : sequence of float, optional
        Where the weight stands after each step, whatever the gradients are.
    goal : float
        Validation measures the squared distance from it.
    losses : mapping of int to float
        Losses that other batches than computed have, by their number over all epochs.
    """

    def __init__(
        self,
        config: Config,
        path: Sequence[float] = (),
        goal: float = 0.5,
        losses: Mapping[int, float] | None = None,
    ) -> None:
        self.config = config
        self.path = path
        self.goal = goal
        self.given_losses = losses or {}
        self.weight = np.zeros(1)
        self.momentum = np.zeros(1)
        self.scale = 1.0
        self.gradients: list[float] = []
        self.steps: list[tuple[int, float]] = []
        self.validated: list[float] = []
        self.probe = math.nan
        self.n_batches = 0

    def zero_grad(self) -> None:
        """Drop the gradients gathered so far."""
        self.gradients = []

    def accumulate_gradients(self, batch: Batch) -> dict[str, float]:
        """Add a batch's gradient."""
        goal = float(batch.groups.mean()) / 100
        self.gradients.append(float(self.weight[0]) - goal)
        loss = self.given_losses.get(self.n_batches, (float(self.weight[0]) - goal) ** 2)
        self.n_batches += 1
        return {'loss': loss, 'poisson': 2 * loss}

    def step(self, learning_rate: float) -> None:
        """Move the weight."""
        mean = sum(self.gradients) / self.config.training.gradient_accumulation_steps
        self.momentum = 0.5 * self.momentum + mean
        self.weight = self.weight - learning_rate * self.momentum
        if len(self.steps) < len(self.path):
            self.weight = np.array([float(self.path[len(self.steps)])])
        self.scale *= 2
        self.steps.append((len(self.gradients), learning_rate))
        self.gradients = []

    def validation_loss(self, batch: Batch) -> float:
        """Return the squared distance of the weight from the goal."""
        self.validated.append(float(self.weight[0]))
        return (float(self.weight[0]) - self.goal) ** 2

    def use_probes(self) -> None:
        """Let the probe be the weight."""
        self.probe = float(self.weight[0])

    def state_dict(self) -> dict[str, RealArray]:
        """Return a copy of the weight."""
        return {'weight': self.weight.copy()}

    def load_state_dict(self, weights: Mapping[str, RealArray]) -> None:
        """Put the weight back."""
        self.weight = np.array(weights['weight'])

    def optimizer_state(self) -> dict[str, RealArray]:
        """Return a copy of the momentum, which fills the slots of an optimizer."""
        slots = {'exp_avg': self.momentum, 'exp_avg_sq': np.zeros(1), 'step': np.zeros(())}
        if self.gradients:
            slots['gradient'] = np.array([sum(self.gradients)])
        return {f'0/{name}': array.copy() for name, array in slots.items()}

    def optimized_shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of the weight."""
        return [self.weight.shape]

    def load_optimizer_state(self, arrays: Mapping[str, RealArray]) -> None:
        """Put the momentum back."""
        self.momentum = np.array(arrays['0/exp_avg'])
        self.gradients = arrays.get('0/gradient', np.zeros(0)).tolist()

    def scaler_state(self) -> dict[str, Any]:
        """Return the scale."""
        return {'scale': self.scale}

    def load_scaler_state(self, values: Mapping[str, Any]) -> None:
        """Put the scale back."""
        self.scale = values['scale']

    def network_weights(self) -> dict[str, RealArray]:
        """Return the weight."""
        return self.state_dict()

    def probes(self) -> tuple[list[ComplexArray], float]:
        """Return no probe."""
        return [], 1.0


PLAIN = {'schedule': 'constant', 'ema_decay': 0.0, 'learning_rate': 0.1}


def settings(**training: Any) -> Config:
    """Return settings of a plain training, with some changed."""
    return Config.from_dict({'training': {**PLAIN, **training}})


def make_loop(
    config: Config,
    *,
    data: ToyData | None = None,
    observer: Observer = ignore_progress,
    clock: Clock | None = None,
    **step: Any,
) -> tuple[TrainingLoop, ToyStep]:
    """Return a loop and what it trains; `step` are arguments of `ToyStep`."""
    toy = ToyStep(config, **step)
    clock = clock or Clock(1e-3)
    return TrainingLoop(toy, data or ToyData(), config, observer, clock=clock), toy


def run(loop: TrainingLoop) -> LoopState:
    """Train; models are nothing but the best weights."""
    return loop.run(lambda: cast('Model', loop.state.best_weights))


def weight(weights: Any) -> float:
    """Return the one weight."""
    return float(weights['weight'][0])


def column(state: LoopState, name: str) -> list[float]:
    """Return a column of the history."""
    return [row[name] for row in state.history]


def at_end_of_epoch(number: int) -> Callable[[Progress], bool]:
    """Return an observer that stops after an epoch."""
    return lambda progress: progress.make_model is not None and progress.step == number
