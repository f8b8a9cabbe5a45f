"""What sweepnet sees of a pattern."""

import numpy as np
from numpy.typing import NDArray

from ptychopinn_plugin.physics import rotated_pixels, sweepnet_features
from ptychopinn_plugin.physics.features import (
    BACK_PROJECTION_EPSILON,
    COVERAGE_SCALE,
)


def noise(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.complex128]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


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
    # The estimate in phase is real where the light is.
    mean = (estimate * intensities).sum(axis=(1, 2))
    assert (mean.real > 0).all()
    np.testing.assert_allclose(mean.imag, 0, atol=1e-9 * np.abs(mean).max())


def test_a_global_phase_does_not_reach_the_network() -> None:
    patches, updates = noise((2, 8, 8)), noise((2, 8, 8), 1)
    intensities, coverage = np.ones((2, 8, 8)), np.zeros((2, 8, 8))
    features, start, _ = sweepnet_features(patches, updates, intensities, coverage)
    phase_factor = np.exp(2.1j)
    out_of_phase = sweepnet_features(
        patches * phase_factor, updates * phase_factor, intensities, coverage
    )
    np.testing.assert_allclose(out_of_phase[0], features, atol=1e-12)
    np.testing.assert_allclose(out_of_phase[1], start, atol=1e-12)


def test_rotated_there_and_back() -> None:
    image = np.random.default_rng(0).random((6, 6))
    there, back = rotated_pixels(6, (0, 1, 3))
    for number, order, inverse in zip((0, 1, 3), there, back, strict=True):
        rotated = image.ravel()[order]
        assert np.array_equal(rotated.reshape(6, 6), np.rot90(image, number))
        assert np.array_equal(rotated[inverse].reshape(6, 6), image)
