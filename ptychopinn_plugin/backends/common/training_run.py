"""One training run: scans on the device, a target, a loop, and the model that comes out."""

import math
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic

import numpy as np

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.array_types import ComplexArray, IntArray
from ptychopinn_plugin.backends.common.beam import measure_beam
from ptychopinn_plugin.backends.common.diagnostics import (
    TARGET_INTENSITIES,
    judge_misfit,
    warn_of_beam,
    warn_of_lonely_intensities,
    warn_of_misfit,
    warn_of_moves,
)
from ptychopinn_plugin.backends.common.engine import Device, Engine, Forward
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.memory import ran_out, with_smaller_batches
from ptychopinn_plugin.backends.common.outliers import judge_patterns
from ptychopinn_plugin.backends.common.positions import reach_px
from ptychopinn_plugin.backends.common.prediction import choose_photons
from ptychopinn_plugin.backends.common.requests import (
    InferenceRequest,
    IterationRequest,
    NetworkRequest,
    TrainingRequest,
)
from ptychopinn_plugin.backends.common.sampling import (
    VALIDATION,
    Sampler,
    TrainingScan,
    make_subscan,
)
from ptychopinn_plugin.backends.common.scan_probe import normalize_probe_of
from ptychopinn_plugin.backends.common.training_loop import Clock, TrainingLoop
from ptychopinn_plugin.backends.common.training_plan import PlannedScan, TrainingPlan
from ptychopinn_plugin.backends.common.training_state import load_state, save_state
from ptychopinn_plugin.backends.protocol import (
    Observer,
    Progress,
    TrainingResult,
    was_validated,
)
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.model_contents import CorrectedProbe
from ptychopinn_plugin.model_file import Model
from ptychopinn_plugin.physics import is_same_probe

PICTURE_PAUSE_RATIO = 20
"""Between two pictures of the network's object lies this many times what the last one took."""

TARGET_PATTERNS = 500_000
"""The target of a large scan takes fewer iterations: about this number of patterns in all."""

TARGET_TIME_FRACTION = 0.2
"""The target takes at most this share of `max_minutes`."""


class TrainingRun(Generic[Device]):
    """One call of `train`: what is planned, computed by an engine.

    Parameters
    ----------
    engine : Engine
    request : TrainingRequest
    plan : TrainingPlan
        Of this request.
    device : Device
        Of the engine.
    clock : callable
        Returns seconds; `request.started` is one of its times.
    picture_s : float, optional
        See `NetworkBackend.picture_s`.
    """

    def __init__(
        self,
        engine: Engine[Device],
        request: TrainingRequest,
        plan: TrainingPlan,
        device: Device,
        clock: Clock = time.perf_counter,
        *,
        picture_s: float | None = None,
    ) -> None:
        self.engine = engine
        self.request = request
        self.plan = plan
        self.device = device
        self.clock = clock
        self.picture_s = picture_s

    def train(self) -> TrainingResult:
        """Train, or continue from the base model's training state."""
        loop = self.prepare()
        base = self.request.base_model
        if self.request.resume and base is not None and base.training_state is not None:
            load_state(loop, base.training_state)
            _warn_if_nothing_is_left(loop)
        # Whether new or resumed, the probe is the one that training holds, to the last bit.
        loop.step.use_probes()
        state = loop.run(lambda: self.to_model(loop))
        return TrainingResult(self.to_model(loop), tuple(state.history), state.stopped)

    def prepare(self) -> TrainingLoop:
        """Put the scans on the device, reconstruct the target, and return the loop at its start."""
        plan = self.plan
        # All forward models come first, so that full memory shows before the target is computed.
        reach = plan.has_target and plan.config.training.target_positions
        forwards = [self._build_forward(planned.scan, reach) for planned in plan.training]
        scans: list[TrainingScan] = []
        held_out: list[tuple[TrainingScan, IntArray]] = []
        for index, (planned, forward) in enumerate(zip(plan.training, forwards, strict=True)):
            labels = None
            if plan.is_supervised:
                labels = self._known_object(planned.scan, forward)
            elif plan.has_target:
                labels = self._reconstruct_target(planned.scan, forward)
            scans.append(_training_scan(index, planned, forward, labels))
            if len(planned.held_out) > 0:
                # A part that is held out shares the forward model and the labels of its scan.
                held_out.append((scans[-1], planned.held_out))
        for planned in plan.validation:
            forward = self._build_forward(planned.scan)
            # Supervised training has no other term; a target's likelihood needs no labels.
            labels = self._known_object(planned.scan, forward) if plan.is_supervised else None
            validated = _training_scan(VALIDATION, planned, forward, labels)
            validated.probe_of = self._same_probe(planned.scan)
            held_out.append((validated, planned.held_out))
        return self._make_loop(scans, held_out)

    def _same_probe(self, scan: Scan) -> int | None:
        """Return the training scan whose corrected probe inference would take for a scan."""
        if not self.plan.config.training.probe_trainable:
            return None
        known = (planned.scan.probe for planned in self.plan.training)
        return next((i for i, probe in enumerate(known) if is_same_probe(probe, scan.probe)), None)

    def _make_loop(
        self, scans: Sequence[TrainingScan], held_out: Sequence[tuple[TrainingScan, IntArray]]
    ) -> TrainingLoop:
        """Build the network and what draws, computes and judges its sub-scans."""
        plan, base = self.plan, self.request.base_model
        settings = plan.config.training
        weights = None if base is None else base.weights
        network = self.engine.build_network(
            NetworkRequest(plan.description, settings.precision, weights, settings.seed),
            self.device,
        )
        # A sub-scan is given what each pass would be given: the flat object, and all but the last.
        passes = InferenceRequest(passes=plan.description.passes - 1)
        make = partial(
            make_subscan,
            predict=lambda forward: self.engine.stitch_object(network, forward, passes),
            to_numpy=self.engine.to_numpy,
        )
        return TrainingLoop(
            self.engine.make_step(
                network,
                scans,
                plan.intensity_scale,
                plan.config,
                [scan for scan, _ in held_out if scan.index == VALIDATION],
            ),
            Sampler(plan.description, scans, held_out, plan.config, make),
            plan.config,
            self._with_pictures(network, scans[0].forward),
            self.request.started,
            self.clock,
        )

    def _with_pictures(self, network: Any, forward: Any) -> Observer:
        """Return the observer, which gets the network's object with an epoch now and then."""
        if self.picture_s is None:
            return self.request.observer
        least_s, next_s = self.picture_s, self.clock() + self.picture_s

        def watch(progress: Progress) -> bool | None:
            nonlocal next_s
            begun = self.clock()
            # Only the report of an epoch has this loss.
            if 'validation_loss' in progress.losses and begun >= next_s:
                object_ = self._picture(network, forward)
                if object_ is None:
                    # Training keeps its memory to the end, and another try would fail as well.
                    next_s = math.inf
                else:
                    origin_px = np.asarray(forward.origin_px, dtype=np.float64)
                    progress = replace(progress, object_=object_, origin_px=origin_px)
                    # Where pictures take long they are rarer: training keeps most of the time.
                    spent = self.clock() - begun
                    next_s = begun + max(least_s, PICTURE_PAUSE_RATIO * spent)
            return self.request.observer(progress)

        return watch

    def _picture(self, network: Any, forward: Any) -> ComplexArray | None:
        """Return the network's object; None where there is no memory for it beside training."""

        def predict(batch_size: int) -> Any:
            return self.engine.stitch_object(
                network, forward, InferenceRequest(batch_size=batch_size)
            )

        try:
            objects = with_smaller_batches(
                predict, InferenceRequest().batch_size, self.engine.release_cache, 'the picture'
            )
        except Exception as error:
            # Training goes on without pictures; any other error ends it.
            if not ran_out(error):
                raise
            return None
        return np.asarray(self.engine.to_numpy(objects[-1]))

    def to_model(self, loop: TrainingLoop) -> Model:
        """Return the best weights as a model, with the newest ones in its training state.

        The loop is left as it was, so that training can go on.
        """
        plan, state, step = self.plan, loop.state, loop.step
        training_state = save_state(loop, plan.intensity_scale, plan.fingerprints)
        # The step has one set of weights: the best are put in, read and taken out again.
        newest = step.state_dict()
        # Inside the first epoch no weights have been judged, and the first ones are random.
        step.load_state_dict(state.best_weights if state.history else newest)
        try:
            weights = step.network_weights()
            probes, intensity_scale = step.probes()
        finally:
            step.load_state_dict(newest)
        return Model(
            backend=self.engine.name,
            network=plan.description,
            config=plan.config,
            photons=plan.photons,
            weights=weights,
            probe=probes[0],
            corrected_probes=self._corrected(probes),
            intensity_scale=intensity_scale,
            data_summary=plan.summary(),
            provenance={
                'created': datetime.now(UTC).isoformat(timespec='seconds'),
                'package': f'ptychopinn-plugin {__version__}',
                'framework': self.engine.framework_version(),
                'python': platform.python_version(),
                'device': str(self.device),
                **({'ranks': self.engine.ranks.size} if self.engine.ranks.size > 1 else {}),
                'seconds': round(self.clock() - self.request.started, 1),
                'epochs': state.epoch,
                'stopped': state.stopped,
                # JSON has no number for infinity.
                'best_loss': state.best_loss if math.isfinite(state.best_loss) else None,
                'best_loss_of': 'validation' if was_validated(state.history) else 'training',
            },
            training_state=training_state,
        )

    def _corrected(self, probes: Sequence[ComplexArray]) -> tuple[CorrectedProbe, ...]:
        if not self.plan.config.training.probe_trainable:
            return ()
        pairs = zip(self.plan.training, probes, strict=True)
        return tuple(CorrectedProbe(planned.scan.probe, after) for planned, after in pairs)

    def _build_forward(self, scan: Scan, moves_positions: bool = False) -> Any:
        photons = choose_photons(scan, self.plan.photons, 'auto')
        # The scale is one of amplitudes, hence its square for photons.
        probe = normalize_probe_of(scan, scan.probe, photons * self.plan.intensity_scale**2)
        # A canvas has a wider margin where positions move.
        reach = reach_px(scan.pattern_shape) if moves_positions else 0
        return self.engine.build_forward(scan, probe, photons, self.device, reach, is_whole=True)

    def _known_object(self, scan: Scan, forward: Forward) -> Any:
        assert scan.object_ is not None, 'plan_training has seen to it'
        return self.engine.scale_to_counts(_on_canvas(scan.object_, forward, scan.name), forward)

    def _reconstruct_target(self, scan: Scan, forward: Forward) -> Any:
        """Return an object to learn from, on the forward model's canvas."""
        settings = self.plan.config.training
        iterations = max(10, min(settings.target_iterations, TARGET_PATTERNS // len(scan)))

        origin = np.asarray(forward.origin_px, dtype=np.float64)

        def watch(done: int, loss: float, newest: Any) -> bool | None:
            object_ = self.engine.to_numpy(newest)
            return self.request.observer(
                Progress(
                    'target',
                    done,
                    iterations,
                    {'poisson': loss},
                    object_=object_,
                    origin_px=origin,
                )
            )

        limit_s = None
        if settings.max_minutes is not None:
            used = self.clock() - self.request.started
            # What came before counts too, targets of other scans included.
            limit_s = TARGET_TIME_FRACTION * 60 * settings.max_minutes - used
        schedule = IterationSchedule(iterations, limit_s=limit_s, clock=self.clock)
        request = IterationRequest.of_target(scan, settings, schedule)
        labels, losses = self.engine.iterate(forward, forward.flat_object(), request, watch)
        self._judge_target(scan, forward, labels, len(losses) - 1)
        return labels

    def _judge_target(self, scan: Scan, forward: Forward, labels: Any, iterations: int) -> None:
        """Warn of what the target shows of its scan."""
        settings, variation = self.plan.config.training, None
        if settings.target_positions:
            warn_of_moves(scan, forward.moves_px, forward.reach_px)
        if settings.target_intensities:
            warn_of_lonely_intensities(scan)
        else:
            fit = judge_patterns(scan, forward, labels, None, lambda: False)
            variation = measure_beam(self.engine, scan, forward, labels, fit, iterations)
            warn_of_beam(scan, variation, TARGET_INTENSITIES)
        # A probe that training corrects needs no such warning, and a misfit by the beam has one.
        if not settings.probe_trainable and variation is None:
            option = '--probe-trainable (training.probe_trainable)'
            misfit = judge_misfit(scan, lambda lit_counts: forward.misfit(labels, lit_counts))
            warn_of_misfit(scan, iterations, misfit, option)


def _training_scan(index: int, planned: PlannedScan, forward: Forward, labels: Any) -> TrainingScan:
    return TrainingScan(
        index=index,
        forward=forward,
        patch_origins_px=forward.patch_origins_px,
        members=planned.members,
        labels=labels,
        countable=planned.scan.is_countable(),
    )


def _warn_if_nothing_is_left(loop: TrainingLoop) -> None:
    settings, done = loop.config.training, loop.state.epoch
    if done >= settings.epochs:
        spent, unit = f'has {done} epochs of the {settings.epochs}', 'epochs'
    elif loop.is_time_up():
        spent, unit = f'has used the {settings.max_minutes:g} minutes', 'minutes'
    else:
        return
    warnings.warn(
        f'This model {spent} that are requested; nothing is left to train. Give a larger '
        f'number of {unit}.',
        stacklevel=3,
    )


def _on_canvas(object_: ComplexArray, forward: Forward, name: str) -> ComplexArray:
    """Return an object whose first pixel is position (0, 0), cut and padded to a canvas."""
    # Where the object is not known it is taken to be empty: transmission 1.
    canvas = np.ones(forward.canvas_shape, dtype=np.complex64)
    top, left = forward.origin_px.tolist()
    height, width = object_.shape
    rows = slice(max(0, -top), min(canvas.shape[0], height - top))
    columns = slice(max(0, -left), min(canvas.shape[1], width - left))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise DataError(
            f'{name}: the object (objectGuess), of {height} x {width} px with its first pixel at '
            f'position (0, 0), must lie where the scan is: rows {top} to {top + canvas.shape[0]}, '
            f'columns {left} to {left + canvas.shape[1]}; they do not touch. '
            'Shift the positions or pad the object, or train without labels (model type pinn).'
        )
    canvas[rows, columns] = object_[
        rows.start + top : rows.stop + top, columns.start + left : columns.stop + left
    ]
    return canvas
