"""Groups of neighbours: each holds its seed, and no position is left out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn_plugin.data.grouping import (
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
