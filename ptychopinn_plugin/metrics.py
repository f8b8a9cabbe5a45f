r"""How near a complex object is to another: registration, SSIM, PSNR, MAE, Fourier ring correlation.

A far-field pattern says nothing about the object's global phase, so one constant phase is always
free, and removed. A linear phase ramp is *not* free where the probe and the middle of the patterns
are known: it would shift every pattern on the detector. It is a slow error of the reconstruction
like any other, so by default it stays in and counts.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import fourier_shift
from scipy.signal.windows import hann, tukey

from ptychopinn_plugin.arrays import ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.errors import DataError

UPSAMPLING = 100
"""Registration is refined to one part in so many of a pixel."""

_SHIFT_MARGIN_PX = 32
_SSIM_SIDE_PX = 7


@dataclass(frozen=True)
class Alignment:
    """A reconstruction brought onto the truth.

    Attributes
    ----------
    image : ndarray of complex128, shape (height, width)
        Shifted, and times `scale`.
    shift_px : (y, x)
        By which the reconstruction was moved: down and to the right where positive.
    scale : complex
        By which it was multiplied: the global phase and one amplitude.
    ramp_rad : (y, x)
        Phase per pixel that was taken out; zero unless asked for.
    """

    image: ComplexArray
    shift_px: tuple[float, float]
    scale: complex
    ramp_rad: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class RingCorrelation:
    """A Fourier ring correlation curve.

    Attributes
    ----------
    frequencies : ndarray of float64, shape (n_rings,)
        As a share of Nyquist (half a cycle per pixel), above 0 to 1.
    correlation : ndarray of float64, shape (n_rings,)
        Between -1 and 1.
    half_bit : ndarray of float64, shape (n_rings,)
        The half-bit threshold of each ring.
    """

    frequencies: FloatArray
    correlation: FloatArray
    half_bit: FloatArray

    def crossing(self, threshold: float | FloatArray) -> float:
        """Return where the curve first falls below a threshold, as a share of Nyquist.

        Parameters
        ----------
        threshold : float, or ndarray of shape (n_rings,)

        Returns
        -------
        float
            Linear between rings; 1 where the curve stays above, the first ring's frequency at
            most where it never is.
        """
        excess = self.correlation - threshold
        below = np.flatnonzero(excess < 0)
        if below.size == 0:
            return 1.0
        ring = int(below[0])
        if ring == 0:
            return 0.0
        share = excess[ring - 1] / (excess[ring - 1] - excess[ring])
        start, end = self.frequencies[ring - 1], self.frequencies[ring]
        return float(start + share * (end - start))

    def crossings(self) -> dict[str, float]:
        """Return the crossings of 0.5, 1/7 and the half-bit curve, as shares of Nyquist."""
        return {
            '0.5': self.crossing(0.5),
            '1/7': self.crossing(1 / 7),
            'half-bit': self.crossing(self.half_bit),
        }


def find_shift(reconstruction: ComplexArray, truth: ComplexArray) -> tuple[float, float]:
    """Find by how much a reconstruction must be moved to lie on the truth.

    The complex images are correlated, so a global phase does not matter. Their means are taken
    out and their borders tapered, which would otherwise speak for a shift of zero; what is
    left of that is removed by shifting and registering again.

    Parameters
    ----------
    reconstruction, truth : ndarray of complex, shape (height, width)

    Returns
    -------
    (y, x)
        In pixels, to about a hundredth; down and to the right where positive.

    Raises
    ------
    DataError
        If the images have different shapes or values that are not finite.

    References
    ----------
    .. [1] M. Guizar-Sicairos, S. T. Thurman, J. R. Fienup, Opt. Lett. 33 (2008) 156.
    """
    # Imported here: it takes longer than everything else that this module needs.
    from skimage.registration import phase_cross_correlation

    _check_pair(reconstruction, truth)
    total = np.zeros(2)
    reference = _tapered(truth)
    for _ in range(4):
        moved = _tapered(shift_image(reconstruction, (total[0], total[1])))
        step, _error, _phase = phase_cross_correlation(
            reference, moved, upsample_factor=UPSAMPLING, normalization=None
        )
        total = total + step
        if np.abs(step).max() <= 1 / UPSAMPLING or np.abs(total).max() > min(truth.shape) / 2:
            break
    return float(total[0]), float(total[1])


def shift_image(image: ComplexArray, shift_px: tuple[float, float]) -> ComplexArray:
    """Move an image by fractions of a pixel, in Fourier space, with mirrored borders.

    Parameters
    ----------
    image : ndarray of complex, shape (height, width)
    shift_px : (y, x)
        Down and to the right where positive.
    """
    if not np.any(shift_px):
        return image.astype(np.complex128)
    margin = [min(_SHIFT_MARGIN_PX, side - 1) for side in image.shape]
    # Mirrored, for a jump at the border would ring all across the image.
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
        Find the shift; without, only phase and scale.
    remove_ramp : bool
        Remove a linear phase as well. Not the default: with a known probe the ramp is not free
        (see the head of this module), and taking it out would hide a drift of the phase.

    Returns
    -------
    Alignment

    Raises
    ------
    DataError
        If the images have different shapes or values that are not finite.
    """
    _check_pair(reconstruction, truth)
    shift = find_shift(reconstruction, truth) if register else (0.0, 0.0)
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
        rows, columns = np.exp(-1j * ramp[0] * y), np.exp(-1j * ramp[1] * x)
        return -float(np.abs(rows @ quotient @ columns)) / float(np.abs(quotient).sum())

    spectrum = np.abs(np.fft.fft2(quotient))
    row, column = np.unravel_index(int(np.argmax(spectrum)), spectrum.shape)
    start = 2 * np.pi * np.array(
        [np.fft.fftfreq(len(y))[int(row)], np.fft.fftfreq(len(x))[int(column)]]
    )
    simplex = start + np.array([[0, 0], [1.5 / len(y), 0], [0, 1.5 / len(x)]])
    options = {'initial_simplex': simplex, 'xatol': 1e-7, 'fatol': 1e-12}
    found = minimize(negative_peak, start, method='Nelder-Mead', options=options)
    return float(found.x[0]), float(found.x[1])


def wrapped_phase(image: ComplexArray, truth: ComplexArray) -> tuple[FloatArray, FloatArray]:
    r"""Return the phases of an aligned image and of the truth, comparable without unwrapping.

    The truth's phase is measured from its mean direction, and the image's is put within half a
    turn of it: an error of the phase is never more than :math:`\pi`, and none comes of a wrap.

    Parameters
    ----------
    image, truth : ndarray of complex, shape (height, width)

    Returns
    -------
    image_phase, truth_phase : ndarray of float64, shape (height, width)
        In radians.
    """
    middle = np.angle(truth.sum())
    truth_phase = np.angle(truth * np.exp(-1j * middle)) + middle
    image_phase = truth_phase + np.angle(image * np.conj(truth))
    return image_phase, truth_phase


def ssim(image: FloatArray, truth: FloatArray) -> float:
    """Compute the mean structural similarity [1]_ of two real images.

    Parameters
    ----------
    image, truth : ndarray of float, shape (height, width)

    Returns
    -------
    float
        At most 1. The data range is the truth's, largest less smallest; the window is a square of
        7 pixels.

    Raises
    ------
    DataError
        If the images have different shapes, values that are not finite, or less than 7 pixels
        a side.

    References
    ----------
    .. [1] Z. Wang et al., IEEE Trans. Image Process. 13 (2004) 600, doi:10.1109/TIP.2003.819861.
    """
    from skimage.metrics import structural_similarity

    _check_pair(image, truth)
    if min(truth.shape) < _SSIM_SIDE_PX:
        raise DataError(
            f'Images to compare must have at least {_SSIM_SIDE_PX} pixels a side; '
            f'got {truth.shape}. Choose a larger region.'
        )
    return float(
        structural_similarity(truth, image, win_size=_SSIM_SIDE_PX, data_range=_range(truth))
    )


def psnr(image: FloatArray, truth: FloatArray) -> float:
    """Compute the peak signal-to-noise ratio of two real images, in dB.

    The peak is the truth's range, largest less smallest; infinite for equal images.

    Parameters
    ----------
    image, truth : ndarray of float, shape (height, width)
    """
    _check_pair(image, truth)
    mean_square = float(np.mean((image - truth) ** 2))
    if mean_square == 0:
        return float('inf')
    return float(20 * np.log10(_range(truth)) - 10 * np.log10(mean_square))


def mae(image: FloatArray, truth: FloatArray) -> float:
    """Compute the mean absolute error of two real images, in their unit.

    Parameters
    ----------
    image, truth : ndarray of float, shape (height, width)
    """
    _check_pair(image, truth)
    return float(np.mean(np.abs(image - truth)))


def frc(image: ComplexArray, truth: ComplexArray, *, window: str = 'hann') -> RingCorrelation:
    r"""Compute the Fourier ring correlation of two registered complex images.

    .. math:: \mathrm{FRC}(q) = \frac{\mathrm{Re} \sum F_1 \bar{F_2}}
        {\sqrt{\sum |F_1|^2 \sum |F_2|^2}}

    over rings one frequency step wide [1]_. The half-bit curve is that of [1]_, with the number
    of independent samples of a ring reduced by what the window takes.

    Parameters
    ----------
    image, truth : ndarray of complex, shape (height, width)
        Cropped to the smaller side where they are not square.
    window : {'hann', 'tukey', 'none'}
        Separable window against the jump at the border; 'tukey' tapers a quarter of the width.

    Returns
    -------
    RingCorrelation

    Raises
    ------
    DataError
        If the images have different shapes or values that are not finite.

    References
    ----------
    .. [1] M. van Heel, M. Schatz, J. Struct. Biol. 151 (2005) 250, doi:10.1016/j.jsb.2005.05.009.
    """
    _check_pair(image, truth)
    side = min(truth.shape)
    first, second = (_middle_square(array, side) for array in (image, truth))
    taper = _window(window, side)
    weights = taper[:, None] * taper[None, :]
    spectra = [np.fft.fft2((array - array.mean()) * weights) for array in (first, second)]
    frequency = np.fft.fftfreq(side) * side
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(np.int64).ravel()
    n_rings = side // 2

    def summed(values: FloatArray) -> FloatArray:
        return np.bincount(ring, weights=values.ravel())[1 : n_rings + 1]

    cross = summed((spectra[0] * np.conj(spectra[1])).real)
    power = summed(np.abs(spectra[0]) ** 2) * summed(np.abs(spectra[1]) ** 2)
    correlation = np.divide(cross, np.sqrt(power), out=np.zeros_like(cross), where=power > 0)
    # Complex images: both half-planes of a ring are independent. A window correlates neighbours.
    independent = summed(np.ones_like(weights)) * float(np.mean(taper**2) ** 2)
    root = np.sqrt(np.maximum(independent, 1.0))
    half_bit = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    frequencies = np.arange(1, n_rings + 1) / (side / 2)
    return RingCorrelation(frequencies, correlation, half_bit)


def _window(name: str, side: int) -> FloatArray:
    windows = {'hann': hann, 'tukey': lambda n: tukey(n, 0.25), 'none': np.ones}
    if name not in windows:
        raise DataError(f'window must be one of {", ".join(windows)}; got {name!r}.')
    return np.asarray(windows[name](side), dtype=np.float64)


def _middle_square(image: ComplexArray, side: int) -> ComplexArray:
    top, left = ((length - side) // 2 for length in image.shape)
    return image[top : top + side, left : left + side]


def _tapered(image: ComplexArray) -> ComplexArray:
    taper = tukey(image.shape[0], 0.5)[:, None] * tukey(image.shape[1], 0.5)[None, :]
    mean = (image * taper).sum() / taper.sum()
    result: ComplexArray = (image - mean) * taper
    return result


def _range(truth: FloatArray) -> float:
    # A constant truth has no range; then errors are measured against 1.
    return float(truth.max() - truth.min()) or 1.0


def _check_pair(first: RealArray, second: RealArray) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise DataError(
            'Images to compare must be two-dimensional and of one shape; '
            f'got {first.shape} and {second.shape}. Crop them to what they share.'
        )
    for array in (first, second):
        if not np.isfinite(array).all():
            raise DataError('Images to compare must be finite; got NaN or infinity. Crop them off.')
