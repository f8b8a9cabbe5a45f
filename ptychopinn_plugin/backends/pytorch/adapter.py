"""The PyTorch backend: what `backends.protocol.Backend` asks for."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.archive import Model, read_model, write_model
from ptychopinn_plugin.backends.hints import suggest_probe
from ptychopinn_plugin.backends.protocol import (
    Observer,
    Progress,
    TrainingResult,
    ignore_progress,
)
from ptychopinn_plugin.backends.pytorch.choices import choose_device, choose_photons
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.inference import Stopwatch, predict_object
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.refinement import sweep_object
from ptychopinn_plugin.backends.pytorch.run import TrainingRun
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, fit_to_size
from ptychopinn_plugin.data.grouping import check_positions
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.physics import normalise_probe


class PyTorchBackend:
    """Trains and applies networks with PyTorch on CUDA, MPS or the CPU."""

    name = 'pytorch'

    def __init__(self) -> None:
        self.model: Model | None = None
        self._built: tuple[Model, torch.device, Network] | None = None

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
        for scan in (*scans, *validation):
            check_positions(scan)
        if resume and (base_model is None or base_model.training_state is None):
            raise ConfigError(
                'This model holds no training state, so training cannot continue exactly. '
                'Fine-tune it instead: ptychopinn train --base-model MODEL.'
            )
        device = choose_device(config.training.device)
        torch.manual_seed(config.training.seed)
        run = TrainingRun(scans, config, validation, base_model, resume, device, started, observer)
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
        check_positions(scan)
        held = self._held_model()
        device = choose_device(inference.device)
        network = self._network(held, device)
        assert held.config.model.pattern_size is not None
        scan = fit_to_size(scan, held.config.model.pattern_size)
        photons = choose_photons(scan, held.photons, inference.intensity_scale)
        source = held.probe if held.config.training.probe_trainable else scan.probe
        probe = normalise_probe(source, photons * held.intensity_scale**2)
        forward = ForwardModel(scan, torch.from_numpy(probe), device)
        forward.photons = photons
        stopwatch = Stopwatch(device)
        passes = network.description.passes
        stopped = False

        def show(done: int, object_: Tensor) -> bool:
            nonlocal stopped
            progress = Progress(
                'predict',
                done,
                passes,
                object_=object_.cpu().numpy(),
                origin_px=forward.origin_px.astype(np.float64),
            )
            stopped = bool(observer(progress))
            return stopped

        objects = predict_object(
            network,
            forward,
            batch_size=inference.batch_size,
            phase_agreement=inference.phase_agreement,
            stopwatch=stopwatch,
            observer=show,
        )
        if stopped:
            refinement = refinement.replace(sweeps=0)
        return self._refined(scan, forward, objects[-1], refinement, stopwatch, observer)

    def refine(
        self,
        scan: Scan,
        refinement: RefinementConfig,
        *,
        device: str = 'auto',
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Sweep from a flat object, without a model: the baseline."""
        check_positions(scan)
        where = choose_device(device)
        probe = normalise_probe(scan.probe, scan.mean_counts())
        forward = ForwardModel(scan, torch.from_numpy(probe), where)
        stopwatch = Stopwatch(where)
        return self._refined(scan, forward, forward.flat_object(), refinement, stopwatch, observer)

    def _refined(
        self,
        scan: Scan,
        forward: ForwardModel,
        object_: Tensor,
        refinement: RefinementConfig,
        stopwatch: Stopwatch,
        observer: Observer,
    ) -> Reconstruction:
        total = refinement.sweeps

        def show(done: int, loss: float, newest: Tensor) -> bool | None:
            return observer(
                Progress(
                    'refine',
                    done,
                    total,
                    {'poisson': loss},
                    object_=newest.cpu().numpy(),
                    origin_px=forward.origin_px.astype(np.float64),
                )
            )

        losses: list[float] = []
        if total > 0:
            object_, losses = sweep_object(
                forward,
                object_,
                total,
                batch_size=refinement.batch_size,
                seed=refinement.seed,
                refine_probe=refinement.probe,
                observer=show,
            )
            stopwatch.lap('refine')
            if not refinement.probe:
                option = '--refine-probe (refinement.probe)'
                suggest_probe(scan, len(losses) - 1, lambda: forward.misfit(object_), option)
        residual = forward.assess(object_)[1]
        return Reconstruction(
            object_=object_.cpu().numpy(),
            origin_px=forward.origin_px.astype(np.float64),
            coverage=(forward.coverage / forward.coverage.max()).cpu().numpy(),
            probe=forward.probe.cpu().numpy(),
            positions_px=scan.positions_px,
            backend=self.name,
            likelihoods=losses,
            timing=dict(stopwatch.seconds),
            amplitude_residual=residual,
            geometry=scan.geometry,
            name=scan.name,
        )

    def _held_model(self) -> Model:
        if self.model is None:
            raise DataError('No model is loaded. Train one, or open a model file first.')
        return self.model

    def _network(self, model: Model, device: torch.device) -> Network:
        """Build the held model's network once for each device."""
        if self._built is None or self._built[0] is not model or self._built[1] != device:
            network = Network(model.network, model.config.training.precision)
            network.load_weights(model.weights)
            self._built = (model, device, network.to(device).eval())
        return self._built[2]
