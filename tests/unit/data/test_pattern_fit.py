"""Patterns that do not fit: each kind is found, and a clean scan has none."""

import dataclasses

import numpy as np
import pytest

from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.pattern_fit import (
    Deviances,
    Outlier,
    as_outliers,
    find_outliers,
    find_suspects,
    light_diameter_px,
    measure_deviances,
    outliers_in_words,
)
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.physics import predict_patterns

GOOD = np.ones((32, 32), dtype=bool)


@pytest.fixture(scope='module')
def scan() -> Scan:
    config = SimulationConfig(
        size=32, rows=12, columns=12, step_px=4.0, photons=1e4, pupil_radius=0.12, defocus=100.0
    )
    return simulate(config)


@pytest.fixture(scope='module')
def expected(scan: Scan) -> np.ndarray:
    assert scan.object_ is not None
    origin = np.zeros(2, dtype=np.int64)
    return predict_patterns(scan.object_, origin, scan.positions_px, scan.probe)


def judged(scan: Scan, expected: np.ndarray, counts: np.ndarray) -> dict[int, str]:
    """Find outliers with the true object, which no pattern can bend."""
    found = measure_deviances(expected, counts, GOOD, lit_counts=1.0)
    suspects = find_suspects(found, scan.positions_px, light_diameter_px(scan.probe))
    return find_outliers(found, found, suspects)


@pytest.mark.parametrize('seed', range(5))
def test_a_clean_scan_has_none(scan: Scan, expected: np.ndarray, seed: int) -> None:
    counts = np.random.default_rng(seed).poisson(expected)
    found = measure_deviances(expected, counts, GOOD, lit_counts=1.0)
    assert np.median(found.deviances) == pytest.approx(1.05, abs=0.1)
    assert not len(find_suspects(found, scan.positions_px, light_diameter_px(scan.probe)))


def test_each_kind_is_found(scan: Scan, expected: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(expected).astype(np.float64)
    counts[[20, 90]] = counts[[90, 20]]
    counts[50] = np.roll(counts[50], (2, -2), axis=(0, 1))
    far_field = np.fft.fftshift(np.abs(np.fft.fft2(scan.probe[0], norm='ortho')) ** 2)
    counts[70] = rng.poisson(far_field)
    counts[110] *= 2
    counts[130] = rng.binomial(counts[130].astype(int), 0.5)
    reasons = judged(scan, expected, counts)
    assert {place for place, reason in reasons.items() if reason == 'dose'} >= {130}
    assert set(reasons) == {20, 90, 50, 70, 110, 130}
    assert reasons[20] == reasons[90] == reasons[50] == reasons[70] == 'shape'


def test_a_beam_that_flickers_is_no_fault(scan: Scan, expected: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    doses = np.exp(0.15 * rng.standard_normal(len(expected)))
    counts = rng.poisson(expected * doses[:, None, None])
    found = measure_deviances(expected, counts, GOOD, lit_counts=1.0)
    np.testing.assert_allclose(found.doses, doses, rtol=0.08)
    assert judged(scan, expected, counts) == {}


def test_a_dead_pixel_does_not_decide(scan: Scan, expected: np.ndarray) -> None:
    counts = np.random.default_rng(3).poisson(expected).astype(np.float64)
    counts[:, 16, 16] = 0
    plain = measure_deviances(expected, counts, GOOD, lit_counts=1.0)
    limited = measure_deviances(expected, counts, GOOD, lit_counts=1.0, largest=25.0)
    assert plain.deviances.mean() > 1.5
    assert limited.deviances.mean() < 1.4 < 0.7 * plain.deviances.max()
    assert len(find_suspects(limited, scan.positions_px, light_diameter_px(scan.probe))) == 0
    masked = GOOD.copy()
    masked[16, 16] = False
    left_out = measure_deviances(expected, counts, masked, lit_counts=1.0)
    assert left_out.deviances.mean() < 1.15


def test_the_victims_of_a_wrong_pattern_are_not_suspects() -> None:
    y, x = np.divmod(np.arange(100), 10)
    positions = np.stack([y, x], axis=1) * 4.0
    deviances = np.exp(0.05 * np.random.default_rng(0).standard_normal(100))
    deviances[[44, 45, 46, 54]] = (3.0, 30.0, 4.0, 2.5)
    found = Deviances(deviances, np.ones(100), np.full(100, 500))
    assert find_suspects(found, positions, 9.0).tolist() == [45]
    assert find_suspects(found, positions, 1.0).tolist() == [44, 45, 46, 54]


def test_what_fits_an_object_without_it_is_no_outlier() -> None:
    deviances = np.exp(0.05 * np.random.default_rng(0).standard_normal(100))
    first = Deviances(deviances.copy(), np.ones(100), np.full(100, 500))
    first.deviances[[3, 7]] = 5.0
    second = dataclasses.replace(first, deviances=deviances.copy())
    second.deviances[3] = 6.0
    assert find_outliers(first, second, np.array([3, 7])) == {3: 'shape'}


def test_few_patterns_are_not_judged() -> None:
    found = Deviances(np.r_[np.ones(39), 50.0], np.ones(40), np.full(40, 500))
    assert len(find_suspects(found, np.zeros((40, 2)), 9.0)) == 0


def test_words_name_patterns_and_what_to_do() -> None:
    found = Deviances(np.full(9, 4.0), np.full(9, 2.0), np.full(9, 500))
    reasons = dict.fromkeys(range(5), 'shape') | {8: 'dose'}
    outliers = as_outliers(reasons, found, np.arange(18.0).reshape(9, 2), np.arange(100, 109))
    text = outliers_in_words(outliers, ())
    assert 'patterns 100 at (0, 1), 101 at (2, 3)' in text
    assert 'and 2 more; --drop-outliers' in text
    last = outliers_in_words((), outliers[-1:])
    assert last == (
        'Left out, as they do not fit the others: pattern 108 at (16, 17) with 2 times the dose.'
    )
    assert outliers_in_words((), ()) == ''
    again = Outlier.from_list([outlier.to_dict() for outlier in outliers])
    assert again == outliers
    assert Outlier.from_list('nonsense') == ()
    assert Outlier.from_list(None) == ()
