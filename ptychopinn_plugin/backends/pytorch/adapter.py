"""The PyTorch backend: what `backends.protocol.Backend` asks for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.common.memory import explaining_full_memory
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.backends.protocol import Observer
from ptychopinn_plugin.backends.pytorch.device import choose_device
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.refinement import iterate_object
from ptychopinn_plugin.backends.pytorch.stitching import predict_object, start_stopwatch
from ptychopinn_plugin.backends.pytorch.training_run import PyTorchRun
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.model_file import Model


class PyTorchBackend(NetworkBackend[torch.device]):
    """Trains and applies networks with PyTorch on CUDA, MPS or the CPU."""

    name = 'pytorch'

    def __init__(self) -> None:
        super().__init__()
        self._built: tuple[Model, torch.device, Network] | None = None

    @contextmanager
    def _on(self, device: str) -> Iterator[torch.device]:
        chosen = choose_device(device)
        with explaining_full_memory(str(chosen), RuntimeError):
            yield chosen

    def _start(
        self,
        scans: Sequence[Scan],
        config: Config,
        validation: Sequence[Scan],
        base_model: Model | None,
        resume: bool,
        device: torch.device,
        started: float,
        observer: Observer,
    ) -> PyTorchRun:
        torch.manual_seed(config.training.seed)
        return PyTorchRun(scans, config, validation, base_model, resume, device, started, observer)

    def _forward(self, scan: Scan, probe: ComplexArray, device: torch.device) -> ForwardModel:
        return ForwardModel(scan, torch.from_numpy(probe), device)

    def _stopwatch(self, device: torch.device) -> Stopwatch:
        return start_stopwatch(device)

    def _predict(
        self,
        model: Model,
        forward: ForwardModel,
        inference: InferenceConfig,
        rotations: Sequence[int],
        stopwatch: Stopwatch,
        show: Callable[[int, Tensor], bool],
    ) -> Tensor:
        return predict_object(
            self._network(model, forward.device),
            forward,
            batch_size=inference.batch_size,
            rotations=rotations,
            phase_synchronization=inference.phase_synchronization,
            stitching_weights=inference.stitching_weights,
            stopwatch=stopwatch,
            observer=show,
        )[-1]

    def _iterate(
        self,
        forward: ForwardModel,
        object_: Tensor,
        refinement: RefinementConfig,
        show: Callable[[int, float, Tensor], bool | None],
    ) -> tuple[Tensor, list[float]]:
        return iterate_object(
            forward,
            object_,
            refinement.iterations,
            batch_size=refinement.batch_size,
            seed=refinement.seed,
            refine_probe=refinement.probe,
            observer=show,
        )

    def _array(self, tensor: Tensor) -> RealArray:
        return tensor.cpu().numpy()

    def _network(self, model: Model, device: torch.device) -> Network:
        """Build the held model's network once for each device."""
        if self._built is None or self._built[0] is not model or self._built[1] != device:
            network = Network(model.network, model.config.training.precision)
            network.load_weights(model.weights)
            self._built = (model, device, network.to(device).eval())
        return self._built[2]
