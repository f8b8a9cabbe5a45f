"""A probe made of the patterns alone, where no file holds one."""

import numpy as np
from scipy import ndimage

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.data.preparation import inpaint

SAMPLE = 256
"""This number of patterns, evenly over the scan, tells how large the probe is."""

SMOOTHING_PX = 1.0
"""Speckles that are left in the mean pattern are blurred by this much."""

NOTE = (
    'The file holds no probe: one is made of the mean pattern, its defocus is found by trial '
    'reconstructions, and the iterations correct it. If a file holds one, use probe_from=FILE '
    '(--probe-from FILE).'
)


def starting_probe(patterns: RealArray, bad_pixels: BoolArray | None) -> ComplexArray:
    """Make a probe of patterns: the pupil is their mean, the defocus follows from their speckles.

    Which side of the focus the sample is on cannot be seen in patterns one by one.

    Parameters
    ----------
    patterns : ndarray, shape (n_patterns, height, width)
        Counts, zero frequency in the middle.
    bad_pixels : ndarray of bool, shape (height, width), optional

    Returns
    -------
    ndarray of complex64, shape (1, height, width)
    """
    valid = np.ones(patterns.shape[1:], bool) if bad_pixels is None else ~bad_pixels
    some = patterns[:: max(1, len(patterns) // SAMPLE)].astype(np.float64)
    mean = inpaint(some.mean(axis=0, keepdims=True), ~valid)[0].astype(np.float64)
    pupil = np.sqrt(ndimage.gaussian_filter(np.maximum(mean, 0), SMOOTHING_PX))
    return defocused(pupil, _speckle_radius(np.where(valid, some - mean, 0)))


def defocused(pupil: FloatArray, radius_px: float, *, beyond_focus: bool = False) -> ComplexArray:
    r"""Return the probe of a pupil whose defocus makes it as large as wanted.

    The probe is :math:`\mathcal F^{-1}[A(q)\, e^{\pm i c q^2}]` (as `simulation.make_probe`), whose
    mean square radius is :math:`\langle r^2\rangle_c = \langle r^2\rangle_0 + c^2 d`.

    Parameters
    ----------
    pupil : ndarray, shape (height, width)
        The amplitude A of the far field, zero frequency in the middle.
    radius_px : float
        Root mean square radius; one below that of the focus gives the focus.
    beyond_focus : bool
        Which sign the defocus has.

    Returns
    -------
    ndarray of complex64, shape (1, height, width)
    """
    height, width = pupil.shape
    y = np.arange(height)[:, np.newaxis] - height // 2
    x = np.arange(width) - width // 2
    # In detector pixels, which are squares, the phase of a lens is the same in both directions.
    square = (y**2 + x**2) / (min(height, width) / 2) ** 2
    # The radius is the slope of the phase, in pixels of the object for each radian and pixel.
    slopes = np.gradient(square)
    scale = (height / (2 * np.pi)) ** 2, (width / (2 * np.pi)) ** 2
    intensity = pupil**2 / (pupil**2).sum()
    growth = sum(
        float((intensity * slope**2).sum() * each)
        for slope, each in zip(slopes, scale, strict=True)
    )
    focus = _wave(pupil, 0 * square)
    more = max(0.0, radius_px**2 - root_mean_square_radius(focus) ** 2)
    curvature = np.sqrt(more / growth) if growth > 0 else 0.0
    if beyond_focus:
        curvature = -curvature
    return _wave(pupil, curvature * square)[np.newaxis].astype(np.complex64)


def pupil_of(probe: ComplexArray) -> FloatArray:
    """Return the amplitude of a probe's far field, all modes together, shape (height, width)."""
    axes = (-2, -1)
    far = np.fft.fft2(np.fft.ifftshift(probe.astype(np.complex128), axes))
    return np.asarray(np.sqrt((np.abs(np.fft.fftshift(far, axes)) ** 2).sum(axis=0)))


def root_mean_square_radius(probe: ComplexArray) -> float:
    """Return the root mean square distance of a probe's intensity from its centre, in pixels."""
    intensity = np.abs(probe.reshape(-1, *probe.shape[-2:])) ** 2
    intensity = intensity.sum(axis=0) / intensity.sum()
    y, x = np.indices(intensity.shape).astype(np.float64)
    y, x = y - (intensity * y).sum(), x - (intensity * x).sum()
    return float(np.sqrt((intensity * (y**2 + x**2)).sum()))


def _wave(pupil: FloatArray, phase: FloatArray) -> ComplexArray:
    wave = np.fft.ifft2(np.fft.ifftshift(pupil * np.exp(1j * phase)))
    return np.asarray(np.fft.fftshift(wave))


def _speckle_radius(fluctuations: FloatArray) -> float:
    """Return about the root mean square radius of the light, from the size of the speckles.

    The transform of a pattern is the autocorrelation of the wave behind the sample, which is
    wider than the wave by the square root of two.
    """
    spectrum = (np.abs(np.fft.fft2(fluctuations)) ** 2).mean(axis=0)
    spectrum = np.fft.fftshift(spectrum)
    height, width = spectrum.shape
    # Shot noise is the same everywhere.
    spectrum = np.maximum(spectrum - np.median(spectrum), 0)
    y = np.arange(height)[:, np.newaxis] - height // 2
    x = np.arange(width) - width // 2
    total = spectrum.sum()
    if not total > 0:
        return 0.0
    return float(np.sqrt((spectrum * (y**2 + x**2)).sum() / total / 2))
