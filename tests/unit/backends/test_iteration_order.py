"""In which batches, and with which steps, the iterations go through a scan."""

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.iteration_steps import (
    cut_batches,
    iteration_batches,
    step_size,
)
from ptychopinn_plugin.backends.common.refinement import corrects_phase_drift


@pytest.mark.parametrize('n_patterns', [1, 15, 80, 1000])
def test_each_iteration_meets_every_pattern_once(n_patterns: int) -> None:
    batches = iteration_batches(n_patterns, 64, 8 * 64 * 64, seed=0)
    for _ in range(3):
        met = np.concatenate(next(batches))
        assert np.array_equal(np.sort(met), np.arange(n_patterns))


def test_the_order_is_drawn_anew_for_each_iteration_and_by_the_seed() -> None:
    """Neighbours in a batch push the same pixels, and a fixed order adds its own pattern."""
    orders = {}
    for seed in (0, 1):
        batches = iteration_batches(500, 64, 8 * 64 * 64, seed=seed)
        orders[seed] = [np.concatenate(next(batches)) for _ in range(3)]
    repeated = iteration_batches(500, 64, 8 * 64 * 64, seed=1)
    assert np.array_equal(np.concatenate(next(repeated)), orders[1][0])
    for first, second in ((orders[0][0], orders[1][0]), (orders[0][0], orders[0][1])):
        assert (first == second).mean() < 0.05
        # Drawn from all over the scan, not in the order of the scan.
        assert abs(np.corrcoef(first, np.arange(500))[0, 1]) < 0.2


@pytest.mark.parametrize(
    ('n_patterns', 'pixels', 'expected'),
    [
        (20, 64 * 64, 1),  # at least 16 batches
        (32, 64 * 64, 2),
        (4096, 64 * 64, 64),  # as requested
        (64_000, 64 * 64, 1000),  # at most 64 batches
        (64_000, 512 * 512, 128),
        (64_000, 2048 * 2048, 64),  # which must not take the memory of all
    ],
)
def test_the_size_of_a_batch(n_patterns: int, pixels: int, expected: int) -> None:
    first = next(iteration_batches(n_patterns, 64, 8 * pixels, seed=0))
    assert len(first[0]) == expected


def test_steps_fall_to_nearly_nothing() -> None:
    steps = [step_size(iteration / 30) for iteration in range(30)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 0.25
    assert 0 < steps[-1] < 0.02


def test_the_slow_phase_is_corrected_after_every_fifth_iteration() -> None:
    assert [done for done in range(1, 23) if corrects_phase_drift(done)] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    ('fraction', 'expected'), [(0.0, 0.31), (0.5, 0.085), (0.9, 0.013), (1.0, 0.01)]
)
def test_steps_fall_as_a_square(fraction: float, expected: float) -> None:
    assert step_size(fraction) == pytest.approx(expected)


def test_batches_are_cut_where_memory_is_short() -> None:
    drawn = [np.arange(5), np.arange(10, 12)]
    assert [batch.tolist() for batch in cut_batches(drawn, 2)] == [[0, 1], [2, 3], [4], [10, 11]]
    assert [batch.tolist() for batch in cut_batches(drawn, 5)] == [[0, 1, 2, 3, 4], [10, 11]]
