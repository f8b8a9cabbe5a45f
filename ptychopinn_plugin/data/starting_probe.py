"""A probe made of the patterns alone, where no file holds one."""

import numpy as np
from scipy import ndimage

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.preparation import inpaint
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics.propagation import from_detector

SAMPLE = 256
"""This number of patterns, evenly over the scan, shows how large the probe is."""

SMOOTHING_PX = 1.0
"""Speckles that are left in the mean pattern are blurred by this much."""

MIN_SPECKLED_SIDE_PX = 8
"""Smaller patterns have no speckles whose size could be measured."""

NOTE_OF_TWIN = (
    'With a probe that is not known, positions that are inverted in y and x are explained as well, '
    'by the conjugate object rotated by 180 degrees: patterns do not show which it is.'
)

NOTE = (
    'The file holds no probe: one is made of the mean pattern. Its defocus is found by trial '
    'reconstructions where patterns overlap, and the iterations correct it. If a file holds one, '
    f'use probe_from=FILE (--probe-from FILE). {NOTE_OF_TWIN}'
)

NOTE_OF_IMAGE = (
    'The file holds no probe: one is made of the mean pattern, propagated back to the sample, and '
    'the iterations correct it. If a file holds one, use probe_from=FILE (--probe-from FILE).'
)


def made_probe(
    patterns: RealArray, bad_pixels: BoolArray | None, geometry: Geometry
) -> tuple[ComplexArray, str]:
    """Make a probe of patterns, and return a note of how.

    Parameters
    ----------
    patterns : ndarray, shape (n_patterns, height, width)
        Counts, in the far field with zero frequency in the middle.
    bad_pixels : ndarray of bool, shape (height, width), optional
    geometry : Geometry

    Returns
    -------
    ndarray of complex64, shape (1, height, width)
        Of `starting_probe`; in the near field, the root of the mean image with a flat phase,
        propagated back to the sample.
    str
    """
    transfer = geometry.transfer_function((int(patterns.shape[1]), int(patterns.shape[2])))
    if transfer is None:
        return starting_probe(patterns, bad_pixels), NOTE
    some = patterns[:: max(1, len(patterns) // SAMPLE)].astype(np.float64)
    # The structure of the sample is at other places of each image, and hardly of their mean.
    mean = some.mean(axis=0, keepdims=True)
    if bad_pixels is not None:
        mean = inpaint(mean, bad_pixels)
    wave = from_detector(np.sqrt(np.maximum(mean, 0)), transfer)
    return wave.astype(np.complex64), NOTE_OF_IMAGE


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

    Raises
    ------
    DataError
        If the patterns are too small to have speckles.
    """
    if min(patterns.shape[1:]) < MIN_SPECKLED_SIDE_PX:
        height, width = patterns.shape[1:]
        raise DataError(
            f'Patterns of which a probe is made must have at least {MIN_SPECKLED_SIDE_PX} pixels '
            f'along each side; they have {height} x {width}. Give a probe: probe_from=FILE '
            '(--probe-from FILE).'
        )
    valid = np.ones(patterns.shape[1:], bool) if bad_pixels is None else ~bad_pixels
    some = patterns[:: max(1, len(patterns) // SAMPLE)].astype(np.float64)
    # A hole in the mean pattern would be one in the pupil.
    mean = inpaint(some.mean(axis=0, keepdims=True), ~valid)[0].astype(np.float64)
    pupil = Pupil(np.sqrt(ndimage.gaussian_filter(np.maximum(mean, 0), SMOOTHING_PX)))
    # What differs from pattern to pattern is speckle alone, without the light that all share.
    return pupil.probe(pupil.defocus_of(_speckle_radius(np.where(valid, some - mean, 0))))


class Pupil:
    r"""The amplitude of a probe's far field, from which defocus makes the probe.

    The probe is :math:`\mathcal F^{-1}[A(q)\, e^{i d (q^2 - \langle q^2\rangle) / \sigma}]` (as
    `simulation.make_probe`), with the mean and the standard deviation :math:`\sigma` of
    :math:`q^2` over :math:`|A|^2`: the defocus :math:`d` is the spread of the phase, in radians.
    Its mean square radius is that of the focus and more in proportion to :math:`d^2`.

    Parameters
    ----------
    amplitude : ndarray, shape (height, width)
        Zero frequency in the middle.
    """

    def __init__(self, amplitude: FloatArray) -> None:
        self._amplitude = amplitude
        height, width = amplitude.shape
        y = np.arange(height)[:, np.newaxis] - height // 2
        x = np.arange(width) - width // 2
        # In detector pixels, which are squares, a lens has the same phase in both directions.
        square = (y**2 + x**2).astype(np.float64)
        intensity = amplitude**2 / (amplitude**2).sum()
        square -= (intensity * square).sum()
        spread = float(np.sqrt((intensity * square**2).sum()))
        self._phase = square / spread if spread > 0 else square
        self.focus_radius_px = root_mean_square_radius(self.probe(0.0))
        # The radius is the slope of the phase; a step of the detector is 2 pi over the side.
        slopes = np.gradient(self._phase)
        scales = (height / (2 * np.pi)) ** 2, (width / (2 * np.pi)) ** 2
        self._growth = sum(
            float((intensity * slope**2).sum() * scale)
            for slope, scale in zip(slopes, scales, strict=True)
        )

    def probe(self, defocus: float) -> ComplexArray:
        """Return the probe, complex64 of shape (1, height, width)."""
        far = self._amplitude * np.exp(1j * defocus * self._phase)
        wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(far)))
        return wave[np.newaxis].astype(np.complex64)

    def defocus_of(self, radius_px: float) -> float:
        """Return the defocus at which the root mean square radius is this; 0 where it is less."""
        more = max(0.0, radius_px**2 - self.focus_radius_px**2)
        return float(np.sqrt(more / self._growth)) if self._growth > 0 else 0.0


def far_amplitude(probe: ComplexArray) -> FloatArray:
    """Return the amplitude of a probe's far field, all modes together, shape (height, width)."""
    axes = (-2, -1)
    far = np.fft.fft2(np.fft.ifftshift(probe.astype(np.complex128), axes), axes=axes)
    return np.asarray(np.sqrt((np.abs(np.fft.fftshift(far, axes)) ** 2).sum(axis=0)))


def root_mean_square_radius(probe: ComplexArray) -> float:
    """Return the root mean square distance of a probe's intensity from its centre, in pixels."""
    intensity = np.abs(probe.reshape(-1, *probe.shape[-2:])) ** 2
    intensity = intensity.sum(axis=0) / intensity.sum()
    y, x = np.indices(intensity.shape).astype(np.float64)
    y, x = y - (intensity * y).sum(), x - (intensity * x).sum()
    return float(np.sqrt((intensity * (y**2 + x**2)).sum()))


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
