"""The Fourier ring correlation: up to which spatial frequency two complex images agree."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.metrics.checks import check_pair


@dataclass(frozen=True)
class RingCorrelation:
    """A Fourier ring correlation curve.

    Attributes
    ----------
    frequencies : ndarray of float64, shape (n_rings,)
        Spatial frequency of each ring as a share of Nyquist (half a cycle per pixel), 0 to 1.
    correlation : ndarray of float64, shape (n_rings,)
        The correlation of each ring, between -1 and 1.
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
            Linear between rings; 1 where the curve stays above, 0 where it starts below.
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
        """Return the crossings of 0.5, 1/7 and the half-bit curve, as shares of Nyquist.

        The half-bit curve counts as 0.5 where it is higher: there a ring has a few samples, and
        one of them would decide.
        """
        return {
            '0.5': self.crossing(0.5),
            '1/7': self.crossing(1 / 7),
            'half-bit': self.crossing(np.minimum(self.half_bit, 0.5)),
        }


def frc(image: ComplexArray, truth: ComplexArray, *, window: str = 'hann') -> RingCorrelation:
    r"""Compute the Fourier ring correlation of two registered complex images.

    .. math:: \mathrm{FRC}(q) = \frac{\mathrm{Re} \sum F_1 \bar{F_2}}
        {\sqrt{\sum |F_1|^2 \sum |F_2|^2}}

    over rings one frequency step wide [1]_. The mean stays in: it is part of the image, and ring 0
    holds it. The half-bit curve is that of [1]_,

    .. math:: T(q) = \frac{0.2071 + 1.9102 / \sqrt{n}}{1.2071 + 0.9102 / \sqrt{n}},

    with the number :math:`n` of independent samples of a ring, which the window reduces.

    Parameters
    ----------
    image, truth : ndarray of complex, shape (height, width)
        Cropped to the smaller side where they are not square.
    window : {'hann', 'tukey', 'none'}
        The separable window against the jump at the border; 'tukey' tapers a quarter of the
        width.

    Returns
    -------
    RingCorrelation

    Raises
    ------
    DataError
        If the images have different shapes or values that are not finite, or there is no such
        window.

    References
    ----------
    .. [1] M. van Heel, M. Schatz, J. Struct. Biol. 151 (2005) 250, doi:10.1016/j.jsb.2005.05.009.
    """
    check_pair(image, truth)
    side = min(truth.shape)
    taper = _window(window, side)
    weights = taper[:, None] * taper[None, :]
    first, second = (np.fft.fft2(_middle_square(array, side) * weights) for array in (image, truth))
    cross = _ring_sums((first * np.conj(second)).real)
    power = _ring_sums(np.abs(first) ** 2) * _ring_sums(np.abs(second) ** 2)
    correlation = np.divide(cross, np.sqrt(power), out=np.zeros_like(cross), where=power > 0)
    # In complex images both half-planes of a ring are independent. A window correlates neighbours.
    independent = _ring_sums(np.ones_like(weights)) * float(np.mean(taper**2) ** 2)
    frequencies = np.arange(len(cross)) / (side / 2)
    return RingCorrelation(frequencies, correlation, _half_bit(independent))


def _ring_sums(values: FloatArray) -> FloatArray:
    """Sum over rings one frequency step wide, from frequency 0 to Nyquist."""
    side = len(values)
    frequency = np.fft.fftfreq(side) * side
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(np.int64)
    # Rings beyond Nyquist lie in the corners alone, and are not whole.
    sums = np.bincount(ring.ravel(), weights=values.ravel())[: side // 2 + 1]
    return sums.astype(np.float64)


def _half_bit(independent: FloatArray) -> FloatArray:
    """Return the half-bit curve, `frc`'s :math:`T(q)`, of rings with this many samples."""
    root = np.sqrt(np.maximum(independent, 1.0))
    threshold: FloatArray = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    return threshold


def _window(name: str, side: int) -> FloatArray:
    """Return the window of this name along one side; a square has it along both.

    Raises
    ------
    DataError
        If there is no such window.
    """
    windows: dict[str, Callable[[int], FloatArray]] = {
        'hann': np.hanning,
        'tukey': _tukey,
        'none': np.ones,
    }
    if name not in windows:
        raise DataError(f'window must be one of {", ".join(windows)}; got {name!r}.')
    return np.asarray(windows[name](side), dtype=np.float64)


def _tukey(side: int) -> FloatArray:
    # Imported where it is needed: SciPy's signal package takes half a second.
    from scipy.signal.windows import tukey

    return np.asarray(tukey(side, 0.25))


def _middle_square(image: ComplexArray, side: int) -> ComplexArray:
    top, left = ((length - side) // 2 for length in image.shape)
    return image[top : top + side, left : left + side]
