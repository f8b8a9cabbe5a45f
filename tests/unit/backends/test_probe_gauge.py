"""What a refined probe and its object exchange without a trace in the patterns."""

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.probe_gauge import fit_probe_gauge, is_near, level_object
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.physics import predict_patterns

SCAN = simulate(
    SimulationConfig(size=32, n_positions=60, pupil_radius=0.12, defocus=100.0, n_modes=2)
)
START = SCAN.probe.astype(np.complex128)
Q, S = np.array([0.02, -0.01]), np.array([-0.004, 0.006])


def wandered(q: np.ndarray, s: np.ndarray) -> np.ndarray:
    y, x = (np.arange(32) - 16)[:, None], (np.arange(32) - 16)[None, :]
    rate = s + 1j * q
    return START * np.exp(rate[0] * y + rate[1] * x)


def mixed(probe: np.ndarray) -> np.ndarray:
    unitary = np.array([[0.8, 0.6j], [0.6j, 0.8]])
    return np.tensordot(unitary, probe, axes=1)


@pytest.mark.parametrize('has_slope', [False, True])
def test_a_probe_that_wandered_is_told_from_one_that_moved(has_slope: bool) -> None:
    """Its scale, and how its modes are mixed, do not matter."""
    s = S * has_slope
    probe = 3 * mixed(wandered(Q, s))
    gauge = fit_probe_gauge(probe, START, has_slope=has_slope)
    np.testing.assert_allclose(gauge.phase_slope, Q, rtol=0.05)
    np.testing.assert_allclose(gauge.log_amplitude_slope, s, atol=8e-4)
    moved = np.fft.ifft2(
        np.fft.fft2(START) * np.exp(-2j * np.pi * 0.1 * np.fft.fftfreq(32))[:, None]
    )
    gauge = fit_probe_gauge(moved, START, has_slope=has_slope)
    assert np.abs(gauge.phase_slope).max() < 1e-3
    assert np.abs(gauge.log_amplitude_slope).max() < 1e-3


def test_the_patterns_stay_as_they_are() -> None:
    """With the object and the beams that belong to the probe that has gone back."""
    object_, positions = SCAN.object_, SCAN.positions_px
    assert object_ is not None
    given = np.linspace(0.8, 1.2, len(SCAN))
    origin = np.zeros(2, np.int64)

    def patterns(image: np.ndarray, probe: np.ndarray, beams: np.ndarray) -> np.ndarray:
        expected = predict_patterns(image, origin, positions, probe)
        expected = expected * beams[:, None, None]
        return np.asarray(expected / expected.mean())

    probe = wandered(Q, S)
    before = patterns(object_.astype(np.complex128), probe, given)
    gauge = fit_probe_gauge(probe, START, has_slope=True)
    image = object_ / gauge.ramp(object_.shape)
    after = patterns(image, probe * gauge.ramp((32, 32)), gauge.intensities(given, positions))
    lit = before > 0.01 * before.max()
    np.testing.assert_allclose(after[lit], before[lit], rtol=0.03)


def test_a_guess_levels_the_object() -> None:
    assert is_near(mixed(wandered(Q, S)), START)
    assert is_near(1.01 * START, START)
    assert not is_near(START[:, ::-1].conj() * np.exp(0.3j * np.arange(32)), START)
    assert not is_near(START, np.zeros_like(START))
    y, x = np.indices((60, 80))
    rng = np.random.default_rng(1)
    level = 1 + 0.2 * rng.standard_normal((60, 80)) + 0.2j * rng.standard_normal((60, 80))
    tilted = level * np.exp(1j * (0.1 * y - 0.05 * x))
    gauge = level_object(tilted, np.ones((60, 80)))
    np.testing.assert_allclose(gauge.phase_slope, [-0.1, 0.05], atol=5e-3)
    flat = np.angle(tilted / gauge.ramp((60, 80)))
    assert abs(flat[:, 40].mean() - flat[:, 40:50].mean()) < 0.1
    assert flat.std() < 0.3


def test_a_probe_of_zero_is_left_alone() -> None:
    gauge = fit_probe_gauge(np.zeros_like(START), START)
    assert np.isfinite(gauge.ramp((32, 32))).all()
    gauge = fit_probe_gauge(START, np.zeros_like(START))
    assert np.isfinite(gauge.ramp((32, 32))).all()
