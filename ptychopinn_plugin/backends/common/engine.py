"""What a framework must supply to reconstruct and train: each hook once."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, Protocol, TypeVar

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.backends.common.phase_drift import PatternMoments
from ptychopinn_plugin.backends.common.prior import correct_object
from ptychopinn_plugin.backends.common.ranks import Ranks
from ptychopinn_plugin.backends.common.refinement import IterationKernels, iterate_object
from ptychopinn_plugin.backends.common.requests import (
    InferenceRequest,
    IterationRequest,
    NetworkRequest,
)
from ptychopinn_plugin.backends.common.sampling import TrainingScan
from ptychopinn_plugin.backends.common.stitching import StitchingKernels, stitch_object
from ptychopinn_plugin.backends.common.threads import Threads, one_openblas_thread
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.backends.common.training_step import TrainingStep
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.physics import Misfit

Device = TypeVar('Device')

IterationObserver = Callable[[int, float, Any], bool | None]
"""It gets the number of iterations done, the lowest loss and its object; True stops."""

PassObserver = Callable[[int, Any], bool | None]
"""It gets the number of passes done and the object; True stops."""


class Forward(Protocol):
    """What the shared code needs of a framework's forward model; tensors are the framework's."""

    origin_px: Any
    canvas_shape: tuple[int, int]
    patch_origins_px: Any
    photons: float
    probe: Any
    coverage: Any
    moves_px: FloatArray
    intensities: FloatArray
    eigenmodes: ComplexArray
    opr_weights: FloatArray
    reach_px: int
    is_single_shot: bool
    transfer: Any

    def to_tensor(self, array: ComplexArray) -> Any:
        """Return an array as a tensor on the device."""
        ...

    def flat_object(self) -> Any:
        """Return an object that changes nothing."""
        ...

    def evaluate_fit(self, object_: Any) -> tuple[float, float]:
        """Return the Poisson loss per pixel and the amplitude residual."""
        ...

    def evaluate_loss(self, object_: Any, *, stride: int = 1) -> float:
        """Return the Poisson loss per pixel, on every `stride`-th pattern."""
        ...

    def expected_and_counted(
        self, object_: Any, indices: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return expected and measured counts of some patterns, in the order of the transform."""
        ...

    def subset(self, indices: IntArray) -> Any:
        """Return the forward model of some positions, on its own smaller canvas."""
        ...

    def misfit(self, object_: Any, lit_counts: float) -> Misfit | None:
        """Return how far an object misses the counts, on patterns from all over the scan.

        Pixels that expect fewer than `lit_counts` are left out.
        """
        ...


class Engine(ABC, Generic[Device]):
    """One framework's computations; `NetworkBackend` and `TrainingRun` call them.

    Tensors, networks and devices are the framework's own, and pass through as they are.

    Attributes
    ----------
    name : str
    iteration_kernels : IterationKernels
        What the framework computes in iterations.
    stitching_kernels : StitchingKernels
        What it computes where a network predicts patches, which are stitched.
    ranks : Ranks
        The processes that compute together.
    """

    name: str
    iteration_kernels: IterationKernels[Any]
    stitching_kernels: StitchingKernels[Any, Any]
    ranks: Ranks = Ranks()

    @abstractmethod
    def on_device(self, name: str) -> AbstractContextManager[Device]:
        """Return a context in which the device of this name ('auto', 'cpu', ...) computes."""

    def threads_on(self, device: Device) -> AbstractContextManager[Threads]:
        """Return a context in which a suitable number of threads computes; see `common.threads`."""
        return nullcontext(Threads())

    @contextmanager
    def computing_on(self, name: str) -> Iterator[tuple[Device, Threads]]:
        """Return a context in which a device computes, with as many threads as suit it."""
        with (
            self.on_device(name) as device,
            self.threads_on(device) as threads,
            one_openblas_thread(),
        ):
            yield device, threads

    @abstractmethod
    def start_stopwatch(self, device: Device) -> Stopwatch:
        """Return a stopwatch that waits for the device."""

    @abstractmethod
    def release_cache(self) -> None:
        """Give memory that the framework keeps for later back to the device."""

    @abstractmethod
    def build_forward(
        self,
        scan: Scan,
        probe: ComplexArray,
        photons: float,
        device: Device,
        reach_px: int = 0,
        *,
        is_whole: bool = False,
    ) -> Any:
        """Return the forward model of a scan.

        Parameters
        ----------
        scan : Scan
            With square patterns.
        probe : ndarray of complex64, shape (n_modes, height, width)
            Scaled to the counts.
        photons : float
            The energy per pattern that losses divide by.
        device : Device
        reach_px : int
            How far its positions may move in y and x.
        is_whole : bool
            Each of several ranks holds all patterns, as networks see any of them.
        """

    @abstractmethod
    def build_network(self, request: NetworkRequest, device: Device) -> Any:
        """Return a network on the device."""

    def stitch_object(
        self,
        network: Any,
        forward: Any,
        request: InferenceRequest,
        *,
        stopwatch: Stopwatch | None = None,
        observer: PassObserver | None = None,
    ) -> list[Any]:
        """Return the flat object and the one after each pass; see `stitching.stitch_object`."""
        return stitch_object(
            self.stitching_kernels,
            network,
            forward,
            request,
            stopwatch=stopwatch,
            observer=observer,
        )

    @abstractmethod
    def apply_network(self, network: Any, forward: Any, images: FloatArray) -> FloatArray:
        """Return what a network of architecture 'prior' makes of images; see `ApplyNetwork`."""

    def apply_prior(self, network: Any, forward: Any, object_: Any, exposures: FloatArray) -> Any:
        """Return an object after the correction of a learned prior; see `prior.correct_object`."""
        return correct_object(
            self.iteration_kernels, self.apply_network, network, forward, object_, exposures
        )

    def iterate(
        self,
        forward: Any,
        object_: Any,
        request: IterationRequest,
        observer: IterationObserver | None = None,
    ) -> tuple[Any, list[float]]:
        """Return the best object of all iterations, and the losses; see `iterate_object`."""
        return iterate_object(self.iteration_kernels, forward, object_, request, observer)

    def measure_moments(self, forward: Any, object_: Any) -> PatternMoments:
        """Return moments that the beam of each pattern and slow errors of an object follow from."""
        return self.iteration_kernels.measure_moments(forward, object_)

    @abstractmethod
    def scale_to_counts(self, object_: ComplexArray, forward: Any) -> Any:
        """Scale an object so that with the forward model's probe it explains the counts.

        Parameters
        ----------
        object_ : ndarray of complex64, shape `forward.canvas_shape`
        forward : ForwardModel

        Returns
        -------
        tensor of complex64, shape `forward.canvas_shape`
        """

    @abstractmethod
    def make_step(
        self,
        network: Any,
        scans: Sequence[TrainingScan],
        intensity_scale: float,
        config: Config,
        validation: Sequence[TrainingScan] = (),
    ) -> TrainingStep:
        """Return what trains a network, its optimizer at the start.

        The probes of the scans' forward models, with `intensity_scale` taken out, are where
        trainable probes begin. The scans of `validation` get what training makes of them.
        """

    def to_numpy(self, tensor: Any) -> Any:
        """Return a tensor's values."""
        return self.iteration_kernels.to_numpy(tensor)

    @abstractmethod
    def framework_version(self) -> str:
        """Return the framework's name and version."""
