"""The course of the sweeps over an object, the same in every backend."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from ptychopinn_plugin.arrays import IntArray

State = TypeVar('State')

MOMENTUM = 0.9
REGULARISATION = 0.2
FIRST_STEP = 0.3
LAST_STEP = 0.01
PROBE_STEP = 0.1
LARGEST_SHARE = 0.5
"""Of the way to an object that is worse than the best so far."""

TRIALS = 2
"""Such objects are tried a sweep, at two fifths of a sweep's cost each."""

TILT_INTERVAL = 5
"""Sweeps between corrections of the slow phase (`tilts`), which sweeps alone mend slowly."""

FEWEST_BATCHES = 16
"""A sweep has at least so many batches: one batch a sweep would hardly move."""


MOST_BATCHES = 64
"""Each batch moves the whole canvas, so that small batches of a large scan would hardly advance."""

LARGEST_BATCH_BYTES = 1 << 28
"""Of one complex number for each pixel and mode, however many the patterns."""


def step_of(sweep: int, sweeps: int) -> float:
    """Return how far a sweep moves the object: less and less."""
    return FIRST_STEP * (1 - sweep / sweeps) ** 2 + LAST_STEP


def corrects_slow_phase(sweep: int, sweeps: int) -> bool:
    """Tell whether the slow phase is corrected after this sweep."""
    return (sweep + 1) % TILT_INTERVAL == 0 and sweep + 1 < sweeps


def batches_of(
    n_patterns: int, batch_size: int, pattern_bytes: int, seed: int
) -> Iterator[list[IntArray]]:
    """Yield the batches of one sweep after the other, patterns in another order each time.

    Parameters
    ----------
    n_patterns : int
    batch_size : int
        Small scans use smaller batches, and large ones larger.
    pattern_bytes : int
        Of one complex number for each pixel and mode.
    seed : int
    """
    size = min(batch_size, max(1, n_patterns // FEWEST_BATCHES))
    size = max(size, min(n_patterns // MOST_BATCHES, LARGEST_BATCH_BYTES // pattern_bytes))
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n_patterns)
        yield [order[start : start + size] for start in range(0, n_patterns, size)]


def sweep_for_the_best(
    sweeps: int,
    start: State,
    loss: float,
    sweep_once: Callable[[int], tuple[State, float]],
    part_way: Callable[[State, State, float], tuple[State, float]],
    step_of_all: Callable[[State], State],
    observer: Callable[[int, float, State], bool | None],
) -> tuple[State, list[float]]:
    """Sweep, and keep the best that the sweeps come through.

    The first steps are long and noisy, so that a good start can get worse before it gets better.
    The sweeps go on from there, but the best then moves only a part of the way, as far as it gets
    better; where no part is better, it takes a step that all patterns agree on.

    Parameters
    ----------
    sweeps : int
    start : State
        Where the sweeps begin, with its `loss`.
    sweep_once : callable
        Gets the number of the sweep, from 0, and returns where it led and the loss there.
    part_way : callable
        Returns what lies at a share of the way from one state to another, and the loss there.
    step_of_all : callable
        Returns where the updates of all patterns together lead from a state; half of the way is
        tried.
    observer : callable
        Gets the number of sweeps done, the lowest loss and what has it; True stops.

    Returns
    -------
    best : State
    losses : list of float
        Of the start and of the best after each sweep; never rising.
    """
    best, losses, share = start, [loss], LARGEST_SHARE
    for sweep in range(sweeps):
        newest, loss = sweep_once(sweep)
        found = newest
        for _ in range(TRIALS):
            if loss < losses[-1]:
                break
            found, loss = part_way(best, newest, share)
            # The next sweep begins its trials where this one ends them.
            share = min(LARGEST_SHARE, 2 * share) if loss < losses[-1] else share / 4
        if not loss < losses[-1]:
            found, loss = part_way(best, step_of_all(best), LARGEST_SHARE)
        if loss < losses[-1]:
            best = found
            losses.append(loss)
        else:
            losses.append(losses[-1])
        if observer(sweep + 1, losses[-1], best):
            break
    return best, losses
