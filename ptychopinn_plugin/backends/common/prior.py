"""A learned prior between iterations, the same in every backend.

    flat -> iterations -> pass -> iterations -> pass -> ... -> pass -> iterations

A pass lets the network 'prior' correct the whole object at once, tile by tile, whatever the number
of patterns: it costs as much as the object is large. The iterations after it let the data decide
again. Plug-and-play priors are used so [1]_.

References
----------
.. [1] S. Venkatakrishnan, C. Bouman, B. Wohlberg, Plug-and-play priors for model based
   reconstruction, GlobalSIP 2013, doi:10.1109/GlobalSIP.2013.6737048.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.prediction import LITTLE_OVERLAP
from ptychopinn_plugin.network import NetworkDescription

HARDLY_TOUCHING = 1.5
"""With fewer illuminations over each other, data alone leave most of the phases open."""

TILE_PX = 512
"""Side of the part of an object that the network corrects at a time."""

MARGIN_PX = 48
"""Around a tile the network sees this much more; its convolutions reach 46 px."""

COARSEST_PX = 8
"""Images have multiples of this as sides: pixels of the object in one of the coarsest scale."""


def plan_passes(
    description: NetworkDescription, asked: int | None, overlap: float
) -> tuple[int, ...]:
    """Return how many iterations come before each pass: more passes where data decide less.

    Parameters
    ----------
    description : NetworkDescription
    asked : int, optional
        The number of passes; see `InferenceConfig.prior_passes`.
    overlap : float
        See `physics.illumination_overlap`.
    """
    before, between = description.iterations_before, description.iterations_between
    if asked is None and LITTLE_OVERLAP > overlap >= HARDLY_TOUCHING:
        # Iterations still gain much here, and each block of them begins with long steps.
        return (2 * before, 2 * between)
    passes = asked
    if passes is None:
        passes = 1 if overlap >= LITTLE_OVERLAP else description.passes
    return (before, *[between] * (passes - 1))[:passes]


def correct_by_tiles(images: FloatArray, compute: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Let a network correct an object tile by tile, with the result of one large tile.

    Parameters
    ----------
    images : ndarray of float32, shape (n_channels, height, width)
    compute : callable
        Gets images with multiples of 8 as sides, and returns as many of two channels.

    Returns
    -------
    ndarray of float32, shape (2, height, width)
    """
    height, width = images.shape[1:]
    correction = np.empty((2, height, width), np.float32)
    for rows in _tiles(height):
        for columns in _tiles(width):
            seen = tuple(
                slice(max(0, side.start - MARGIN_PX), min(length, side.stop + MARGIN_PX))
                for side, length in ((rows, height), (columns, width))
            )
            tile = images[:, seen[0], seen[1]]
            room = [(0, 0), *((0, -side % COARSEST_PX) for side in tile.shape[1:])]
            found = compute(np.pad(tile, room))
            top, left = rows.start - seen[0].start, columns.start - seen[1].start
            correction[:, rows, columns] = found[
                :, top : top + rows.stop - rows.start, left : left + columns.stop - columns.start
            ]
    return correction


def _tiles(length: int) -> Iterator[Any]:
    return (slice(start, min(start + TILE_PX, length)) for start in range(0, length, TILE_PX))
