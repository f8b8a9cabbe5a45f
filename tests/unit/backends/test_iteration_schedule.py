"""How many iterations there are: as planned, as time allows, and as long as they help."""

from collections.abc import Callable, Iterator

import pytest

from ptychopinn_plugin.backends.common.iteration_schedule import (
    COOLDOWN_FRACTION,
    MIN_COOLDOWN,
    STALL_ITERATIONS,
    IterationSchedule,
)


class Watch:
    """A clock that somebody moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def go(
    schedule: IterationSchedule,
    loss: Callable[[int], float],
    seconds: Iterator[float],
    clock: Watch,
) -> list[float]:
    """Run to the end; return the fractions that the steps went by."""
    schedule.start(loss(0))
    fractions = []
    while not schedule.is_over:
        fractions.append(schedule.fraction)
        clock.now += next(seconds)
        schedule.advance(loss(schedule.done + 1))
    return fractions


def each(seconds: float, first: float | None = None) -> Iterator[float]:
    yield seconds if first is None else first
    while True:
        yield seconds


def falling(done: int) -> float:
    return float(0.5**done)


def test_without_limits_every_iteration_is_done_in_even_shares() -> None:
    schedule = IterationSchedule(7)
    assert go(schedule, falling, each(1), Watch()) == [done / 7 for done in range(7)]
    assert (schedule.done, schedule.ended, schedule.fraction) == (7, 'planned', 1.0)


def test_none_is_over_at_once() -> None:
    assert IterationSchedule(0).is_over


@pytest.mark.parametrize('first', [1.0, 3.0])
def test_a_limit_takes_the_course_faster_and_to_its_end(first: float) -> None:
    """The first may have compiled something, and the others are not judged by it."""
    clock = Watch()
    schedule = IterationSchedule(100, limit_s=13.5, clock=clock)
    fractions = go(schedule, falling, each(1, first), clock)
    assert schedule.ended == 'time'
    assert clock.now <= 13.5
    assert schedule.done == 13.5 - first - 0.5 + 1
    assert fractions == sorted(fractions)
    # The last step is as short as without a limit: it averages noise.
    assert fractions[-1] > 0.85
    assert schedule.fraction == pytest.approx(1)


def test_iterations_that_become_slower_still_end_in_time() -> None:
    clock = Watch()
    schedule = IterationSchedule(100, limit_s=20, clock=clock)
    go(schedule, falling, iter([1.0] * 8 + [3.0] * 90), clock)
    assert clock.now <= 21
    assert schedule.fraction == pytest.approx(1)


def test_one_iteration_is_done_where_the_limit_is_over_before() -> None:
    clock = Watch()
    schedule = IterationSchedule(10, limit_s=-1, clock=clock)
    go(schedule, falling, each(5), clock)
    assert (schedule.done, schedule.ended) == (1, 'time')


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    clock = Watch()
    schedule = IterationSchedule(6, limit_s=60, clock=clock)
    assert go(schedule, falling, each(1), clock) == [done / 6 for done in range(6)]
    assert schedule.ended == 'planned'


def test_iterations_that_gain_no_more_let_the_steps_fall_and_end() -> None:
    stuck_from = 30

    def loss(done: int) -> float:
        return 1.0 + max(0, stuck_from - done)

    schedule = IterationSchedule(100, stops_when_converged=True)
    fractions = go(schedule, loss, each(1), Watch())
    assert schedule.ended == 'converged'
    assert schedule.done == stuck_from + STALL_ITERATIONS + COOLDOWN_FRACTION * 100
    assert fractions[-1] > 0.95
    assert schedule.fraction == pytest.approx(1)


def test_the_first_iterations_may_stand_still() -> None:
    """From a good start the long steps of the beginning make an object worse."""
    schedule = IterationSchedule(2 * STALL_ITERATIONS - 1, stops_when_converged=True)
    go(schedule, lambda done: 1.0, each(1), Watch())
    assert (schedule.done, schedule.ended) == (2 * STALL_ITERATIONS - 1, 'planned')


def test_asked_iterations_are_all_done() -> None:
    schedule = IterationSchedule(60)
    go(schedule, lambda done: 1.0, each(1), Watch())
    assert (schedule.done, schedule.ended) == (60, 'planned')


def test_a_short_cooldown_has_some_iterations() -> None:
    schedule = IterationSchedule(30, stops_when_converged=True)
    go(schedule, lambda done: 1.0, each(1), Watch())
    assert schedule.done == 2 * STALL_ITERATIONS + max(MIN_COOLDOWN, 8)


def test_somebody_stops() -> None:
    schedule = IterationSchedule(5)
    schedule.start(1.0)
    schedule.advance(0.5)
    schedule.stop()
    assert schedule.is_over
    assert (schedule.done, schedule.ended) == (1, 'stopped')


def test_a_limit_that_all_just_fit_into_is_none() -> None:
    clock = Watch()
    schedule = IterationSchedule(6, limit_s=6.0, clock=clock)
    go(schedule, falling, each(1), clock)
    assert (schedule.done, schedule.ended) == (6, 'planned')


def test_the_time_is_over_with_its_last_second() -> None:
    clock = Watch()
    schedule = IterationSchedule(6, limit_s=2.0, clock=clock)
    go(schedule, falling, each(2), clock)
    assert (schedule.done, schedule.ended) == (1, 'time')


def test_iterations_without_any_time_are_all_done() -> None:
    """A clock may stand still, as that of a fast machine does between two looks."""
    schedule = IterationSchedule(40, limit_s=5.0, clock=lambda: 7.0)
    go(schedule, falling, each(1), Watch())
    assert (schedule.done, schedule.ended) == (40, 'planned')


@pytest.mark.parametrize(
    ('iterations', 'ended'), [(25, 'planned'), (27, 'planned'), (28, 'converged')]
)
def test_a_cooldown_that_is_no_shorter_than_the_rest_is_none(iterations: int, ended: str) -> None:
    """Nothing is gained from the twentieth on: a quarter of them, rounded up, would follow."""
    schedule = IterationSchedule(iterations, stops_when_converged=True)
    go(schedule, lambda done: 1.0, each(1), Watch())
    assert schedule.ended == ended
    assert schedule.done == iterations if ended == 'planned' else 27


@pytest.mark.parametrize(('gain', 'ended'), [(1.9e-3, 'converged'), (2.1e-3, 'planned')])
@pytest.mark.parametrize('sign', [1, -1])
def test_ten_iterations_that_gain_less_than_a_part_in_five_hundred(
    gain: float, ended: str, sign: int
) -> None:
    """The loss of few photons may be below zero, and its share is of its size."""
    schedule = IterationSchedule(100, stops_when_converged=True)
    go(schedule, lambda done: sign * 50 - gain * 50 * done / 10, each(1), Watch())
    assert schedule.ended == ended


def test_who_stops_after_the_last_has_stopped_nothing() -> None:
    schedule = IterationSchedule(1)
    schedule.start(1.0)
    schedule.advance(0.5)
    schedule.stop()
    assert schedule.ended == 'planned'
    early = IterationSchedule(2)
    early.start(1.0)
    early.advance(0.5)
    assert not early.is_over
    early.stop()
    assert (early.is_over, early.ended) == (True, 'stopped')


def test_the_rest_of_a_course_is_shared_out_when_time_runs_short() -> None:
    """After the second of ten, time for three more is left: each does a third of what is left."""
    clock = Watch()
    schedule = IterationSchedule(10, limit_s=5.5, clock=clock)
    assert go(schedule, falling, each(1), clock) == pytest.approx(
        [0, 1 / 10, 2 / 10, 2 / 10 + 8 / 30, 2 / 10 + 16 / 30]
    )
