"""The physics as graphs: interaction, propagation, measurement, and cutting and placing patches."""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.physics import POISSON_EPSILON
from ptychopinn_plugin.physics.projection import RATIO_EPSILON


def intensity(waves: Tensor) -> Tensor:
    """Sum the modes' intensities: (n, n_modes, height, width) complex to (n, height, width)."""
    return tf.reduce_sum(squared(waves), axis=1)


def squared(values: Tensor) -> Tensor:
    """Return the squared modulus; its gradient is finite at zero, unlike that of `tf.abs`."""
    return tf.square(tf.math.real(values)) + tf.square(tf.math.imag(values))


def scaled(values: Tensor, factors: Tensor) -> Tensor:
    """Multiply complex numbers by real ones."""
    return values * tf.cast(factors, values.dtype)


def to_detector(waves: Tensor, transfer: Tensor | None) -> Tensor:
    """Return waves (n, n_modes, h, w) on the detector, as `physics.propagation.to_detector`.

    The transfer function, (h, w) or (n, 1, h, w), is that of free space; without it the detector
    is in the far field, and zero frequency in the corner. Both are unitary, which keeps the
    photons.
    """
    if transfer is None:
        return scaled(tf.signal.fft2d(waves), 1 / tf.sqrt(_pixels(waves)))
    return tf.signal.ifft2d(tf.signal.fft2d(waves) * transfer)


@compiled
def transfer_at(transfer: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Return the transfer function of each position, as `propagation.at_subpixel_shifts`."""
    return transfer * tf.math.conj(_ramp(subpixel_shifts_px, transfer))


def _to_detector_scaled(waves: Tensor, transfer: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return waves on the detector but for a factor, and their intensity without it."""
    if transfer is None:
        # Not unitary: what the transform scales, its inverse scales back.
        spectra = tf.signal.fft2d(waves)
        return spectra, intensity(spectra) / _pixels(spectra)
    detected = to_detector(waves, transfer)
    return detected, intensity(detected)


def _from_detector_scaled(waves: Tensor, transfer: Tensor | None) -> Tensor:
    """Return waves behind the sample: undoes `_to_detector_scaled`, with its factor."""
    if transfer is None:
        return tf.signal.ifft2d(waves)
    return tf.signal.ifft2d(tf.signal.fft2d(waves) * tf.math.conj(transfer))


def _pixels(waves: Tensor) -> Tensor:
    """Return the number of pixels of an image."""
    return tf.cast(tf.reduce_prod(tf.shape(waves)[-2:]), tf.math.real(waves[..., 0]).dtype)


@compiled
def extract_patches(canvas: Tensor, patch_origins: Tensor, height: int, width: int) -> Tensor:
    """Cut patches (n, height, width) whose first pixels are at `patch_origins` (n, 2)."""
    pixels = _patch_pixels(patch_origins, height, width, tf.shape(canvas, tf.int64)[1])
    return tf.gather(tf.reshape(canvas, [-1]), pixels)


@compiled
def place_patches(patches: Tensor, patch_origins: Tensor, canvas_shape: Tensor) -> Tensor:
    """Add patches (n, height, width) to an empty canvas: the adjoint of `extract_patches`."""
    sides = tf.shape(patches, tf.int64)
    pixels = _patch_pixels(patch_origins, sides[1], sides[2], canvas_shape[1])
    return tf.reshape(
        tf.math.unsorted_segment_sum(patches, pixels, tf.reduce_prod(canvas_shape)), canvas_shape
    )


def _patch_pixels(patch_origins: Tensor, height: Tensor, width: Tensor, stride: Tensor) -> Tensor:
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    inside = tf.range(height)[:, None] * stride + tf.range(width)[None, :]
    return (patch_origins[:, 0] * stride + patch_origins[:, 1])[:, None, None] + inside


@compiled
def predict_intensity(probes: Tensor, patches: Tensor, transfer: Tensor | None) -> Tensor:
    r"""Compute :math:`I = \sum_m |\mathcal{F}[P_m O]|^2`, shape (n, height, width), in photons.

    Probes are (n, n_modes, height, width) and patches (n, height, width); pixels lie as those of
    `to_detector`.
    """
    return _to_detector_scaled(probes * patches[:, None], transfer)[1]


@compiled
def project_amplitudes(
    probes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
) -> tuple[Tensor, Tensor]:
    r"""Project exit waves onto the measured amplitudes, as `physics.project_amplitudes`.

    Returns
    -------
    update : Tensor of complex64, shape (n, height, width)
        :math:`\sum_m P_m^* (\psi'_m - \psi_m)`.
    changes : Tensor of complex64, shape (n, n_modes, height, width)
        :math:`\psi'_m - \psi_m`.
    """
    waves, expected = _to_detector_scaled(probes * patches[:, None], transfer)
    # Pixels lie alike on both sides: no transform needs a shift.
    ratio = (tf.square(measured) + RATIO_EPSILON) / (expected + RATIO_EPSILON)
    factor = tf.sqrt(ratio) - 1
    if valid_mask is not None:
        factor = factor * valid_mask
    changes = _from_detector_scaled(scaled(waves, factor[:, None]), transfer)
    return tf.reduce_sum(tf.math.conj(probes) * changes, axis=1), changes


@compiled
def probe_update(changes: Tensor, patches: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    r"""Return :math:`\sum_j O_j^* (\psi'_{jm} - \psi_{jm})`, shifted back: (n_modes, h, w)."""
    here = changes * tf.math.conj(patches)[:, None]
    return tf.reduce_sum(shift_probe_back(here, subpixel_shifts_px), axis=0)


def poisson_terms(expected: Tensor, counts: Tensor, floor: float) -> Tensor:
    r"""Compute :math:`I - k + (k + \epsilon) \log \frac{k + \epsilon}{I + \epsilon}` of each pixel.

    The Poisson negative log-likelihood of counts :math:`k` up to terms in :math:`k` alone. It is
    least, and 0, where the expected counts :math:`I` equal :math:`k`. The `floor`
    :math:`\epsilon` keeps it and its gradient finite in the dark.
    """
    ratio = (counts + floor) / (expected + floor)
    return expected - counts + (counts + floor) * tf.math.log(ratio)


@compiled
def misfits(
    probes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
) -> Tensor:
    """Return three sums over good pixels: Poisson terms, squared misfit and counts, float64."""
    expected = predict_intensity(probes, patches, transfer)
    counts = tf.square(measured)
    terms = poisson_terms(expected, counts, POISSON_EPSILON)
    images = tf.stack([terms, tf.square(tf.sqrt(expected) - measured), counts])
    return tf.reduce_sum(sum_each(images, valid_mask), axis=1)


@compiled
def sum_of_losses(expected: Tensor, measured: Tensor, valid_mask: Tensor | None) -> Tensor:
    """Return the sum of `poisson_terms` over good pixels, float64."""
    terms = poisson_terms(expected, tf.square(measured), POISSON_EPSILON)
    return sum_over_good(terms, valid_mask)


def sum_over_good(images: Tensor, valid_mask: Tensor | None) -> Tensor:
    """Sum images (n, height, width) over the good pixels, in float64."""
    return tf.reduce_sum(sum_each(images, valid_mask))


def sum_each(images: Tensor, valid_mask: Tensor | None) -> Tensor:
    """Sum each image over its good pixels, (..., height, width) to (...), in float64."""
    if valid_mask is not None:
        images = images * valid_mask
    # A float32 sum over a pattern is exact enough; over all of them it is not.
    return tf.cast(tf.reduce_sum(images, axis=(-2, -1)), tf.float64)


@compiled
def vary_probe(probe: Tensor, eigenmodes: Tensor, opr_weights: Tensor) -> Tensor:
    """Return a probe whose first mode is a weighted sum of it and of eigenmodes.

    Parameters
    ----------
    probe : Tensor of complex64, shape (n_modes, height, width)
    eigenmodes : Tensor of complex64, shape (n_eigenmodes, height, width)
    opr_weights : Tensor of float32, shape (n, 1 + n_eigenmodes)

    Returns
    -------
    Tensor of complex64, shape (n, n_modes, height, width)
    """
    basis = tf.concat([probe[:1], eigenmodes], axis=0)
    # A cast to complex numbers would warn wherever a gradient passes.
    weights = tf.complex(opr_weights, tf.zeros_like(opr_weights))
    first = tf.tensordot(weights, basis, axes=1)[:, None]
    # A product with ones, as a graph does not know how many there are.
    others = tf.ones_like(first) * probe[1:]
    return tf.concat([first, others], axis=1)


@compiled
def shift_probe(probe: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Shift a probe (n_modes, h, w) by (n, 2) parts of pixels, as `physics.shift_probe`."""
    return tf.signal.ifft2d(tf.signal.fft2d(probe) * _ramp(subpixel_shifts_px, probe))


@compiled
def shift_probe_back(probes: Tensor, subpixel_shifts_px: Tensor) -> Tensor:
    """Undo `shift_probe` on (n, n_modes, h, w): its adjoint."""
    return tf.signal.ifft2d(
        tf.signal.fft2d(probes) * tf.math.conj(_ramp(subpixel_shifts_px, probes))
    )


def _ramp(subpixel_shifts_px: Tensor, probe: Tensor) -> Tensor:
    r"""Return :math:`e^{-2 \pi i q \cdot \delta}` of shifts, shape (n, 1, height, width)."""
    sides = tf.shape(probe)[-2:]
    y = _phase_factors(
        subpixel_shifts_px[:, 0:1] * _frequencies(sides[0], subpixel_shifts_px.dtype)
    )
    x = _phase_factors(
        subpixel_shifts_px[:, 1:2] * _frequencies(sides[1], subpixel_shifts_px.dtype)
    )
    return y[:, None, :, None] * x[:, None, None, :]


def _frequencies(side: Tensor, dtype: tf.DType) -> Tensor:
    """Return `numpy.fft.fftfreq`, of a side that need not be known before."""
    half = side // 2
    return tf.cast((tf.range(side) + half) % side - half, dtype) / tf.cast(side, dtype)


def _phase_factors(cycles: Tensor) -> Tensor:
    angle = -2 * 3.141592653589793 * cycles
    return tf.complex(tf.cos(angle), tf.sin(angle))


def times(tensor: Tensor, array: ComplexArray) -> Tensor:
    """Multiply a tensor by an array."""
    return tensor * tf.constant(array)


def to_numpy(tensor: Tensor) -> ComplexArray:
    """Return a tensor's values."""
    return np.asarray(tensor.numpy())
