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
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.refinement import IterationKernels
from ptychopinn_plugin.physics.prior_features import PriorFeatures, prior_features

Tensor = TypeVar('Tensor')

TILE_PX = 512
"""The network corrects a part of an object with this side at a time."""

MARGIN_PX = 48
"""Around a tile the network sees this much more; its convolutions reach 46 px."""

COARSEST_PX = 8
"""Images have multiples of this as sides: pixels of the object in one of the coarsest scale."""


ApplyNetwork = Callable[[Any, Any, FloatArray], FloatArray]
"""It returns what a network of architecture 'prior' makes of images (n_channels, height, width) of
float32, given the network and the forward model, whose device computes; two channels come out."""


def correct_object(
    kernels: IterationKernels[Tensor],
    apply_network: ApplyNetwork,
    network: Any,
    forward: Any,
    object_: Tensor,
    exposures: FloatArray,
) -> Tensor:
    """Return an object after the correction of a learned prior.

    Parameters
    ----------
    kernels : IterationKernels
    apply_network : callable
        Of the same framework; see `ApplyNetwork`.
    network : Network
        Of architecture 'prior'.
    forward : ForwardModel
    object_ : tensor of complex64, shape `forward.canvas_shape`
    exposures : ndarray of float32, shape `forward.canvas_shape`
        See `physics.prior_features.count_exposures`.

    Returns
    -------
    tensor of complex64, shape `forward.canvas_shape`
    """
    features = look_at(kernels, forward, object_, exposures)
    correction = correct_by_tiles(features.images, partial(apply_network, network, forward))
    corrected: Tensor = forward.to_tensor(features.apply(kernels.to_numpy(object_), correction))
    return corrected


def look_at(
    kernels: IterationKernels[Tensor], forward: Any, object_: Tensor, exposures: FloatArray
) -> PriorFeatures:
    """Compute what the network gets for an object of shape `forward.canvas_shape`."""
    # It is real, where the kernel's annotation is of objects.
    coverage: Any = kernels.to_numpy(forward.coverage)
    return prior_features(
        kernels.to_numpy(object_),
        kernels.to_numpy(kernels.mean_update(forward, object_)),
        coverage,
        exposures,
    )


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
            # The margin is wider than the reach of the convolutions, so that tiles leave no seams.
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
