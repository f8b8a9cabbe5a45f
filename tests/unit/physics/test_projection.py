"""Projection onto the measured amplitudes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn_plugin.physics import diffract, project_amplitudes
from ptychopinn_plugin.physics.projection import RATIO_EPSILON

GOOD = np.ones((12, 12), bool)


def noise(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.complex128]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@pytest.fixture
def probes() -> NDArray[np.complex128]:
    y, x = np.indices((12, 12)) - 6.0
    beam = 30 * np.exp(-(y**2 + 1.5 * x**2) / 12 + 0.1j * x * y)
    return np.stack([[beam, 0.4 * beam * x], [np.roll(beam, 1, axis=0), 0.4 * beam * y]])


def test_the_truth_needs_no_change(probes: NDArray[np.complex128]) -> None:
    patches = 1 + 0.2 * noise((2, 12, 12))
    counts = diffract(probes * patches[:, np.newaxis])
    update = project_amplitudes(patches, probes, counts, GOOD)
    assert np.abs(update).max() < 1e-6 * (np.abs(probes) ** 2).max()


def test_projected_waves_have_the_measured_amplitudes() -> None:
    """With a probe of one everywhere the update is the change of the exit wave itself."""
    flat = np.ones((2, 1, 12, 12), complex)
    # Bright enough for the epsilon that keeps the ratio finite.
    patches = 1e3 * noise((2, 12, 12))
    counts = 1e6 * np.abs(noise((2, 12, 12), 1)) ** 2
    projected = patches + project_amplitudes(patches, flat, counts, GOOD)
    np.testing.assert_allclose(diffract(projected[:, np.newaxis]), counts, rtol=1e-6, atol=1e-9)


def test_bad_pixels_say_nothing(probes: NDArray[np.complex128]) -> None:
    patches = noise((2, 12, 12))
    counts = np.abs(noise((2, 12, 12), 1)) ** 2 * 100
    valid_mask = GOOD.copy()
    valid_mask[3, 7] = valid_mask[6, 6] = False
    other = counts.copy()
    other[:, ~valid_mask] = 1e6
    np.testing.assert_array_equal(
        project_amplitudes(patches, probes, counts, valid_mask),
        project_amplitudes(patches, probes, other, valid_mask),
    )
    assert not np.allclose(
        project_amplitudes(patches, probes, counts, GOOD),
        project_amplitudes(patches, probes, other, GOOD),
    )


def test_the_update_points_downhill(probes: NDArray[np.complex128]) -> None:
    """It is the negative gradient of the squared amplitude error, by finite differences."""
    patches = 1 + 0.2 * noise((1, 12, 12))
    counts = np.abs(noise((1, 12, 12), 1)) ** 2 * 300
    probe = probes[:1]

    def error(values: NDArray[np.complex128]) -> float:
        expected = diffract(probe * values[:, np.newaxis])
        difference = np.sqrt(expected + RATIO_EPSILON) - np.sqrt(counts + RATIO_EPSILON)
        return float((difference**2).sum())

    update = project_amplitudes(patches, probe, counts, GOOD)
    for seed in range(3):
        direction = noise((1, 12, 12), 10 + seed)
        step = 1e-5
        slope = (error(patches + step * direction) - error(patches - step * direction)) / (2 * step)
        assert slope == pytest.approx(-2 * np.vdot(update, direction).real, rel=1e-5)
