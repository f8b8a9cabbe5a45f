"""A learned prior between iterations: `backends.common.prior` with TensorFlow."""

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import tf
from ptychopinn_plugin.backends.tensorflow.network import Network


def apply_network(network: Network, forward: ForwardModel, images: FloatArray) -> FloatArray:
    """Return what a network makes of images; see `common.prior.ApplyNetwork`."""
    (found,) = network(tf.constant(images.transpose(1, 2, 0)[np.newaxis]))
    return np.asarray(found[0].numpy().transpose(2, 0, 1))
