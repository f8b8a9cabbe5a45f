"""Estimates of simulated objects, as passes meet them, and the corrections that they need."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.common.iteration_steps import step_size
from ptychopinn_plugin.backends.common.prior import correct_object, look_at
from ptychopinn_plugin.backends.common.refinement import IterationState, corrects_phase_drift
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.phase_drift import correct_phase_drift
from ptychopinn_plugin.backends.pytorch.prior import apply_network
from ptychopinn_plugin.backends.pytorch.refinement import ITERATION_KERNELS, iterate_once
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.physics.prior_features import (
    FLOOR,
    HALF_LIT_FRACTION,
    count_exposures,
    smooth,
)
from ptychopinn_plugin.pretraining.corpus import Task

FIRST_ITERATIONS = (3, 5, 8, 12, 20, 40)
"""One of these numbers of iterations from a flat object comes before the first pass."""

FURTHER_ITERATIONS = (2, 5, 8, 12, 20)
"""One of these numbers of iterations follows a pass."""

MAX_ESTIMATES = 4
"""One scan gives at most this number of estimates."""

ANOTHER_PASS = 0.6
"""This is the probability that an estimate goes into another pass."""

PHASE_NEIGHBOURHOOD_PX = 8.0
"""Over this width the truth's phase is fitted to the estimate's: slow phases are not learned."""

FULL_WEIGHT, MIN_COVERAGE = 0.1, 0.01
"""Errors count fully from the first share of the brightest coverage on, not below the second."""

BATCHES, MIN_BATCH = 8, 4


@dataclass(frozen=True)
class Estimate:
    """What a network gets for an estimate, and what it should return.

    Attributes
    ----------
    images : ndarray of float16, shape (11, height, width)
    wanted : ndarray of float32, shape (2, height, width)
        The correction in the unit of `scale`.
    scale, weight, contrast : ndarray of float32, shape (1, height, width)
        The unit of the correction, how much an error counts, and the truth's local variance.
    """

    images: FloatArray
    wanted: FloatArray
    scale: FloatArray
    weight: FloatArray
    contrast: FloatArray

    def crop(self, side: int, rng: np.random.Generator) -> 'Estimate':
        """Return a part that is lit, rotated, mirrored and conjugated at random."""
        height, width = self.weight.shape[1:]
        rows, columns = min(side, height), min(side, width)
        # A dark part teaches nothing; a scan that is dark nearly everywhere ends the search.
        for _ in range(5):
            y, x = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            where = (slice(None), slice(y, y + rows), slice(x, x + columns))
            if self.weight[where].sum() > 0.15 * rows * columns:
                break
        quarters, mirrored = int(rng.integers(4)), rng.random() < 0.5
        conjugated = rng.random() < 0.5

        def reoriented(values: FloatArray) -> FloatArray:
            part = np.rot90(values[where], quarters, (1, 2))
            part = part[:, :, ::-1] if mirrored else part
            room = [(0, 0), (0, side - part.shape[1]), (0, side - part.shape[2])]
            return np.pad(part.astype(np.float32), room)

        parts = {each.name: reoriented(getattr(self, each.name)) for each in fields(self)}
        if conjugated:
            # These are the imaginary parts of estimate and step, see `prior_features`.
            parts['images'][[1, 3]] *= -1
            parts['wanted'][1] *= -1
        return Estimate(**parts)


def make_estimates(
    network: Network, task: Task, rng: np.random.Generator, *, is_bare: bool
) -> list[Estimate]:
    """Iterate and pass over a scan as in use; return the estimates before each pass.

    Parameters
    ----------
    network : Network
        Of the moment.
    task : Task
    rng : Generator
    is_bare : bool
        Whether there is no pass at all.
    """
    forward = ForwardModel(task.scan, torch.from_numpy(task.scan.probe), torch.device('cpu'))
    truth = _on_canvas(task.truth, forward)
    exposures = count_exposures(task.scan.probe, forward.patch_origins_px, forward.canvas_shape)
    object_ = _iterate(forward, forward.flat_object(), int(rng.choice(FIRST_ITERATIONS)), rng)
    estimates = [_compare(forward, object_, truth, exposures)]
    while not is_bare and len(estimates) < MAX_ESTIMATES and rng.random() < ANOTHER_PASS:
        object_ = correct_object(
            ITERATION_KERNELS, apply_network, network, forward, object_, exposures
        )
        object_ = _iterate(forward, object_, int(rng.choice(FURTHER_ITERATIONS)), rng)
        estimates.append(_compare(forward, object_, truth, exposures))
    return estimates


def stack(estimates: Sequence[Estimate]) -> dict[str, Tensor]:
    """Return crops of one size as a batch, by the names of their images."""
    return {
        each.name: torch.from_numpy(np.stack([getattr(part, each.name) for part in estimates]))
        for each in fields(Estimate)
    }


@torch.no_grad()
def _iterate(
    forward: ForwardModel, object_: Tensor, iterations: int, rng: np.random.Generator
) -> Tensor:
    """Iterate as the engine does, in fewer batches and without judging each iteration."""
    state = IterationState(
        object_,
        torch.zeros_like(object_),
        forward.probe,
        forward.moves_px,
        forward.intensities,
        ProbeVariation(forward.eigenmodes, forward.opr_weights),
    )
    size = max(MIN_BATCH, -(-len(forward) // BATCHES))
    for iteration in range(iterations):
        order = rng.permutation(len(forward))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        iterate_once(forward, state, batches, step_size(iteration / iterations), False)
        if corrects_phase_drift(iteration + 1) and iteration + 1 < iterations:
            state.object_ = correct_phase_drift(forward, state.object_)
    return state.object_


def _compare(
    forward: ForwardModel, object_: Tensor, truth: ComplexArray, exposures: FloatArray
) -> Estimate:
    """Compute what a network gets for an object, and what it should return."""
    features = look_at(ITERATION_KERNELS, forward, object_, exposures)
    estimate = object_.numpy()
    coverage = forward.coverage.numpy()
    relative = coverage / coverage.max()
    lit = relative / (relative + HALF_LIT_FRACTION)
    # The global phase of an estimate is free, and a slow one is corrected elsewhere: the network
    # must not be blamed for either.
    phase_factor = smooth(lit * estimate * truth.conj(), PHASE_NEIGHBOURHOOD_PX)
    phase_factor = phase_factor / (np.abs(phase_factor) + FLOOR**2)
    local = truth * phase_factor * features.phases.conj()
    unit = features.scale / lit.clip(min=FLOOR)
    # In the unit and with the phase in which the network gets the estimate, so that its task looks
    # the same for any object.
    wanted = (local - estimate * features.phases.conj()) / unit.clip(min=FLOOR)
    # Nothing can be demanded where no light falls.
    weight = (relative / FULL_WEIGHT).clip(max=1) * (relative > MIN_COVERAGE)
    light = smooth(lit) + FLOOR
    contrast = smooth(lit * np.abs(local - smooth(lit * local) / light) ** 2) / light
    return Estimate(
        # Thousands of them wait in memory at a time.
        features.images.astype(np.float16),
        np.stack([wanted.real, wanted.imag]).astype(np.float32),
        *(values[None].astype(np.float32) for values in (unit, weight, contrast)),
    )


def _on_canvas(object_: ComplexArray, forward: ForwardModel) -> ComplexArray:
    """Cut the canvas out of an object; 1 where the object ends."""
    top, left = (int(value) for value in forward.origin_px)
    height, width = forward.canvas_shape
    canvas = np.ones((height, width), np.complex64)
    rows = slice(max(0, top), min(object_.shape[0], top + height))
    columns = slice(max(0, left), min(object_.shape[1], left + width))
    canvas[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
        object_[rows, columns]
    )
    return canvas
