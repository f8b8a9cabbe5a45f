"""What every backend that trains networks does alike: the `Backend` protocol over an engine."""

import functools
import gc
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.diagnostics import (
    MIN_ITERATIONS,
    judge_misfit,
    warn_of_misfit,
    warn_of_moves,
)
from ptychopinn_plugin.backends.common.engine import Device, Engine, Forward
from ptychopinn_plugin.backends.common.iteration_plan import IterationPlan, plan_reconstruction
from ptychopinn_plugin.backends.common.iteration_schedule import Ended, IterationSchedule
from ptychopinn_plugin.backends.common.memory import with_smaller_batches
from ptychopinn_plugin.backends.common.outliers import (
    iterate_without,
    judge_patterns,
    reconstruct_without_outliers,
)
from ptychopinn_plugin.backends.common.positions import reach_px
from ptychopinn_plugin.backends.common.prediction import (
    choose_photons,
    choose_rotations,
    corrected_probe,
)
from ptychopinn_plugin.backends.common.probe_search import Trial, find_probe
from ptychopinn_plugin.backends.common.requests import (
    IterationRequest,
    NetworkRequest,
    PredictionRequest,
    TrainingRequest,
)
from ptychopinn_plugin.backends.common.threads import Threads
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.backends.common.training_loop import Clock
from ptychopinn_plugin.backends.common.training_plan import plan_training
from ptychopinn_plugin.backends.common.training_run import TrainingRun
from ptychopinn_plugin.backends.protocol import (
    Observer,
    Progress,
    TrainingResult,
    ignore_progress,
)
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, fit_to_size, without_dark_patterns
from ptychopinn_plugin.data.grouping import check_positions
from ptychopinn_plugin.data.places import find_places
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.model_file import Model, read_model, write_model
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.physics import (
    cover,
    estimate_uncertainty,
    illumination_overlap,
    normalise_probe,
    orthogonal_modes,
)
from ptychopinn_plugin.physics.prior_features import count_exposures

logger = logging.getLogger(__name__)


class NetworkBackend(Engine[Device]):
    """A `backends.protocol.Backend` for a framework that supplies the hooks of `Engine`.

    Parameters
    ----------
    clock : callable
        Returns seconds: what `max_minutes` and the history of a training go by.

    Attributes
    ----------
    model : Model, optional
        The one that is held.
    threads : int, optional
        This number of threads computes on a CPU, where it is given; else `common.threads` decides.
    picture_s : float, optional
        After this many seconds of training, and again and again, the observer gets the object that
        the network makes of the first scan; never where it is None.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self.threads: int | None = None
        self.picture_s: float | None = None
        self.model: Model | None = None
        self._built: tuple[Model, Device, Any] | None = None

    def open_model(self, path: Path) -> Model:
        """Read a model file and hold it."""
        self.model = read_model(path)
        return self.model

    def save_model(self, path: Path, *, inference_only: bool = False) -> None:
        """Write the held model."""
        write_model(path, self._held_model(), inference_only=inference_only)

    def train(
        self,
        scans: Sequence[Scan],
        config: Config,
        *,
        validation: Sequence[Scan] = (),
        base_model: Model | None = None,
        resume: bool = False,
        observer: Observer = ignore_progress,
    ) -> TrainingResult:
        """Train on scans; see `backends.protocol.Backend.train`."""
        started = self.clock()
        if not scans:
            raise DataError('Training needs at least one scan; none was given.')
        if base_model is not None and base_model.is_prior:
            raise ConfigError(
                'Training starts from a network for patterns; the given model is a learned prior '
                'for objects, which cannot be fine-tuned on a scan. Train without a base model.'
            )
        device_name = config.training.device
        usable = self._with_probes(scans, device_name, observer)
        if any(scan.probe_origin != 'given' for scan in usable):
            logger.info('The probe is a guess, so that training corrects it.')
            config = config.replace(training=config.training.replace(probe_trainable=True))
        request = TrainingRequest(
            scans=usable,
            config=config,
            validation=self._with_probes(validation, device_name, observer),
            base_model=base_model,
            resume=resume,
            observer=observer,
            started=started,
        )
        plan = plan_training(request)
        with (
            self.on_device(config.training.device) as device,
            self.threads_on(device) as threads,
        ):
            watched = replace(request, observer=threads.beside(observer))
            result = TrainingRun(
                self, watched, plan, device, self.clock, picture_s=self.picture_s
            ).train()
        self.model = result.model
        return result

    def reconstruct(
        self,
        scan: Scan,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        *,
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Predict with the held model, stitch, and refine."""
        once = functools.partial(self._reconstructed, inference, refinement)
        if refinement.drop_outliers:
            return reconstruct_without_outliers(
                scan, once, observer, limit_s=refinement.max_seconds, clock=self.clock
            )
        return once(scan, observer, refinement.max_seconds)

    def _reconstructed(
        self,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        scan: Scan,
        observer: Observer,
        limit_s: float | None,
    ) -> Reconstruction:
        started, held = self.clock(), self._held_model()
        (scan,) = _usable([scan])
        photons, asked = scan.mean_photons(), refinement
        scan, refinement = self._with_probe(scan, refinement, inference.device, observer)
        if not held.is_prior:
            scan = fit_to_size(scan, held.pattern_size)
            photons = choose_photons(scan, held.photons, inference.intensity_scale)
        probe = normalise_probe(corrected_probe(held, scan), photons * held.intensity_scale**2)
        with self.on_device(inference.device) as device, self.threads_on(device) as threads:
            observer = threads.beside(observer)
            reach = _reach_px(scan, refinement)
            forward = self.build_forward(scan, probe, photons, device, reach)
            stopwatch = self.start_stopwatch(device)
            prior = held.network if held.is_prior else None
            plan = self._plan(scan, forward, refinement, prior, inference.prior_passes)
            logger.info('%s: %s.', scan.name, plan.in_words())
            job = _Job(scan, forward, refinement, plan, started, limit_s, stopwatch, observer)
            reconstruct = self._with_prior if held.is_prior else self._with_passes
            found = reconstruct(self._network(held, device), job, held.network, inference)
            result = self._refined(job, found)
            used = Config(model=held.config.model, inference=inference, refinement=asked)
            provenance = self._provenance(device, used, held, threads)
            return replace(
                result, threads=threads.count, provenance={**provenance, **result.provenance}
            )

    def _with_passes(
        self, network: Any, job: '_Job', description: NetworkDescription, inference: InferenceConfig
    ) -> '_Found':
        """Predict patches and stitch them, pass by pass."""
        passes, stopped = description.passes, False

        def show(done: int, object_: Any) -> bool:
            nonlocal stopped
            stopped = bool(job.observer(self._pass_done(job.forward, done, passes, object_)))
            return stopped

        rotations = choose_rotations(
            inference.test_time_rotations, description, lambda: job.plan.overlap
        )
        request = PredictionRequest.of(inference, rotations)

        def predict(batch_size: int) -> list[Any]:
            return self.predict(
                network,
                job.forward,
                replace(request, batch_size=batch_size),
                stopwatch=job.stopwatch,
                observer=show,
            )

        objects = with_smaller_batches(
            predict, request.batch_size, self.release_cache, 'the prediction'
        )
        return _Found(objects[-1], stopped)

    def _with_prior(
        self, network: Any, job: '_Job', description: NetworkDescription, inference: InferenceConfig
    ) -> '_Found':
        """Iterate and let a learned prior correct the object in turn; see `common.prior`."""
        blocks, stopped = job.plan.before_passes, False

        def watch(progress: Progress) -> bool:
            nonlocal stopped
            stopped = bool(job.observer(progress))
            return stopped

        exposures = count_exposures(
            self.to_numpy(job.forward.probe),
            job.forward.patch_origins_px,
            job.forward.canvas_shape,
        )
        found = _Found(job.forward.flat_object(), stopped=False)
        # Ten iterations are too few to tell where patterns belong; the last ones do that.
        settings = job.refinement.replace(positions=False)
        for number in range(len(blocks)):
            share_s = self._share_s(job, number)
            if share_s is not None and found.done:
                each_s = (self.clock() - job.started) / sum(found.done)
                if share_s <= 0 or not job.plan.is_worth_a_pass(share_s / each_s):
                    break
            schedule = IterationSchedule(blocks[number], limit_s=share_s, clock=self.clock)
            found = self._iterated(job, found, settings, schedule, watch)
            job.stopwatch.lap('refine')
            if not stopped:
                object_ = self.apply_prior(network, job.forward, found.object_, exposures)
                found = replace(found, object_=object_)
                job.stopwatch.lap('predict')
                watch(self._pass_done(job.forward, number + 1, len(blocks), object_))
            if stopped:
                break
        return replace(found, stopped=stopped)

    def _plan(
        self,
        scan: Scan,
        forward: Forward,
        refinement: RefinementConfig,
        prior: NetworkDescription | None = None,
        prior_passes: int | None = None,
    ) -> IterationPlan:
        return plan_reconstruction(
            self._overlap(forward),
            asked=refinement.iterations,
            limit_s=refinement.max_seconds,
            network=prior,
            asked_passes=prior_passes,
            is_single_shot=scan.is_single_shot,
        )

    def _share_s(self, job: '_Job', number: int) -> float | None:
        """Return the time for a block of iterations: its part of what is left of the limit."""
        if job.limit_s is None:
            return None
        blocks = (*job.plan.before_passes, job.plan.iterations)
        left = job.limit_s - (self.clock() - job.started)
        return left * blocks[number] / max(1, sum(blocks[number:]))

    def _overlap(self, forward: Forward) -> float:
        """Return how many illuminations overlap; what is measured again and again counts once."""
        coverage, probe = self.to_numpy(forward.coverage), self.to_numpy(forward.probe)
        places = np.asarray(forward.patch_origins_px)
        first = find_places(places)[0]
        if len(first) < len(places):
            coverage = cover(probe, places[first], coverage.shape)
        return illumination_overlap(coverage, probe)

    def _pass_done(self, forward: Forward, done: int, passes: int, object_: Any) -> Progress:
        preview = self.to_numpy(object_)
        return Progress('predict', done, passes, object_=preview, origin_px=_origin(forward))

    def refine(
        self,
        scan: Scan,
        refinement: RefinementConfig,
        *,
        device: str = 'auto',
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Iterate from a flat object, without a model: the baseline."""
        once = functools.partial(self._refined_from_flat, refinement, device)
        if refinement.drop_outliers:
            return reconstruct_without_outliers(
                scan, once, observer, limit_s=refinement.max_seconds, clock=self.clock
            )
        return once(scan, observer, refinement.max_seconds)

    def _refined_from_flat(
        self,
        refinement: RefinementConfig,
        device: str,
        scan: Scan,
        observer: Observer,
        limit_s: float | None,
    ) -> Reconstruction:
        started, asked = self.clock(), refinement
        (scan,) = _usable([scan])
        scan, refinement = self._with_probe(scan, refinement, device, observer)
        return self._from_flat(
            *(scan, refinement, device, observer),
            asked=asked,
            started=started,
            limit_s=limit_s,
        )

    def _from_flat(
        self,
        scan: Scan,
        refinement: RefinementConfig,
        device: str,
        observer: Observer,
        *,
        is_trial: bool = False,
        asked: RefinementConfig | None = None,
        started: float | None = None,
        limit_s: float | None = None,
    ) -> Reconstruction:
        """Iterate from a flat object; a trial warns of nothing. `asked` is what is recorded."""
        photons = scan.mean_photons()
        started = self.clock() if started is None else started
        with self.on_device(device) as where, self.threads_on(where) as threads:
            observer = threads.beside(observer)
            probe = normalise_probe(scan.probe, photons)
            reach = _reach_px(scan, refinement)
            forward = self.build_forward(scan, probe, photons, where, reach)
            plan = self._plan(scan, forward, refinement)
            if not is_trial:
                logger.info('%s: %s.', scan.name, plan.in_words())
            stopwatch = self.start_stopwatch(where)
            job = _Job(scan, forward, refinement, plan, started, limit_s, stopwatch, observer)
            result = self._refined(job, _Found(forward.flat_object()), is_trial=is_trial)
            used = Config(refinement=asked or refinement)
            provenance = self._provenance(where, used, None, threads)
            return replace(
                result, threads=threads.count, provenance={**provenance, **result.provenance}
            )

    def _with_probes(self, scans: Sequence[Scan], device: str, observer: Observer) -> list[Scan]:
        return [
            find_probe(scan, self._trial(device), observer=observer)[0] for scan in _usable(scans)
        ]

    def _trial(self, device: str) -> Trial:
        return functools.partial(self._from_flat, device=device, is_trial=True)

    def _with_probe(
        self, scan: Scan, refinement: RefinementConfig, device: str, observer: Observer
    ) -> tuple[Scan, RefinementConfig]:
        """Look for a probe that nobody gave; let the iterations correct what is a guess."""
        scan, stopped = find_probe(scan, self._trial(device), observer=observer)
        if scan.probe_origin != 'given':
            refinement = refinement.replace(probe=True)
        return scan, refinement.replace(iterations=0) if stopped else refinement

    def _refined(self, job: '_Job', found: '_Found', *, is_trial: bool = False) -> Reconstruction:
        """Refine what a network found by iterations, and judge it; a trial warns of nothing."""
        scan, forward, plan = job.scan, job.forward, job.plan
        refinement, stopped = job.refinement, found.stopped
        newest: Progress | None = None

        def watch(progress: Progress) -> bool:
            nonlocal stopped, newest
            newest = replace(progress, object_=None, origin_px=None)
            stopped = bool(job.observer(progress))
            return stopped

        def is_stopping() -> bool:
            return newest is not None and watch(newest)

        has_time = job.limit_s is None or self.clock() - job.started < job.limit_s
        if plan.iterations > 0 and not stopped and (has_time or not found.done):
            schedule = IterationSchedule(
                plan.iterations,
                limit_s=self._share_s(job, len(plan.before_passes)),
                stops_when_converged=plan.stops_when_converged,
                clock=self.clock,
            )
            found = self._iterated(job, found, refinement, schedule, watch)
            job.stopwatch.lap('refine')
        elif plan.iterations > 0 and not stopped:
            found = replace(found, ended='time')
        object_, losses = found.object_, list(found.losses)
        ended: Ended = 'stopped' if stopped else found.ended
        pattern_fit = None
        if not is_trial and not stopped:
            look_twice = len(losses) > MIN_ITERATIONS
            without = functools.partial(iterate_without, self, forward, object_, is_stopping)
            pattern_fit = judge_patterns(
                scan, forward, object_, without if look_twice else None, is_stopping
            )
            job.stopwatch.lap('judge')
        misfit = judge_misfit(scan, lambda lit_counts: forward.misfit(object_, lit_counts))
        moved = refinement.positions and plan.iterations > 0 and forward.reach_px > 0
        if moved and not is_trial:
            warn_of_moves(scan, forward.moves_px, forward.reach_px)
        option = None if refinement.probe else '--refine-probe (refinement.probe)'
        if not is_trial:
            warn_of_misfit(scan, len(losses) - 1, misfit, option)
        loss, residual = forward.evaluate_fit(object_)
        coverage, probe = self.to_numpy(forward.coverage), self.to_numpy(forward.probe)
        image = np.asarray(self.to_numpy(object_))
        stds = None
        if not is_trial and not scan.is_single_shot and misfit is not None:
            stds = estimate_uncertainty(
                image, coverage, probe, misfit.over_noise, overlap=plan.overlap
            )
        return Reconstruction(
            object_=image,
            amplitude_std=None if stds is None else stds[0],
            phase_std=None if stds is None else stds[1],
            origin_px=_origin(forward),
            coverage=coverage / coverage.max(),
            probe=orthogonal_modes(probe) if refinement.probe else probe,
            positions_px=scan.positions_px + forward.moves_px,
            nominal_positions_px=scan.positions_px if moved else None,
            backend=self.name,
            likelihoods=losses or [loss],
            timing=dict(job.stopwatch.seconds),
            provenance={'course': plan.course(found.done, ended)},
            amplitude_residual=residual,
            misfit=misfit,
            geometry=scan.geometry,
            name=scan.name,
            pattern_indexes=scan.pattern_indexes,
            is_single_shot=scan.is_single_shot,
            pattern_fit=pattern_fit,
        )

    def _iterated(
        self,
        job: '_Job',
        found: '_Found',
        settings: RefinementConfig,
        schedule: IterationSchedule,
        observer: Observer,
    ) -> '_Found':
        """Go on from what was found by the iterations of a schedule."""
        before = sum(found.done)

        def show(done: int, loss: float, newest: Any) -> bool | None:
            return observer(
                Progress(
                    'refine',
                    before + done,
                    job.plan.total,
                    {'poisson': loss},
                    object_=self.to_numpy(newest),
                    origin_px=_origin(job.forward),
                )
            )

        request = IterationRequest.of_refinement(settings, schedule)
        object_, losses = self.iterate(job.forward, found.object_, request, show)
        losses = losses[1:] if found.losses else losses
        return _Found(
            object_,
            losses=(*found.losses, *losses),
            done=(*found.done, schedule.done),
            ended=schedule.ended,
        )

    def _provenance(
        self, device: Device, config: Config, model: Model | None, threads: Threads
    ) -> dict[str, Any]:
        """Return which software, device, settings and model make a result."""
        sections = ('refinement',) if model is None else ('inference', 'refinement')
        settings = config.to_dict()
        return {
            'package': f'ptychopinn-plugin {__version__}',
            'framework': self.framework_version(),
            'python': platform.python_version(),
            'numpy': np.__version__,
            'device': str(device),
            'threads': sorted(threads.used),
            'settings': {name: settings[name] for name in sections},
            'model_fingerprint': None if model is None else model.fingerprint(),
        }

    def release_memory(self) -> None:
        """Give back what is kept for the next run: the network on its device, and caches."""
        self._built = None
        gc.collect()
        self.release_cache()

    def _held_model(self) -> Model:
        if self.model is None:
            raise DataError('No model is loaded. Train one, or open a model file first.')
        return self.model

    def _network(self, model: Model, device: Device) -> Any:
        """Build the held model's network once for each device."""
        if self._built is None or self._built[0] is not model or self._built[1] != device:
            request = NetworkRequest(model.network, model.config.training.precision, model.weights)
            self._built = (model, device, self.build_network(request, device))
        return self._built[2]


@dataclass(frozen=True)
class _Job:
    """One scan on the device, and what is to be done with it.

    `started` is when that began, and `limit_s` how long it may take: less than that of the plan,
    where it is one of two runs.
    """

    scan: Scan
    forward: Any
    refinement: RefinementConfig
    plan: IterationPlan
    started: float
    limit_s: float | None
    stopwatch: Stopwatch
    observer: Observer


@dataclass(frozen=True)
class _Found:
    """How far a reconstruction has come.

    Attributes
    ----------
    object_ : tensor
    stopped : bool
        Whether the run is to end with it.
    losses : sequence of float
        Of the start and after each iteration.
    done : tuple of int
        The iterations of each block.
    ended : str
        Why the last block ended.
    """

    object_: Any
    stopped: bool = False
    losses: Sequence[float] = ()
    done: tuple[int, ...] = ()
    ended: Ended = 'planned'


def _usable(scans: Sequence[Scan]) -> list[Scan]:
    """Check positions, and leave out patterns without light."""
    for scan in scans:
        check_positions(scan)
    return [without_dark_patterns(scan) for scan in scans]


def _reach_px(scan: Scan, refinement: RefinementConfig) -> int:
    """Return how far positions may move: nowhere, unless the iterations correct them."""
    if not refinement.positions:
        return 0
    reason = None
    if scan.is_single_shot:
        reason = 'each pattern is reconstructed alone, wherever it lies'
    elif refinement.iterations == 0:
        reason = 'iterations refine them, and none are to follow; set refinement.iterations'
    if reason is not None:
        logger.warning('%s: positions are not refined: %s.', scan.name, reason)
        return 0
    return reach_px(scan.pattern_shape)


def _origin(forward: Forward) -> FloatArray:
    return np.asarray(forward.origin_px, dtype=np.float64)
