"""Several ranks compute what one process does."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec('torch') is None:
    pytest.skip('PyTorch is not installed.', allow_module_level=True)

from ranks import jobs
from ranks.conftest import LaunchRanks

Compare = Callable[[int, str], dict[str, float]]

FOR_FOUR = ('one-iteration', 'few', 'alone', 'gradients-of-groups', 'training-by-small-steps')
"""Here some ranks of four have no pattern of a batch, or none at all."""

ROUNDING = 1e-4
"""Results that differ only by the order of sums agree to this share."""

CARRIED_ON = 1e-2
"""Thirty iterations, or steps of Adam, carry differences of rounding on to this share."""


@pytest.fixture(scope='module')
def results(
    launch_ranks: LaunchRanks, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, str], Path]:
    """Return a function of the file with what some ranks have computed; they do many jobs at once.

    To start them takes longer than most of the jobs.
    """
    folders: dict[tuple[int, bool], Path] = {}

    def file_of(size: int, name: str) -> Path:
        is_learning = name in jobs.LEARNING
        folder = folders.get((size, is_learning))
        if folder is None:
            folder = folders[size, is_learning] = tmp_path_factory.mktemp(f'ranks-{size}')
            names = list(jobs.LEARNING if is_learning else jobs.ITERATING)
            if size == 4:
                names = [name for name in names if name in FOR_FOUR]
            ranks = launch_ranks(size, [jobs.__file__, str(folder), *names])
            for rank in ranks:
                _, errors = rank.communicate(timeout=300)
                assert rank.returncode == 0, errors
        return folder / f'{name}.npz'

    return file_of


@pytest.fixture(scope='module')
def alone() -> Callable[[str], jobs.Results]:
    """Return what one process computes."""
    done: dict[str, jobs.Results] = {}

    def result(name: str) -> jobs.Results:
        if name not in done:
            done[name] = jobs.JOBS[name]()
        return done[name]

    return result


@pytest.fixture
def differences(results: Callable[[int], Path], alone: Callable[[str], jobs.Results]) -> Compare:
    """Return a function of the largest differences, as shares of each array's norm."""

    def compare(size: int, name: str) -> dict[str, float]:
        expected = alone(name)
        with np.load(results(size, name)) as found:
            assert set(found) == set(expected)
            return {key: _difference(found[key], value) for key, value in expected.items()}

    return compare


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == np.shape(expected)
    norm = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / norm if norm > 0 else float(np.any(found))


SAME = (
    *((2, name) for name in ('one-iteration', 'alone', 'few', 'gradients', 'gradients-of-groups')),
    (2, 'smoothed-once'),
    *((4, name) for name in ('one-iteration', 'alone', 'few', 'gradients-of-groups')),
)


@pytest.mark.parametrize(('size', 'name'), SAME)
def test_an_update_is_the_sum_over_ranks(differences: Compare, size: int, name: str) -> None:
    found = differences(size, name)
    assert max(found.values()) < ROUNDING, found


@pytest.mark.parametrize(
    'name', ['iterations', 'smoothed', 'rounded', 'probe', 'positions', 'intensities', 'prior']
)
def test_iterations_end_where_those_of_one_process_do(differences: Compare, name: str) -> None:
    found = differences(2, name)
    assert max(found.values()) < CARRIED_ON, found


def test_patterns_that_do_not_fit_are_found_together(
    differences: Compare, alone: Callable[[str], jobs.Results]
) -> None:
    assert len(alone('outliers')['dropped']) == 2
    found = differences(2, 'outliers')
    assert found['dropped'] == 0
    assert found['object'] < CARRIED_ON


@pytest.mark.parametrize(
    ('size', 'name'), [(2, 'training'), *((n, 'training-by-small-steps') for n in (2, 4))]
)
def test_training_goes_the_same_way(differences: Compare, size: int, name: str) -> None:
    found = differences(size, name)
    losses = {key: value for key, value in found.items() if 'loss' in key or key == 'poisson'}
    assert max(losses.values()) < ROUNDING, losses
    weights = {key: value for key, value in found.items() if key.startswith('weights/')}
    assert max(weights.values()) < CARRIED_ON, weights


@pytest.mark.parametrize('name', ['prediction', 'prediction-of-groups'])
def test_a_network_predicts_the_same(differences: Compare, name: str) -> None:
    found = differences(2, name)
    assert max(found.values()) < CARRIED_ON, found


def test_rank_0_decides_when_to_stop(
    differences: Compare, alone: Callable[[str], jobs.Results]
) -> None:
    assert len(alone('stopped')['losses']) == 5
    assert differences(2, 'stopped')['losses'] < ROUNDING


def test_the_clock_of_rank_0_counts(
    differences: Compare, alone: Callable[[str], jobs.Results]
) -> None:
    """The others' clocks run at another speed, and would end the iterations elsewhere."""
    assert 3 < len(alone('limited')['losses']) < 25
    assert differences(2, 'limited')['losses'] < CARRIED_ON
