"""Lessons on TensorFlow's device."""

import numpy as np

from ptychopinn_plugin.arrays import IntArray
from ptychopinn_plugin.backends.lessons import Lesson, TrainingScan, thinned_amplitudes
from ptychopinn_plugin.backends.tensorflow.framework import tf
from ptychopinn_plugin.backends.tensorflow.inference import predict_object
from ptychopinn_plugin.backends.tensorflow.network import Network


def make_lesson(
    network: Network,
    scan: TrainingScan,
    members: IntArray,
    groups: IntArray,
    exposure: float,
    rng: np.random.Generator,
) -> Lesson:
    """Cut positions out of a scan and let the network predict their object pass by pass."""
    amplitudes = None
    if exposure < 1 and scan.countable:
        measured = scan.model.measured(members).numpy()
        amplitudes = tf.constant(thinned_amplitudes(measured, exposure, rng))
    else:
        exposure = 1.0
    model = scan.model.subset(members, amplitudes, exposure)
    top, left = (model.origin_px - scan.model.origin_px).tolist()
    height, width = model.canvas_shape
    box = (slice(top, top + height), slice(left, left + width))
    coverage = scan.model.coverage
    lit = tf.cast(coverage > 0.05 * tf.reduce_max(coverage), tf.float32)
    return Lesson(
        scan_index=scan.index,
        exposure=exposure,
        model=model,
        groups=groups,
        objects=predict_object(network, model, passes=network.description.passes - 1),
        labels=None if scan.labels is None else scan.labels[box],
        label_coverage=lit[box],
    )
