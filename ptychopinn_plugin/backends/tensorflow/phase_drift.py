"""Measure the slow amplitude and phase that an object misses, and correct the phase.

See `backends.common.phase_drift`.
"""

import numpy as np

from ptychopinn_plugin.backends.common.phase_drift import (
    PatternMoments,
    better_of,
    fit_slow_errors,
    floor_photons,
    has_slow_errors,
    middle_ramps,
)
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import fourier, intensity, scaled


def correct_phase_drift(forward: ForwardModel, object_: Tensor, batch_size: int = 64) -> Tensor:
    """Return the object times the smooth phase that its patterns miss.

    Where that would not raise the likelihood (the positions or the probe may be wrong), the object
    is returned as it is, and so it is with fewer than four patterns, and with patterns that share
    nothing, as no slow phase goes from one to the next.

    Parameters
    ----------
    forward : ForwardModel
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    batch_size : int
        Patterns that are measured together.

    Returns
    -------
    Tensor of complex64, shape `forward.canvas_shape`
    """
    if not has_slow_errors(forward):
        return object_
    moments = measure_moments(forward, object_, batch_size)
    errors = fit_slow_errors(forward, moments, forward.probe.numpy())
    factor = tf.constant(errors.phase_factor(forward.canvas_shape))
    return better_of(forward, object_, object_ * factor)


def measure_moments(forward: ForwardModel, object_: Tensor, batch_size: int = 64) -> PatternMoments:
    """Measure what each pattern tells of its beam and of the slow errors of the object under it."""
    floor = tf.constant(floor_photons(forward), tf.float32)
    ramps = tf.constant(middle_ramps(forward.shape))
    found = []
    for indices in forward.batches(batch_size):
        products = _products(
            forward.probes(indices),
            forward.extract_patches(object_, indices),
            forward.measured(indices),
            forward.valid_mask,
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
    ramps: Tensor,
    floor: Tensor,
) -> Tensor:
    """Return the normal equations of each pattern, (n, 5, 6)."""
    waves = probes * patches[:, None]
    spectra = fourier(waves)
    expected = intensity(spectra)
    weights = tf.math.rsqrt(expected + floor)
    if valid_mask is not None:
        weights = weights * valid_mask
    missing = (tf.square(measured) - expected) * weights / 2
    changes = [
        tf.reduce_sum(tf.math.conj(spectra) * fourier(scaled(waves, ramp)), axis=1)
        for ramp in (ramps[0], ramps[1])
    ]
    columns = [expected / 2, *map(tf.math.real, changes), *(-tf.math.imag(c) for c in changes)]
    stacked = tf.stack([*(column * weights for column in columns), missing], axis=1)
    flat = tf.reshape(stacked, [tf.shape(stacked)[0], 6, -1])  # (n, 6, pixels)
    return tf.matmul(flat[:, :5], flat, transpose_b=True)
