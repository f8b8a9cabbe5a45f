"""The intensities of beams, and the slow amplitude that an object takes from them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.diagnostics import (
    fit_in_words,
    measure_beam_variation,
)
from ptychopinn_plugin.backends.common.intensities import (
    intensities_move,
    refined_intensities,
)
from ptychopinn_plugin.backends.common.phase_drift import (
    PatternMoments,
    SlowErrors,
    fit_slow_errors,
)
from ptychopinn_plugin.data.pattern_fit import PatternFit
from ptychopinn_plugin.physics import Misfit

N = 400
RNG = np.random.default_rng(0)
POSITIONS = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0), indexing='ij'), -1)
POSITIONS = 5 * POSITIONS.reshape(-1, 2)
PROBE = np.zeros((1, 32, 32), np.complex64)
PROBE[:, 12:20, 12:20] = 1
FORWARD = SimpleNamespace(patch_origins_px=POSITIONS, shape=(32, 32))


def counted(true: np.ndarray, photons: float) -> np.ndarray:
    return RNG.poisson(photons * true).astype(float)


@pytest.mark.parametrize('photons', [1e2, 1e5])
def test_a_steady_beam_stays_steady(photons: float) -> None:
    found = refined_intensities(np.ones(N), np.full(N, photons), counted(np.ones(N), photons))
    np.testing.assert_array_equal(found, 1.0)


def test_a_flickering_beam_is_measured() -> None:
    true = np.exp(0.1 * RNG.standard_normal(N))
    true /= true.mean()
    given = np.full(N, 1.3)
    found = refined_intensities(given, 1e5 * given, counted(true, 1e5))
    assert found.mean() == pytest.approx(1)
    assert np.std(np.log(found / true)) < 1.5e5**-0.5 * 1.5


def test_a_weak_pattern_tells_less_than_the_others() -> None:
    """Of two patterns of twice the light, the one with few photons is believed less."""
    true = np.exp(0.1 * RNG.standard_normal(N))
    expected, seen = np.full(N, 1e4), counted(true, 1e4)
    expected[:2], seen[:2] = (10, 1e4), (20, 2e4)
    found = refined_intensities(np.ones(N), expected, seen)
    assert found[0] < 1.2 < 1.9 < found[1]


def test_a_pattern_without_light_has_a_dim_beam_and_none_has_no_beam() -> None:
    seen = counted(np.exp(0.1 * RNG.standard_normal(N)), 1e5)
    seen[7] = 0
    found = refined_intensities(np.ones(N), np.full(N, 1e5), seen)
    assert 0 < found[7] < 0.02
    given = np.linspace(0.5, 1.5, N)
    dark = refined_intensities(given, np.full(N, 1e5), np.zeros(N))
    np.testing.assert_array_equal(dark, given)
    broken = refined_intensities(given, np.full(N, np.nan), seen)
    np.testing.assert_array_equal(broken, given)


def test_only_patterns_that_share_light_have_beams_of_their_own() -> None:
    class Model(SimpleNamespace):
        def __len__(self) -> int:
            return int(self.n)

    assert intensities_move(Model(n=9, is_single_shot=False), 0.5)
    assert not intensities_move(Model(n=9, is_single_shot=False), 0.01)
    assert not intensities_move(Model(n=3, is_single_shot=False), 0.5)
    assert not intensities_move(Model(n=9, is_single_shot=True), 0.5)


def moments_of(slopes: np.ndarray, intensity: float = 0.0, noise: float = 0.0) -> PatternMoments:
    """Return what patterns with these four slopes measure, shape (n, 4)."""
    mixed = RNG.standard_normal((N, 40, 5))
    unknowns = np.concatenate([np.full((N, 1), intensity), slopes], axis=1)
    missing = np.einsum('npi,ni->np', mixed, unknowns) + noise * RNG.standard_normal((N, 40))
    return PatternMoments(
        np.einsum('npi,npj->nij', mixed, mixed), np.einsum('npi,np->ni', mixed, missing)
    )


def test_a_slow_amplitude_and_phase_are_found_whatever_the_beams_are() -> None:
    """A slope of amplitude along y and one of phase along x, under beams that nobody knows."""
    slopes = np.tile([0.002, 0.0, 0.0, -0.004], (N, 1))
    errors = fit_slow_errors(FORWARD, moments_of(slopes, intensity=0.3), PROBE)
    factor = errors.factor((127, 127))
    inside = slice(20, 110)
    rises, phases = np.log(np.abs(factor[inside, 60])), np.angle(factor[60, inside])
    # The ridge holds a fifth of it back; the next correction brings the most of that.
    assert 0.0015 < np.diff(rises).mean() < 0.002
    assert -0.004 < np.diff(phases).mean() < -0.003
    assert np.abs(np.diff(np.angle(factor[inside, 60]))).max() < 1e-4
    assert errors.beam_drift() == pytest.approx(2 * 0.002 * POSITIONS[:, 0].std(), rel=0.25)


def test_the_noise_of_a_drift_is_known() -> None:
    """Counts of amplitudes have a standard deviation of a half."""
    found = [
        fit_slow_errors(FORWARD, moments_of(np.zeros((N, 4)), noise=0.5), PROBE) for _ in range(40)
    ]
    spread = np.sqrt(np.mean([each.beam_drift() ** 2 for each in found]))
    assert spread == pytest.approx(found[0].noise, rel=0.25)


def test_the_phase_is_fitted_alone_unless_the_beam_drifts() -> None:
    slopes = np.tile([0.0, 0.0, 0.0, -0.004], (N, 1))
    steady = fit_slow_errors(FORWARD, moments_of(slopes, noise=0.5), PROBE)
    assert not steady.is_sure_of_drift
    shape = (127, 127)
    alone = np.exp(1j * steady.basis.surface(steady.phase_alone, shape))
    np.testing.assert_allclose(steady.phase_factor(shape), alone, rtol=1e-5)
    slopes[:, 0] = 0.05
    drifting = fit_slow_errors(FORWARD, moments_of(slopes, noise=0.5), PROBE)
    assert drifting.is_sure_of_drift
    phase_factor = drifting.factor(shape) / np.abs(drifting.factor(shape))
    np.testing.assert_allclose(drifting.phase_factor(shape), phase_factor, atol=1e-5)


def fit_of(doses: np.ndarray, deviance: float = 1.0) -> PatternFit:
    return PatternFit(np.full(N, deviance), doses)


def drifting_by(size: float, noise: float) -> SlowErrors:
    """Return slow errors that show a beam's drift of this size."""
    one = fit_slow_errors(FORWARD, moments_of(np.tile([0.01, 0, 0, 0], (N, 1))), PROBE)
    amounts = one.log_amplitude * (size / one.beam_drift())
    return dataclasses.replace(one, log_amplitude=amounts, noise=noise)


def test_the_variation_of_a_beam_has_a_fast_and_a_slow_part() -> None:
    photons, steady = np.full(N, 1e5), np.ones(N)
    noisy = counted(steady, 1e5) / 1e5
    quiet, sure = drifting_by(0.003, 0.003), drifting_by(0.05, 0.003)
    assert measure_beam_variation(fit_of(noisy), photons, quiet) is None
    flicker = noisy * np.exp(0.03 * RNG.standard_normal(N))
    found = measure_beam_variation(fit_of(flicker), photons, quiet)
    assert found == pytest.approx(0.03, rel=0.2)
    assert measure_beam_variation(fit_of(noisy), photons, sure) == pytest.approx(0.05, rel=0.02)
    # A drift that is no larger than its noise, and patterns that do not fit for another reason.
    assert measure_beam_variation(fit_of(noisy), photons, drifting_by(0.05, 0.03)) is None
    assert measure_beam_variation(fit_of(flicker, deviance=2.0), photons, sure) is None
    nothing = PatternFit(np.full(N, np.nan), steady)
    assert measure_beam_variation(nothing, photons, sure) is None


def test_the_noise_of_few_faint_patterns_is_no_flicker() -> None:
    quiet, reported = drifting_by(0.003, 0.003), 0
    for _ in range(50):
        doses = RNG.poisson(1e3, 80) / 1e3
        fit = PatternFit(np.ones(80), doses)
        reported += measure_beam_variation(fit, np.full(80, 1e3), quiet) is not None
    assert reported <= 1


def test_the_fit_names_the_beam_and_what_mends_it() -> None:
    sentence = fit_in_words(Misfit(1.0, 0.001), 30, beam_variation=0.05)
    assert sentence == (
        "The object fits the counts within 1.2 times shot noise, but the beam's intensity varies "
        'by 5.0% or more; --refine-intensities takes that into account.'
    )
    bad = fit_in_words(Misfit(3.2, 0.01, 0.5), 30, beam_variation=0.1)
    assert bad == (
        "The object misses the counts by 3.2 times shot noise: the beam's intensity varies by "
        '10.0% or more; --refine-intensities takes that into account.'
    )
