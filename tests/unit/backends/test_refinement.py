"""The course of the iterations: what is kept where they get worse before they get better."""

from collections.abc import Sequence

import pytest

from ptychopinn_plugin.backends.common.best_iteration import STEP_TRIALS, iterate_keep_best
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule


class Valley:
    """Iterations that lead to given places; the loss there is their square."""

    def __init__(self, places: Sequence[float]) -> None:
        self.places = places
        self.shares: list[float] = []
        self.steps = self.iterations = self.ends = 0
        self.seen: list[tuple[int, float, float]] = []
        self.make_schedule = IterationSchedule

    def run(self, start: float, stop_after: int = 99) -> tuple[float, list[float]]:
        self.iterations = 0

        def observe(done: int, loss: float, best: float) -> bool:
            self.seen.append((done, loss, best))
            return done == stop_after

        return iterate_keep_best(
            self.make_schedule(len(self.places)),
            start,
            start**2,
            self._iterate_once,
            self._part_way,
            self._step_of_all,
            self._at_end,
            observe,
        )

    def _iterate_once(self) -> tuple[float, float]:
        place = self.places[self.iterations]
        self.iterations += 1
        return place, place**2

    def _part_way(self, best: float, newest: float, share: float) -> tuple[float, float]:
        self.shares.append(share)
        place = best + share * (newest - best)
        return place, place**2

    def _at_end(self, best: float, loss: float) -> tuple[float, float]:
        self.ends += 1
        assert loss == best**2
        return best, loss

    def _step_of_all(self, best: float) -> float:
        self.steps += 1
        return 0.0


def test_the_newest_is_the_best_while_it_gets_better() -> None:
    valley = Valley([3, 2, 1])
    assert valley.run(4) == (1, [16, 9, 4, 1])
    assert (valley.shares, valley.ends) == ([], 1)
    assert valley.seen == [(1, 9, 3), (2, 4, 2), (3, 1, 1)]


def test_the_best_goes_a_part_of_the_way_where_all_of_it_is_worse() -> None:
    valley = Valley([-20, -11, 0.25])
    best, losses = valley.run(4)
    # Half way lies -8, and an eighth of the way 1. From there a quarter leads to -2, a sixteenth to
    # 0.25. What is as good is no better, so that the step of all is taken: half of it.
    assert losses == [16, 1, 0.0625, 0.125**2]
    assert valley.shares[:4] == [0.5, 0.125, 0.25, 0.0625]
    assert (best, valley.steps) == (0.125, 1)


def test_trials_are_few_and_the_loss_never_rises() -> None:
    valley = Valley([100.0, -90.0, 80.0, -70.0])
    best, losses = valley.run(1)
    assert len(valley.shares) <= (STEP_TRIALS + 1) * 4
    assert losses == sorted(losses, reverse=True)
    assert best**2 == losses[-1]


def test_at_the_bottom_the_best_stays() -> None:
    valley = Valley([2.0, -2.0])
    assert valley.run(0.0) == (0.0, [0.0, 0.0, 0.0])
    assert valley.steps == 2


def test_iterations_that_end_nowhere_leave_the_best() -> None:
    valley = Valley([float('nan'), float('nan')])
    assert valley.run(4.0) == (1.0, [16.0, 4.0, 1.0])
    assert valley.run(0.0) == (0.0, [0.0, 0.0, 0.0])


def test_no_iteration_leaves_the_start() -> None:
    assert Valley([]).run(2) == (2, [4])


@pytest.mark.parametrize('done', [1, 2])
def test_stop(done: int) -> None:
    valley = Valley([3, 2, 1])
    assert valley.run(4, stop_after=done)[1] == [16, 9, 4][: done + 1]
    # What was shown last is returned as it is.
    assert valley.ends == 0


@pytest.mark.parametrize(
    ('newest', 'shares', 'best'),
    [(-4, [0.5], 0), (-12, [0.5, 0.125], 2), (4, [0.5, 0.125, 0.5], 2)],
)
def test_what_is_as_good_is_no_better(newest: float, shares: list[float], best: float) -> None:
    """Neither an iteration nor a part of its way is taken that leaves the loss as it is."""
    valley = Valley([newest])
    assert valley.run(4) == (best, [16, best**2])
    assert valley.shares == shares


def test_a_step_of_all_that_is_as_good_leaves_the_best() -> None:
    class Symmetric(Valley):
        def _step_of_all(self, best: float) -> float:
            return -3 * best

    assert Symmetric([4]).run(4) == (4, [16, 16])


def test_the_schedule_learns_of_the_lowest_loss() -> None:
    advanced = []

    class Listening(IterationSchedule):
        def advance(self, loss: float) -> None:
            advanced.append(loss)
            super().advance(loss)

    valley = Valley([3, 20, 1])
    valley.make_schedule = Listening
    _, losses = valley.run(4)
    assert advanced == losses[1:]
    assert losses == sorted(losses, reverse=True)
