r"""The forward model in NumPy, in the precision of its input: the oracle of every backend.

.. math:: I_j(q) = \sum_m |\mathcal{F}[P_m(r - \delta_j)\, O(r + n_j)](q)|^2,
    \qquad p_j = n_j + \delta_j

The position :math:`p_j` of a pattern is split into whole pixels :math:`n_j`, which cut the object
on its own grid, and a subpixel shift
:math:`|\delta_j| \le 1/2`, by which the probe is moved in Fourier space.
A shift of the whole exit wave leaves the intensity as it is, so this is the model
:math:`P(r) O(r + p_j)` without interpolating the object. In the near field it moves the image,
which `propagation.at_subpixel_shifts` moves back.
"""

import numpy as np
from numpy.typing import NDArray

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics.propagation import at_subpixel_shifts, in_file_order, to_detector

POISSON_EPSILON = 1e-6
"""These photons are added to measured and expected counts inside the logarithm."""


def split_positions(positions_px: FloatArray) -> tuple[IntArray, FloatArray]:
    r"""Split positions into whole pixels and subpixel shifts, :math:`p = n + \delta`.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        (y, x) in object pixels.

    Returns
    -------
    whole : ndarray of int64, shape (n_positions, 2)
    subpixel_shifts : ndarray of float64, shape (n_positions, 2)
        At most 1/2 along each axis.
    """
    # `rint` would round halves to even numbers: neighbours of a raster with half pixels would lie
    # apart by 0 and 2.
    whole = np.floor(positions_px + 0.5).astype(np.int64)
    return whole, positions_px - whole


def shift_probe(probe: ComplexArray, subpixel_shifts_px: FloatArray) -> ComplexArray:
    r"""Shift a probe by fractions of a pixel, exactly for what the grid can hold.

    :math:`P(r - \delta) = \mathcal{F}^{-1}[e^{-2 \pi i q \cdot \delta}\, \mathcal{F} P]` with
    :math:`q` in cycles per pixel.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    subpixel_shifts_px : ndarray, shape (n_positions, 2)
        :math:`\delta` in (y, x); a positive value moves the probe down and to the right.

    Returns
    -------
    ndarray of complex, shape (n_positions, n_modes, height, width)
    """
    height, width = probe.shape[-2:]
    y, x = subpixel_shifts_px[:, 0, None, None], subpixel_shifts_px[:, 1, None, None]
    ramp = np.exp(
        -2j * np.pi * (np.fft.fftfreq(height)[:, None] * y + np.fft.fftfreq(width)[None, :] * x)
    )
    return np.fft.ifft2(np.fft.fft2(probe) * ramp[:, np.newaxis])  # (n, modes, h, w)


def diffract(exit_waves: ComplexArray, transfer: ComplexArray | None = None) -> FloatArray:
    r"""Compute the pattern of each position, :math:`I = \sum_m |\mathcal{F}\psi_m|^2`.

    The transform is unitary, so a pattern holds as many photons as its exit waves; the modes
    of a partially coherent probe add incoherently.

    Parameters
    ----------
    exit_waves : ndarray of complex, shape (n_positions, n_modes, height, width)
        In square root of photons per pixel.
    transfer : ndarray of complex, shape (height, width), optional
        Of the near field (`propagation.transfer_function`), in which free space takes the place of
        the Fourier transform; without it the pattern is that of the far field.

    Returns
    -------
    ndarray of float, shape (n_positions, height, width)
        Expected photons per pixel; in the far field zero frequency is at ``[height // 2,
        width // 2]``.

    Raises
    ------
    DataError
        If `exit_waves` is not a stack of modes of images.

    References
    ----------
    .. [1] P. Thibault, A. Menzel, Nature 494 (2013) 68, doi:10.1038/nature11806.
    """
    if exit_waves.ndim != 4:
        raise DataError(
            'exit_waves must have shape (n_positions, n_modes, height, width); '
            f'got {exit_waves.shape}. For one mode pass waves[:, np.newaxis].'
        )
    waves = to_detector(exit_waves, transfer)
    # The shift comes after squaring: real numbers are half the bytes to move.
    return in_file_order((np.abs(waves) ** 2).sum(axis=1), transfer)


def predict_patterns(
    object_: ComplexArray,
    origin_px: IntArray,
    positions_px: FloatArray,
    probe: ComplexArray,
    transfer: ComplexArray | None = None,
) -> FloatArray:
    r"""Compute the expected pattern at each position, :math:`\sum_m |\mathcal{F}[P_{jm} O_j]|^2`.

    Parameters
    ----------
    object_ : ndarray of complex, shape (object_height, object_width)
    origin_px : ndarray of int, shape (2,)
        Position of object pixel [0, 0].
    positions_px : ndarray, shape (n_positions, 2)
        (y, x) of the patches' centres.
    probe : ndarray of complex, shape (n_modes, height, width)
        In square root of photons per pixel; or of each position, (n_positions, n_modes, height,
        width).
    transfer : ndarray of complex, shape (height, width), optional
        Of the near field; see `diffract`.

    Returns
    -------
    ndarray of float, shape (n_positions, height, width)
        Expected photons per pixel.

    Raises
    ------
    DataError
        If a patch reaches beyond the object.
    """
    whole, subpixel_shifts = split_positions(positions_px)
    patches = extract_patches(object_, whole - origin_px, probe.shape[-2:])
    own = at_subpixel_shifts(transfer, subpixel_shifts)
    return diffract(shift_probe(probe, subpixel_shifts) * patches[:, np.newaxis], own)


def extract_patches(
    object_: ComplexArray, patch_centres_px: RealArray, shape: tuple[int, int]
) -> ComplexArray:
    """Cut patches out of an object, with bilinear interpolation between pixels.

    Parameters
    ----------
    object_ : ndarray, shape (object_height, object_width)
    patch_centres_px : ndarray of int or float, shape (n_positions, 2)
        (y, x) of the pixel ``[height // 2, width // 2]`` of each patch, in pixels of `object_`.
        Whole numbers copy pixels.
    shape : (height, width)

    Returns
    -------
    ndarray, shape (n_positions, height, width)

    Raises
    ------
    DataError
        If a patch reaches beyond the object.
    """
    rows, columns, weights = _patch_pixels(object_.shape, patch_centres_px, shape)
    result = np.zeros((len(patch_centres_px), *shape), dtype=object_.dtype)
    for down, right, weight in weights:
        result += weight * object_[rows + down, columns + right]
    return result


def place_patches(
    patches: RealArray, patch_centres_px: RealArray, shape: tuple[int, int]
) -> RealArray:
    r"""Add patches to an empty canvas: the adjoint of `extract_patches`.

    :math:`\langle E O, R \rangle = \langle O, E^\dagger R \rangle` for extraction :math:`E`.

    Parameters
    ----------
    patches : ndarray, shape (n_positions, height, width)
    patch_centres_px : ndarray, shape (n_positions, 2)
        (y, x) on the canvas, as in `extract_patches`.
    shape : (canvas_height, canvas_width)

    Returns
    -------
    ndarray, shape `shape`

    Raises
    ------
    DataError
        If a patch reaches beyond the canvas.
    """
    rows, columns, weights = _patch_pixels(shape, patch_centres_px, patches.shape[1:])
    canvas: RealArray = np.zeros(shape, dtype=patches.dtype)
    for down, right, weight in weights:
        # Patches overlap, so that a pixel may be added to several times.
        np.add.at(canvas, (rows + down, columns + right), weight * patches)
    return canvas


_Corner = tuple[int, int, NDArray[np.floating]]


def _patch_pixels(
    canvas_shape: tuple[int, ...], patch_centres_px: RealArray, shape: tuple[int, ...]
) -> tuple[IntArray, IntArray, list[_Corner]]:
    """Return rows (n, h, 1) and columns (n, 1, w) of patches, and their bilinear neighbours."""
    height, width = shape
    patch_origins = patch_centres_px - np.array([height // 2, width // 2])
    whole = np.floor(patch_origins).astype(np.int64)
    fraction = (patch_origins - whole)[:, :, None, None]
    y, x = fraction[:, 0], fraction[:, 1]
    bilinear = [
        (0, 0, (1 - y) * (1 - x)),
        (0, 1, (1 - y) * x),
        (1, 0, y * (1 - x)),
        (1, 1, y * x),
    ]
    # Whole positions have one neighbour of weight 1: they copy pixels and reach no further.
    weights = [corner for corner in bilinear if np.any(corner[2])]
    reach = np.array([max(c[0] for c in weights), max(c[1] for c in weights)])
    last = whole + np.array([height, width]) + reach
    if (whole < 0).any() or (last > np.array(canvas_shape)).any():
        raise DataError(
            f'A patch of {height} x {width} pixels reaches beyond the object of shape '
            f'{tuple(canvas_shape)}; centres run from {patch_centres_px.min(axis=0).tolist()} to '
            f'{patch_centres_px.max(axis=0).tolist()}. Pad the object, or check the order (y, x).'
        )
    rows = whole[:, 0, None, None] + np.arange(height)[None, :, None]
    columns = whole[:, 1, None, None] + np.arange(width)[None, None, :]
    return rows, columns, weights


def poisson_loss(expected: FloatArray, counts: RealArray, valid_mask: BoolArray) -> float:
    r"""Compute the Poisson negative log-likelihood per good pixel.

    .. math:: L = \frac{1}{|G|} \sum_G \left[I - k + (k + \epsilon)
        \log \frac{k + \epsilon}{I + \epsilon}\right]

    up to terms that hold only counts. These are chosen so that a perfect fit gives 0, that the
    gradient is finite in the dark, and that float32 keeps its digits.

    Parameters
    ----------
    expected, counts : ndarray, shape (n_positions, height, width)
        :math:`I` and :math:`k`, in photons per pixel.
    valid_mask : ndarray of bool, shape (height, width)
        The good pixels :math:`G`; False where a pixel does not count.
    """
    expected, counts = expected[:, valid_mask], counts[:, valid_mask]
    # In the precision of the expectation: wide integers would promote it to double.
    counts = counts.astype(expected.dtype)
    # The logarithm of a quotient, not a difference of logarithms, which would cancel where the fit
    # is good.
    ratio = (counts + POISSON_EPSILON) / (expected + POISSON_EPSILON)
    return float(np.mean(expected - counts + (counts + POISSON_EPSILON) * np.log(ratio)))


def amplitude_residual(expected: FloatArray, counts: RealArray, valid_mask: BoolArray) -> float:
    r"""Compute :math:`\sum(\sqrt{I} - \sqrt{k})^2 / \sum k` over good pixels.

    Parameters
    ----------
    expected, counts : ndarray, shape (n_positions, height, width)
        :math:`I` and :math:`k`, in photons per pixel.
    valid_mask : ndarray of bool, shape (height, width)
    """
    expected, counts = expected[:, valid_mask], counts[:, valid_mask].astype(np.float64)
    return float(((np.sqrt(expected) - np.sqrt(counts)) ** 2).sum() / counts.sum())
