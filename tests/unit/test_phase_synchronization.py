"""Phases brought into agreement over the graph of overlaps."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn_plugin.phase_synchronization import (
    CELL_PX,
    NEIGHBOURS,
    neighbour_pairs,
    synchronize_patches,
    synchronize_phases,
)


def raster(rows: int, columns: int, step: float = 5.0) -> NDArray[np.float64]:
    y, x = np.mgrid[:rows, :columns]
    return np.stack([y.ravel(), x.ravel()], axis=1) * step


def out_of_phase(
    n_patches: int, pairs: NDArray[np.int64], noise: float = 0.0, seed: int = 0
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return random phases and how patches with these phases correlate where they overlap."""
    rng = np.random.default_rng(seed)
    phases = np.exp(2j * np.pi * rng.uniform(size=n_patches))
    strength = rng.uniform(0.1, 10, size=len(pairs))
    correlations = strength * phases[pairs[:, 0]] * phases[pairs[:, 1]].conj()
    correlations = correlations * np.exp(1j * noise * rng.normal(size=len(pairs)))
    return phases, correlations


@pytest.mark.parametrize('shape', [(1, 2), (3, 4), (4, 4), (12, 15), (30, 30)])
def test_random_phases_are_recovered(shape: tuple[int, int]) -> None:
    """Small graphs are solved densely, large ones by iteration."""
    positions = raster(*shape)
    pairs = neighbour_pairs(positions, 11.0)
    phases, correlations = out_of_phase(len(positions), pairs)
    factors = synchronize_phases(len(positions), pairs, correlations)
    assert factors.dtype == np.complex64
    np.testing.assert_allclose(np.abs(factors), 1, atol=1e-5)
    agreed = phases * factors
    np.testing.assert_allclose(agreed, np.full(len(agreed), agreed[0]), atol=0.02)


def test_errors_of_pairs_average_out() -> None:
    positions = raster(12, 12)
    pairs = neighbour_pairs(positions, 11.0)
    phases, correlations = out_of_phase(len(positions), pairs, noise=0.5)
    agreed = phases * synchronize_phases(len(positions), pairs, correlations)
    spread = np.angle(agreed / agreed.mean()).std()
    assert spread < 0.3


def test_a_strong_overlap_outweighs_a_weak_one() -> None:
    """Of three patches, two strong overlaps agree that all are in phase; a weak one denies it."""
    pairs = np.array([[0, 1], [1, 2], [0, 2]])
    correlations = np.array([10, 10, 0.1j])
    factors = synchronize_phases(3, pairs, correlations)
    assert np.abs(np.angle(factors / factors[0])).max() < 0.03
    alike = synchronize_phases(3, pairs, np.array([10, 10, 10j]))
    assert np.abs(np.angle(alike / alike[0])).max() > 0.3


def test_faint_patches_agree_as_exactly_as_bright_ones() -> None:
    """Along a row whose light falls by three decades; each patch counts by its own overlaps."""
    pairs = np.stack([np.arange(39), np.arange(1, 40)], axis=1)
    phases, correlations = out_of_phase(40, pairs)
    light = 10.0 ** (-3 * np.arange(39) / 39)
    agreed = phases * synchronize_phases(40, pairs, correlations / abs(correlations) * light)
    np.testing.assert_allclose(agreed, np.full(40, agreed[0]), atol=1e-3)


def test_agreement_leaves_the_mean_phase() -> None:
    positions = raster(3, 3)
    pairs = neighbour_pairs(positions, 8.0)
    correlations = np.ones(len(pairs), complex)
    np.testing.assert_allclose(synchronize_phases(9, pairs, correlations), 1, atol=1e-5)


def test_parts_that_do_not_touch_agree_each_for_itself() -> None:
    positions = np.concatenate([raster(3, 3), raster(5, 5) + 1000, [[-500.0, -500.0]]])
    pairs = neighbour_pairs(positions, 8.0)
    assert not ((pairs[:, 0] < 9) & (pairs[:, 1] >= 9)).any()
    phases, correlations = out_of_phase(len(positions), pairs)
    factors = synchronize_phases(len(positions), pairs, correlations)
    agreed = phases * factors
    for part in (slice(0, 9), slice(9, 34)):
        np.testing.assert_allclose(agreed[part], agreed[part][0], atol=0.01)
    assert factors[34] == 1


def test_pairs_without_signal_change_nothing() -> None:
    pairs = np.array([[0, 1], [1, 2]])
    np.testing.assert_array_equal(synchronize_phases(3, pairs, np.zeros(2, complex)), np.ones(3))
    none = np.empty((0, 2), np.int64)
    np.testing.assert_array_equal(synchronize_phases(3, none, np.empty(0, complex)), np.ones(3))


@pytest.mark.parametrize('wrong', [np.nan, np.inf])
def test_patches_that_are_no_numbers_keep_their_phase(wrong: float) -> None:
    pairs = np.array([[0, 1], [1, 2]])
    found = synchronize_phases(3, pairs, np.array([1j, wrong]))
    np.testing.assert_array_equal(found, np.ones(3))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('wrong', [np.nan, np.inf, 1e30])
def test_patches_of_a_network_that_diverged_keep_their_phases(wrong: float) -> None:
    cells = np.ones((4, 4, 4), np.complex64)
    cells[1, 2, 3] = wrong
    origins = np.array([[0, 0], [0, 8], [8, 0], [8, 8]])
    np.testing.assert_array_equal(synchronize_patches(cells, origins, 16), np.ones(4))


def test_the_first_of_a_pair_is_not_conjugated() -> None:
    """Patch 0 leads patch 1 by a phase of 90 degrees; the factors take it back."""
    factors = synchronize_phases(2, np.array([[0, 1]]), np.array([1j]))
    assert factors[1] / factors[0] == pytest.approx(1j, abs=1e-5)


def test_pairs_come_once_and_sorted() -> None:
    pairs = neighbour_pairs(raster(4, 5), 5.5)
    expected = {
        (r * 5 + c, r * 5 + c + step)
        for r in range(4)
        for c in range(5)
        for step, inside in ((1, c < 4), (5, r < 3))
        if inside
    }
    assert pairs.dtype == np.int64
    assert {(int(a), int(b)) for a, b in pairs} == expected
    assert len(pairs) == len(expected)


def test_pairs_are_limited_to_near_neighbours() -> None:
    pairs = neighbour_pairs(np.random.default_rng(0).uniform(size=(200, 2)), 10.0)
    assert len(pairs) <= 200 * NEIGHBOURS
    assert set(pairs.ravel().tolist()) == set(range(200))


@pytest.mark.parametrize('positions', [[[3.0, 4.0]], [[0.0, 0.0], [50.0, 0.0]]])
def test_lone_positions_have_no_pairs(positions: list[list[float]]) -> None:
    assert neighbour_pairs(np.array(positions), 10.0).shape == (0, 2)


def test_repeated_positions_are_pairs() -> None:
    assert neighbour_pairs(np.zeros((3, 2)), 1.0).tolist() == [[0, 1], [0, 2], [1, 2]]


def test_16384_patches_agree_across_the_whole_field() -> None:
    positions = raster(128, 128) + np.random.default_rng(0).uniform(-1, 1, (16384, 2))
    pairs = neighbour_pairs(positions, 40.0)
    phases, correlations = out_of_phase(16384, pairs, noise=0.3)
    factors = synchronize_phases(16384, pairs, correlations)
    # 300 power iterations leave 0.1 to 0.5 of it.
    assert abs((factors * phases).mean()) > 0.9


def test_without_an_eigenvector_neighbours_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('ptychopinn_plugin.phase_synchronization.MAX_RESTARTS', 1)
    pairs = neighbour_pairs(np.random.default_rng(0).uniform(0, 100, (600, 2)), 40.0)
    phases, correlations = out_of_phase(600, pairs)
    left = phases * synchronize_phases(600, pairs, correlations)
    assert abs((left[pairs[:, 0]] * left[pairs[:, 1]].conj()).mean()) > 0.98


WINDOW, SIDE = 24, 24 // CELL_PX + 2


def noisy_cells(
    origins: NDArray[np.int64], noise: float, seed: int
) -> tuple[NDArray[np.complex64], NDArray[np.complex128]]:
    """Return patches of one object over cells, with random phases and noise, and their phases."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :240]
    truth = np.exp(1j * np.sin(y / 17) * np.cos(x / 23))
    inside = np.arange(WINDOW) - (WINDOW - 1) / 2
    weight = np.exp(-(inside[:, None] ** 2 + inside[None] ** 2) / 72)
    phase_factors = np.exp(2j * np.pi * rng.uniform(size=len(origins)))
    cells = np.zeros((len(origins), SIDE, SIDE), dtype=np.complex64)
    for number, (top, left) in enumerate(origins):
        patch = truth[top : top + WINDOW, left : left + WINDOW] * phase_factors[number]
        patch = patch + noise * (rng.normal(size=patch.shape) + 1j * rng.normal(size=patch.shape))
        rows = (top % CELL_PX + np.arange(WINDOW)) // CELL_PX
        columns = (left % CELL_PX + np.arange(WINDOW)) // CELL_PX
        np.add.at(cells[number], (rows[:, None], columns[None]), weight * patch)
    return cells, phase_factors


@pytest.mark.parametrize('fine', [False, True], ids=['exposures', 'fine steps'])
def test_more_patterns_never_agree_less(fine: bool) -> None:
    """Repeated exposures, and fine steps, of 9 x 9 places in noise of five times the signal."""
    places = raster(9, 9).astype(np.int64) + 8
    left = []
    for repeats in (1, 3, 9):
        origins = np.repeat(places, repeats, axis=0)
        if fine:
            origins = origins + np.arange(len(origins))[:, None] % repeats % [[2, 3]]
        errors = []
        for seed in range(2):
            cells, phase_factors = noisy_cells(origins, 5.0, seed)
            agreed = phase_factors * synchronize_patches(cells, origins, WINDOW)
            errors.append(1 - abs(agreed.mean()))
        left.append(float(np.mean(errors)))
    assert left[0] < 0.7
    assert left[1] < left[0]
    assert left[2] < left[0]


def test_patches_are_compared_on_the_cells_they_share() -> None:
    origins = np.array([[8, 8], [13, 30], [21, 9], [60, 60]])
    cells, phase_factors = noisy_cells(origins, 0.0, 0)
    agreed = phase_factors * synchronize_patches(cells, origins, WINDOW)
    assert np.abs(np.angle(agreed[:3] / agreed[0])).max() < 0.1
    broken = cells.copy()
    broken[0, 0, 0] = np.nan
    assert (synchronize_patches(broken, origins, WINDOW) == 1).all()
