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
from ptychopinn_plugin.backends.common.prior import plan_passes
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
from ptychopinn_plugin.physics import (
    cover,
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
        if refinement.drop_outliers:
            once = functools.partial(self._reconstructed, inference, refinement)
            return reconstruct_without_outliers(scan, once, observer)
        return self._reconstructed(inference, refinement, scan, observer)

    def _reconstructed(
        self,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        scan: Scan,
        observer: Observer,
    ) -> Reconstruction:
        held = self._held_model()
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
            reconstruct = self._with_prior if held.is_prior else self._with_passes
            job = _Job(held, forward, inference, refinement, stopwatch, observer)
            found = reconstruct(self._network(held, device), job)
            if found.stopped:
                refinement = refinement.replace(iterations=0)
            result = self._refined(
                scan, forward, found.object_, refinement, stopwatch, observer, found.losses
            )
            used = Config(model=held.config.model, inference=inference, refinement=asked)
            provenance = self._provenance(device, used, held, threads)
            return replace(result, threads=threads.count, provenance=provenance)

    def _with_passes(self, network: Any, job: '_Job') -> '_Found':
        """Predict patches and stitch them, pass by pass."""
        passes, stopped = job.model.network.passes, False

        def show(done: int, object_: Any) -> bool:
            nonlocal stopped
            stopped = bool(job.observer(self._pass_done(job.forward, done, passes, object_)))
            return stopped

        rotations = choose_rotations(
            job.inference.test_time_rotations, job.model.network, lambda: self._overlap(job.forward)
        )
        request = PredictionRequest.of(job.inference, rotations)

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

    def _with_prior(self, network: Any, job: '_Job') -> '_Found':
        """Iterate and let a learned prior correct the object in turn; see `common.prior`."""
        description, asked = job.model.network, job.inference.prior_passes
        blocks = plan_passes(description, asked, self._overlap(job.forward))
        total, stopped = sum(blocks) + job.refinement.iterations, False

        def watch(progress: Progress) -> bool:
            nonlocal stopped
            stopped = bool(job.observer(progress))
            return stopped

        exposures = count_exposures(
            self.to_numpy(job.forward.probe),
            job.forward.patch_origins_px,
            job.forward.canvas_shape,
        )
        object_, done = job.forward.flat_object(), 0
        losses: list[float] = []
        for number, count in enumerate(blocks, start=1):
            # Ten iterations are too few to tell where patterns belong; the last ones do that.
            block = job.refinement.replace(iterations=count, positions=False)
            object_, found = self._iterated(job.forward, object_, block, watch, done, total)
            losses += found[len(losses) > 0 :]
            done += count
            job.stopwatch.lap('refine')
            if not stopped:
                object_ = self.apply_prior(network, job.forward, object_, exposures)
                job.stopwatch.lap('predict')
                watch(self._pass_done(job.forward, number, len(blocks), object_))
            if stopped:
                break
        return _Found(object_, stopped, losses)

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
        if refinement.drop_outliers:
            once = functools.partial(self._refined_from_flat, refinement, device)
            return reconstruct_without_outliers(scan, once, observer)
        return self._refined_from_flat(refinement, device, scan, observer)

    def _refined_from_flat(
        self, refinement: RefinementConfig, device: str, scan: Scan, observer: Observer
    ) -> Reconstruction:
        (scan,) = _usable([scan])
        asked = refinement
        scan, refinement = self._with_probe(scan, refinement, device, observer)
        return self._from_flat(scan, refinement, device, observer, asked=asked)

    def _from_flat(
        self,
        scan: Scan,
        refinement: RefinementConfig,
        device: str,
        observer: Observer,
        *,
        is_trial: bool = False,
        asked: RefinementConfig | None = None,
    ) -> Reconstruction:
        """Iterate from a flat object; a trial warns of nothing. `asked` is what is recorded."""
        photons = scan.mean_photons()
        with self.on_device(device) as where, self.threads_on(where) as threads:
            observer = threads.beside(observer)
            probe = normalise_probe(scan.probe, photons)
            reach = _reach_px(scan, refinement)
            forward = self.build_forward(scan, probe, photons, where, reach)
            flat, stopwatch = forward.flat_object(), self.start_stopwatch(where)
            result = self._refined(
                scan, forward, flat, refinement, stopwatch, observer, is_trial=is_trial
            )
            used = Config(refinement=asked or refinement)
            provenance = self._provenance(where, used, None, threads)
            return replace(result, threads=threads.count, provenance=provenance)

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

    def _refined(
        self,
        scan: Scan,
        forward: Forward,
        object_: Any,
        refinement: RefinementConfig,
        stopwatch: Stopwatch,
        observer: Observer,
        before: Sequence[float] = (),
        *,
        is_trial: bool = False,
    ) -> Reconstruction:
        """Refine an object by iterations and judge it; `before` are the losses of earlier ones."""
        losses, stopped = list(before), False
        newest: Progress | None = None

        def watch(progress: Progress) -> bool:
            nonlocal stopped, newest
            newest = replace(progress, object_=None, origin_px=None)
            stopped = bool(observer(progress))
            return stopped

        def is_stopping() -> bool:
            return newest is not None and watch(newest)

        if refinement.iterations > 0:
            done = max(0, len(losses) - 1)
            object_, found = self._iterated(
                forward, object_, refinement, watch, done, done + refinement.iterations
            )
            losses += found[len(losses) > 0 :]
            stopwatch.lap('refine')
        pattern_fit = None
        if not is_trial:
            look_twice = not stopped and len(losses) > MIN_ITERATIONS
            without = functools.partial(iterate_without, self, forward, object_, is_stopping)
            pattern_fit = judge_patterns(scan, forward, object_, without if look_twice else None)
            stopwatch.lap('judge')
        misfit = judge_misfit(scan, lambda lit_counts: forward.misfit(object_, lit_counts))
        moved = refinement.positions and refinement.iterations > 0 and forward.reach_px > 0
        if moved and not is_trial:
            warn_of_moves(scan, forward.moves_px, forward.reach_px)
        option = None if refinement.probe else '--refine-probe (refinement.probe)'
        if not is_trial:
            warn_of_misfit(scan, len(losses) - 1, misfit, option)
        loss, residual = forward.evaluate_fit(object_)
        coverage, probe = self.to_numpy(forward.coverage), self.to_numpy(forward.probe)
        return Reconstruction(
            object_=self.to_numpy(object_),
            origin_px=_origin(forward),
            coverage=coverage / coverage.max(),
            probe=orthogonal_modes(probe) if refinement.probe else probe,
            positions_px=scan.positions_px + forward.moves_px,
            nominal_positions_px=scan.positions_px if moved else None,
            backend=self.name,
            likelihoods=losses or [loss],
            timing=dict(stopwatch.seconds),
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
        forward: Forward,
        object_: Any,
        refinement: RefinementConfig,
        observer: Observer,
        before: int,
        total: int,
    ) -> tuple[Any, list[float]]:
        """Iterate, after the iterations `before` of `total`; return the object and the losses."""

        def show(done: int, loss: float, newest: Any) -> bool | None:
            return observer(
                Progress(
                    'refine',
                    before + done,
                    total,
                    {'poisson': loss},
                    object_=self.to_numpy(newest),
                    origin_px=_origin(forward),
                )
            )

        request = IterationRequest.of_refinement(refinement)
        return self.iterate(forward, object_, request, show)

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
    """One call of `reconstruct`, with its scan on the device."""

    model: Model
    forward: Any
    inference: InferenceConfig
    refinement: RefinementConfig
    stopwatch: Stopwatch
    observer: Observer


@dataclass(frozen=True)
class _Found:
    """What a network makes of a scan.

    Attributes
    ----------
    object_ : tensor
    stopped : bool
        Whether the run is to end with it.
    losses : sequence of float
        Of the start and after each iteration, where a learned prior has iterated.
    """

    object_: Any
    stopped: bool
    losses: Sequence[float] = ()


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
