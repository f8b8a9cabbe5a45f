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


def test_a_pixel_is_lit_from_one_count_on() -> None:
    expected = np.array([[[1.0, 0.999, 4.0]]])
    counts = np.array([[[4.0, 100.0, 4.0]]])
    misfit = measure_misfit(expected, counts, np.ones((1, 3), bool))
    assert misfit is not None
    assert misfit.share == pytest.approx(1 / 8)
    assert misfit.over_noise == pytest.approx(1 / shot_noise(np.array([1.0, 4.0])).sum())
    # Its neighbours are not lit, so that there is no pair to compare.
    assert misfit.correlation == 0.0


def test_counts_below_zero_are_none() -> None:
    """A background that was subtracted leaves some."""
    expected = np.full((1, 1, 2), 4.0)
    misfit = measure_misfit(expected, np.array([[[-2.0, 9.0]]]), np.ones((1, 2), bool))
    assert misfit is not None
    assert misfit.share == pytest.approx((2**2 + 1**2) / 7)
    few = measure_misfit(expected / 4, np.array([[[-2.0, 3.0]]]), np.ones((1, 2), bool))
    assert few is not None


@pytest.mark.parametrize(
    ('missed', 'expected'),
    [
        ([[1, 1], [1, 1]], 1.0),
        ([[1, -1], [-1, 1]], -1.0),
        ([[1, 2], [1, 2]], (2 + 2 + 1 + 4) / (2.5 + 2.5 + 1 + 4)),
        ([[1, 2], [3, 4]], (2 + 12 + 3 + 8) / (2.5 + 12.5 + 5 + 10)),
        ([[0.1, 0.1], [0.1, 0.1]], 1.0),
    ],
)
def test_the_correlation_of_neighbours(missed: list[list[float]], expected: float) -> None:
    """Two products along each axis, over the squares of those that take part."""
    expected_counts = (10 + np.array([missed], float)) ** 2
    misfit = measure_misfit(expected_counts, np.full((1, 2, 2), 100.0), np.ones((2, 2), bool))
    assert misfit is not None
    assert misfit.correlation == pytest.approx(expected)
    # Beside a bad pixel only pairs of good ones count.
    wide = np.concatenate([expected_counts, np.full((1, 2, 1), 1e6)], axis=2)
    valid_mask = np.array([[True, True, False]] * 2)
    beside = measure_misfit(wide, np.full((1, 2, 3), 100.0), valid_mask)
    assert beside is not None
    assert beside.correlation == pytest.approx(expected)
    tall = measure_misfit(
        wide.swapaxes(1, 2), np.full((1, 3, 2), 100.0), np.swapaxes(valid_mask, 0, 1)
    )
    assert tall is not None
    assert tall.correlation == pytest.approx(expected)


def test_all_pairs_of_neighbours_count() -> None:
    missed = np.array([[[1.0, 2.0, 3.0], [-1.0, 5.0, 0.0], [4.0, 4.0, -2.0]]])
    valid_mask = np.ones((3, 3), bool)
    valid_mask[0, 0] = False
    misfit = measure_misfit((10 + missed) ** 2, np.full((1, 3, 3), 100.0), valid_mask)
    products = squares = 0.0
    for image, mask in ((missed[0], valid_mask), (missed[0].T, valid_mask.T)):
        first, second, both = image[:-1], image[1:], mask[:-1] & mask[1:]
        products += (first * second)[both].sum()
        squares += ((first**2 + second**2) / 2)[both].sum()
    assert misfit is not None
    assert misfit.correlation == pytest.approx(products / squares)


def test_a_misfit_is_read_as_it_was_written() -> None:
    misfit = Misfit(over_noise=1.5, share=0.02, correlation=-0.1)
    values = misfit.to_dict()
    assert values == {
        'times_shot_noise': 1.5,
        'share_of_counts': 0.02,
        'neighbour_correlation': -0.1,
    }
    unknown = Misfit(None, 0.02)
    assert Misfit.from_dict(unknown.to_dict()) == unknown
    for name in values:
        assert Misfit.from_dict({**values, name: 'much'}) is None
    for name in ('share_of_counts', 'neighbour_correlation'):
        assert Misfit.from_dict({**values, name: None}) is None
