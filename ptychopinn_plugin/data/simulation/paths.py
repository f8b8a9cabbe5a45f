"""Where patterns are taken: rasters, jittered rasters, spirals."""

import math
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.data.simulation.configuration import SimulationConfig
from ptychopinn_plugin.errors import DataError

NOISE_REACH = 3.0
"""True positions lie at most this many standard deviations from the reported ones."""


@dataclass(frozen=True)
class ScanPath:
    """Positions around their common middle.

    Attributes
    ----------
    reported_px : ndarray of float64, shape (n_positions, 2)
        (y, x) as a scan file would hold them, with [0, 0] in the middle of the path.
    true_px : ndarray of float64, shape (n_positions, 2)
        (y, x) where the patterns are taken; they differ by the position noise.
    extent_px : (height, width)
        The box in which all positions lie, whatever was drawn.
    """

    reported_px: FloatArray
    true_px: FloatArray
    extent_px: tuple[float, float]


def make_path(config: SimulationConfig) -> ScanPath:
    """Lay out the positions of a scan.

    Parameters
    ----------
    config : SimulationConfig

    Returns
    -------
    ScanPath
        A raster runs row by row; a Fermat spiral [1]_ from the middle outwards, with the area
        of one step squared for each position.

    References
    ----------
    .. [1] X. Huang et al., Opt. Express 22 (2014) 12634, doi:10.1364/OE.22.012634.
    """
    streams = config.random_streams()
    regular, jitter = _fermat(config) if config.path_kind == 'fermat' else _raster(config)
    reported = regular
    if config.path_kind == 'jittered':
        reported = regular + streams['path'].uniform(-jitter, jitter, size=regular.shape)
    noise = streams['position noise'].standard_normal(regular.shape)
    true = reported + config.position_noise_px * np.clip(noise, -NOISE_REACH, NOISE_REACH)
    # There is always room for usual offsets, so that a little more does not resize the object.
    slack = max(6.0, jitter + NOISE_REACH * config.position_noise_px)
    height, width = np.ptp(regular, axis=0) + 2 * slack
    return ScanPath(reported, true, (float(height), float(width)))


def _raster(config: SimulationConfig) -> tuple[FloatArray, float]:
    """Return the positions of a raster around its middle, (n_positions, 2), and the jitter."""
    if config.rows is not None and config.columns is not None:
        rows, columns = config.rows, config.columns
        n_positions = rows * columns
    else:
        n_positions = config.n_positions
        columns = math.isqrt(n_positions - 1) + 1
        rows = -(-n_positions // columns)
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    grid = np.stack([y.ravel() - (rows - 1) / 2, x.ravel() - (columns - 1) / 2], axis=1)
    jitter = config.jitter_px if config.path_kind == 'jittered' else 0.0
    return grid[:n_positions] * config.step_px, jitter


def _fermat(config: SimulationConfig) -> tuple[FloatArray, float]:
    r"""Return :math:`r_j = s \sqrt{j / \pi}` at the golden angle, for steps :math:`s`, and 0."""
    n_positions = config.n_positions
    if config.rows is not None and config.columns is not None:
        n_positions = config.rows * config.columns
    index = np.arange(n_positions)
    radius = config.step_px / np.sqrt(np.pi) * np.sqrt(index)
    # The golden angle never repeats a direction, so that the density is even.
    angle = index * np.pi * (3 - np.sqrt(5))
    spiral = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    middle: FloatArray = (spiral.min(axis=0) + spiral.max(axis=0)) / 2
    return spiral - middle, 0.0


def thin_scan(scan: Scan, every: int, columns: int) -> Scan:
    """Keep every second, third or later position of a raster in each direction.

    Parameters
    ----------
    scan : Scan
        A raster, jittered or not, that runs row by row.
    every : int
        The distance of two kept positions: 1 keeps all; 3 keeps a ninth.
    columns : int
        Positions in a row of `scan`.

    Returns
    -------
    Scan
        With the same object and probe.

    Raises
    ------
    DataError
        If the scan is not made of whole rows, or `every` is smaller than 1.
    """
    if every < 1:
        raise DataError(f'every must be at least 1; got {every}. Use 1 to keep all positions.')
    if columns < 1 or len(scan) % columns:
        raise DataError(
            f'A raster of {columns} columns cannot hold {len(scan)} positions in whole rows. '
            'Give the number of positions in a row.'
        )
    index = np.arange(len(scan)).reshape(-1, columns)
    return scan.subset(index[::every, ::every].ravel())
