"""What every backend that trains networks does alike; a framework fills in the rest."""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.backends.common.diagnostics import suggest_probe
from ptychopinn_plugin.backends.common.prediction import (
    choose_photons,
    choose_rotations,
    corrected_probe,
    fitted_model,
)
from ptychopinn_plugin.backends.common.timing import Stopwatch
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
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.model_file import Model, read_model, write_model
from ptychopinn_plugin.physics import Misfit, illumination_overlap, normalise_probe

Device = TypeVar('Device')


class Forward(Protocol):
    """What reconstruction asks of a framework's forward model; tensors are the framework's."""

    origin_px: Any
    photons: float
    probe: Any
    coverage: Any

    def flat_object(self) -> Any:
        """Return an object that changes nothing."""
        ...

    def evaluate_fit(self, object_: Any) -> tuple[float, float]:
        """Return the Poisson loss per pixel and the amplitude residual."""
        ...

    def misfit(self, object_: Any) -> Misfit | None:
        """Return how far an object misses the counts, on patterns from all over the scan."""
        ...


class NetworkBackend(ABC, Generic[Device]):
    """A `backends.protocol.Backend`, but for what a framework computes."""

    name: str

    def __init__(self) -> None:
        self.model: Model | None = None

    @abstractmethod
    def _on(self, device: str) -> AbstractContextManager[Device]:
        """Return a context in which this device computes."""

    @abstractmethod
    def _start(
        self,
        scans: Sequence[Scan],
        config: Config,
        validation: Sequence[Scan],
        base_model: Model | None,
        resume: bool,
        device: Device,
        started: float,
        observer: Observer,
    ) -> TrainingRun[Any]:
        """Prepare training: teach, and put everything on the device."""

    @abstractmethod
    def _forward(self, scan: Scan, probe: ComplexArray, device: Device) -> Forward:
        """Return the forward model of a scan."""

    @abstractmethod
    def _stopwatch(self, device: Device) -> Stopwatch:
        """Return a stopwatch that waits for the device."""

    @abstractmethod
    def _predict(
        self,
        model: Model,
        forward: Any,
        inference: InferenceConfig,
        rotations: Sequence[int],
        stopwatch: Stopwatch,
        show: Callable[[int, Any], bool],
    ) -> Any:
        """Return the object that the network predicts, looking in these quarter turns."""

    @abstractmethod
    def _iterate(
        self,
        forward: Any,
        object_: Any,
        refinement: RefinementConfig,
        show: Callable[[int, float, Any], bool | None],
    ) -> tuple[Any, list[float]]:
        """Return the refined object and the losses."""

    @abstractmethod
    def _array(self, tensor: Any) -> RealArray:
        """Return a tensor's values."""

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
        started = time.perf_counter()
        if not scans:
            raise DataError('Training needs at least one scan; none was given.')
        scans, validation = _usable(scans), _usable(validation)
        if resume and (base_model is None or base_model.training_state is None):
            raise ConfigError(
                'This model holds no training state, so training cannot continue exactly. '
                'Fine-tune it instead: ptychopinn train --base-model MODEL.'
            )
        with self._on(config.training.device) as device:
            run = self._start(
                scans, config, validation, base_model, resume, device, started, observer
            )
            state = run.train()
            self.model = run.to_model(state)
        return TrainingResult(self.model, tuple(state.history), state.stopped)

    def reconstruct(
        self,
        scan: Scan,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        *,
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Predict with the held model, stitch, and refine."""
        (scan,) = _usable([scan])
        held = self._held_model()
        held = fitted_model(held, scan)
        assert held.config.model.pattern_size is not None
        scan = fit_to_size(scan, held.config.model.pattern_size)
        photons = choose_photons(scan, held.photons, inference.intensity_scale)
        probe = normalise_probe(corrected_probe(held, scan), photons * held.intensity_scale**2)
        stopped = False

        def show(done: int, object_: Any) -> bool:
            nonlocal stopped
            passes = held.network.passes
            progress = Progress('predict', done, passes, object_=self._array(object_))
            progress = dataclasses.replace(progress, origin_px=_origin(forward))
            stopped = bool(observer(progress))
            return stopped

        with self._on(inference.device) as device:
            forward = self._forward(scan, probe, device)
            forward.photons = photons
            stopwatch = self._stopwatch(device)
            rotations = choose_rotations(
                inference.test_time_rotations,
                held.network,
                lambda: illumination_overlap(
                    self._array(forward.coverage), self._array(forward.probe)
                ),
            )
            object_ = self._predict(held, forward, inference, rotations, stopwatch, show)
            if stopped:
                refinement = refinement.replace(iterations=0)
            return self._refined(scan, forward, object_, refinement, stopwatch, observer)

    def refine(
        self,
        scan: Scan,
        refinement: RefinementConfig,
        *,
        device: str = 'auto',
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Iterate from a flat object, without a model: the baseline."""
        (scan,) = _usable([scan])
        with self._on(device) as where:
            forward = self._forward(scan, normalise_probe(scan.probe, scan.mean_photons()), where)
            flat, stopwatch = forward.flat_object(), self._stopwatch(where)
            return self._refined(scan, forward, flat, refinement, stopwatch, observer)

    def _refined(
        self,
        scan: Scan,
        forward: Forward,
        object_: Any,
        refinement: RefinementConfig,
        stopwatch: Stopwatch,
        observer: Observer,
    ) -> Reconstruction:
        total = refinement.iterations

        def show(done: int, loss: float, newest: Any) -> bool | None:
            progress = Progress('refine', done, total, {'poisson': loss})
            seen = self._array(newest)
            return observer(dataclasses.replace(progress, object_=seen, origin_px=_origin(forward)))

        losses: list[float] = []
        if total > 0:
            object_, losses = self._iterate(forward, object_, refinement, show)
            stopwatch.lap('refine')
            if not refinement.probe:
                option = '--refine-probe (refinement.probe)'
                suggest_probe(scan, len(losses) - 1, lambda: forward.misfit(object_), option)
        loss, residual = forward.evaluate_fit(object_)
        coverage = self._array(forward.coverage)
        return Reconstruction(
            object_=self._array(object_),
            origin_px=_origin(forward),
            coverage=coverage / coverage.max(),
            probe=self._array(forward.probe),
            positions_px=scan.positions_px,
            backend=self.name,
            likelihoods=losses or [loss],
            timing=dict(stopwatch.seconds),
            amplitude_residual=residual,
            geometry=scan.geometry,
            name=scan.name,
        )

    def _held_model(self) -> Model:
        if self.model is None:
            raise DataError('No model is loaded. Train one, or open a model file first.')
        return self.model


def _usable(scans: Sequence[Scan]) -> list[Scan]:
    """Check positions, and leave out patterns without light."""
    for scan in scans:
        check_positions(scan)
    return [without_dark_patterns(scan) for scan in scans]


def _origin(forward: Forward) -> FloatArray:
    return np.asarray(forward.origin_px, dtype=np.float64)
