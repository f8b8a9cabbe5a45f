"""What every backend that trains networks does alike: the `Backend` protocol over an engine."""

import gc
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.backends.common.diagnostics import warn_of_twins
from ptychopinn_plugin.backends.common.engine import Device, Engine
from ptychopinn_plugin.backends.common.iteration_plan import plan_reconstruction
from ptychopinn_plugin.backends.common.outliers import reconstruct_without_outliers
from ptychopinn_plugin.backends.common.overlap import measure_dose, measure_overlap
from ptychopinn_plugin.backends.common.positions import reach_px
from ptychopinn_plugin.backends.common.prediction import (
    check_same_field,
    choose_photons,
    choose_rotations,
    corrected_probe,
)
from ptychopinn_plugin.backends.common.probe_search import IterateFromFlat, find_probe
from ptychopinn_plugin.backends.common.ranks import current_ranks
from ptychopinn_plugin.backends.common.reconstruction_run import (
    ReconstructionRun,
)
from ptychopinn_plugin.backends.common.requests import (
    NetworkRequest,
    ReconstructionRequest,
    TrainingRequest,
)
from ptychopinn_plugin.backends.common.scan_probe import normalize_probe_of
from ptychopinn_plugin.backends.common.setting_warnings import warn_of_settings
from ptychopinn_plugin.backends.common.threads import Threads
from ptychopinn_plugin.backends.common.training_loop import Clock
from ptychopinn_plugin.backends.common.training_plan import plan_training
from ptychopinn_plugin.backends.common.training_run import TrainingRun
from ptychopinn_plugin.backends.protocol import Observer, TrainingResult, ignore_progress
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, without_dark_patterns
from ptychopinn_plugin.data.preparation import check_size
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.model_file import Model, read_model, write_model
from ptychopinn_plugin.physics import twin_similarity

logger = logging.getLogger(__name__)

RemainingTime = Callable[[], float] | None
"""It returns how many more seconds a run may take; None stands for any time."""


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
        # Limits of time are decided by one clock, or ranks would end at different iterations.
        self.ranks = current_ranks()
        self.clock = self.ranks.shared_clock(clock)
        self.threads: int | None = None
        self.picture_s: float | None = None
        self.model: Model | None = None
        # The network of a trained model and that of a learned prior may take part in one run.
        self._built: dict[bool, tuple[Model, Device, Any]] = {}

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
        """Train on scans; see `backends.protocol.Backend.train`.

        Raises
        ------
        DataError
            If there is no scan, or one has patterns of another size than the network's.
        """
        started, observer = self.clock(), self.ranks.shared_observer(observer)
        if not scans:
            raise DataError('Training needs at least one scan; none was given.')
        assert base_model is None or not base_model.is_prior, 'checked where it was opened'
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
        with self.computing_on(config.training.device) as (device, threads):
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
        """Predict with the held model, stitch, and refine.

        Raises
        ------
        DataError
            If no model is held, or the patterns are not of the size that it takes.
        """
        model = self._held_model()
        _check_is_fitted(scan, model)
        return self._once_or_twice(
            ReconstructionRequest(scan, refinement, inference.device, model, inference, observer)
        )

    def preview(
        self,
        scan: Scan,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        *,
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Reconstruct for a picture; see `backends.protocol.Previews`."""
        model = self._held_model()
        _check_is_fitted(scan, model)
        request = ReconstructionRequest(
            scan,
            refinement.replace(drop_outliers=False),
            inference.device,
            model,
            inference,
            observer,
            is_trial=True,
        )
        return self._reconstructed(request, self._until(refinement.max_seconds))

    def refine(
        self,
        scan: Scan,
        refinement: RefinementConfig,
        *,
        device: str = 'auto',
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Iterate from a flat object, without a model: the baseline."""
        return self._once_or_twice(
            ReconstructionRequest(scan, refinement, device, observer=observer)
        )

    def _once_or_twice(self, request: ReconstructionRequest) -> Reconstruction:
        """Reconstruct a scan; where it is set, again without the patterns that do not fit.

        Raises
        ------
        ConfigError
            If several processes are to refine the eigenmodes of the probe.
        """
        if request.refinement.opr_modes and self.ranks.size > 1:
            raise ConfigError(
                'Eigenmodes of the probe are refined in one process; this run has '
                f'{self.ranks.size}. Leave --opr-modes (refinement.opr_modes) out, or start '
                'without torchrun and --devices.'
            )
        request = replace(request, observer=self.ranks.shared_observer(request.observer))

        def once(scan: Scan, observer: Observer, limit_s: float | None) -> Reconstruction:
            return self._reconstructed(
                replace(request, scan=scan, observer=observer), self._until(limit_s)
            )

        scan, limit_s = request.scan, request.refinement.max_seconds
        if not request.refinement.drop_outliers:
            return once(scan, request.observer, limit_s)
        return reconstruct_without_outliers(
            scan, once, request.observer, limit_s=limit_s, clock=self.clock
        )

    def _reconstructed(
        self, request: ReconstructionRequest, remaining_s: RemainingTime
    ) -> Reconstruction:
        """Reconstruct the patterns that have light, with a probe that is given or found."""
        # Without light a pattern shows nothing of the object, and contradicts any.
        scan = without_dark_patterns(request.scan)
        scan, stopped = find_probe(scan, self._trial(request.device), observer=request.observer)
        computed = replace(request, scan=scan)
        if scan.probe_origin != 'given':
            # What is a guess is corrected.
            computed = computed.with_refinement(probe=True)
        # The user wants to see what there is: the probe so far, and no iterations.
        if stopped:
            computed = computed.with_refinement(iterations=0)
        return self._computed(computed, remaining_s, request.used_settings())

    def _computed(
        self, request: ReconstructionRequest, remaining_s: RemainingTime, used: Mapping[str, Any]
    ) -> Reconstruction:
        """Reconstruct on a device; `used` is what the result holds as its settings."""
        model, inference = request.model, request.inference
        scan, photons, scale = request.scan, request.scan.mean_photons(), 1.0
        probe = scan.probe
        if model is not None:
            if not model.is_prior:
                check_same_field(model, [scan])
                photons = choose_photons(scan, model.photons, inference.intensity_scale)
            probe = corrected_probe(model, scan, warns=not request.is_trial)
            scale = model.intensity_scale
        # The intensity scale is a factor on amplitudes, and photons are their squares.
        probe = normalize_probe_of(scan, probe, photons * scale**2)
        with self.computing_on(request.device) as (device, threads):
            request = replace(request, scan=scan, observer=threads.beside(request.observer))
            # The canvas is made with room for positions that are to move.
            reach = _reach_px(scan, request.refinement)
            # A network of patches may see any patterns together.
            is_whole = model is not None and not model.is_prior
            forward = self.build_forward(scan, probe, photons, device, reach, is_whole=is_whole)
            prior = _choose_prior(request)
            run = self._begin(request, prior, forward, device, remaining_s)
            if model is not None and not model.is_prior:
                run.infer(self._network(model, device), model.network, inference)
            run.find_start()
            if prior is not None and run.plan.before_passes and not run.stopped:
                run.iterate_with_prior(self._network(prior, device))
            else:
                prior = None
            return self._with_provenance(run.finish(), device, used, (model, prior), threads)

    def _begin(
        self,
        request: ReconstructionRequest,
        prior: Model | None,
        forward: Any,
        device: Device,
        remaining_s: RemainingTime,
    ) -> ReconstructionRun:
        """Plan a reconstruction, and log the plan unless it is a trial."""
        scan, refinement, model = request.scan, request.refinement, request.model
        decide = self.ranks.decide
        plan = plan_reconstruction(
            # Light that cards add up in any order differs in its last digits, and all ranks must
            # have the same plan.
            decide(measure_overlap(self, forward)),
            requested=refinement.iterations,
            limit_s=refinement.max_seconds,
            network=None if prior is None else prior.network,
            requested_passes=request.inference.prior_passes,
            requested_variation=refinement.total_variation,
            dose=decide(measure_dose(self, forward)) if scan.is_countable() else None,
            is_single_shot=scan.is_single_shot,
            is_near_field=scan.geometry.is_near_field,
            # The twin of an object has the same patterns in the far field alone.
            probe_twin_similarity=0.0
            if scan.geometry.is_near_field
            else twin_similarity(scan.probe),
            may_try_starts=not request.is_trial and _only_object_is_sought(request),
        )
        if model is not None and not model.is_prior:
            rule, overlap = request.inference.test_time_rotations, plan.overlap
            rotations = choose_rotations(rule, model.network, lambda: overlap)
            plan = replace(plan, network_passes=model.network.passes, rotations=len(rotations))
        if not request.is_trial:
            logger.info('%s: %s.', scan.name, plan.in_words())
            warn_of_twins(scan)
            warn_of_settings(scan, refinement, iterations=plan.total, is_flat=plan.is_empty)
        return ReconstructionRun(
            *(self, scan, forward, refinement, plan),
            stopwatch=self.start_stopwatch(device),
            observer=request.observer,
            clock=self.clock,
            remaining_s=remaining_s,
            is_trial=request.is_trial,
        )

    def _until(self, limit_s: float | None) -> RemainingTime:
        """Return a function of the seconds that are left of a limit; None without one."""
        started = self.clock()
        return None if limit_s is None else lambda: limit_s - (self.clock() - started)

    def _with_probes(self, scans: Sequence[Scan], device: str, observer: Observer) -> list[Scan]:
        lit = [without_dark_patterns(scan) for scan in scans]
        return [find_probe(scan, self._trial(device), observer=observer)[0] for scan in lit]

    def _trial(self, device: str) -> IterateFromFlat:
        def iterate(
            scan: Scan, refinement: RefinementConfig, *, observer: Observer
        ) -> Reconstruction:
            trial = ReconstructionRequest(
                scan, refinement, device, observer=observer, is_trial=True
            )
            return self._computed(trial, None, trial.used_settings())

        return iterate

    def _with_provenance(
        self,
        result: Reconstruction,
        device: Device,
        settings: Mapping[str, Any],
        models: tuple[Model | None, Model | None],
        threads: Threads,
    ) -> Reconstruction:
        """Note in a result which software, device, settings, model and learned prior made it."""
        model, prior = models
        provenance = {
            'package': f'ptychopinn-plugin {__version__}',
            'framework': self.framework_version(),
            'python': platform.python_version(),
            'numpy': np.__version__,
            'device': str(device),
            'threads': sorted(threads.used),
            **({'ranks': self.ranks.size} if self.ranks.size > 1 else {}),
            'settings': settings,
            'model_fingerprint': None if model is None else model.fingerprint(),
            **result.provenance,
        }
        if prior is not None and prior is not model:
            provenance['prior_fingerprint'] = prior.fingerprint()
        return replace(result, threads=threads.count, provenance=provenance)

    def release_memory(self) -> None:
        """Give back what is kept for the next run: the network on its device, and caches."""
        self._built.clear()
        gc.collect()
        self.release_cache()

    def _held_model(self) -> Model:
        if self.model is None:
            raise DataError('No model is loaded. Train one, or open a model file first.')
        return self.model

    def _network(self, model: Model, device: Device) -> Any:
        """Build a model's network once for each device."""
        held = self._built.get(model.is_prior)
        # By identity: a model of the same settings may hold other weights.
        if held is None or held[0] is not model or held[1] != device:
            request = NetworkRequest(model.network, model.config.training.precision, model.weights)
            held = (model, device, self.build_network(request, device))
            self._built[model.is_prior] = held
        return held[2]


def _choose_prior(request: ReconstructionRequest) -> Model | None:
    """Return the learned prior that may correct the object between iterations.

    The built-in one goes on from where a trained network ends, unless somebody has given the number
    of iterations after that network.
    """
    model, passes = request.model, request.inference.prior_passes
    if model is None or model.is_prior:
        return model
    wants = request.refinement.iterations is None if passes is None else passes > 0
    return Model.built_in() if wants else None


def _only_object_is_sought(request: ReconstructionRequest) -> bool:
    """Return whether nothing is known of the object, and everything else is."""
    settings, model = request.refinement, request.model
    has_network = model is not None and not model.is_prior
    changes_more = settings.probe or settings.positions or settings.intensities
    return settings.object_type == 'auto' and not (
        has_network or changes_more or settings.opr_modes
    )


def _check_is_fitted(scan: Scan, model: Model) -> None:
    """Check that a scan has patterns of the size that a model takes; a prior takes any.

    Raises
    ------
    DataError
        If it has not.
    """
    if not model.is_prior:
        check_size(scan, model.pattern_size)


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
