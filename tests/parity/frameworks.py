"""The two backends behind one face: NumPy arrays go in and come out."""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.refinement import iterate_object
from ptychopinn_plugin.backends.common.requests import (
    InferenceRequest,
    IterationRequest,
    TrainingRequest,
)
from ptychopinn_plugin.backends.common.stitching import stitch_object
from ptychopinn_plugin.backends.common.training_loop import TrainingLoop
from ptychopinn_plugin.backends.common.training_plan import plan_training
from ptychopinn_plugin.backends.common.training_run import TrainingRun
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.model_file import Model
from ptychopinn_plugin.network import NetworkDescription

FRAMEWORKS = {'pytorch': 'torch', 'tensorflow': 'tensorflow'}
"""Each backend imports this framework."""

Array = NDArray[Any]
Tensor = Any
Scalar = Callable[[Tensor], Tensor]


def is_installed(name: str) -> bool:
    """Return whether a backend's framework is here."""
    return importlib.util.find_spec(FRAMEWORKS[name]) is not None


class Framework(ABC):
    """What the parity tests need of a backend.

    Attributes
    ----------
    adapter, constraints, forward, intensities, losses, network, operators, opr, phase_drift,
    positions, prediction, refinement, stitching : module
    """

    name: str

    def __init__(self) -> None:
        for part in (
            'forward',
            'stitching',
            'losses',
            'network',
            'prediction',
            'refinement',
            'adapter',
            'phase_drift',
            'positions',
            'operators',
            'intensities',
            'opr',
            'constraints',
        ):
            setattr(self, part, importlib.import_module(f'{self._package}.{part}'))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f'{self.name} has no {name}')

    @property
    def _package(self) -> str:
        return f'ptychopinn_plugin.backends.{self.name}'

    @abstractmethod
    def build_forward(self, scan: Scan, reach_px: int = 0) -> Any:
        """Return a forward model with the scan's probe."""

    @abstractmethod
    def tensor(self, array: Array, *, double: bool = False) -> Tensor:
        """Return a tensor in single precision, or in double."""

    @abstractmethod
    def array(self, tensor: Tensor) -> Array:
        """Return a tensor's values."""

    @abstractmethod
    def indices(self, values: Array | Sequence[int]) -> Any:
        """Return indices as the backend takes them."""

    @abstractmethod
    def gradient(self, function: Scalar, at: Tensor) -> Array:
        """Return the direction in which a real function of a tensor rises most."""

    @abstractmethod
    def images(self, network: Any, images: Array) -> list[Array]:
        """Apply a network; images have their channels first."""

    @abstractmethod
    def features(
        self, network: Any, forward: Any, groups: Array, object_: Array, is_flat: bool
    ) -> Array:
        """Return what the network sees, channels first."""

    @abstractmethod
    def in_double(self, forward: Any) -> Any:
        """Turn its numbers to float64, so that finite differences have digits to lose."""

    @abstractmethod
    def deviance(self, expected: Tensor, forward: Any, indices: Any) -> Tensor:
        """Return the Poisson deviance."""

    @abstractmethod
    def amplitude_error(self, expected: Tensor, forward: Any, indices: Any) -> Tensor:
        """Return the error of amplitudes."""

    @abstractmethod
    def target_distance(self, patches: Any, labels: Tensor, coverage: Tensor) -> Tensor:
        """Return the distance to a target."""

    @abstractmethod
    def total_variation(self, patches: Any) -> Tensor:
        """Return the total variation."""

    @abstractmethod
    def training_loop(self, scan: Scan, config: Config, base_model: Model) -> TrainingLoop:
        """Return the loop that trains on a scan, ready to start from a model."""

    def build(self, description: NetworkDescription, seed: int = 0) -> Any:
        """Return a network with random weights, those that start at zero included."""
        network = self.network.Network(description)
        rng = np.random.default_rng(seed)
        shapes = description.weight_shapes()
        weights = {}
        for name, shape in shapes.items():
            layer, _, _ = name.rpartition('/')
            limit = np.prod(shapes[f'{layer}/weight'][1:]) ** -0.5
            weights[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
        network.load_weights(weights)
        return network

    def stitch(self, network: Any, forward: Any, **settings: Any) -> list[Tensor]:
        """Stitch an object with the fields of `InferenceRequest` that are given."""
        request = InferenceRequest(**settings)
        return stitch_object(self.stitching.STITCHING_KERNELS, network, forward, request)

    def iterate(
        self,
        forward: Any,
        object_: Tensor,
        schedule: IterationSchedule,
        observer: Callable[[int, float, Tensor], bool | None] | None = None,
        **settings: Any,
    ) -> tuple[Tensor, list[float]]:
        """Iterate over an object with the fields of `IterationRequest` that are given."""
        request = IterationRequest(schedule, **settings)
        return iterate_object(
            self.refinement.ITERATION_KERNELS, forward, object_, request, observer
        )

    @abstractmethod
    def probe_update(self, forward: Any, patches: Tensor, indices: Any) -> Tensor:
        """Return what the iterations add to a probe, but for its scale."""

    @abstractmethod
    def real_sum(self, tensor: Tensor) -> Tensor:
        """Return the real part of a tensor's sum."""

    @abstractmethod
    def conjugate(self, tensor: Tensor) -> Tensor:
        """Return the complex conjugate."""


class PyTorch(Framework):
    """The PyTorch backend."""

    name = 'pytorch'

    def __init__(self) -> None:
        super().__init__()
        self.torch = importlib.import_module('torch')

    def build_forward(self, scan: Scan, reach_px: int = 0) -> Any:
        probe = self.torch.from_numpy(scan.probe)
        return self.forward.ForwardModel(scan, probe, self.torch.device('cpu'), reach_px=reach_px)

    def tensor(self, array: Array, *, double: bool = False) -> Tensor:
        return self.torch.from_numpy(np.array(array, dtype=_kind(array, double)))

    def array(self, tensor: Tensor) -> Array:
        return np.asarray(tensor.detach().numpy())

    def indices(self, values: Array | Sequence[int]) -> Any:
        return self.torch.from_numpy(np.array(values, dtype=np.int64))

    def gradient(self, function: Scalar, at: Tensor) -> Array:
        at = at.clone().requires_grad_()
        function(at).backward()
        return self.array(at.grad)

    def images(self, network: Any, images: Array) -> list[Array]:
        return [self.array(output) for output in network(self.tensor(images))]

    def features(
        self, network: Any, forward: Any, groups: Array, object_: Array, is_flat: bool
    ) -> Array:
        seen: list[Tensor] = []
        handle = network.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
        self.prediction.predict_patches(
            network, forward, self.indices(groups), self.tensor(object_), is_flat=is_flat
        )
        handle.remove()
        return self.array(seen[0])

    def in_double(self, forward: Any) -> Any:
        forward.amplitudes = forward.amplitudes.double()
        forward.subpixel_shifts = forward.subpixel_shifts.double()
        forward.probe = forward.probe.to(self.torch.complex128)
        forward._shifted = self.operators.shift_probe(forward.probe, forward.subpixel_shifts)
        if forward.valid_mask is not None:
            forward.valid_mask = forward.valid_mask.double()
        if forward.transfer is not None:
            forward.transfer = forward.transfer.to(self.torch.complex128)
        return forward

    def deviance(self, expected: Tensor, forward: Any, indices: Any) -> Tensor:
        return self.losses.poisson_deviance(expected, forward, indices)

    def amplitude_error(self, expected: Tensor, forward: Any, indices: Any) -> Tensor:
        return self.losses.amplitude_error(expected, forward, indices)

    def target_distance(self, patches: Any, labels: Tensor, coverage: Tensor) -> Tensor:
        return self.losses.target_distance(patches, labels, coverage)

    def total_variation(self, patches: Any) -> Tensor:
        return self.losses.total_variation(patches)

    def probe_update(self, forward: Any, patches: Tensor, indices: Any) -> Tensor:
        return forward.project_amplitudes_with_probe(patches, indices)[1]

    def real_sum(self, tensor: Tensor) -> Tensor:
        return tensor.sum().real

    def conjugate(self, tensor: Tensor) -> Tensor:
        return tensor.conj()

    def training_loop(self, scan: Scan, config: Config, base_model: Model) -> TrainingLoop:
        return _training_loop(self.adapter.PyTorchBackend(), scan, config, base_model)


class TensorFlow(Framework):
    """The TensorFlow backend."""

    name = 'tensorflow'

    def __init__(self) -> None:
        super().__init__()
        self.tf = importlib.import_module(f'{self._package}.framework').tf

    def build_forward(self, scan: Scan, reach_px: int = 0) -> Any:
        return self.forward.ForwardModel(scan, scan.probe, reach_px=reach_px)

    def tensor(self, array: Array, *, double: bool = False) -> Tensor:
        return self.tf.constant(np.array(array, dtype=_kind(array, double)))

    def array(self, tensor: Tensor) -> Array:
        return np.asarray(tensor)

    def indices(self, values: Array | Sequence[int]) -> Any:
        return np.array(values, dtype=np.int64)

    def gradient(self, function: Scalar, at: Tensor) -> Array:
        # In a graph, as trainings do: outside of one, NumPy cuts and places patches on a CPU.
        @self.tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def slope(at: Tensor) -> Tensor:
            with self.tf.GradientTape() as tape:
                tape.watch(at)
                value = function(at)
            return tape.gradient(value, at)

        return self.array(slope(at))

    def images(self, network: Any, images: Array) -> list[Array]:
        outputs = network(self.tensor(images.transpose(0, 2, 3, 1)))
        return [self.array(output).transpose(0, 3, 1, 2) for output in outputs]

    def features(
        self, network: Any, forward: Any, groups: Array, object_: Array, is_flat: bool
    ) -> Array:
        inputs = self.prediction.collect_inputs(
            network.description, forward, groups, self.tensor(object_), is_flat=is_flat
        )
        window = network.description.window_px
        features, *_ = self.prediction.sweepnet_features(window, inputs)
        return self.array(features).transpose(0, 3, 1, 2)

    def in_double(self, forward: Any) -> Any:
        forward.amplitudes = self.tf.cast(forward.amplitudes, 'float64')
        forward.subpixel_shifts = self.tf.cast(forward.subpixel_shifts, 'float64')
        forward.probe = self.tf.cast(forward.probe, 'complex128')
        forward._shifted = self.operators.shift_probe(forward.probe, forward.subpixel_shifts)
        if forward.valid_mask is not None:
            forward.valid_mask = self.tf.cast(forward.valid_mask, 'float64')
        if forward.transfer is not None:
            forward.transfer = self.tf.cast(forward.transfer, 'complex128')
        return forward

    def deviance(self, expected: Tensor, forward: Any, indices: Any) -> Tensor:
        return self.losses.poisson_deviance(
            expected, forward.measured(indices), forward.valid_mask, forward.photons
        )

    def amplitude_error(self, expected: Tensor, forward: Any, indices: Any) -> Tensor:
        return self.losses.amplitude_error(
            expected, forward.measured(indices), forward.valid_mask, forward.photons
        )

    def target_distance(self, patches: Any, labels: Tensor, coverage: Tensor) -> Tensor:
        return self.losses.target_distance(
            patches.values, patches.weights, patches.reference, labels, coverage
        )

    def total_variation(self, patches: Any) -> Tensor:
        return self.losses.total_variation(patches.values, patches.weights)

    def probe_update(self, forward: Any, patches: Tensor, indices: Any) -> Tensor:
        _, changes = self.operators.project_amplitudes(
            *(forward.probes(indices), patches, forward.measured(indices)),
            *(forward.valid_mask, forward.transfer),
        )
        shifts = self.tf.gather(forward.subpixel_shifts, indices)
        return self.operators.probe_update(changes, patches, shifts)

    def real_sum(self, tensor: Tensor) -> Tensor:
        return self.tf.math.real(self.tf.reduce_sum(tensor))

    def conjugate(self, tensor: Tensor) -> Tensor:
        return self.tf.math.conj(tensor)

    def training_loop(self, scan: Scan, config: Config, base_model: Model) -> TrainingLoop:
        return _training_loop(self.adapter.TensorFlowBackend(), scan, config, base_model)


def load(name: str) -> Framework:
    """Import a backend."""
    return PyTorch() if name == 'pytorch' else TensorFlow()


def _training_loop(
    backend: NetworkBackend[Any], scan: Scan, config: Config, base_model: Model
) -> TrainingLoop:
    request = TrainingRequest([scan], config, base_model=base_model)
    with backend.on_device('cpu') as device:
        return TrainingRun(backend, request, plan_training(request), device).prepare()


def _kind(array: Array, double: bool) -> type:
    if np.iscomplexobj(array):
        return np.complex128 if double else np.complex64
    return np.float64 if double else np.float32
