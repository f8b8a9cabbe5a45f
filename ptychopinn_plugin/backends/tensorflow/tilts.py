r"""Correct the slow part of an object's phase from the shifts of its patterns.

A phase that rises by :math:`s` radians a pixel under the probe shifts the pattern by
:math:`\delta = s N / 2 \pi` detector pixels, so each pattern measures the local slope like a
lenslet of a Shack-Hartmann sensor [1]_; `backends.surfaces` fits a smooth surface to all slopes.

With the expected amplitude :math:`a` and the measured one :math:`A`, the shift minimises
:math:`\sum (A - a + \delta \cdot \nabla a)^2`.

References
----------
.. [1] R. Shack, B. Platt, J. Opt. Soc. Am. 61 (1971) 656.
"""

import numpy as np

from ptychopinn_plugin.arrays import FloatArray
from ptychopinn_plugin.backends.surfaces import FEWEST_PATTERNS, slow_phase
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.waves import expect


def correct_slow_phase(model: ForwardModel, object_: Tensor, batch_size: int = 64) -> Tensor:
    """Return the object times the smooth phase that its patterns ask for.

    Where that would not raise the likelihood (the positions or the probe may be wrong), the object
    is returned as it is.

    Parameters
    ----------
    model : ForwardModel
    object_ : Tensor of complex64, shape `model.canvas_shape`
    batch_size : int
    """
    if len(model) < FEWEST_PATTERNS:
        return object_
    slopes, weights, loss = measure_slopes(model, object_, batch_size)
    surface = slow_phase(model.places_px, slopes, weights, model.probe.numpy(), model.canvas_shape)
    corrected = object_ * tf.complex(tf.cos(surface), tf.sin(surface))
    return corrected if model.assess(corrected)[0] < loss else object_


def measure_slopes(
    model: ForwardModel, object_: Tensor, batch_size: int = 64
) -> tuple[FloatArray, FloatArray, float]:
    """Measure the slope that each pattern misses.

    Returns
    -------
    slopes : ndarray, shape (n_positions, 2)
        Radians a pixel, (y, x).
    weights : ndarray, shape (n_positions, 2)
        Inverse variance of each, up to a common factor.
    loss : float
        Poisson loss per pixel of the object, as `ForwardModel.assess`.
    """
    slopes, weights = [], []
    loss = 0.0
    scale = 2 * np.pi / np.array(model.shape)
    for indices in model.batches(batch_size):
        patches = model.extract(object_, indices)
        counts, shifts, sharpness = _measure_shifts(
            model.probes(indices), patches, model.measured(indices), model.good
        )
        loss += float(model.poisson_loss(counts, indices)) * len(indices)
        slopes.append(shifts.numpy() * scale)
        weights.append(sharpness.numpy())
    missed = np.concatenate(slopes).astype(np.float64)
    return missed, np.concatenate(weights).astype(np.float64), loss / len(model)


@compiled
def _measure_shifts(
    probes: Tensor, patches: Tensor, measured: Tensor, good: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return expected counts, shifts in pixels (n, 2) and their inverse variance (n, 2)."""
    counts = expect(probes, patches)
    expected = tf.sqrt(counts)
    missing = measured - expected
    along_y = (tf.roll(expected, -1, axis=1) - tf.roll(expected, 1, axis=1)) / 2
    along_x = (tf.roll(expected, -1, axis=2) - tf.roll(expected, 1, axis=2)) / 2
    if good is not None:
        missing, along_y, along_x = missing * good, along_y * good, along_x * good

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return tf.reduce_sum(first * second, axis=(1, 2))

    yy, xx, yx = (
        dot(along_y, along_y) + 1e-12,
        dot(along_x, along_x) + 1e-12,
        dot(along_y, along_x),
    )
    y, x = dot(missing, along_y), dot(missing, along_x)
    determinant = tf.maximum(yy * xx - yx * yx, 1e-12)
    shifts = [-(xx * y - yx * x) / determinant, -(yy * x - yx * y) / determinant]
    return counts, tf.stack(shifts, axis=1), tf.stack([yy, xx], axis=1)
