"""Groups of neighbours: each holds its seed, and no position is left out."""

import dataclasses
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.grouping import (
    check_before_run,
    check_positions,
    covering_groups,
    spatial_blocks,
    training_groups,
)
from ptychopinn_plugin.data.places import median_step, thin_positions
from ptychopinn_plugin.errors import DataError

Positions = NDArray[np.float64]


def jittered(rows: int = 9, columns: int = 11, seed: int = 0) -> Positions:
    y, x = np.mgrid[:rows, :columns]
    grid = np.stack([y.ravel(), x.ravel()], axis=1) * 5.0
    return grid + np.random.default_rng(seed).uniform(-1, 1, size=grid.shape)


def make(positions_px: list[list[float]]) -> Scan:
    """Return a scan of these positions, with a square probe of 8 px in patterns of 16 px."""
    probe = np.zeros((1, 16, 16), np.complex64)
    probe[:, 4:12, 4:12] = 1
    patterns = np.ones((len(positions_px), 16, 16), np.float32)
    return Scan(patterns, np.array(positions_px), probe)


@pytest.mark.parametrize('gridsize', [1, 2, 3, 4, 5])
def test_training_groups_hold_their_seed_and_near_neighbours(gridsize: int) -> None:
    positions, size = jittered(), gridsize**2
    neighbours = 8
    groups = training_groups(positions, size, neighbours, np.random.default_rng(0))
    assert groups.shape == (99, size)
    assert groups.dtype == np.int64
    # Each position is the seed of one group, and stands first in it.
    assert sorted(groups[:, 0].tolist()) == list(range(99))
    allowed = max(neighbours, size - 1)
    for group in groups:
        assert len(set(group.tolist())) == size
        distance = np.linalg.norm(positions - positions[group[0]], axis=1)
        reach = np.sort(distance)[allowed]
        assert distance[group].max() <= reach


def test_neighbours_are_drawn_at_random() -> None:
    positions = jittered()
    rng = np.random.default_rng(0)
    first, second = (training_groups(positions, 4, 8, rng) for _ in range(2))
    pairs = [
        [set(group.tolist()) for group in groups[np.argsort(groups[:, 0])]]
        for groups in (first, second)
    ]
    different = sum(one != other for one, other in zip(*pairs, strict=True))
    assert different > 60


@pytest.mark.parametrize('gridsize', [1, 2, 3])
def test_the_same_seed_gives_the_same_groups(gridsize: int) -> None:
    positions = jittered()

    def draw(seed: int) -> NDArray[np.int64]:
        return training_groups(positions, gridsize**2, 8, np.random.default_rng(seed))

    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))


def test_a_number_of_groups_means_different_seeds() -> None:
    groups = training_groups(jittered(), 4, 8, np.random.default_rng(0), n_groups=20)
    assert groups.shape == (20, 4)
    assert len(set(groups[:, 0].tolist())) == 20
    everything = training_groups(jittered(), 4, 8, np.random.default_rng(0), n_groups=5000)
    assert len(everything) == 99


@pytest.mark.parametrize('gridsize', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('shape', [(9, 11), (5, 5), (1, 40), (30, 30)])
def test_covering_groups_leave_no_position_out(gridsize: int, shape: tuple[int, int]) -> None:
    positions, size = jittered(*shape), gridsize**2
    groups = covering_groups(positions, size)
    assert groups.dtype == np.int64
    assert groups.shape[1] == size
    assert set(groups.ravel().tolist()) == set(range(len(positions)))
    for group in groups:
        assert len(set(group.tolist())) == size
    # Few repeats: not one group for each position.
    assert len(groups) <= 1 + 2.5 * len(positions) / size


@pytest.mark.parametrize('gridsize', [2, 3])
def test_covering_groups_are_compact(gridsize: int) -> None:
    positions = jittered(12, 12)
    groups = covering_groups(positions, gridsize**2)
    middle = positions[groups].mean(axis=1, keepdims=True)
    spread = np.linalg.norm(positions[groups] - middle, axis=2).max(axis=1)
    assert np.median(spread) < 5 * gridsize
    assert spread.max() < 5 * 3 * gridsize


def test_exactly_one_group() -> None:
    positions = jittered(3, 3)
    assert sorted(covering_groups(positions, 9).tolist()[0]) == list(range(9))
    groups = training_groups(positions, 9, 4, np.random.default_rng(0))
    assert (np.sort(groups, axis=1) == np.arange(9)).all()


@pytest.mark.parametrize('size', [4, 9])
def test_repeated_positions(size: int) -> None:
    positions = np.repeat(jittered(4, 4), 6, axis=0)
    for groups in (
        covering_groups(positions, size),
        training_groups(positions, size, 8, np.random.default_rng(0)),
    ):
        assert set(groups.ravel().tolist()) == set(range(len(positions)))
        for group in groups:
            assert len(set(group.tolist())) == size
    everywhere_the_same = np.zeros((20, 2))
    groups = training_groups(everywhere_the_same, size, 8, np.random.default_rng(0))
    assert all(len(set(group.tolist())) == size for group in groups)


@pytest.mark.parametrize('size', [4, 25])
def test_too_few_positions_are_an_error(size: int) -> None:
    positions = jittered(1, size - 1)
    message = f'A group holds {size} patterns, but there are only {size - 1}'
    with pytest.raises(DataError, match=message):
        training_groups(positions, size, 8, np.random.default_rng(0))
    with pytest.raises(DataError, match=message):
        covering_groups(positions, size)


@pytest.mark.parametrize('largest', [1, 7, 16, 99, 1000])
def test_spatial_blocks_share_out_all_positions(largest: int) -> None:
    blocks = spatial_blocks(jittered(), largest)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(99))
    assert max(map(len, blocks)) <= largest
    # Halves: no crumbs.
    assert min(map(len, blocks)) >= min(99, largest) // 2
    if largest >= 99:
        assert len(blocks) == 1


def test_spatial_blocks_are_compact() -> None:
    positions = jittered(20, 20)
    for block in spatial_blocks(positions, 25):
        assert (np.ptp(positions[block], axis=0) < 5 * 7).all()


def test_blocks_of_repeated_positions() -> None:
    blocks = spatial_blocks(np.zeros((10, 2)), 3)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(10))


@pytest.mark.parametrize('spacing', [7.0, 12.0, 20.0])
def test_thinned_positions_are_apart_and_dense(spacing: float) -> None:
    positions = jittered(20, 20)
    chosen = thin_positions(positions, spacing, np.random.default_rng(0))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    kept = positions[chosen]
    distance = np.linalg.norm(kept[:, None] - kept[None], axis=2)
    assert distance[~np.eye(len(kept), dtype=bool)].min() > spacing
    # Dense: every position left out is near one that was kept.
    nearest = np.linalg.norm(positions[:, None] - kept[None], axis=2).min(axis=1)
    assert nearest.max() <= spacing


def test_thinning_by_less_than_a_step_keeps_all() -> None:
    positions = jittered()
    chosen = thin_positions(positions, 0.1, np.random.default_rng(0))
    assert chosen.tolist() == list(range(99))


def test_median_step() -> None:
    y, x = np.mgrid[:5, :7]
    grid = np.stack([y.ravel() * 4.0, x.ravel() * 9.0], axis=1)
    assert median_step(grid) == pytest.approx(4)
    assert median_step(grid[:1]) == 0


def test_one_position_is_no_scan_and_is_not_checked() -> None:
    check_positions(make([[5.0, 5.0]]))


@pytest.mark.parametrize(
    ('positions', 'words'),
    [
        ([[5.0, 5.0], [5.0, 5.0]], 'must differ; all 2 of them are [5.0, 5.0]'),
        ([[5.0, 5.0], [5.99, 5.5]], 'must be object pixels; 2 of them span 0.99 x 0.5 px'),
        ([[0.0, 0.0], [5e4, 3e4]], 'they span 5e+04 x 3e+04 px'),
        ([[0.0, 0.0], [2.0**15 - 15, 2.0**15 - 16]], 'they span 3.28e+04 x 3.28e+04 px'),
        ([[0.0, 0.0], [0.0, 20.0], [0.0, 45.0]], 'nearest positions are 20.0 px apart'),
    ],
)
def test_positions_in_another_unit_are_told(positions: list[list[float]], words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        check_positions(make(positions))


@pytest.mark.parametrize(
    'positions',
    [
        [[0.0, 0.0], [1.0, 0.0]],
        # A box of 2^30 pixels, with the patches, is the largest.
        [[0.0, 0.0], [2.0**15 - 16, 2.0**15 - 16], [3.0, 0.0]],
        # One of them overlaps, which is enough; the probe is 8 px wide.
        [[0.0, 0.0], [0.0, 8.0], [0.0, 80.0]],
        # A place that was measured twice is no neighbour of itself, and no fault either.
        [[0.0, 0.0], [0.0, 0.0], [0.0, 8.0]],
    ],
)
def test_positions_in_pixels_pass(positions: list[list[float]]) -> None:
    check_positions(make(positions))


def test_illuminations_that_stand_alone_need_not_overlap() -> None:
    apart = dataclasses.replace(make([[0.0, 0.0], [0.0, 30.0]]), is_single_shot=True)
    check_positions(apart)
    near = dataclasses.replace(apart, positions_px=np.array([[0.0, 0.0], [0.0, 0.5]]))
    with pytest.raises(DataError, match='must be object pixels'):
        check_positions(near)


def test_a_place_that_was_measured_twice_is_no_neighbour() -> None:
    with pytest.raises(DataError, match=r'20\.0 px apart and the probe is 8 px wide'):
        check_positions(make([[0.0, 0.0], [0.0, 0.0], [0.0, 20.0]]))


def test_what_a_run_needs_of_a_scan() -> None:
    apart = make([[0.0, 0.0], [0.0, 30.0], [0.0, 60.0], [0.0, 90.0]])
    near = make([[0.0, 0.0], [0.0, 3.0], [0.0, 6.0], [0.0, 9.0]])
    with pytest.raises(DataError, match='must overlap'):
        check_before_run(apart, 1)
    check_before_run(apart, 1, single_shot=True)
    check_before_run(near, 2)
    check_before_run(near, 2, n_used=4)
    with pytest.raises(DataError, match='A group holds 9 patterns, but there are only 4'):
        check_before_run(near, 3)
    with pytest.raises(DataError, match='A group holds 4 patterns, but there are only 3'):
        check_before_run(near, 2, n_used=3)


def test_the_nearest_without_a_group_come_first() -> None:
    """On a line, groups follow each other, and the last one reaches back."""
    positions = np.stack([np.zeros(7), np.arange(7.0) ** 1.1], axis=1)
    assert covering_groups(positions, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 5, 4]]
    assert covering_groups(positions, 1).tolist() == [[number] for number in range(7)]


def test_groups_of_two_and_of_repeated_places() -> None:
    line = np.stack([np.zeros(4), np.arange(4.0) ** 1.1], axis=1)
    assert covering_groups(line, 2).tolist() == [[0, 1], [2, 3]]
    # Two places are as many as a group of three lacks beside its seed: exposures fill it.
    few = np.repeat([[0.0, 0.0], [0.0, 5.0]], 2, axis=0)
    assert [len(set(group)) for group in covering_groups(few, 3).tolist()] == [3, 3]
    # Three are enough, and each group is measured at three places.
    three = np.repeat([[0.0, 0.0], [0.0, 5.0], [5.0, 0.0]], 2, axis=0)
    for group in covering_groups(three, 3):
        assert len(np.unique(three[group], axis=0)) == 3


def test_many_positions_of_one_place_are_neighbours_but_not_their_own() -> None:
    """Nothing says that the nearest to a position is that position itself."""
    groups = training_groups(np.zeros((30, 2)), 3, 2, np.random.default_rng(0))
    assert groups.shape == (30, 3)
    assert all(len(set(group)) == 3 for group in groups.tolist())


def test_groups_go_row_by_row_from_the_top() -> None:
    y, x = np.mgrid[:2, :3]
    positions = np.stack([y.ravel() * 10.0, x.ravel() * 1.0], axis=1)[::-1]
    assert covering_groups(positions, 3)[:, 0].tolist() == [5, 2]


def test_as_many_places_as_a_group_lacks_are_too_few() -> None:
    """Three places have two others each: a group of four takes an exposure twice."""
    positions = np.repeat([[0.0, 0.0], [0.0, 5.0], [5.0, 0.0]], 2, axis=0)
    groups = training_groups(positions, 4, 3, np.random.default_rng(0))
    assert groups.shape == (6, 4)
    assert all(len(set(group)) == 4 for group in groups.tolist())
    # With one place more each is measured elsewhere.
    more = np.concatenate([positions, [[5.0, 5.0]]])
    for group in training_groups(more, 4, 3, np.random.default_rng(0)):
        assert len(np.unique(more[group], axis=0)) == 4


def test_exposures_of_a_place_are_shared_out() -> None:
    """Each group of two takes one exposure of either place, and another one each time."""
    positions = np.repeat([[0.0, 0.0], [0.0, 5.0]], 3, axis=0)
    groups = training_groups(positions, 2, 1, np.random.default_rng(0))
    assert sorted(sorted(group) for group in groups.tolist()) == [
        [0, 3], [0, 3], [1, 4], [1, 4], [2, 5], [2, 5]
    ]  # fmt: skip


def test_blocks_follow_each_other() -> None:
    """The longer side is halved, and what is next to each other comes one after the other."""
    positions = np.array([[0.0, number] for number in (6, 1, 7, 0, 3, 5, 2, 4)])
    blocks = spatial_blocks(positions, 2)
    assert [sorted(positions[block, 1].tolist()) for block in blocks] == [
        [0, 1], [2, 3], [4, 5], [6, 7]
    ]  # fmt: skip
    odd = spatial_blocks(positions[:5], 3)
    assert [len(block) for block in odd] == [2, 3]
