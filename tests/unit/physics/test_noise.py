"""Shot noise of amplitudes, against sums over the Poisson distribution and against counting."""

import numpy as np
import pytest
from scipy.stats import poisson

from ptychopinn_plugin.physics import Misfit, measure_misfit, shot_noise


@pytest.mark.parametrize(
    'expected', [0.0, 1e-4, 0.01, 0.3, 1.0, 2.5, 10.0, 35.99, 36.01, 100.0, 4e4]
)
def test_shot_noise_of_a_pixel(expected: float) -> None:
    counts = np.arange(int(expected + 20 * np.sqrt(expected) + 50))
    squares = (np.sqrt(counts) - np.sqrt(expected)) ** 2
    truth = (poisson.pmf(counts, expected) * squares).sum()
    assert shot_noise(np.array([expected]))[0] == pytest.approx(truth, abs=2e-4)


def test_the_truth_misses_its_counts_by_shot_noise() -> None:
    rng = np.random.default_rng(0)
    expected = rng.exponential(20.0, (40, 16, 16))
    valid_mask = np.ones((16, 16), bool)
    valid_mask[3] = False
    counts = rng.poisson(expected)
    counts[:, 3] = 60000
    misfit = measure_misfit(expected.astype(np.float32), counts.astype(np.uint16), valid_mask)
    assert misfit is not None
    assert misfit.over_noise == pytest.approx(1, abs=0.05)
    lit = (expected >= 1) & valid_mask
    squares = (np.sqrt(expected[lit]) - np.sqrt(counts[lit])) ** 2
    assert misfit.share == pytest.approx(squares.sum() / counts[lit].sum(), rel=1e-5)
    wrong = measure_misfit(1.5 * expected, counts, valid_mask)
    assert wrong is not None
    assert wrong.over_noise > 2


def test_in_the_dark_nothing_is_known() -> None:
    expected = np.full((2, 4, 4), 0.1)
    assert measure_misfit(expected, np.ones((2, 4, 4)), np.ones((4, 4), bool)) is None
    # Lit by the model alone.
    assert measure_misfit(expected * 100, 0 * expected, np.ones((4, 4), bool)) is None


def test_noise_is_uncorrelated_and_a_wrong_model_is_not() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    expected = np.broadcast_to(200 + 100 * np.sin(x / 3) * np.cos(y / 4), (8, 32, 32))
    counts, valid_mask = rng.poisson(expected), np.ones((32, 32), bool)
    noise = measure_misfit(expected, counts, valid_mask)
    assert noise is not None
    assert abs(noise.correlation) < 0.05
    wrong = measure_misfit(np.roll(expected, 3, axis=2), counts, valid_mask)
    assert wrong is not None
    assert wrong.correlation > 0.7
    # In any unit, where what is lit is given in it.
    scaled = measure_misfit(expected / 1e4, counts / 1e4, valid_mask, lit_counts=1e-4)
    assert scaled is not None
    assert scaled.share == pytest.approx(noise.share)
    assert Misfit.from_dict(scaled.to_dict()) == scaled
    assert Misfit.from_dict({'share_of_counts': 'much'}) is None
