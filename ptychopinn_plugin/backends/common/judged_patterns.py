"""The patterns of a scan by which objects are compared and misfits are judged."""

import numpy as np

from ptychopinn_plugin.array_types import IntArray

JUDGED_PATTERNS = 256
"""Objects are compared on at least this number of patterns, from all over the scan. More would
decide nothing else, and an iteration compares up to four objects."""

STRIDES = (13, 11, 7, 5, 3, 2, 1)
"""One pattern in one of these numbers is compared. They are primes, as a number that divides the
length of a raster's rows would choose the same columns in each row; and of a large scan at least
one pattern in 13 is compared, so that no place is far from one that is."""

JUDGED_PIXELS = 1 << 20
"""A misfit of this number of pixels differs clearly from noise, in a tenth of a second."""


def judged_stride(n_positions: int) -> int:
    """Return n where objects are compared on every n-th pattern."""
    largest = max(1, n_positions // JUDGED_PATTERNS)
    return next(stride for stride in STRIDES if stride <= largest)


def judged_positions(n_positions: int, shape: tuple[int, int]) -> IntArray:
    """Return positions from all over a scan, as many as it takes to judge a misfit."""
    count = min(n_positions, max(16, JUDGED_PIXELS // (shape[0] * shape[1])))
    return np.linspace(0, n_positions - 1, count).astype(np.int64)
