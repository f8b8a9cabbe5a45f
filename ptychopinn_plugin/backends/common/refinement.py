"""The course of the iterations over an object, the same in every backend."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.backends.common.best_iteration import iterate_keep_best
from ptychopinn_plugin.backends.common.constraints import ConstraintKeeper, ObjectConstraints
from ptychopinn_plugin.backends.common.intensities import intensities_move, refined_intensities
from ptychopinn_plugin.backends.common.iteration_steps import (
    MOMENTUM,
    REGULARIZATION,
    cut_batches,
    iteration_batches,
    step_size,
)
from ptychopinn_plugin.backends.common.judged_patterns import judged_stride
from ptychopinn_plugin.backends.common.lost_positions import find_lost_positions
from ptychopinn_plugin.backends.common.memory import with_smaller_batches
from ptychopinn_plugin.backends.common.opr import (
    OPR_START_FRACTION,
    MeasureVariation,
    ProbeResiduals,
    VariationRefiner,
    level_tilt,
    part_way,
    variation_refiner,
)
from ptychopinn_plugin.backends.common.phase_drift import (
    PatternMoments,
    floor_photons,
    measure_slow_errors,
)
from ptychopinn_plugin.backends.common.positions import (
    PositionRefiner,
    position_refiner,
)
from ptychopinn_plugin.backends.common.probe_gauge import (
    fit_probe_gauge,
    is_near,
    level_object,
)
from ptychopinn_plugin.backends.common.requests import IterationRequest
from ptychopinn_plugin.data.probe_variation import ProbeVariation

Tensor = TypeVar('Tensor')

PHASE_DRIFT_INTERVAL = 5
"""The slow phase, which iterations alone mend slowly, is corrected after this number of them, and
once more at the end."""

ALONE_BATCHES = 16
"""Where patterns share nothing, they all move at once as far as in this number of batches, one of
which is their own."""


def corrects_phase_drift(done: int) -> bool:
    """Return whether the slow phase is corrected after this number of iterations."""
    return done % PHASE_DRIFT_INTERVAL == 0


@dataclass
class IterationState(Generic[Tensor]):
    """What an iteration changes.

    Attributes
    ----------
    object_, velocity : tensors of complex64, shape `forward.canvas_shape`
    probe : tensor of complex64, shape (n_modes, height, width)
    moves_px : ndarray of float64, shape (n_positions, 2)
        How far the positions have moved.
    intensities : ndarray of float64, shape (n_positions,)
        Of each pattern's beam, in times of the probe's.
    variation : ProbeVariation
        How the probe varies from pattern to pattern, with or without eigenmodes.
    """

    object_: Tensor
    velocity: Tensor
    probe: Tensor
    moves_px: FloatArray
    intensities: FloatArray
    variation: ProbeVariation


@dataclass(frozen=True)
class IterationKernels(Generic[Tensor]):
    """What a framework computes in iterations.

    Attributes
    ----------
    zeros_like : callable
    iterate_once : callable
        Moves a state, given the forward model, by the batches of one iteration; the step and
        whether the probe is refined come last. It puts new tensors for the object and the probe.
    mean_update : callable
        Returns the update of an object by all patterns as one batch with a step of 1.
    position_forces : callable
        Returns what draws each position and how stiffly, given the forward model, an object and the
        photons below which a pixel hardly counts.
    measure_variation, probe_residuals : callable
        Measure what patterns show of a probe that varies; see `backends.common.opr`.
    pattern_photons : callable
        Returns the expected and the measured photons of each pattern.
    correct_phase_drift : callable
    measure_moments : callable
        Returns the moments of each pattern that its beam and the object's slow errors follow from.
    to_numpy : callable
    times : callable
        Multiplies a tensor by an array that the device does not have yet.
    between : callable
        Returns what lies at a share of the way from one tensor to another.
    object_variation : callable
        Returns the sum of the lengths of an object's gradients.
    norm : callable
        Returns the root of the sum of squared magnitudes.
    constrain : callable
        Returns an object that its constraints allow, given the coverage, the constraints, the
        weight of the total variation and how much the probe has grown.
    divide_energy : callable
        Gives a factor of the probe's growth to the object, and returns object and probe.
    release : callable
        Gives memory that the framework keeps for later back to the device.
    """

    zeros_like: Callable[[Tensor], Tensor]
    iterate_once: Callable[[Any, IterationState[Tensor], Sequence[IntArray], float, bool], None]
    mean_update: Callable[[Any, Tensor], Tensor]
    position_forces: Callable[[Any, Tensor, float], tuple[FloatArray, FloatArray]]
    measure_variation: MeasureVariation
    probe_residuals: ProbeResiduals
    pattern_photons: Callable[[Any, Tensor], tuple[FloatArray, FloatArray]]
    correct_phase_drift: Callable[[Any, Tensor], Tensor]
    measure_moments: Callable[[Any, Tensor], PatternMoments]
    to_numpy: Callable[[Tensor], ComplexArray]
    times: Callable[[Tensor, ComplexArray], Tensor]
    between: Callable[[Tensor, Tensor, float], Tensor]
    object_variation: Callable[[Tensor], Any]
    norm: Callable[[Tensor], Tensor]
    constrain: Callable[[Tensor, Any, ObjectConstraints, float, Any], Tensor]
    divide_energy: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    release: Callable[[], None] = lambda: None


def iterate_object(
    kernels: IterationKernels[Tensor],
    forward: Any,
    object_: Tensor,
    request: IterationRequest,
    observer: Callable[[int, float, Tensor], bool | None] | None = None,
) -> tuple[Tensor, list[float]]:
    """Iterate over an object with a framework's kernels, and return the best of all iterations.

    The first steps are long and noisy, so that a good start can get worse before it gets better.
    What is returned, and shown after each iteration, is the object with the lowest loss so far; see
    `iterate_keep_best`.

    Parameters
    ----------
    kernels : IterationKernels
    forward : ForwardModel
        Its probe, positions and intensities change where the request refines them.
    object_ : tensor of complex64, shape `forward.canvas_shape`
        Where to start; left as it is.
    request : IterationRequest
    observer : callable, optional
        Gets the number of iterations done, the loss and the object; True stops.

    Returns
    -------
    object_ : tensor of complex64
    losses : list of float
        Poisson loss per pixel of the start and of the best object after each iteration. It never
        rises, unless a total variation takes part in what is best.
    """
    iterations = _Iterations(kernels, forward, object_, request)

    start = iterations.judge(iterations.state)
    losses = [iterations.loss_of(iterations.state, start)]

    def show(done: int, judged: float, best: IterationState[Tensor]) -> bool | None:
        losses.append(iterations.loss_of(best, judged))
        return observer(done, losses[-1], best.object_) if observer is not None else False

    best, _ = iterate_keep_best(
        request.schedule,
        dataclasses.replace(iterations.state),
        start,
        iterations.iterate_once,
        iterations.part_way,
        iterations.step_of_all,
        iterations.correct_at_end,
        show,
    )
    iterations.leave(best)
    return best.object_, losses


class _Iterations(Generic[Tensor]):
    """The iterations over one forward model: what `iterate_keep_best` calls.

    Attributes
    ----------
    state : IterationState
        The newest, which the forward model follows.
    """

    def __init__(
        self,
        kernels: IterationKernels[Tensor],
        forward: Any,
        object_: Tensor,
        request: IterationRequest,
    ) -> None:
        self._kernels, self._forward, self._request = kernels, forward, request
        # A curved beam that tilts looks much like one that moves: positions alone would take it.
        start = OPR_START_FRACTION if request.opr_modes else 0.0
        self._positions = position_refiner(forward, request, start)
        pattern_bytes = 8 * math.prod(forward.probe.shape)
        self._batches = iteration_batches(
            len(forward), request.batch_size, pattern_bytes, request.seed
        )
        # One choice of patterns for the whole run, as losses of others could not be compared.
        self._first_probe, self._stride = forward.probe, judged_stride(len(forward))
        self._largest_batch = len(forward)
        self._keeper: ConstraintKeeper[Tensor] = ConstraintKeeper(kernels, forward, request)
        if request.refine_probe:
            forward.set_probe(self._keeper.supported(forward.probe), cache=False)
        self.state = IterationState(
            # Else a start that explains the counts better than any allowed object would be kept.
            self._keeper.allowed(object_, forward.probe, 1.0),
            kernels.zeros_like(object_),
            forward.probe,
            forward.moves_px,
            forward.intensities,
            ProbeVariation(forward.eigenmodes, forward.opr_weights),
        )
        self._variation = variation_refiner(
            forward, request, kernels.to_numpy(forward.probe), REGULARIZATION
        )

    def judge(self, state: IterationState[Tensor]) -> float:
        """Return the loss of a state, which the forward model has now, and what its object costs.

        By the likelihood alone an early object would be the best of a smoothed run: one whose noise
        is still fitted, and whose slow phase is not.
        """
        found: float = self._forward.evaluate_loss(state.object_, stride=self._stride)
        return found + self._keeper.penalty(state.object_, state.probe)

    def loss_of(self, state: IterationState[Tensor], judged: float) -> float:
        """Return the loss alone of a state that was judged so."""
        return judged - self._keeper.penalty(state.object_, state.probe)

    def iterate_once(self) -> tuple[IterationState[Tensor], float]:
        """Return the state after another iteration, and its loss."""
        state, fraction = self.state, self._request.schedule.fraction
        # A probe that is corrected is shared by all patterns, which then go batch by batch
        # (decision 21).
        if self._forward.is_single_shot and not self._request.refine_probe:
            _move_alone(self._kernels, self._forward, state, step_size(fraction))
        else:
            self._move(next(self._batches), step_size(fraction))
        beams = self._refines_intensities(fraction)
        if corrects_phase_drift(self._request.schedule.done + 1):
            state.object_ = self._without_drift(state.object_, of_beam=beams)
        state.object_ = self._keeper.allowed(state.object_, state.probe, step_size(fraction))
        if self._positions is not None and self._positions.moves_at(fraction):
            self._move_positions(self._positions, fraction)
        if beams:
            self._refine_intensities(state)
        if self._variation is not None and self._variation.moves_at(fraction):
            self._refine_variation(self._variation)
        return dataclasses.replace(state), self.judge(state)

    def part_way(
        self, best: IterationState[Tensor], newest: IterationState[Tensor], share: float
    ) -> tuple[IterationState[Tensor], float]:
        """Return what lies at a share of the way from one state to another, and its loss."""
        between = self._kernels.between
        probe = between(best.probe, newest.probe, share)
        # What lies between two phase objects absorbs.
        object_ = self._keeper.in_bounds(between(best.object_, newest.object_, share), probe)
        found = IterationState(
            object_,
            newest.velocity,
            probe,
            best.moves_px + share * (newest.moves_px - best.moves_px),
            best.intensities + share * (newest.intensities - best.intensities),
            part_way(best.variation, newest.variation, share),
        )
        with self._using(found):
            return found, self.judge(found)

    def step_of_all(self, best: IterationState[Tensor]) -> IterationState[Tensor]:
        """Return where the updates of all patterns together lead from a state."""
        with self._using(best):
            update: Any = self._kernels.mean_update(self._forward, best.object_)
        object_ = self._keeper.allowed(best.object_ + update, best.probe, 1.0)
        return dataclasses.replace(best, object_=object_)

    def correct_at_end(
        self, best: IterationState[Tensor], loss: float
    ) -> tuple[IterationState[Tensor], float]:
        """Return a state of this loss without its slow errors, or as it is if that is no better."""
        found = dataclasses.replace(best)
        with self._using(best):
            beams = self._refines_intensities(1.0)
            found.object_ = self._without_drift(best.object_, of_beam=beams)
            found.object_ = self._keeper.in_bounds(found.object_, best.probe)
            if beams:
                self._refine_intensities(found)
            after = self.judge(found)
        # The correction is good for all patterns together; those that are judged may see it worse.
        return (found, after) if after < loss else (best, loss)

    def leave(self, best: IterationState[Tensor]) -> None:
        """Give the forward model what belongs to the best object, after the last iteration."""
        refines_probe = self._request.refine_probe
        if refines_probe:
            self._put_probe_back(best, has_slope=self._refines_intensities(1.0))
        if self._variation is not None:
            probe = self._kernels.to_numpy(best.probe)[0]
            best.variation = self._variation.orthogonal(best.variation, probe)
        self._use(best)
        varies = self._variation is not None or (best.intensities != 1).any()
        if refines_probe or self._positions is not None or varies:
            # Now the coverage follows: results, and their weights, are those of the best.
            self._forward.set_probe(best.probe)

    @contextmanager
    def _using(self, other: IterationState[Tensor]) -> Iterator[None]:
        self._use(other)
        try:
            yield
        finally:
            self._use(self.state)

    def _use(self, state: IterationState[Tensor]) -> None:
        """Let the forward model have what changes of a state's probe, positions and beams."""
        self._forward.set_intensities(state.intensities)
        if self._request.refine_probe or self._variation is not None:
            self._forward.set_variation(state.variation.eigenmodes, state.variation.weights)
        if self._positions is not None:
            self._forward.set_moves(state.moves_px)
        if self._request.refine_probe:
            # Without the coverage, which no loss depends on and which is a pass over all positions.
            self._forward.set_probe_only(state.probe)

    def _move(self, drawn: list[IntArray], step: float) -> None:
        """Move the newest state by the batches of an iteration, smaller ones if memory is short."""
        state, before = self.state, dataclasses.replace(self.state)
        refines_probe = self._request.refine_probe

        def compute(batch_size: int) -> None:
            self._largest_batch = batch_size
            state.object_, state.probe = before.object_, before.probe
            # PyTorch changes it in place.
            state.velocity = self._kernels.between(before.velocity, before.velocity, 0.0)
            if refines_probe:
                self._forward.set_probe_only(state.probe)
            batches = cut_batches(drawn, batch_size)
            self._kernels.iterate_once(self._forward, state, batches, step, refines_probe)
            if refines_probe and self._request.probe_radius_px is not None:
                state.probe = self._keeper.supported(state.probe)
                self._forward.set_probe(state.probe, cache=False)

        size = min(self._largest_batch, max(len(batch) for batch in drawn))
        with_smaller_batches(compute, size, self._kernels.release, 'the iteration')

    def _without_drift(self, object_: Tensor, *, of_beam: bool) -> Tensor:
        """Return an object with its slow phase, and without the slow amplitude of the beam."""
        kernels, forward = self._kernels, self._forward
        has_phase = not self._request.constraints.fixes_slopes
        if not of_beam:
            return kernels.correct_phase_drift(forward, object_) if has_phase else object_
        errors = measure_slow_errors(forward, object_, kernels.measure_moments, kernels.to_numpy)
        factor = errors.factor(forward.canvas_shape)
        return kernels.times(object_, factor if has_phase else np.abs(factor).astype(factor.dtype))

    def _refines_intensities(self, fraction: float) -> bool:
        return self._request.refine_intensities and intensities_move(self._forward, fraction)

    def _refine_intensities(self, state: IterationState[Tensor]) -> None:
        """Give a state and the forward model the intensities that the state's object leaves."""
        expected, counted = self._kernels.pattern_photons(self._forward, state.object_)
        state.intensities = refined_intensities(state.intensities, expected, counted)
        self._forward.set_intensities(state.intensities)

    def _refine_variation(self, refiner: VariationRefiner) -> None:
        """Move eigenmodes and their weights, of the newest state and of the forward model."""
        state, forward, kernels = self.state, self._forward, self._kernels
        probe = kernels.to_numpy(state.probe)
        variation = refiner.step(
            forward,
            state.object_,
            probe[0],
            kernels.measure_variation,
            kernels.probe_residuals,
        )
        if not self._request.constraints.fixes_slopes:
            # A beam that tilts across the field is a bent phase of the object: left to the
            # eigenmodes, the object would be bent the other way.
            variation, factor = level_tilt(
                variation, probe[0], forward.patch_origins_px, forward.canvas_shape
            )
            state.object_ = kernels.times(state.object_, factor)
        if self._request.refine_probe:
            change = np.zeros_like(probe)
            variation, change[0] = refiner.centred(variation, probe[0])
            state.probe = self._keeper.supported(state.probe + forward.to_tensor(change))
        state.variation = variation
        forward.set_variation(variation.eigenmodes, variation.weights)
        forward.set_probe(state.probe, cache=not self._request.refine_probe)

    def _move_positions(self, positions: PositionRefiner, fraction: float) -> None:
        """Move the positions of the newest state and of the forward model by one step."""
        state, forward = self.state, self._forward
        forces, stiffnesses = self._kernels.position_forces(
            forward, state.object_, floor_photons(forward)
        )
        state.moves_px = positions.step(forces, stiffnesses, fraction)
        forward.set_moves(state.moves_px)
        if positions.searches_at(fraction):
            self._find_lost_positions(positions)
        forward.set_probe(state.probe, cache=not self._request.refine_probe)

    def _find_lost_positions(self, positions: PositionRefiner) -> None:
        """Put positions that are drawn nowhere where the newest object shows that they lie."""
        state, forward = self.state, self._forward
        mask = forward.valid_mask
        everywhere = np.ones(forward.shape, dtype=np.bool_)
        valid_mask = everywhere if mask is None else self._kernels.to_numpy(mask).real > 0
        state.moves_px = positions.moves_px = find_lost_positions(
            forward, state.object_, valid_mask, state.moves_px, positions.deviation_px
        )
        forward.set_moves(state.moves_px)

    def _put_probe_back(self, state: IterationState[Tensor], *, has_slope: bool) -> None:
        """Give back to the object what a refined probe has taken from it without a trace."""
        kernels, forward = self._kernels, self._forward
        # Only their product is measured: the probe keeps the energy that it came with.
        before: Any = kernels.norm(state.probe)
        state.object_, state.probe = kernels.divide_energy(
            state.object_, state.probe, kernels.norm(self._first_probe)
        )
        constraints = self._request.constraints
        if constraints.fixes_slopes or (has_slope and constraints.fixes_amplitude_slopes):
            # What the object is known to be decides what belongs to the probe.
            state.variation = state.variation.times(float(kernels.norm(state.probe) / before))
            return
        probe, start = kernels.to_numpy(state.probe), kernels.to_numpy(self._first_probe)
        if not self._request.levels_object and is_near(probe, start):
            gauge = fit_probe_gauge(probe, start, has_slope=has_slope)
        else:
            object_, coverage = kernels.to_numpy(state.object_), kernels.to_numpy(forward.coverage)
            gauge = level_object(object_, np.abs(coverage))
        # Eigenmodes are changes of the probe, and go back with it.
        state.variation = state.variation.times(
            float(kernels.norm(state.probe) / before) * gauge.ramp(forward.shape)
        )
        state.probe = kernels.times(state.probe, gauge.ramp(forward.shape))
        state.object_ = kernels.times(state.object_, 1 / gauge.ramp(forward.canvas_shape))
        if has_slope:
            state.intensities = gauge.intensities(state.intensities, forward.patch_origins_px)


def _move_alone(
    kernels: IterationKernels[Tensor], forward: Any, state: IterationState[Tensor], step: float
) -> None:
    r"""Move an object whose patterns share nothing by all of them at once.

    With :math:`B` batches the patches of a batch would get their push, :math:`V \leftarrow \mu V +
    \beta_s U`, and then go on, :math:`O \leftarrow O + V` and :math:`V \leftarrow \mu V`, while the
    other batches have theirs. That is :math:`O \leftarrow O + \frac{1 - \mu^B}{1 - \mu} V` and
    :math:`V \leftarrow \mu^{B - 1} V`, without a look at the whole canvas for each batch.
    """
    update: Any = kernels.mean_update(forward, state.object_)
    before: Any = state.velocity
    velocity = MOMENTUM * before + step * update
    state.object_ = state.object_ + (1 - MOMENTUM**ALONE_BATCHES) / (1 - MOMENTUM) * velocity
    state.velocity = MOMENTUM ** (ALONE_BATCHES - 1) * velocity
