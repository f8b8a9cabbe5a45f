"""A learned prior between iterations: `backends.common.prior` with TensorFlow."""

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.prior import correct_by_tiles
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, tf
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.backends.tensorflow.refinement import mean_update
from ptychopinn_plugin.physics.prior_features import PriorFeatures, prior_features


def correct_object(
    network: Network, forward: ForwardModel, object_: Tensor, exposures: FloatArray
) -> Tensor:
    """Return an object of shape `forward.canvas_shape` after the network's correction."""
    features = look_at(forward, object_, exposures)

    def compute(images: FloatArray) -> FloatArray:
        (found,) = network(tf.constant(images.transpose(1, 2, 0)[np.newaxis]))
        return np.asarray(found[0].numpy().transpose(2, 0, 1))

    correction = correct_by_tiles(features.images, compute)
    return tf.constant(features.apply(object_.numpy(), correction))


def look_at(forward: ForwardModel, object_: Tensor, exposures: FloatArray) -> PriorFeatures:
    """Compute what the network gets for an object of shape `forward.canvas_shape`."""
    return prior_features(
        object_.numpy(),
        mean_update(forward, object_).numpy(),
        forward.coverage.numpy(),
        exposures,
    )
