"""One reconstruction on a device: a network's passes, the iterations, and a look at the result."""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.beam import measure_beam
from ptychopinn_plugin.backends.common.constraints import ObjectConstraints
from ptychopinn_plugin.backends.common.diagnostics import (
    INTENSITIES,
    MIN_ITERATIONS,
    judge_misfit,
    warn_of_beam,
    warn_of_constraints,
    warn_of_lonely_eigenmodes,
    warn_of_lonely_intensities,
    warn_of_misfit,
    warn_of_moves,
    warn_of_unknown_probe,
)
from ptychopinn_plugin.backends.common.engine import Engine, Forward
from ptychopinn_plugin.backends.common.iteration_plan import Course, IterationPlan
from ptychopinn_plugin.backends.common.iteration_schedule import Ended, IterationSchedule
from ptychopinn_plugin.backends.common.memory import with_smaller_batches
from ptychopinn_plugin.backends.common.outliers import iterate_without, judge_patterns
from ptychopinn_plugin.backends.common.probe_gauge import is_near
from ptychopinn_plugin.backends.common.ranks import current_ranks
from ptychopinn_plugin.backends.common.requests import InferenceRequest, IterationRequest
from ptychopinn_plugin.backends.common.starts import (
    KEPT_ITERATIONS,
    choose_start,
    number_of_iterations,
    trial_patterns,
)
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.config import InferenceConfig, ObjectType, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.pattern_fit import PatternFit
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.physics import orthogonal_modes
from ptychopinn_plugin.physics.prior_features import count_exposures
from ptychopinn_plugin.physics.uncertainty import estimate_uncertainty

logger = logging.getLogger(__name__)

MAX_RISE = 0.005
"""Where the last block of iterations ends at a loss that is higher by this share than that of the
best block, passes have led away from the data."""


class ReconstructionRun:
    """One scan on its way to an object.

    Parameters
    ----------
    engine : Engine
    scan : Scan
    forward : ForwardModel
        Of the scan.
    refinement : RefinementConfig
    plan : IterationPlan
    stopwatch : Stopwatch
    observer : callable
    remaining_s : callable, optional
        Returns for how many more seconds the run may take; it may take any time without.
    clock : callable
        Returns seconds.
    is_trial : bool
        A trial warns of nothing, and nothing but its misfit is judged.

    Attributes
    ----------
    object_ : tensor
        As far as the run has come; flat at the beginning.
    losses : list of float
        Poisson loss per pixel of the start and after each iteration.
    done : list of int
        The iterations of each block.
    stopped : bool
        Whether the observer has ended the run.
    start : str, optional
        The kind of the object that the trials of starts have chosen, where there were any.
    """

    def __init__(
        self,
        engine: Engine[Any],
        scan: Scan,
        forward: Forward,
        refinement: RefinementConfig,
        plan: IterationPlan,
        *,
        stopwatch: Stopwatch,
        observer: Observer,
        clock: Callable[[], float],
        remaining_s: Callable[[], float] | None = None,
        is_trial: bool = False,
    ) -> None:
        self.engine, self.scan, self.forward = engine, scan, forward
        self.refinement, self.plan = refinement, plan
        self.stopwatch, self.clock, self.is_trial = stopwatch, clock, is_trial
        self._observer, self._remaining_s, self._begun = observer, remaining_s, clock()
        self._newest: Progress | None = None
        self._ended: Ended = 'planned'
        self.object_: Any = forward.flat_object()
        self._first_probe = engine.to_numpy(forward.probe)
        self.losses: list[float] = []
        self.done: list[int] = []
        self.stopped = False
        self.start: ObjectType | None = None
        # What the last block came to: its loss with what the object's variation costs, and alone.
        self._ends = (math.inf, math.inf)
        # The same of the block that came to the lowest, and its object.
        self._best_block: tuple[tuple[float, float], Any] | None = None

    def infer(
        self, network: Any, description: NetworkDescription, inference: InferenceConfig
    ) -> None:
        """Predict patches and stitch them, pass by pass."""
        request = InferenceRequest.of(inference, tuple(range(self.plan.rotations)))

        def attempt(batch_size: int) -> list[Any]:
            return self.engine.stitch_object(
                network,
                self.forward,
                replace(request, batch_size=batch_size),
                stopwatch=self.stopwatch,
                observer=lambda done, object_: self._show_pass(
                    'predict', done, description.passes, object_
                ),
            )

        self.object_ = with_smaller_batches(
            attempt, request.batch_size, self.engine.release_cache, 'inference'
        )[-1]
        self._check_prediction()

    def find_start(self) -> None:
        """Choose the object to start from, where the plan has trials; see `common.starts`."""
        kinds, forward = self.plan.starts, self.forward
        if not kinds:
            return
        indices = trial_patterns(self.scan.positions_px, self.scan.pattern_shape)
        is_whole = len(indices) == len(self.scan)
        part = forward if is_whole else forward.subset(indices)
        done, total = 0, number_of_iterations(kinds, repeats=not is_whole)

        def iterate(on: Any, object_: Any, kind: ObjectType, iterations: int) -> tuple[Any, float]:
            nonlocal done
            if self.stopped:
                return object_, math.inf
            # Without smoothing the losses distinguish a right kind from a wrong one better.
            settings = self.refinement.replace(object_type=kind, total_variation=0.0)
            request = IterationRequest.of_refinement(
                self.scan, settings, IterationSchedule(iterations)
            )
            object_, losses = self.engine.iterate(
                *(on, object_, request),
                lambda step, loss, newest: self._watch(Progress('start', done + step, total)),
            )
            done += iterations
            # All ranks must choose the same start.
            return object_, current_ranks().decide(losses[-1])

        start = choose_start(part, kinds, iterate)
        self.start, begins_flat = start.kind, start.kind == 'complex'
        # The iterations of the plan begin with a flat object themselves, and keep to nothing.
        if is_whole and (self.stopped or not begins_flat):
            self.object_ = start.object_
        elif not begins_flat:
            self.object_, _ = iterate(forward, self.object_, start.kind, KEPT_ITERATIONS)
        if not begins_flat and self.plan.passes_need_flat_start:
            self.plan = self.plan.without_passes()
        self.stopwatch.lap('refine')

    def iterate_with_prior(self, network: Any) -> None:
        """Iterate and let a learned prior correct the object in turn; see `common.prior`."""
        forward, blocks = self.forward, self.plan.before_passes
        probe = self.engine.to_numpy(forward.probe)
        exposures = count_exposures(probe, forward.patch_origins_px, forward.canvas_shape)
        # Ten iterations are too few to find where patterns belong; the last ones do that.
        settings = self.refinement.replace(positions=False, opr_modes=0)
        for number, iterations in enumerate(blocks):
            share_s = self._share_s(number)
            if share_s is not None and self.done:
                each_s = (self.clock() - self._begun) / sum(self.done)
                if share_s <= 0 or not self.plan.is_worth_a_pass(share_s / each_s):
                    return
            schedule = IterationSchedule(iterations, limit_s=share_s, clock=self.clock)
            self._iterate(settings, schedule)
            if self.stopped:
                return
            self.object_ = self.engine.apply_prior(network, forward, self.object_, exposures)
            self._check_prediction()
            # After a trained network its passes are a part of the refinement: what that network
            # takes for a pattern is its own.
            self.stopwatch.lap('refine' if self.plan.network_passes else 'predict')
            self._show_pass('pass', number + 1, len(blocks), self.object_)
            if self.stopped:
                return

    def _check_prediction(self) -> None:
        """Check that a network has left numbers.

        Raises
        ------
        DataError
            If it has not: weights may be finite and too large all the same.
        """
        if not np.isfinite(self.engine.to_numpy(self.object_)).all():
            raise DataError(
                f'The network must predict finite numbers for {self.scan.name}; it gave NaN or '
                'infinity. Its weights are too large, as of a training that diverged, or the file '
                'is damaged: train again, or use the built-in model.'
            )

    def finish(self) -> Reconstruction:
        """Iterate as planned for the end, and judge the object."""
        if self.plan.iterations > 0 and not self.stopped:
            share_s = self._share_s(len(self.plan.before_passes))
            if self.done and share_s is not None and share_s <= 0:
                self._ended = 'time'
            else:
                schedule = IterationSchedule(
                    self.plan.iterations,
                    limit_s=share_s,
                    stops_when_converged=self.plan.stops_when_converged,
                    clock=self.clock,
                )
                self._iterate(self.refinement, schedule)
                self._go_back_where_worse()
        if self.stopped:
            self._ended = 'stopped'
        return self._judged(self._judge_patterns())

    def _go_back_where_worse(self) -> None:
        """Take the best block's object where passes have led away from the data since.

        A number of iterations that somebody gave is kept to. Where the iterations change the probe,
        positions or beams too, the object of an earlier block belongs to others.
        """
        settings = self.refinement
        changes_more = settings.probe or settings.positions or settings.intensities
        if self.stopped or not self.plan.may_go_back or changes_more or settings.opr_modes:
            return
        assert self._best_block is not None
        bests, object_ = self._best_block
        # A last block that is longer smooths more, which raises the loss alone; and a pass that
        # finds structure makes more of it, which the data confirm and its variation costs.
        rise = min(end / best for end, best in zip(self._ends, bests, strict=True)) - 1
        if rise > MAX_RISE:
            self.object_ = object_
            logger.warning(
                '%s: the iterations after the last pass ended at a loss that is %.1f %% above that '
                'of an earlier block, whose object is taken.',
                *(self.scan.name, 100 * rise),
            )

    @property
    def _constraints(self) -> ObjectConstraints:
        """What the object is known to be, with the total variation of the plan."""
        known = ObjectConstraints.of(self.refinement)
        return replace(known, total_variation=self.plan.total_variation)

    def _judge_patterns(self) -> PatternFit | None:
        if self.is_trial or self.stopped:
            return None

        def is_stopping() -> bool:
            return self._newest is not None and self._watch(self._newest)

        again = None
        if len(self.losses) > MIN_ITERATIONS:
            again = functools.partial(
                iterate_without,
                *(self.engine, self.forward, self.object_, self._constraints, is_stopping),
            )
        found = judge_patterns(self.scan, self.forward, self.object_, again, is_stopping)
        self.stopwatch.lap('judge')
        return found

    def _measure_beam(self, pattern_fit: PatternFit | None) -> float | None:
        """Return how much the beam varies, where it was taken to be steady; None if it is."""
        if self.refinement.intensities:
            return None
        iterations = len(self.losses) - 1
        found = measure_beam(
            self.engine, self.scan, self.forward, self.object_, pattern_fit, iterations
        )
        self.stopwatch.lap('judge')
        return found

    def _judged(self, pattern_fit: PatternFit | None) -> Reconstruction:
        """Return the object and how well it fits."""
        scan, forward, engine = self.scan, self.forward, self.engine
        misfit = judge_misfit(scan, lambda lit_counts: forward.misfit(self.object_, lit_counts))
        moved = self.refinement.positions and self.plan.iterations > 0 and forward.reach_px > 0
        beam_variation = self._measure_beam(pattern_fit)
        known = ObjectConstraints.of(self.refinement).in_words()
        is_bound = self._constraints.fixes_amplitude_slopes
        is_probe_known = self._is_probe_known()
        if not self.is_trial:
            if moved:
                warn_of_moves(scan, forward.moves_px, forward.reach_px)
            if self.refinement.intensities:
                warn_of_lonely_intensities(scan)
            if self.refinement.opr_modes > 0:
                warn_of_lonely_eigenmodes(scan)
            warn_of_beam(scan, beam_variation, INTENSITIES, known if is_bound else '')
            option = None if self.refinement.probe else '--refine-probe (refinement.probe)'
            if beam_variation is None:
                warn_of_misfit(scan, len(self.losses) - 1, misfit, option)
            warn_of_constraints(scan, len(self.losses) - 1, misfit, known)
            warn_of_unknown_probe(scan, is_known=is_probe_known)
        loss, residual = forward.evaluate_fit(self.object_)
        coverage, probe = engine.to_numpy(forward.coverage), engine.to_numpy(forward.probe)
        image = np.asarray(engine.to_numpy(self.object_))
        variation = ProbeVariation(forward.eigenmodes, forward.opr_weights)
        varies = bool((variation.weights != variation.weights[0]).any())
        stds = None
        if not self.is_trial and not scan.is_single_shot and misfit is not None:
            stds = estimate_uncertainty(image, coverage, self.plan.overlap, misfit.over_noise)
        return Reconstruction(
            object_=image,
            amplitude_std=None if stds is None else stds[0],
            phase_std=None if stds is None else stds[1],
            origin_px=self._origin_px(),
            coverage=coverage / coverage.max(),
            # Iterations mix modes that make the same patterns; the orthogonal ones are defined.
            # Eigenmodes belong to the first mode, and would not to a mixture.
            probe=orthogonal_modes(probe) if self.refinement.probe and not varies else probe,
            positions_px=scan.positions_px + forward.moves_px,
            nominal_positions_px=scan.positions_px if moved else None,
            probe_variation=variation if varies else None,
            intensities=forward.intensities if self.refinement.intensities else None,
            backend=engine.name,
            likelihoods=self.losses or [loss],
            timing=dict(self.stopwatch.seconds),
            provenance={
                'course': Course.of_plan(self.plan, self.done, self._ended, self.start).to_dict()
            },
            amplitude_residual=residual,
            misfit=misfit,
            # An object that may not absorb as the true one does looks like a beam that varies.
            beam_variation=None if is_bound else beam_variation,
            geometry=scan.geometry,
            name=scan.name,
            pattern_indexes=scan.pattern_indexes,
            is_single_shot=scan.is_single_shot,
            pattern_fit=pattern_fit,
            is_probe_known=is_probe_known,
        )

    def _is_probe_known(self) -> bool:
        """Return whether the probe came from a file and, where it was refined, stayed near."""
        if not self.scan.has_probe_of_file:
            return False
        refined = self.engine.to_numpy(self.forward.probe)
        return not self.refinement.probe or is_near(refined, self._first_probe)

    def _iterate(self, settings: RefinementConfig, schedule: IterationSchedule) -> None:
        """Go on by the iterations of a schedule."""
        before = sum(self.done)

        def show(done: int, loss: float, newest: Any) -> bool:
            image = self.engine.to_numpy(newest)
            losses = {'poisson': loss}
            return self._watch(
                Progress(
                    'refine',
                    before + done,
                    self.plan.total,
                    losses,
                    object_=image,
                    origin_px=self._origin_px(),
                )
            )

        request = IterationRequest.of_refinement(self.scan, settings, schedule)
        request = replace(request, constraints=self._constraints)
        self.object_, losses = self.engine.iterate(self.forward, self.object_, request, show)
        # The start of a block is what the one before or a pass has left, and no iteration.
        self.losses += losses[1:] if self.losses else losses
        self.done.append(schedule.done)
        self._ends = schedule.lowest, losses[-1]
        if self._best_block is None or self._ends < self._best_block[0]:
            self._best_block = self._ends, self.object_
        self._ended = schedule.ended
        self.stopwatch.lap('refine')

    def _share_s(self, number: int) -> float | None:
        """Return the time for a block of iterations: its part of what is left of the limit."""
        if self._remaining_s is None:
            return None
        blocks = (*self.plan.before_passes, self.plan.iterations)
        # Of what is left now: a block that took too long shortens all that follow in proportion.
        return self._remaining_s() * blocks[number] / max(1, sum(blocks[number:]))

    def _show_pass(self, stage: str, done: int, passes: int, object_: Any) -> bool:
        image = self.engine.to_numpy(object_)
        origin = self._origin_px()
        return self._watch(Progress(stage, done, passes, object_=image, origin_px=origin))

    def _watch(self, progress: Progress) -> bool:
        """Report, and keep the report without its picture, and whether the run is to stop."""
        self._newest = replace(progress, object_=None, origin_px=None)
        self.stopped = bool(self._observer(progress))
        return self.stopped

    def _origin_px(self) -> FloatArray:
        return np.asarray(self.forward.origin_px, dtype=np.float64)
