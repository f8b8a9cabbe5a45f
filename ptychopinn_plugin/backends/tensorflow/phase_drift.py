r"""Correct the slow part of an object's phase from the shifts of its patterns.

A phase that rises by :math:`g` radians a pixel under the probe shifts the pattern by
:math:`d = g N / 2 \pi` detector pixels, so each pattern measures the local slope like a
lenslet of a Shack-Hartmann sensor [1]_; `backends.common.phase_drift` fits a smooth surface to all
slopes.

With the expected counts :math:`I` and the measured ones :math:`k`, the shift minimises

.. math:: \sum_q \left(\sqrt{k} - \sqrt{I} + d \cdot \nabla \sqrt{I}\right)^2,

which is a system of two equations for each pattern.

References
----------
.. [1] R. Shack, B. Platt, J. Opt. Soc. Am. 61 (1971) 656.
"""

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.phase_drift import (
    MIN_PATTERNS,
    Moments,
    slow_phase,
    solve_slopes,
)
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import predict_intensity


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
    if len(forward) < MIN_PATTERNS or forward.is_single_shot:
        return object_
    slopes, weights, loss = measure_slopes(forward, object_, batch_size)
    surface = slow_phase(
        forward.patch_origins_px, slopes, weights, forward.probe.numpy(), forward.canvas_shape
    )
    corrected = object_ * tf.complex(tf.cos(surface), tf.sin(surface))
    return corrected if forward.evaluate_loss(corrected) < loss else object_


def measure_slopes(
    forward: ForwardModel, object_: Tensor, batch_size: int = 64
) -> tuple[FloatArray, FloatArray, float]:
    """Measure the slope that each pattern misses.

    Returns
    -------
    slopes : ndarray, shape (n_positions, 2)
        Radians a pixel, (y, x).
    weights : ndarray, shape (n_positions, 2)
        The inverse variance of each, up to a common factor.
    loss : float
        Poisson loss per pixel of the object, as `ForwardModel.evaluate_loss`.
    """
    moments: list[Moments] = []
    loss = 0.0
    for indices in forward.batches(batch_size):
        patches = forward.extract_patches(object_, indices)
        counts, *found = _measure_moments(
            forward.probes(indices), patches, forward.measured(indices), forward.valid_mask
        )
        loss += float(forward.sum_of_losses(counts, indices))
        yy, xx, yx, y, x = (moment.numpy() for moment in found)
        moments.append((yy, xx, yx, y, x))
    return *solve_slopes(moments, forward.shape), loss / forward.n_valid_pixels()


@compiled
def _measure_moments(
    probes: Tensor, patches: Tensor, measured: Tensor, valid_mask: Tensor | None
) -> tuple[Tensor, ...]:
    """Return expected counts, and the five `Moments` of each pattern."""
    counts = predict_intensity(probes, patches)
    expected = tf.sqrt(counts)
    missing = measured - expected
    # With zero frequency in the corner, a pixel at one edge has its neighbour at the other.
    along_y = (tf.roll(expected, -1, axis=1) - tf.roll(expected, 1, axis=1)) / 2
    along_x = (tf.roll(expected, -1, axis=2) - tf.roll(expected, 1, axis=2)) / 2
    if valid_mask is not None:
        missing, along_y, along_x = missing * valid_mask, along_y * valid_mask, along_x * valid_mask

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return tf.reduce_sum(first * second, axis=(1, 2))

    return (
        counts,
        dot(along_y, along_y),
        dot(along_x, along_x),
        dot(along_y, along_x),
        dot(missing, along_y),
        dot(missing, along_x),
    )
