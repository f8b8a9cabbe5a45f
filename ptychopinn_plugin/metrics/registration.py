"""Registration of a complex image to another: shift, global phase, one amplitude."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import fourier_shift

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.metrics.checks import check_pair

UPSAMPLING = 100
"""Registration is refined to a hundredth of a pixel."""

_SHIFT_MARGIN_PX = 32
"""This number of mirrored pixels around an image keeps outside what rings at its border."""

_REGISTRATIONS = 4
"""Registration ends after this number of rounds, where the shift has not settled before."""


@dataclass(frozen=True)
class Alignment:
    """A reconstruction brought onto the truth.

    Attributes
    ----------
    image : ndarray of complex128, shape (height, width)
        The reconstruction, shifted and times `scale`.
    shift_px : (y, x)
        The pixels by which it was moved: down and to the right where positive.
    scale : complex
        The factor by which it was multiplied: the global phase and one amplitude.
    ramp_rad : (y, x)
        The phase in radians per pixel that was taken out; zero unless `remove_ramp` is set.
    """

    image: ComplexArray
    shift_px: tuple[float, float]
    scale: complex
    ramp_rad: tuple[float, float] = (0.0, 0.0)


def find_shift(
    reconstruction: ComplexArray, truth: ComplexArray, *, largest_px: float = np.inf
) -> tuple[float, float]:
    r"""Find by how much a reconstruction must be moved to lie on the truth.

    The shift :math:`\Delta` is that of the highest :math:`|\sum_r R(r - \Delta) \bar T(r)|`, found
    to a hundredth of a pixel by a matrix Fourier transform around the peak [1]_. The complex
    images are correlated, so a global phase does not matter. Their means are taken out and their
    borders tapered, as both would pull the peak to a shift of zero; what is left of that is
    removed by shifting and registering again.

    Parameters
    ----------
    reconstruction, truth : ndarray of complex, shape (height, width)
    largest_px : float
        A larger shift is taken for chance, and counts as no shift.

    Returns
    -------
    (y, x)
        In pixels, to about a hundredth; down and to the right where positive. Zero where one of
        the images has no structure.

    Raises
    ------
    DataError
        If the images have different shapes or values that are not finite.

    References
    ----------
    .. [1] M. Guizar-Sicairos, S. T. Thurman, J. R. Fienup, Opt. Lett. 33 (2008) 156,
       doi:10.1364/OL.33.000156.
    """
    # It is imported here, as it takes longer than everything else that this module needs.
    from skimage.registration import phase_cross_correlation

    check_pair(reconstruction, truth)
    # scikit-image has no annotations.
    correlate: Callable[..., Any] = phase_cross_correlation
    total = np.zeros(2)
    reference = _tapered(truth)
    for _ in range(_REGISTRATIONS):
        moved = _tapered(shift_image(reconstruction, (total[0], total[1])))
        if not (_has_structure(reference, truth) and _has_structure(moved, reconstruction)):
            return 0.0, 0.0
        # Normalized, as in phase correlation, noise at high frequencies would weigh as much as the
        # object.
        step, _error, _phase = correlate(
            reference, moved, upsample_factor=UPSAMPLING, normalization=None
        )
        total = total + step
        if np.abs(total).max() > min(largest_px, *(side / 2 for side in truth.shape)):
            return 0.0, 0.0
        if np.abs(step).max() <= 1 / UPSAMPLING:
            break
    return float(total[0]), float(total[1])


def shift_image(image: ComplexArray, shift_px: tuple[float, float]) -> ComplexArray:
    r"""Move an image by fractions of a pixel, in Fourier space, with mirrored borders.

    The spectrum is multiplied by :math:`\exp(-2 \pi i \, q \cdot \Delta)`.

    Parameters
    ----------
    image : ndarray of complex, shape (height, width)
    shift_px : (y, x)
        In pixels; down and to the right where positive.

    Returns
    -------
    ndarray of complex128, shape (height, width)
    """
    if not np.any(shift_px):
        return image.astype(np.complex128)
    margin = [min(_SHIFT_MARGIN_PX, side - 1) for side in image.shape]
    # It is mirrored, as a jump at the border would ring all across the image.
    padded = np.pad(image.astype(np.complex128), [(m, m) for m in margin], mode='reflect')
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(padded), shift_px))
    inner = tuple(slice(m, m + side) for m, side in zip(margin, image.shape, strict=True))
    result: ComplexArray = moved[inner]
    return result


def align(
    reconstruction: ComplexArray,
    truth: ComplexArray,
    *,
    register: bool = True,
    largest_shift_px: float = np.inf,
    remove_ramp: bool = False,
) -> Alignment:
    r"""Bring a reconstruction onto the truth: shift, global phase, one amplitude.

    The phase is that of :math:`\sum \bar{R} T`, the amplitude
    :math:`\sum |R||T| / \sum |R|^2`: least squares of the amplitudes alone, so that wrong
    phases do not darken the image as well.

    Parameters
    ----------
    reconstruction, truth : ndarray of complex, shape (height, width)
        On the same pixel grid.
    register : bool
        Whether the shift is found; otherwise phase and scale alone are.
    largest_shift_px : float
        A larger shift is taken for chance, and counts as no shift.
    remove_ramp : bool
        Whether a linear phase is removed as well. By default it is not: with a known probe the
        ramp is not free (see the head of this package), and removing it would hide a drift.

    Returns
    -------
    Alignment

    Raises
    ------
    DataError
        If the images have different shapes or values that are not finite.
    """
    check_pair(reconstruction, truth)
    shift = (0.0, 0.0)
    if register:
        shift = find_shift(reconstruction, truth, largest_px=largest_shift_px)
    image = shift_image(reconstruction, shift)
    ramp = (0.0, 0.0)
    if remove_ramp:
        ramp = _find_ramp(image, truth)
        y, x = np.indices(image.shape)
        image = image * np.exp(-1j * (ramp[0] * y + ramp[1] * x))
    energy = float((np.abs(image) ** 2).sum())
    if energy == 0:
        return Alignment(image, shift, 1.0 + 0.0j, ramp)
    phase = np.angle(np.vdot(image, truth))
    amplitude = float((np.abs(image) * np.abs(truth)).sum()) / energy
    scale = complex(amplitude * np.exp(1j * phase))
    return Alignment(image * scale, shift, scale, ramp)


def _find_ramp(image: ComplexArray, truth: ComplexArray) -> tuple[float, float]:
    """Return the phase per pixel (y, x) of image over truth, from the peak of its spectrum."""
    from scipy.optimize import minimize

    quotient = image * np.conj(truth)
    y, x = (np.arange(side, dtype=np.float64) for side in image.shape)

    def negative_peak(ramp: FloatArray) -> float:
        # This is the transform at one frequency that need not lie on the grid.
        rows, columns = np.exp(-1j * ramp[0] * y), np.exp(-1j * ramp[1] * x)
        return -float(np.abs(rows @ quotient @ columns)) / float(np.abs(quotient).sum())

    spectrum = np.abs(np.fft.fft2(quotient))
    row, column = np.unravel_index(int(np.argmax(spectrum)), spectrum.shape)
    start = (
        2
        * np.pi
        * np.array([np.fft.fftfreq(len(y))[int(row)], np.fft.fftfreq(len(x))[int(column)]])
    )
    # The peak is at most half a frequency step, pi / n radians per pixel, from the grid; the
    # simplex begins with half of that.
    simplex = start + np.array([[0, 0], [1.5 / len(y), 0], [0, 1.5 / len(x)]])
    options = {'initial_simplex': simplex, 'xatol': 1e-7, 'fatol': 1e-12}
    found = minimize(negative_peak, start, method='Nelder-Mead', options=options)
    return float(found.x[0]), float(found.x[1])


def _tapered(image: ComplexArray) -> ComplexArray:
    r"""Take the mean out of an image and let its border fall to zero.

    With Tukey's window :math:`t`, which tapers a quarter of the side at each end, it is
    :math:`t \, (R - \sum t R / \sum t)`: the mean is that of what the window leaves.
    """
    # Imported where it is needed: SciPy's signal package takes half a second.
    from scipy.signal.windows import tukey

    taper = tukey(image.shape[0], 0.5)[:, None] * tukey(image.shape[1], 0.5)[None, :]
    mean = (image * taper).sum() / taper.sum()
    result: ComplexArray = (image - mean) * taper
    return result


def _has_structure(tapered: ComplexArray, image: ComplexArray) -> bool:
    """Return whether more than rounding is left of an image without its mean."""
    return bool((np.abs(tapered) ** 2).sum() > 1e-12 * (np.abs(image) ** 2).sum())
