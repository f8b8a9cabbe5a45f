"""The course of the sweeps over an object, the same in every backend."""

from collections.abc import Iterator

import numpy as np

from ptychopinn_plugin.arrays import IntArray

MOMENTUM = 0.9
REGULARISATION = 0.2
FIRST_STEP = 0.3
LAST_STEP = 0.01
PROBE_STEP = 0.1
TILT_INTERVAL = 5
"""Sweeps between corrections of the slow phase (`tilts`), which sweeps alone mend slowly."""

FEWEST_BATCHES = 16
"""A sweep has at least so many batches: one batch a sweep would hardly move."""


def step_of(sweep: int, sweeps: int) -> float:
    """Return how far a sweep moves the object: less and less."""
    return FIRST_STEP * (1 - sweep / sweeps) ** 2 + LAST_STEP


def corrects_slow_phase(sweep: int, sweeps: int) -> bool:
    """Tell whether the slow phase is corrected after this sweep."""
    return (sweep + 1) % TILT_INTERVAL == 0 and sweep + 1 < sweeps


def batches_of(n_patterns: int, batch_size: int, seed: int) -> Iterator[list[IntArray]]:
    """Yield the batches of one sweep after the other, patterns in another order each time.

    Parameters
    ----------
    n_patterns : int
    batch_size : int
        At most; small scans use smaller batches.
    seed : int
    """
    size = min(batch_size, max(1, n_patterns // FEWEST_BATCHES))
    # A Mersenne twister and the exchanges of `torch.randperm`: PyTorch's order for this seed.
    rng = np.random.RandomState(seed % 2**32)
    while True:
        order = np.arange(n_patterns)
        draws = rng.randint(0, 2**32, size=max(0, n_patterns - 1), dtype=np.uint32)
        for index, draw in enumerate(draws.tolist()):
            other = index + draw % (n_patterns - index)
            order[index], order[other] = order[other], order[index]
        yield [order[start : start + size] for start in range(0, n_patterns, size)]
