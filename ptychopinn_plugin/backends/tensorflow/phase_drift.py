"""Measure the slow amplitude and phase that an object misses, and correct the phase.

See `backends.common.phase_drift`.
"""

from functools import partial

import numpy as np

from ptychopinn_plugin.backends.common import phase_drift
from ptychopinn_plugin.backends.common.phase_drift import (
    PatternMoments,
    floor_photons,
    middle_ramps,
)
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import (
    intensity,
    scaled,
    times,
    to_detector,
    to_numpy,
)


def measure_moments(forward: ForwardModel, object_: Tensor, batch_size: int = 64) -> PatternMoments:
    """Measure the moments that a pattern's beam and the object's slow errors follow from."""
    floor = tf.constant(floor_photons(forward), tf.float32)
    ramps = tf.constant(middle_ramps(forward.shape))
    found = []
    for indices in forward.batches(batch_size):
        products = _products(
            forward.probes(indices),
            forward.extract_patches(object_, indices),
            forward.measured(indices),
            forward.valid_mask,
            forward.transfer_at(indices),
            ramps,
            floor,
        )
        found.append(products.numpy())
    products = np.concatenate(found).astype(np.float64)
    return PatternMoments(products[:, :, :5], products[:, :, 5])


@compiled
def _products(
    probes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
    ramps: Tensor,
    floor: Tensor,
) -> Tensor:
    """Return the normal equations of each pattern, (n, 5, 6)."""
    waves = probes * patches[:, None]
    detected = to_detector(waves, transfer)
    expected = intensity(detected)
    # Amplitudes have the same variance at any count; the floor takes out dark pixels, where that
    # fails.
    weights = tf.math.rsqrt(expected + floor)
    if valid_mask is not None:
        weights = weights * valid_mask
    missing = (tf.square(measured) - expected) * weights / 2
    changes = [
        tf.reduce_sum(tf.math.conj(detected) * to_detector(scaled(waves, ramp), transfer), axis=1)
        for ramp in (ramps[0], ramps[1])
    ]
    columns = [expected / 2, *map(tf.math.real, changes), *(-tf.math.imag(c) for c in changes)]
    stacked = tf.stack([*(column * weights for column in columns), missing], axis=1)
    flat = tf.reshape(stacked, [tf.shape(stacked)[0], 6, -1])  # (n, 6, pixels)
    return tf.matmul(flat[:, :5], flat, transpose_b=True)


correct_phase_drift = partial(
    phase_drift.correct_drift_with,
    measure_moments=measure_moments,
    to_numpy=to_numpy,
    times=times,
)
"""It returns an object, given the forward model too, without the slow drift of its phase."""
