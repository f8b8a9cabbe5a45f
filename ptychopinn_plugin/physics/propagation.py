r"""Ways of light from sample to detector: a Fourier transform, or free space.

In the far field the wave on the detector is :math:`\mathcal F \psi`. In the near field it is
:math:`\mathcal F^{-1} [H\, \mathcal F \psi]` with the transfer function :math:`H` of free space
[1]_. Both are unitary, so that whatever holds for one of them, as the projection onto measured
amplitudes, holds for the other.

References
----------
.. [1] J. W. Goodman, Introduction to Fourier Optics, chapter 3.10 (2005).
"""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, RealArray


def transfer_function(
    shape: tuple[int, int], pixel_m: tuple[float, float], wavelength_m: float, distance_m: float
) -> ComplexArray:
    r"""Return the transfer function of free space in a parallel beam, without its mean phase.

    :math:`H(q) = e^{2 \pi i (z / \lambda) (\sqrt{1 - \lambda^2 q^2} - 1)}`, and 0 for waves that
    do not leave the sample.

    Parameters
    ----------
    shape : (height, width)
        Of the wave.
    pixel_m : (height, width)
        Of a pixel of it.
    wavelength_m, distance_m : float

    Returns
    -------
    ndarray of complex128, shape `shape`
        Zero frequency in the corner.
    """
    y, x = (np.fft.fftfreq(side, size) for side, size in zip(shape, pixel_m, strict=True))
    sine = wavelength_m**2 * (y[:, np.newaxis] ** 2 + x[np.newaxis, :] ** 2)
    cosine = np.sqrt(np.maximum(1 - sine, 0))
    # The difference from 1 would lose its digits, where angles are small.
    phase = -2 * np.pi * (distance_m / wavelength_m) * sine / (1 + cosine)
    return np.where(sine < 1, np.exp(1j * phase), 0)


def at_subpixel_shifts(
    transfer: ComplexArray | None, subpixel_shifts_px: FloatArray
) -> ComplexArray | None:
    r"""Return the transfer function of each position, which takes back the shift of its probe.

    The model moves the probe by :math:`\delta_j` where the sample moves, and the exit wave with it.
    Patterns of the far field do not change by that; images move, and
    :math:`H\, e^{2 \pi i q \cdot \delta_j}` moves them back.

    Parameters
    ----------
    transfer : ndarray of complex, shape (height, width), optional
    subpixel_shifts_px : ndarray, shape (n_positions, 2)
        As those of `physics.shift_probe`.

    Returns
    -------
    ndarray of complex, shape (n_positions, 1, height, width)
        Or None where none is given, in the far field.
    """
    if transfer is None:
        return None
    height, width = transfer.shape
    y, x = subpixel_shifts_px[:, 0, None, None], subpixel_shifts_px[:, 1, None, None]
    ramp = np.exp(
        2j * np.pi * (np.fft.fftfreq(height)[:, None] * y + np.fft.fftfreq(width)[None, :] * x)
    )
    return np.asarray(transfer * ramp[:, np.newaxis])


def to_detector(waves: ComplexArray, transfer: ComplexArray | None) -> ComplexArray:
    """Return waves on the detector.

    Parameters
    ----------
    waves : ndarray of complex, shape (..., height, width)
        Behind the sample.
    transfer : ndarray of complex, shape (height, width) or (n, 1, height, width), optional
        As `transfer_function` or `at_subpixel_shifts`; without it the detector is in the far field.

    Returns
    -------
    ndarray of complex, shape (..., height, width)
        In the far field with zero frequency in the corner.
    """
    if transfer is None:
        return np.fft.fft2(waves, norm='ortho')
    return np.fft.ifft2(np.fft.fft2(waves) * transfer)


def from_detector(waves: ComplexArray, transfer: ComplexArray | None) -> ComplexArray:
    """Return waves behind the sample; undoes `to_detector`."""
    if transfer is None:
        return np.fft.ifft2(waves, norm='ortho')
    return np.fft.ifft2(np.fft.fft2(waves) * transfer.conj())


def in_transform_order(images: RealArray, transfer: ComplexArray | None) -> RealArray:
    """Return images of the detector in the order of pixels that `to_detector` has.

    In the far field it puts zero frequency, which files have in the middle, into the corner.
    """
    return images if transfer is not None else np.fft.ifftshift(images, axes=(-2, -1))


def in_file_order(images: RealArray, transfer: ComplexArray | None) -> RealArray:
    """Undo `in_transform_order`."""
    return images if transfer is not None else np.fft.fftshift(images, axes=(-2, -1))


def light_on_detector(probe: ComplexArray, transfer: ComplexArray | None) -> RealArray:
    """Return the intensity that a probe has on the detector without a sample, all modes together.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    transfer : ndarray of complex, shape (height, width), optional
        As `transfer_function`; without it the detector is in the far field.

    Returns
    -------
    ndarray of float, shape (height, width)
        In some unit, with zero frequency in the middle, as files have it.
    """
    if transfer is None:
        light = np.fft.fftshift(np.abs(np.fft.fft2(probe)) ** 2, axes=(-2, -1)).sum(axis=0)
        return np.asarray(light)
    return np.asarray((np.abs(to_detector(probe, transfer)) ** 2).sum(axis=0))
