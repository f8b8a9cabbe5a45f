"""Lost positions: which are looked for, and where."""

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.lost_positions import (
    MAX_LOST_FRACTION,
    find_lost_positions,
)

N_POSITIONS = 40
DEVIATION_PX = 3.0


class Landscape:
    """A forward model whose patterns miss by the distance of a position from where it lies.

    Attributes
    ----------
    trials : list of ndarray
        All moves that were set.
    """

    reach_px = 10

    def __init__(self, true_px: np.ndarray) -> None:
        self.true_px, self.moves_px = true_px, np.zeros_like(true_px)
        self.trials: list[np.ndarray] = []

    def set_moves(self, moves_px: np.ndarray) -> None:
        self.moves_px = moves_px
        self.trials.append(moves_px)

    def expected_and_counted(
        self, object_: object, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        distances = np.hypot(*(self.moves_px - self.true_px)[indices].T)
        expected = (1 + 0.1 + distances[:, np.newaxis, np.newaxis]) ** 2
        # The last pixel is bad, and is not to decide anything.
        counts = np.ones((len(indices), 1, 2)) * [1, 1e6]
        return np.repeat(expected, 2, axis=2), counts


VALID = np.array([[True, False]])


def true_places(lost: dict[int, tuple[float, float]]) -> np.ndarray:
    places = np.zeros((N_POSITIONS, 2))
    for index, place in lost.items():
        places[index] = place
    return places


def find(landscape: Landscape, deviation_px: float = DEVIATION_PX) -> np.ndarray:
    moves = np.zeros((N_POSITIONS, 2))
    return find_lost_positions(landscape, None, VALID, moves, deviation_px)


def test_the_nearest_place_of_the_grid_is_found() -> None:
    found = find(Landscape(true_places({3: (5.7, -7.1), 20: (-2.2, 4.3)})))
    np.testing.assert_array_equal(found[[3, 20]], [[6, -8], [-2, 4]])
    assert not np.delete(found, [3, 20], axis=0).any()


def test_a_scan_without_lost_positions_is_left_as_it_is() -> None:
    landscape = Landscape(true_places({}))
    assert not find(landscape).any()
    assert not landscape.trials


def test_small_errors_are_no_reason_to_search() -> None:
    landscape = Landscape(true_places({3: (6.0, 0.0)}))
    assert not find(landscape, deviation_px=0.3).any()
    assert not landscape.trials


def test_the_search_ends_where_positions_may_not_move_further() -> None:
    landscape = Landscape(true_places({3: (10.0, 0.0)}))
    np.testing.assert_array_equal(find(landscape)[3], [10, 0])
    assert max(np.hypot(*trial[3]) for trial in landscape.trials) == Landscape.reach_px


def test_large_patterns_have_no_more_places_than_small_ones() -> None:
    small, large = (Landscape(true_places({3: (6.0, 0.0)})) for _ in range(2))
    large.reach_px = 42
    np.testing.assert_array_equal(find(small), find(large))
    assert len(large.trials) == len(small.trials) < 100


def test_a_place_that_is_hardly_better_is_not_taken() -> None:
    # All of the grid is far away from here: the best place leaves more than 0.7 of the misfit.
    assert not find(Landscape(true_places({3: (90.0, 0.0)}))).any()


def test_a_tenth_at_most_is_looked_for() -> None:
    lost = dict.fromkeys(range(0, 16, 2), (4.0, 0.0))
    found = find(Landscape(true_places(lost)))
    assert found.any(axis=1).sum() == pytest.approx(MAX_LOST_FRACTION * N_POSITIONS)
