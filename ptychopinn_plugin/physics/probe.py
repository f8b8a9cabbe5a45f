"""The probe's scale, extent and modes."""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.errors import DataError

ADDED_POWER = 0.05
"""A mode that is added begins with this share of the energy."""


def normalize_probe(probe: ComplexArray, photons: float) -> ComplexArray:
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
    # In double precision: a million float32 squares added up lose digits.
    energy = float((np.abs(probe.astype(np.complex128)) ** 2).sum())
    return np.asarray(probe * np.sqrt(photons / energy), dtype=np.complex64)


def make_modes(probe: ComplexArray, n_modes: int, decay: float) -> ComplexArray:
    """Make orthogonal modes out of one probe.

    Parameters
    ----------
    probe : ndarray of complex, shape (height, width)
    n_modes : int
    decay : float
        Power of a mode as a share of the one before it.

    Returns
    -------
    ndarray of complex128, shape (n_modes, height, width)
        The first is `probe`, scaled; together they have an energy of 1.

    Raises
    ------
    DataError
        If `probe` is not one image with finite values and some energy.
    """
    if probe.ndim != 2 or not np.isfinite(probe).all() or not np.any(probe):
        raise DataError(
            'probe must be one image, finite and not zero everywhere; got an array of shape '
            f'{probe.shape}. Choose one mode of it.'
        )
    y, x = _scaled_coordinates(probe)
    # They are sorted by total degree, with which the energies of Hermite-Gauss modes rise.
    degrees = sorted(((i, j) for i in range(n_modes) for j in range(n_modes)), key=sum)[:n_modes]
    columns = np.stack([(probe * x**i * y**j).ravel() for i, j in degrees], axis=1)
    orthonormal, triangle = np.linalg.qr(columns)
    diagonal = np.diagonal(triangle)
    # The decomposition leaves the phase of each column free; so the first mode is the probe.
    orthonormal = orthonormal * (diagonal / np.abs(diagonal))
    power = decay ** np.arange(n_modes)
    modes: ComplexArray = (orthonormal * np.sqrt(power / power.sum())).T
    return modes.reshape(n_modes, *probe.shape)


def with_modes(probe: ComplexArray, n_modes: int) -> ComplexArray:
    """Give a probe another number of modes, for the iterations to correct.

    Parameters
    ----------
    probe : ndarray of complex, shape (n, height, width)
    n_modes : int
        Modes beyond `n` are the strongest one times Hermite-like polynomials (`make_modes`), with
        `ADDED_POWER` of the energy each; of more, those of the most energy stay.

    Returns
    -------
    ndarray of complex64, shape (n_modes, height, width)
        Orthogonal, by falling energy, with the energy of `probe`.
    """
    modes = orthogonal_modes(probe)
    energy = float((np.abs(modes) ** 2).sum())
    added = n_modes - len(modes)
    if added > 0:
        more = make_modes(modes[0].astype(np.complex128), n_modes, 1.0)[len(modes) :]
        # With a decay of 1 `make_modes` gives each mode 1 / n_modes of an energy of 1.
        modes = np.concatenate([modes, np.sqrt(ADDED_POWER * energy * n_modes) * more])
        # The added modes are orthogonal to the strongest one alone so far.
        modes = orthogonal_modes(modes)
    modes = modes[:n_modes]
    return normalize_probe(modes, energy)


def orthogonal_modes(probe: ComplexArray) -> ComplexArray:
    r"""Return orthogonal modes that make the same patterns, by falling energy.

    With the decomposition into singular values :math:`P = U S V^\dagger` of the modes as rows,
    :math:`S V^\dagger` has them; as `U` is unitary, the sum of the intensities of all modes stays
    what it is, behind any object [1]_.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)

    Returns
    -------
    ndarray of complex64, shape (n_modes, height, width)

    References
    ----------
    .. [1] P. Thibault, A. Menzel, Nature 494, 68 (2013).
    """
    if len(probe) == 1:
        return np.asarray(probe, dtype=np.complex64)
    rows = probe.reshape(len(probe), -1).astype(np.complex128)
    left, strengths, right = np.linalg.svd(rows, full_matrices=False)
    # The decomposition leaves the phase of each mode free; so it stays the one it had.
    strongest = np.abs(left).argmax(axis=0)
    phases = left[strongest, np.arange(len(strengths))]
    modes = (strengths * phases / np.abs(phases))[:, np.newaxis] * right
    return np.asarray(modes.reshape(probe.shape), dtype=np.complex64)


def _scaled_coordinates(probe: ComplexArray) -> tuple[FloatArray, FloatArray]:
    """Return y and x from the probe's centre of intensity, in units of its r.m.s. width."""
    intensity = np.abs(probe) ** 2 / (np.abs(probe) ** 2).sum()
    y, x = np.indices(probe.shape).astype(np.float64)
    y, x = y - (intensity * y).sum(), x - (intensity * x).sum()
    width = np.sqrt((intensity * (y**2 + x**2)).sum() / 2)
    # A probe of one pixel has no width to divide by.
    width = max(float(width), 0.5)
    return y / width, x / width


def is_same_probe(first: ComplexArray, second: ComplexArray) -> bool:
    r"""Return whether two probes are equal but for a complex factor and rounding.

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


def twin_similarity(probe: ComplexArray) -> float:
    r"""Return how far a probe is its own twin, :math:`P^*(-r)`, wherever that lies.

    .. math:: \max_d \Big| \sum_r P(r)\, P(d - r) \Big| \Big/ \sum_r |P(r)|^2

    Diffraction patterns of :math:`P O` and of its twin :math:`P^*(-r)\, O^*(-r)` are the same [2]_.
    With 1, as for a beam of flat phase that a rotation by 180 degrees leaves as it is, the object
    and its twin fit a single pattern alike; the curved phase of a defocused beam brings it near 0.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
        Its brightest mode counts.

    Returns
    -------
    float
        From 0 to 1.

    References
    ----------
    .. [2] J. R. Fienup, C. C. Wackerman, J. Opt. Soc. Am. A 3 (1986) 1897,
       doi:10.1364/JOSAA.3.001897.
    """
    energies = (np.abs(probe.astype(np.complex128)) ** 2).sum(axis=(1, 2))
    mode = probe[int(energies.argmax())].astype(np.complex128)
    # sum P(r) P(d - r) over all d is the convolution of the probe with itself.
    products = np.fft.ifft2(np.fft.fft2(mode) ** 2)
    return float(np.abs(products).max() / energies.max())


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
    return sum_at_positions(intensity, patch_origins_px, canvas_shape)


def sum_at_positions(
    image: FloatArray, patch_origins_px: FloatArray, canvas_shape: tuple[int, ...]
) -> FloatArray:
    """Add one image to an empty canvas at each position, at whole pixels.

    Parameters
    ----------
    image : ndarray of float32, shape (height, width)
    patch_origins_px : ndarray, shape (n_positions, 2)
        (y, x) of its first pixel on the canvas.
    canvas_shape : (int, int)

    Returns
    -------
    ndarray of float32, shape `canvas_shape`
    """
    height, width = image.shape
    canvas = np.zeros(canvas_shape, np.float32)
    for y, x in np.floor(patch_origins_px).astype(int):
        canvas[y : y + height, x : x + width] += image
    return canvas


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
