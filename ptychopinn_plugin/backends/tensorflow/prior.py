"""A learned prior between iterations: `backends.common.prior` with TensorFlow."""

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.prior import PriorKernels
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import tf
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.backends.tensorflow.operators import to_numpy
from ptychopinn_plugin.backends.tensorflow.refinement import mean_update


def _apply_network(network: Network, forward: ForwardModel, images: FloatArray) -> FloatArray:
    """Return what the network makes of images; see `PriorKernels`."""
    (found,) = network(tf.constant(images.transpose(1, 2, 0)[np.newaxis]))
    return np.asarray(found[0].numpy().transpose(2, 0, 1))


PRIOR_KERNELS = PriorKernels(
    apply_network=_apply_network,
    mean_update=mean_update,
    to_numpy=to_numpy,
)
