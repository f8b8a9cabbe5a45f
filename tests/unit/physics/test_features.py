"""What sweepnet sees of a pattern."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn_plugin.physics import (
    diffract,
    project_amplitudes,
    rotated_pixels,
    sweepnet_features,
)
from ptychopinn_plugin.physics.features import (
    BACK_PROJECTION_EPSILON,
    COVERAGE_SCALE,
    RATIO_EPSILON,
)

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


def test_features_and_start() -> None:
    patches, updates = noise((3, 8, 8)), 50 * noise((3, 8, 8), 1)
    intensities = np.random.default_rng(2).uniform(1, 40, size=(3, 8, 8))
    coverage = np.random.default_rng(3).uniform(0, 100, size=(3, 8, 8))
    features, start, rotations = sweepnet_features(patches, updates, intensities, coverage)
    assert features.shape == (3, 6, 8, 8)
    assert features.dtype == np.float64
    np.testing.assert_allclose(np.abs(rotations), 1, atol=1e-6)
    brightest = intensities.max(axis=(1, 2), keepdims=True)
    steps = updates / (intensities + BACK_PROJECTION_EPSILON * brightest)
    np.testing.assert_allclose(start, (patches + steps) * rotations[:, None, None])
    estimate = features[:, 0] + 1 + 1j * features[:, 1]
    np.testing.assert_allclose(estimate, patches * rotations[:, None, None])
    np.testing.assert_allclose(
        features[:, 2] + 1j * features[:, 3], steps * rotations[:, None, None], rtol=1e-9
    )
    np.testing.assert_allclose(features[:, 4] ** 2, intensities / brightest)
    np.testing.assert_allclose(features[:, 5], np.log1p(coverage) / COVERAGE_SCALE)
    # The turned estimate is real where the light is.
    mean = (estimate * intensities).sum(axis=(1, 2))
    assert (mean.real > 0).all()
    np.testing.assert_allclose(mean.imag, 0, atol=1e-9 * np.abs(mean).max())


def test_a_global_phase_does_not_reach_the_network() -> None:
    patches, updates = noise((2, 8, 8)), noise((2, 8, 8), 1)
    intensities, coverage = np.ones((2, 8, 8)), np.zeros((2, 8, 8))
    features, start, _ = sweepnet_features(patches, updates, intensities, coverage)
    turn = np.exp(2.1j)
    turned = sweepnet_features(patches * turn, updates * turn, intensities, coverage)
    np.testing.assert_allclose(turned[0], features, atol=1e-12)
    np.testing.assert_allclose(turned[1], start, atol=1e-12)


def test_turned_and_turned_back() -> None:
    image = np.random.default_rng(0).random((6, 6))
    there, back = rotated_pixels(6, (0, 1, 3))
    for number, order, inverse in zip((0, 1, 3), there, back, strict=True):
        turned = image.ravel()[order]
        assert np.array_equal(turned.reshape(6, 6), np.rot90(image, number))
        assert np.array_equal(turned[inverse].reshape(6, 6), image)
