"""The TensorFlow backend: the hooks of `backends.common.engine.Engine`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.common.requests import NetworkRequest
from ptychopinn_plugin.backends.common.sampling import TrainingScan
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.backends.tensorflow import prior, refinement, stitching
from ptychopinn_plugin.backends.tensorflow.device import choose_device
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, on_device, tf
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.backends.tensorflow.operators import scaled
from ptychopinn_plugin.backends.tensorflow.training import TensorFlowStep, TrainableProbes
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan


class TensorFlowBackend(NetworkBackend[str]):
    """Trains and applies networks with TensorFlow on a GPU or the CPU."""

    name = 'tensorflow'
    iteration_kernels = refinement.ITERATION_KERNELS
    stitching_kernels = stitching.STITCHING_KERNELS

    def on_device(self, name: str) -> AbstractContextManager[str]:
        """Return a context in which the device of this name computes."""
        return on_device(choose_device(name))

    def start_stopwatch(self, device: str) -> Stopwatch:
        """Return a stopwatch that waits for the device."""
        return Stopwatch(lambda: tf.zeros(()).numpy())

    def release_cache(self) -> None:
        """Do nothing: TensorFlow keeps a GPU's memory, for itself alone, until its process ends."""

    def build_forward(
        self,
        scan: Scan,
        probe: ComplexArray,
        photons: float,
        device: str,
        reach_px: int = 0,
        *,
        is_whole: bool = False,
    ) -> ForwardModel:
        """Return the forward model of a scan."""
        return ForwardModel(scan, probe, photons, reach_px)

    def build_network(self, request: NetworkRequest, device: str) -> Network:
        """Return a network on the device."""
        network = Network(request.description, request.precision, request.seed)
        if request.weights is not None:
            network.load_weights(request.weights)
        return network

    def apply_network(
        self, network: Network, forward: ForwardModel, images: FloatArray
    ) -> FloatArray:
        """Return what a network makes of images; see `common.prior.ApplyNetwork`."""
        return prior.apply_network(network, forward, images)

    def scale_to_counts(self, object_: ComplexArray, forward: ForwardModel) -> Tensor:
        """Scale an object so that with the forward model's probe it explains the counts."""
        canvas = tf.constant(object_)
        valid_mask = 1.0 if forward.valid_mask is None else forward.valid_mask
        expected = measured = 0.0
        for indices in forward.batches(128):
            counts = forward.predict_intensity(forward.extract_patches(canvas, indices), indices)
            expected += float(tf.reduce_sum(valid_mask * counts))
            measured += float(tf.reduce_sum(valid_mask * forward.measured(indices) ** 2))
        # Counts grow with the square of the object's amplitude.
        return scaled(canvas, np.sqrt(measured / expected))

    def make_step(
        self,
        network: Network,
        scans: Sequence[TrainingScan],
        intensity_scale: float,
        config: Config,
        validation: Sequence[TrainingScan] = (),
    ) -> TensorFlowStep:
        """Return what trains a network, its optimizer at the start."""
        probes = TrainableProbes(
            [scaled(scan.forward.probe, 1 / intensity_scale) for scan in scans],
            intensity_scale,
            config.training,
        )
        return TensorFlowStep(network, scans, probes, config, validation)

    def framework_version(self) -> str:
        """Return the framework's name and version."""
        return f'tensorflow {tf.__version__}'
