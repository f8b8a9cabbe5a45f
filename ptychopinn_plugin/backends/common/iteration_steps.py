"""How far an iteration moves an object, and how many patterns move it at once."""

from collections.abc import Iterator, Sequence

import numpy as np

from ptychopinn_plugin.array_types import IntArray

MOMENTUM = 0.9
"""This share of the velocity stays from batch to batch, and carries slow parts of the phase on."""

REGULARIZATION = 0.2
"""It is rPIE's alpha: the larger, the less dim pixels move, which hold mostly noise."""

FIRST_STEP = 0.3
LAST_STEP = 0.01
"""Long steps carry the phase across the field, and short ones at the end average noise."""

PROBE_STEP = 0.1
"""The probe moves by this share of its update."""

MIN_BATCHES = 16
"""An iteration has at least this number of batches: one alone would hardly move the object."""

MAX_BATCHES = 64
"""A batch moves the whole canvas, so that many small ones of a large scan would hardly advance."""

MAX_BATCH_BYTES = 1 << 28
"""A batch holds at most this, one complex number for each pixel and mode of its patterns."""


def step_size(fraction: float) -> float:
    """Return how far an iteration moves the object after a share of a run: less and less."""
    return FIRST_STEP * (1 - fraction) ** 2 + LAST_STEP


def iteration_batches(
    n_patterns: int, batch_size: int, pattern_bytes: int, seed: int
) -> Iterator[list[IntArray]]:
    """Yield the batches of one iteration after the other, patterns in another order each time.

    Parameters
    ----------
    n_patterns : int
    batch_size : int
        Small scans use smaller batches, and large ones larger.
    pattern_bytes : int
        Of one complex number for each pixel and mode.
    seed : int
    """
    size = min(batch_size, max(1, n_patterns // MIN_BATCHES))
    size = max(size, min(n_patterns // MAX_BATCHES, MAX_BATCH_BYTES // pattern_bytes))
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n_patterns)
        yield [order[start : start + size] for start in range(0, n_patterns, size)]


def cut_batches(batches: Sequence[IntArray], size: int) -> list[IntArray]:
    """Return batches of at most `size` patterns, in the same order."""
    return [
        batch[start : start + size] for batch in batches for start in range(0, len(batch), size)
    ]
