"""What patterns tell of their beams' intensities; see `backends.common.intensities`."""

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.intensities import (
    BeamMoments,
    floor_photons,
    middle_ramps,
)
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import (
    fourier,
    predict_intensity,
    scaled,
    squared,
    sum_each,
)


def pattern_photons(forward: ForwardModel, object_: Tensor) -> tuple[FloatArray, FloatArray]:
    """Return the expected and the measured photons of each pattern, shape (n_positions,)."""
    sums = [
        _photons(
            forward.probes(indices),
            forward.extract_patches(object_, indices),
            forward.measured(indices),
            forward.valid_mask,
        ).numpy()
        for indices in forward.batches(128)
    ]
    expected, counted = np.concatenate(sums, axis=1)
    return expected, counted


@compiled
def _photons(
    probes: Tensor, patches: Tensor, measured: Tensor, valid_mask: Tensor | None
) -> Tensor:
    """Return both sums, shape (2, n), float64."""
    images = tf.stack([predict_intensity(probes, patches), tf.square(measured)])
    return sum_each(images, valid_mask)


def beam_moments(forward: ForwardModel, object_: Tensor) -> BeamMoments:
    """Measure what each pattern tells of its beam and of the slow part of the object under it."""
    floor = tf.constant(floor_photons(forward), tf.float32)
    ramps = tf.constant(middle_ramps(forward.shape))
    found = [
        _moments(
            forward.probes(indices),
            forward.extract_patches(object_, indices),
            forward.measured(indices),
            forward.valid_mask,
            ramps,
            floor,
        )
        for indices in forward.batches(64)
    ]
    normals, sides = (np.concatenate(column) for column in zip(*found, strict=True))
    return BeamMoments(normals.astype(np.float64), sides.astype(np.float64))


@compiled
def _moments(
    probes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    ramps: Tensor,
    floor: Tensor,
) -> tuple[Tensor, Tensor]:
    waves = probes * patches[:, None]
    spectra = fourier(waves)
    expected = tf.reduce_sum(squared(spectra), axis=1)
    weights = 1 / tf.sqrt(expected + floor)
    if valid_mask is not None:
        weights = weights * valid_mask
    missing = (tf.square(measured) - expected) * weights / 2
    changes = [
        tf.reduce_sum(tf.math.conj(spectra) * fourier(scaled(waves, ramp)), axis=1)
        for ramp in (ramps[0], ramps[1])
    ]
    columns = [expected / 2, *map(tf.math.real, changes), *(-tf.math.imag(c) for c in changes)]
    jacobian = tf.stack([column * weights for column in columns], axis=1)
    sides = tf.reduce_sum(jacobian * missing[:, None], axis=(2, 3))
    flat = tf.reshape(jacobian, [tf.shape(jacobian)[0], 5, -1])  # (n, 5, pixels)
    return tf.matmul(flat, flat, transpose_b=True), sides
