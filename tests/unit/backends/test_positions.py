"""Steps of positions: how long they are, and where they end."""

import logging

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.diagnostics import warn_of_moves
from ptychopinn_plugin.backends.common.positions import PositionRefiner
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

STIFF = 400.0


def total_moves(
    errors: np.ndarray, given: np.ndarray, noise: float = 0.0, *, scale: bool = False
) -> np.ndarray:
    """Return the moves after 60 steps towards given errors with all the rest known."""
    refiner = PositionRefiner(given, 5, scale=scale)
    rng = np.random.default_rng(0)
    target = errors + noise * rng.normal(size=errors.shape)
    stiffnesses = np.tile(STIFF * np.eye(2), (len(given), 1, 1))
    for step in range(60):
        forces = STIFF * (target - refiner.moves_px)
        refiner.step(forces, stiffnesses, step / 60)
    return refiner.moves_px


@pytest.fixture
def given() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 60, (100, 2))


def test_errors_are_found_but_for_mean_and_scale(given: np.ndarray) -> None:
    errors = np.random.default_rng(2).normal(scale=1.0, size=given.shape)
    from_middle = given - given.mean(axis=0)
    stretched = errors + 0.01 * from_middle + [2.0, -1.0]
    moves = total_moves(stretched, given)
    np.testing.assert_allclose(moves.mean(axis=0), 0, atol=1e-9)
    assert (moves * from_middle).sum() == pytest.approx(0, abs=1e-6)
    rest = moves - (errors - errors.mean(axis=0))
    share = (rest * from_middle).sum() / (from_middle**2).sum()
    np.testing.assert_allclose(rest, share * from_middle, atol=0.02)
    free = total_moves(stretched, given, scale=True)
    assert (free * from_middle).sum() / (from_middle**2).sum() == pytest.approx(
        0.01 - share, abs=1e-3
    )


def test_noise_moves_nothing(given: np.ndarray) -> None:
    deviation = (1 / (4 * STIFF)) ** 0.5
    assert not total_moves(np.zeros_like(given), given, deviation).any()


def test_an_outlier_moves_slowly_and_no_further_than_it_may(given: np.ndarray) -> None:
    refiner = PositionRefiner(given, 5)
    forces = np.full_like(given, 0.01 * STIFF)
    forces[::2] *= -1
    forces[7] = 1e6
    stiffnesses = np.tile(STIFF * np.eye(2), (len(given), 1, 1))
    first = refiner.step(forces, stiffnesses, 0.1)
    assert np.abs(first).max() < 0.11
    errors = np.random.default_rng(2).normal(scale=1.0, size=given.shape)
    errors[7] = [40, 0]
    assert total_moves(errors, given).max() == 5


def test_what_came_of_the_moves_is_told(caplog: pytest.LogCaptureFixture) -> None:
    scan = simulate(SimulationConfig(size=16, rows=2, columns=3, pupil_radius=0.2, defocus=20.0))
    moves = np.zeros((6, 2))
    with caplog.at_level(logging.WARNING):
        warn_of_moves(scan, moves, 5)
        assert 'the given positions are kept' in caplog.text
        caplog.clear()
        moves[2, 1] = -1.0
        warn_of_moves(scan, moves, 5)
        assert caplog.text == ''
        moves[3, 0] = 5.0
        warn_of_moves(scan, moves, 5)
    assert '1 of 6 positions moved as far as they may, 5 px' in caplog.text
