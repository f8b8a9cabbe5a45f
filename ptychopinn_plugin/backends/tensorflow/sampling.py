"""Sub-scans on TensorFlow's device."""

import numpy as np

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.common.sampling import SubScan, TrainingScan, thinned_amplitudes
from ptychopinn_plugin.backends.tensorflow.framework import tf
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.backends.tensorflow.stitching import predict_object


def make_subscan(
    network: Network,
    scan: TrainingScan,
    members: IntArray,
    groups: IntArray,
    exposure: float,
    rng: np.random.Generator,
) -> SubScan:
    """Cut positions out of a scan and let the network predict their object pass by pass."""
    amplitudes = None
    if exposure < 1 and scan.countable:
        measured = scan.forward.measured(members).numpy()
        amplitudes = tf.constant(thinned_amplitudes(measured, exposure, rng))
    else:
        exposure = 1.0
    forward = scan.forward.subset(members, amplitudes, exposure)
    top, left = (forward.origin_px - scan.forward.origin_px).tolist()
    height, width = forward.canvas_shape
    box = (slice(top, top + height), slice(left, left + width))
    coverage = scan.forward.coverage
    lit = tf.cast(coverage > 0.05 * tf.reduce_max(coverage), tf.float32)
    return SubScan(
        scan_index=scan.index,
        exposure=exposure,
        forward=forward,
        groups=groups,
        objects=predict_object(network, forward, passes=network.description.passes - 1),
        labels=None if scan.labels is None else scan.labels[box],
        label_coverage=lit[box],
    )
