"""Measured amplitudes as every backend keeps them."""

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.data import inpaint
from ptychopinn_plugin.data.scan import CHUNK_PATTERNS
from ptychopinn_plugin.physics.propagation import in_transform_order
from ptychopinn_plugin.storage.scratch import Usage, chunks, new_array


def detector_amplitudes(
    patterns: RealArray, bad_pixels: BoolArray, transfer: ComplexArray | None
) -> FloatArray:
    """Return the square root of counts, in the order of the transform, bad pixels filled.

    Parameters
    ----------
    patterns : ndarray, shape (n_positions, height, width)
        Counts, in the far field with zero frequency in the middle, from where it goes into the
        corner.
    bad_pixels : ndarray of bool, shape (height, width)
    transfer : ndarray of complex, shape (height, width), optional
        Of the near field, whose patterns stay as they are.

    Returns
    -------
    ndarray of float32, shape (n_positions, height, width)
        In a file where the patterns lie in one, or do not fit into memory: `storage.scratch`.
    """
    result = new_array(patterns.shape, np.float32, like=patterns)
    usage = Usage(result)
    for part, block in chunks(patterns, CHUNK_PATTERNS):
        counts = block.astype(np.float32)
        if bad_pixels.any():
            # Only the network sees these pixels: the loss leaves them out.
            counts = inpaint(counts, bad_pixels)
        result[part] = np.sqrt(in_transform_order(counts, transfer))
        usage.add(counts.nbytes)
    return result
