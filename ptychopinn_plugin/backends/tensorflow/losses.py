"""What training minimizes: one function for each term."""

from ptychopinn_plugin.backends.common.losses import DARK_COUNTS, DARK_FRACTION, TARGET_FLOOR
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, tf
from ptychopinn_plugin.backends.tensorflow.operators import poisson_terms, scaled, squared
from ptychopinn_plugin.physics import POISSON_EPSILON


def poisson_deviance(
    expected: Tensor, measured: Tensor, valid_mask: Tensor | None, photons: Tensor
) -> Tensor:
    r"""Compute twice the Poisson log-likelihood ratio per photon.

    :math:`\frac{2}{\sum k} \sum [I - k - k \log(I / k)]` over good pixels, with expected counts
    :math:`I` and measured counts :math:`k`: the negative log-likelihood up to a constant. It is 0
    for a perfect fit, and shot noise alone makes it the number of lit pixels over the number of
    photons.

    Parameters
    ----------
    expected : Tensor of float32, shape (n_patterns, height, width)
        In photons per pixel, in the order of the transform.
    measured : Tensor of float32, shape (n_patterns, height, width)
        Their measured amplitudes.
    valid_mask : Tensor of float32, shape (height, width), optional
        0 where a pixel does not count.
    photons : Tensor of float32, shape ()
        The usual number in a pattern.
    """
    counts = measured**2
    terms = poisson_terms(expected, counts, DARK_COUNTS)
    if valid_mask is not None:
        terms, counts = valid_mask * terms, valid_mask * counts
    # A batch without light would be divided by zero.
    least = DARK_FRACTION * tf.cast(photons, counts.dtype) * _number_of(counts)
    return 2 * tf.reduce_sum(terms) / tf.maximum(tf.reduce_sum(counts), least)


def amplitude_error(
    expected: Tensor, measured: Tensor, valid_mask: Tensor | None, photons: Tensor
) -> Tensor:
    r"""Compute :math:`\sum |\sqrt I - \sqrt k| / \sum \sqrt k` over good pixels."""
    # The square root's slope at zero is infinite.
    error = tf.abs(tf.sqrt(expected + POISSON_EPSILON) - measured)
    if valid_mask is not None:
        error, measured = valid_mask * error, valid_mask * measured
    least = DARK_FRACTION * tf.sqrt(tf.cast(photons, measured.dtype)) * _number_of(measured)
    return tf.reduce_sum(error) / tf.maximum(tf.reduce_sum(measured), least)


def _number_of(patterns: Tensor) -> Tensor:
    return tf.cast(tf.shape(patterns)[0], patterns.dtype)


def target_distance(
    values: Tensor, light: Tensor, reference: Tensor | None, labels: Tensor, coverage: Tensor
) -> Tensor:
    r"""Compute the weighted squared distance to the target's patches, up to a global phase.

    :math:`\sum w |\hat O - e^{i\phi} T|^2 / \sum w` for the target's patch :math:`T`. The phase
    :math:`\phi` fits the target to the estimate that the network was given, so that the network
    learns to stay in step with its neighbours; without an estimate it fits the prediction.

    Parameters
    ----------
    values, light, reference : Tensor, shape (n_patches, window, window)
        As in `Patches`.
    labels : Tensor of complex64, shape (n_patches, window, window)
    coverage : Tensor of float32, shape (n_patches, window, window)
        1 where the target is well lit, 0 where no light reached it.
    """
    relative = light / tf.reduce_max(light, axis=(-2, -1), keepdims=True)
    # Beyond the probe's light patterns show nothing of the patch, and the target alone does.
    weights = relative + TARGET_FLOOR * coverage
    reference = values if reference is None else reference
    products = scaled(reference * tf.math.conj(labels), weights)
    phase_factor = tf.reduce_sum(products, axis=(-2, -1), keepdims=True)
    phase_factor = tf.stop_gradient(scaled(phase_factor, 1 / (tf.abs(phase_factor) + 1e-9)))
    difference = squared(values - labels * phase_factor)
    weighted = tf.reduce_sum(difference * weights, axis=(-2, -1))
    return tf.reduce_mean(weighted / tf.reduce_sum(weights, axis=(-2, -1)))


def total_variation(values: Tensor, light: Tensor) -> Tensor:
    """Compute the mean absolute difference of neighbouring pixels, weighted by the probe."""
    weights = light / tf.reduce_max(light, axis=(-2, -1), keepdims=True)
    down = _modulus(values[:, 1:] - values[:, :-1]) * weights[:, 1:]
    right = _modulus(values[:, :, 1:] - values[:, :, :-1]) * weights[:, :, 1:]
    return (tf.reduce_sum(down) + tf.reduce_sum(right)) / tf.reduce_sum(weights)


def _modulus(values: Tensor) -> Tensor:
    """Return the modulus; its gradient at zero is zero."""
    power = squared(values)
    dark = power == 0
    # The inner choice keeps the root's infinite slope out: the outer one alone would multiply it by
    # zero, which is no number.
    return tf.where(dark, 0.0, tf.sqrt(tf.where(dark, tf.ones_like(power), power)))
