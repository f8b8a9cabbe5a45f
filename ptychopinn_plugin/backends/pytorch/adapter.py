"""The PyTorch backend: the hooks of `backends.common.engine.Engine`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.common.memory import explaining_full_memory
from ptychopinn_plugin.backends.common.requests import NetworkRequest
from ptychopinn_plugin.backends.common.sampling import TrainingScan
from ptychopinn_plugin.backends.common.threads import Threads, measured_threads, requested_threads
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.backends.pytorch import prior, refinement, stitching
from ptychopinn_plugin.backends.pytorch.device import choose_device, release_cache
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.training import PyTorchStep, TrainableProbes
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan


class PyTorchBackend(NetworkBackend[torch.device]):
    """Trains and applies networks with PyTorch on CUDA, MPS or the CPU."""

    name = 'pytorch'
    iteration_kernels = refinement.ITERATION_KERNELS
    stitching_kernels = stitching.STITCHING_KERNELS

    @contextmanager
    def on_device(self, name: str) -> Iterator[torch.device]:
        """Return a context in which the device of this name computes."""
        chosen = choose_device(name)
        with explaining_full_memory(str(chosen), RuntimeError):
            yield chosen

    @contextmanager
    def threads_on(self, device: torch.device) -> Iterator[Threads]:
        """Return a context in which as many threads compute as the machine has room for."""
        if device.type != 'cpu':
            yield Threads()
            return
        requested, most = requested_threads(self.threads), torch.get_num_threads()
        with measured_threads(most, torch.set_num_threads, _piece_of_work(), requested) as threads:
            yield threads

    def start_stopwatch(self, device: torch.device) -> Stopwatch:
        """Return a stopwatch that waits for the device."""

        def finish() -> None:
            if device.type == 'cuda':
                torch.cuda.synchronize(device)

        return Stopwatch(finish)

    def release_cache(self) -> None:
        """Give memory that the framework keeps for later back to the device."""
        release_cache()

    def build_forward(
        self,
        scan: Scan,
        probe: ComplexArray,
        photons: float,
        device: torch.device,
        reach_px: int = 0,
        *,
        is_whole: bool = False,
    ) -> ForwardModel:
        """Return the forward model of a scan."""
        return ForwardModel(
            *(scan, torch.from_numpy(probe), device, photons, reach_px),
            ranks=self.ranks,
            is_whole=is_whole,
        )

    def build_network(self, request: NetworkRequest, device: torch.device) -> Network:
        """Return a network on the device; the generator that others draw from stays as it is."""
        # The first weights follow from the seed of the settings, whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            network = Network(request.description, request.precision)
        if request.weights is not None:
            network.load_weights(request.weights)
        return network.to(device)

    def apply_network(
        self, network: Network, forward: ForwardModel, images: FloatArray
    ) -> FloatArray:
        """Return what a network makes of images; see `common.prior.ApplyNetwork`."""
        return prior.apply_network(network, forward, images)

    def apply_prior(
        self, network: Network, forward: ForwardModel, object_: Tensor, exposures: FloatArray
    ) -> Tensor:
        """Return an object after the correction of a learned prior, that of rank 0."""
        corrected = super().apply_prior(network, forward, object_, exposures)
        found: Tensor = self.ranks.broadcast(corrected)
        return found

    def scale_to_counts(self, object_: ComplexArray, forward: ForwardModel) -> Tensor:
        """Scale an object so that with the forward model's probe it explains the counts."""
        canvas = torch.from_numpy(object_).to(forward.device)
        sums = torch.zeros(2, dtype=torch.float64, device=forward.device)
        for part in forward.slices(128):
            counts = forward.predict_intensity(forward.extract_patches(canvas, part), part)
            measured = forward.measured(part).square()
            sums += torch.stack([forward.sum_over_good(each) for each in (counts, measured)])
        expected, counted = forward.ranks.sum(sums).tolist()
        # Counts grow with the square of the object's amplitude.
        return canvas * float(np.sqrt(counted / expected))

    def make_step(
        self,
        network: Network,
        scans: Sequence[TrainingScan],
        intensity_scale: float,
        config: Config,
        validation: Sequence[TrainingScan] = (),
    ) -> PyTorchStep:
        """Return what trains a network, its optimizer at the start."""
        device = next(network.parameters()).device
        probes = TrainableProbes(
            [scan.forward.probe / intensity_scale for scan in scans],
            intensity_scale,
            config.training,
        )
        return PyTorchStep(network, scans, probes.to(device), config, validation)

    def framework_version(self) -> str:
        """Return the framework's name and version."""
        return f'torch {torch.__version__}'


def _piece_of_work() -> Callable[[], object]:
    """Return some milliseconds of what most time goes to: transforms and products of patches."""
    waves = torch.polar(torch.ones(16, 64, 64), torch.arange(64.0).expand(16, 64, 64))

    def work() -> float:
        spectra = torch.fft.fft2(waves)
        return float(torch.fft.ifft2(spectra / (spectra.abs() + 1.0)).abs().sum())

    return work
