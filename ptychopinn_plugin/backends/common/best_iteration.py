"""Iterations that keep the best object of all."""

from collections.abc import Callable
from typing import TypeVar

from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule

State = TypeVar('State')

MAX_FRACTION = 0.5
"""The best goes at most this share of the way to an object that is worse."""

STEP_TRIALS = 2
"""An iteration tries at most this number of objects on the way from the best to its own."""


def iterate_keep_best(
    schedule: IterationSchedule,
    start: State,
    loss: float,
    iterate_once: Callable[[], tuple[State, float]],
    part_way: Callable[[State, State, float], tuple[State, float]],
    step_of_all: Callable[[State], State],
    at_end: Callable[[State, float], tuple[State, float]],
    observer: Callable[[int, float, State], bool | None],
) -> tuple[State, list[float]]:
    """Iterate, and keep the best object of all iterations.

    The first steps are long and noisy, so that a good start can get worse before it gets better.
    The iterations go on from there, but the best then moves only a part of the way, as far as it
    gets better; where no part is better, it takes a step that all patterns agree on.

    Parameters
    ----------
    schedule : IterationSchedule
        How many iterations there are; it is advanced with each.
    start : State
        Where the iterations begin, with its `loss`.
    iterate_once : callable
        Returns where the next iteration leads and the loss there.
    part_way : callable
        Returns what lies at a share of the way from one state to another, and the loss there.
    step_of_all : callable
        Returns where the updates of all patterns together lead from a state; half of the way is
        tried.
    at_end : callable
        Returns what becomes of the best, given its loss, after the last iteration, and the loss
        there, which is no higher.
    observer : callable
        Gets the number of iterations done, the lowest loss and what has it; True stops.

    Returns
    -------
    best : State
    losses : list of float
        Of the start and of the best after each iteration; never rising.
    """
    best, losses, share = start, [loss], MAX_FRACTION
    schedule.start(loss)
    while not schedule.is_over:
        newest, loss = iterate_once()
        found = newest
        for _ in range(STEP_TRIALS):
            if loss < losses[-1]:
                break
            found, loss = part_way(best, newest, share)
            # The next iteration begins its trials where this one ends them.
            share = min(MAX_FRACTION, 2 * share) if loss < losses[-1] else share / 4
        if not loss < losses[-1]:
            # Batches pull to and fro; what all of them agree on leads down more surely.
            found, loss = part_way(best, step_of_all(best), MAX_FRACTION)
        if loss < losses[-1]:
            best = found
            losses.append(loss)
        else:
            losses.append(losses[-1])
        schedule.advance(losses[-1])
        if schedule.is_over:
            best, losses[-1] = at_end(best, losses[-1])
        if observer(schedule.done, losses[-1], best):
            schedule.stop()
    return best, losses
