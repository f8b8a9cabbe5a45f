"""The TensorFlow backend: what `backends.protocol.Backend` asks for."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.backends.protocol import Observer
from ptychopinn_plugin.backends.tensorflow.device import choose_device
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, on_device
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.backends.tensorflow.refinement import iterate_object
from ptychopinn_plugin.backends.tensorflow.stitching import predict_object, start_stopwatch
from ptychopinn_plugin.backends.tensorflow.training_run import TensorFlowRun
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.model_file import Model


class TensorFlowBackend(NetworkBackend[str]):
    """Trains and applies networks with TensorFlow on a GPU or the CPU."""

    name = 'tensorflow'

    def __init__(self) -> None:
        super().__init__()
        self._built: tuple[Model, Network] | None = None

    def _on(self, device: str) -> AbstractContextManager[str]:
        return on_device(choose_device(device))

    def _start(
        self,
        scans: Sequence[Scan],
        config: Config,
        validation: Sequence[Scan],
        base_model: Model | None,
        resume: bool,
        device: str,
        started: float,
        observer: Observer,
    ) -> TensorFlowRun:
        return TensorFlowRun(
            scans, config, validation, base_model, resume, device, started, observer
        )

    def _forward(self, scan: Scan, probe: ComplexArray, device: str) -> ForwardModel:
        return ForwardModel(scan, probe)

    def _stopwatch(self, device: str) -> Stopwatch:
        return start_stopwatch()

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
            self._network(model),
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
        array: RealArray = tensor.numpy()
        return array

    def _network(self, model: Model) -> Network:
        """Build the held model's network once."""
        if self._built is None or self._built[0] is not model:
            network = Network(model.network, model.config.training.precision)
            network.load_weights(model.weights)
            self._built = (model, network)
        return self._built[1]
