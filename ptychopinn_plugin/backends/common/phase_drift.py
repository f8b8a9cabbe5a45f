"""A smooth surface from slopes: what corrects the slow phase of an object in every backend."""

from collections.abc import Sequence

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.physics import illuminated_size

RIDGE = 2.0
"""The surface is held back as if this number of patterns measured no slope.

Finer waves meet more resistance.
"""

MAX_ORDER = 8
"""A surface has at most this number of half waves along each side."""

MIN_PATTERNS = 4
"""A slow phase cannot be measured with fewer patterns."""


Moments = tuple[RealArray, RealArray, RealArray, RealArray, RealArray]
"""These are sums over each pattern's pixels, float32 of shape (n,).

With :math:`g_y, g_x` the gradient of the expected amplitudes and :math:`d` what is missing of the
measured ones, they are those of :math:`g_y^2, g_x^2, g_y g_x, d g_y, d g_x`.
"""

EPSILON = np.float32(1e-12)
"""It is added to the squares, so that a pattern without edges moves nothing."""


def solve_slopes(
    moments: Sequence[Moments], shape: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """Solve the 2 x 2 normal equations of each pattern's shift.

    The shift minimises the squared distance of measured and expected amplitudes to first order.

    Parameters
    ----------
    moments : sequence of Moments
        Batch by batch.
    shape : (height, width)
        Of the patterns.

    Returns
    -------
    slopes : ndarray of float64, shape (n_positions, 2)
        Radians a pixel, (y, x): a shift by one detector pixel is a slope of 2 pi / `shape`.
    weights : ndarray of float64, shape (n_positions, 2)
        Inverse variance of each, up to a common factor.
    """
    yy, xx, yx, y, x = (np.concatenate(column) for column in zip(*moments, strict=True))
    yy, xx = yy + EPSILON, xx + EPSILON
    # An object that has come to no numbers is judged by its loss; this need not warn of it.
    with np.errstate(over='ignore', invalid='ignore'):
        determinant = np.maximum(yy * xx - yx * yx, EPSILON)
        along_y = -(xx * y - yx * x) / determinant
        along_x = -(yy * x - yx * y) / determinant
    shifts = np.stack([along_y, along_x], axis=1)
    scale = 2 * np.pi / np.array(shape)
    weights = np.stack([yy, xx], axis=1)
    return (shifts * scale).astype(np.float64), weights.astype(np.float64)


def slow_phase(
    patch_origins_px: FloatArray,
    slopes: FloatArray,
    weights: FloatArray,
    probe: ComplexArray,
    shape: tuple[int, int],
) -> FloatArray:
    """Return the phase on a canvas that patterns with these slopes miss.

    Parameters
    ----------
    patch_origins_px : ndarray, shape (n_positions, 2)
        (y, x) of the patches' first pixels on the canvas.
    slopes, weights : ndarray, shape (n_positions, 2)
        Radians a pixel, and the inverse variance of each up to a common factor.
    probe : ndarray of complex, shape (n_modes, height, width)
    shape : (height, width)
        Of the canvas.

    Returns
    -------
    ndarray of float32, shape `shape`
    """
    centre = np.array([side // 2 for side in probe.shape[-2:]])
    width = illuminated_size(probe, share=0.98, multiple=2)
    surface = fit_surface(patch_origins_px + centre, slopes, weights, float(width), shape)
    return np.asarray(surface, dtype=np.float32)


def fit_surface(
    patch_origins_px: FloatArray,
    slopes: FloatArray,
    weights: FloatArray,
    width_px: float,
    shape: tuple[int, int],
) -> FloatArray:
    """Fit a smooth surface to slopes: a plane and cosines no finer than the probe.

    Parameters
    ----------
    patch_origins_px : ndarray, shape (n_positions, 2)
        (y, x) on the canvas.
    slopes, weights : ndarray, shape (n_positions, 2)
    width_px : float
        Of the illumination.
    shape : (height, width)
        Of the canvas.

    Returns
    -------
    ndarray of float64, shape `shape`
        Constant outside the box of the positions.
    """
    basis = SmoothBasis(patch_origins_px, width_px)
    root = np.sqrt(weights / weights.mean())
    matrix = np.stack([(column * root).ravel() for column in basis.slopes], axis=1)
    normal = matrix.T @ matrix
    amounts = np.linalg.solve(basis.held_back(normal), matrix.T @ (slopes * root).ravel())
    return basis.surface(amounts, shape)


class SmoothBasis:
    """Smooth surfaces over the box of the positions: cosines no finer than the probe, and a plane.

    Parameters
    ----------
    patch_origins_px : ndarray, shape (n_positions, 2)
        (y, x) on the canvas.
    width_px : float
        Of the illumination.

    Attributes
    ----------
    slopes : ndarray of float64, shape (n_surfaces, n_positions, 2)
        Gradient (y, x) of each surface at each position, a pixel.
    """

    def __init__(self, patch_origins_px: FloatArray, width_px: float) -> None:
        self._first = patch_origins_px.min(axis=0)
        self._extent = extent = np.maximum(np.ptp(patch_origins_px, axis=0), 1.0)
        orders = np.minimum(extent // width_px, MAX_ORDER).astype(int)
        self._waves = [
            (a, b) for a in range(orders[0] + 1) for b in range(orders[1] + 1) if (a, b) != (0, 0)
        ]
        scaled_origins = (patch_origins_px - self._first) / extent
        columns = [_slopes_of(wave, scaled_origins, extent) for wave in self._waves]
        columns += [np.tile(axis / extent, (len(scaled_origins), 1)) for axis in np.eye(2)]
        self.slopes: FloatArray = np.stack(columns)

    def held_back(self, normal: FloatArray) -> FloatArray:
        """Return a normal matrix with a resistance; more patterns must agree on a finer wave."""
        penalty = np.array([a * a + b * b for a, b in self._waves] + [0.0, 0.0])
        one_pattern = np.trace(normal) / len(normal) / self.slopes.shape[1]
        return np.asarray(normal + np.diag(RIDGE * one_pattern * (1 + penalty)))

    def surface(self, amounts: FloatArray, shape: tuple[int, int]) -> FloatArray:
        """Return the sum of all surfaces on a canvas, without its mean."""
        y, x = (
            np.clip((np.arange(side) - start) / length, 0, 1)
            for side, start, length in zip(shape, self._first, self._extent, strict=True)
        )
        surface = amounts[-2] * y[:, np.newaxis] + amounts[-1] * x[np.newaxis, :]
        for (a, b), amount in zip(self._waves, amounts, strict=False):
            surface = surface + amount * np.outer(np.cos(np.pi * a * y), np.cos(np.pi * b * x))
        return np.asarray(surface - surface.mean())

    def heights(self, amounts: FloatArray, points_px: FloatArray) -> FloatArray:
        """Return the sum of all surfaces at points (n, 2), up to a constant, shape (n,)."""
        y, x = ((points_px - self._first) / self._extent).T
        heights = amounts[-2] * y + amounts[-1] * x
        for (a, b), amount in zip(self._waves, amounts, strict=False):
            heights = heights + amount * np.cos(np.pi * a * y) * np.cos(np.pi * b * x)
        return np.asarray(heights)


def _slopes_of(wave: tuple[int, int], scaled_origins: FloatArray, extent: FloatArray) -> FloatArray:
    """Return the gradient of cos(pi a u) cos(pi b v) in (y, x), radians a pixel."""
    a, b = np.pi * wave[0], np.pi * wave[1]
    u, v = scaled_origins[:, 0], scaled_origins[:, 1]
    along_y = -a * np.sin(a * u) * np.cos(b * v) / extent[0]
    along_x = -b * np.cos(a * u) * np.sin(b * v) / extent[1]
    return np.stack([along_y, along_x], axis=1)
