r"""How sure each pixel of an object is: a standard deviation of its amplitude and of its phase.

Where data decide, the curvature of the Poisson likelihood does. A pixel that gets :math:`W` photons
has the Fisher information :math:`2W` for each of the real and the imaginary part of its value: four
for each amplitude on the detector, of which half lies along either part. Neighbouring pixels are
measured together, and iterations do not reach the bound, so that the noise of a pixel is

.. math:: Q = \frac{\kappa}{2W} \left[ 1 + \left( \frac{1.5}{\Omega} \right)^2 \right] \max(1, M)

with a factor :math:`\kappa` that was found on simulations, the local overlap :math:`\Omega` and the
misfit :math:`M` in times of shot noise. Where data do not decide, the object itself shows what to
expect: its power falls with frequency as :math:`S = S_0 \rho^{-3}`, as that of edges does, from a
level :math:`S_0` that the well measured low frequencies show. The variance that is left of both is
that of Wiener's filter,

.. math:: \sigma_O^2 = \int \frac{S Q}{S + Q}\, \mathrm{d}^2\rho .

A phase that drifts slowly across the field is an error of all pixels together, and not in it.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray

AMPLITUDE_NOISE, PHASE_NOISE = 2.0, 8.0
"""These factors kappa, for amplitudes and phases, are calibrated by benchmarks/uncertainty.py."""

CROWDED = 1.5
"""At this overlap neighbouring patterns double the noise of a pixel by what they leave open."""

DECAY = 3.0
"""The power of edges in an image falls with the third power of the frequency."""

LEVEL_BAND = (0.03, 0.12)
"""The level of the object's power is taken between these frequencies, in cycles per pixel."""

LIT_FRACTION = 0.05
"""Pixels of an object with a larger share of the brightest coverage are lit."""

MIN_SIDE_PX = 32
"""A smaller object does not show its low frequencies."""

_AMPLITUDE_SMOOTHING_PX = 2.0
_NOISE_RANGE = (1e-10, 1e4)


def estimate_uncertainty(
    object_: ComplexArray, coverage: FloatArray, overlap: float, over_noise: float | None
) -> tuple[FloatArray, FloatArray] | None:
    """Return the standard deviation of amplitude and phase for each pixel of an object.

    Parameters
    ----------
    object_ : ndarray of complex, shape (height, width)
    coverage : ndarray of float, shape (height, width)
        In photons per pixel.
    overlap : float
        How many illuminations of different places lie over each other, see
        `physics.illumination_overlap`.
    over_noise : float, optional
        The misfit in times of shot noise; None where the counts are in another unit than photons.

    Returns
    -------
    amplitude_std, phase_std : ndarray of float32, shape (height, width)
        The phase in radians. None where the noise of the counts is unknown, or the object is too
        small to show how its power falls with frequency, or flat, as before the first iteration.
    """
    lit = coverage > LIT_FRACTION * coverage.max()
    if over_noise is None or not np.isfinite(over_noise) or _is_small(lit):
        return None
    if (object_ == object_.flat[0]).all():
        return None
    light = np.maximum(coverage.astype(np.float64), 1e-12)
    # The mean coverage that a photon meets is that of the whole overlap.
    local_overlap = overlap * light * light.sum() / (light**2).sum()
    noise = (1 + (CROWDED / local_overlap) ** 2) * max(1.0, over_noise) / (2 * light)
    amplitude = np.abs(object_).astype(np.float64)
    # Around the mean phase the fewest pixels wrap.
    phase = np.angle(object_ * np.exp(-1j * np.angle(object_[lit].sum())))
    # A phase is as uncertain as the value over its amplitude, which single dark pixels would make
    # endless.
    local = gaussian_filter(amplitude, _AMPLITUDE_SMOOTHING_PX)
    local = np.maximum(local, 0.1 * float(np.median(amplitude[lit])) + 1e-6)
    amplitude_variance = _left_open(_level(amplitude, lit), AMPLITUDE_NOISE * noise)
    phase_variance = _left_open(_level(phase, lit), PHASE_NOISE * noise / local**2)
    return (
        np.sqrt(amplitude_variance).astype(np.float32),
        np.sqrt(phase_variance).astype(np.float32),
    )


def _is_small(lit: BoolArray) -> bool:
    sides = [int(np.count_nonzero(lit.any(axis=axis))) for axis in (0, 1)]
    return min(sides) < MIN_SIDE_PX


def _level(image: FloatArray, lit: BoolArray) -> float:
    """Return the level S_0 of an image's power, which at a frequency rho is S_0 / rho³."""
    rows, columns = np.nonzero(lit)
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    height, width = lit[box].shape
    # The jump at the border would pass for edges of the object.
    window = np.hanning(height)[:, np.newaxis] * np.hanning(width)[np.newaxis] * lit[box]
    values = (image[box] - (image[box] * window).sum() / window.sum()) * window
    power = np.abs(np.fft.fft2(values)) ** 2 / (window**2).sum()
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.fftfreq(width)[np.newaxis])
    band = (frequency > LEVEL_BAND[0]) & (frequency < LEVEL_BAND[1])
    return float(power[band].mean() / (frequency[band] ** -DECAY).mean())


def _left_open(level: float, noise: FloatArray) -> FloatArray:
    """Return the variance that Wiener's filter leaves in an image of this power and noise."""
    side = 64
    frequency = np.hypot(np.fft.fftfreq(side)[:, np.newaxis], np.fft.fftfreq(side)[np.newaxis])
    # The mean is known up to half of the lowest frequency.
    frequency[0, 0] = 0.5 / side
    power = max(level, 1e-12) * frequency**-DECAY
    grid = np.geomspace(*_NOISE_RANGE, 120)
    # It is a smooth function of the noise, so that a hundred values are interpolated for all
    # pixels.
    left = [(power * value / (power + value)).mean() for value in grid]
    # On logarithms, as noise spans many decades between the bright and the dark.
    logarithms: FloatArray = np.interp(np.log(noise), np.log(grid), np.log(left))
    return np.exp(logarithms)


def uncertainty_in_words(
    medians: tuple[float, float] | None, *, points_to_a_fault: bool = False
) -> str:
    """Return the typical standard deviations as a sentence; empty where they are unknown.

    Parameters
    ----------
    medians : (float, float), optional
        Of the amplitude and of the phase in radians.
    points_to_a_fault : bool
        The object misses the counts by far more than noise, so that its errors are larger ones.
    """
    if medians is None:
        return ''
    if points_to_a_fault:
        return (
            'The uncertainty of the object cannot be estimated: it misses the counts by far more '
            'than noise, and the standard deviations of its pixels include noise alone.'
        )
    return (
        f'Standard deviation of a pixel (median over the lit part): amplitude {medians[0]:.2g}, '
        f'phase {medians[1]:.2g} rad.'
    )
