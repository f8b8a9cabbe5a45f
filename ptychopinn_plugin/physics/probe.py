"""The probe's scale and extent."""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray


def normalise_probe(probe: ComplexArray, photons: float) -> ComplexArray:
    r"""Scale a probe so that its energy :math:`\sum_m \sum_r |P_m(r)|^2` is `photons`.

    The scale of a probe in a file is never used: the counts decide it.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    photons : float
        Mean number of photons in a pattern of an empty object.

    Returns
    -------
    ndarray of complex64, shape (n_modes, height, width)
        In square root of photons per pixel.
    """
    energy = float((np.abs(probe.astype(np.complex128)) ** 2).sum())
    return np.asarray(probe * np.sqrt(photons / energy), dtype=np.complex64)


def is_same_probe(first: ComplexArray, second: ComplexArray) -> bool:
    r"""Tell whether two probes are equal but for a complex factor and rounding.

    They are where :math:`|\langle P, P' \rangle| > 0.999\, \|P\| \|P'\|`.

    Parameters
    ----------
    first, second : ndarray of complex, shape (n_modes, height, width)
    """
    if first.shape != second.shape:
        return False
    norms = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return bool(abs(np.vdot(first, second)) > 0.999 * norms)


def illuminated_size(probe: ComplexArray, share: float = 0.995, multiple: int = 8) -> int:
    """Return the side of the centred square that holds `share` of the probe's energy.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    share : float
        Between 0 and 1.
    multiple : int
        The side is rounded up to a multiple of this.

    Returns
    -------
    int
        A multiple of `multiple`, at most the smaller side of the probe.
    """
    intensity = (np.abs(probe) ** 2).sum(axis=0)
    height, width = intensity.shape
    largest = int(min(height, width))
    for side in range(multiple, largest, multiple):
        top, left = height // 2 - side // 2, width // 2 - side // 2
        if intensity[top : top + side, left : left + side].sum() >= share * intensity.sum():
            return side
    return largest // multiple * multiple


def cover(
    probe: ComplexArray, patch_origins_px: FloatArray, canvas_shape: tuple[int, ...]
) -> FloatArray:
    r"""Return the coverage :math:`\sum_j |P(r - r_j)|^2` at whole pixels.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    patch_origins_px : ndarray, shape (n_positions, 2)
        (y, x) of the first pixels of the patches on the canvas.
    canvas_shape : (int, int)

    Returns
    -------
    ndarray of float32, shape `canvas_shape`
    """
    intensity = (np.abs(probe) ** 2).sum(axis=0).astype(np.float32)
    height, width = intensity.shape
    coverage = np.zeros(canvas_shape, np.float32)
    for y, x in np.floor(patch_origins_px).astype(int):
        coverage[y : y + height, x : x + width] += intensity
    return coverage


def illumination_overlap(coverage: FloatArray, probe: ComplexArray) -> float:
    r"""Return how many illuminations overlap where light falls, on average.

    With the coverage :math:`C = \sum_j |P(r - r_j)|^2`,

    .. math:: \frac{\sum C^2 / \sum C}{\sum |P|^4 / \sum |P|^2},

    which is 1 where illuminations do not touch, and grows in proportion to their density.

    Parameters
    ----------
    coverage : ndarray, shape (height, width)
        Summed intensity of the probe at all positions.
    probe : ndarray of complex, shape (n_modes, height, width)
    """
    single = (np.abs(probe.astype(np.complex128)) ** 2).sum(axis=0)
    return _brightness(coverage) / _brightness(single)


def _brightness(intensity: FloatArray) -> float:
    """Return the mean intensity that a photon meets."""
    # This makes no copy of a large canvas.
    squared = np.einsum('ij,ij->', intensity, intensity, dtype=np.float64)
    return float(squared / intensity.sum(dtype=np.float64))
