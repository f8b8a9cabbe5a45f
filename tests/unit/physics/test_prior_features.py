"""The input of a learned prior: what means nothing to it, and where it may change an object."""

import numpy as np
import pytest

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.physics.prior_features import (
    PRIOR_FEATURES,
    count_exposures,
    prior_features,
    smooth,
)

SIDE = 64


@pytest.fixture(scope='module')
def canvas() -> tuple[ComplexArray, ComplexArray, FloatArray, FloatArray]:
    """Return an object, a step, a coverage that ends within the canvas, and exposures."""
    rng = np.random.default_rng(0)
    object_ = (1 + 0.1 * rng.normal(size=(2, SIDE, SIDE)).view()).astype(np.float32)
    complex_object = (object_[0] + 0.2j * (object_[1] - 1)).astype(np.complex64)
    step = (0.02 * (rng.normal(size=(SIDE, SIDE)) + 1j * rng.normal(size=(SIDE, SIDE)))).astype(
        np.complex64
    )
    coverage = np.zeros((SIDE, SIDE), np.float32)
    coverage[12:52, 12:52] = 200.0
    return complex_object, step, coverage, np.full((SIDE, SIDE), 3.0, np.float32)


def test_a_phase_of_the_whole_object_changes_no_image(
    canvas: tuple[ComplexArray, ComplexArray, FloatArray, FloatArray],
) -> None:
    object_, step, coverage, exposures = canvas
    phase_factor = np.complex64(np.exp(2.1j))
    before = prior_features(object_, step, coverage, exposures)
    after = prior_features(object_ * phase_factor, step * phase_factor, coverage, exposures)
    assert before.images.shape == (PRIOR_FEATURES, SIDE, SIDE)
    np.testing.assert_allclose(after.images, before.images, atol=2e-4)
    correction = np.ones((2, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(
        after.apply(object_ * phase_factor, correction),
        before.apply(object_, correction) * phase_factor,
        atol=2e-4,
    )


def test_weaker_contrast_changes_the_scale_and_not_the_object_that_is_shown(
    canvas: tuple[ComplexArray, ComplexArray, FloatArray, FloatArray],
) -> None:
    object_, step, coverage, exposures = canvas
    lit = coverage > 0
    weak = prior_features(1 + 0.1 * (object_ - 1), 0.1 * step, coverage, exposures)
    strong = prior_features(object_, step, coverage, exposures)
    np.testing.assert_allclose(weak.images[:4, lit], strong.images[:4, lit], atol=0.15)
    np.testing.assert_allclose(weak.scale[lit] / strong.scale[lit], 0.1, rtol=0.1)


def test_nothing_changes_in_the_dark_and_without_a_correction(
    canvas: tuple[ComplexArray, ComplexArray, FloatArray, FloatArray],
) -> None:
    object_, step, coverage, exposures = canvas
    features = prior_features(object_, step, coverage, exposures)
    dark = coverage == 0
    changed = features.apply(object_, np.ones((2, SIDE, SIDE), np.float32))
    np.testing.assert_array_equal(changed[dark], object_[dark])
    assert np.abs(changed - object_)[~dark].min() > 0
    nothing = np.zeros((2, SIDE, SIDE), np.float32)
    np.testing.assert_array_equal(features.apply(object_, nothing), object_)


def test_a_correction_shrinks_with_the_step_of_the_data(
    canvas: tuple[ComplexArray, ComplexArray, FloatArray, FloatArray],
) -> None:
    """At rest a tenth of the local contrast's root is left: a fifth of its standard deviation."""
    object_, step, coverage, exposures = canvas
    lit = coverage > 0
    moving = prior_features(object_, 20 * step, coverage, exposures).scale[lit]
    resting = prior_features(object_, 0 * step, coverage, exposures)
    spread = np.sqrt(np.var(object_[lit]))
    assert np.median(resting.scale[lit]) == pytest.approx(0.2 * spread, rel=0.15)
    assert np.median(moving) > 4 * np.median(resting.scale[lit])


def test_exposures_count_the_patterns_over_a_pixel() -> None:
    probe = np.ones((2, 8, 8), np.complex64)
    origins = np.array([[0.0, 0.0], [0.4, 4.2], [12.0, 12.0], [12.0, 12.0], [12.0, 12.0]])
    exposures = count_exposures(probe, origins, (20, 20))
    assert exposures[2, 2] == pytest.approx(1, rel=0.01)
    assert exposures[2, 6] == pytest.approx(2, rel=0.01)
    assert exposures[15, 15] == pytest.approx(3, rel=0.01)
    assert exposures[10, 2] == 0


MIDDLE = (SIDE // 2, SIDE // 2)


def test_the_images_of_an_object_that_is_the_same_everywhere() -> None:
    """With one value everywhere each average is that value, and the equations are a few numbers."""
    value, step, photons, exposures = 1.2 * np.exp(0.4j), 0.3 * np.exp(1.0j), 50.0, 7.0
    full = np.ones((SIDE, SIDE))
    features = prior_features(value * full, step * full, photons * full, exposures * full)
    lit = 1 / 1.02
    in_phase = step * np.exp(-0.4j)
    scale = np.sqrt(abs(step) ** 2 + 1e-6)
    expected = [
        0,
        0,
        in_phase.real * lit / scale,
        in_phase.imag * lit / scale,
        np.log1p(photons) / 5,
        1,
        np.log1p(photons * scale**2) / 5,
        np.log1p(exposures),
        np.log(scale) / 5,
        0,
        np.log(1.2 + 1e-3),
    ]
    found = features.images[:, *MIDDLE]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert features.scale[MIDDLE] == pytest.approx(scale * lit, rel=1e-5)
    assert features.phases[MIDDLE] == pytest.approx(np.exp(0.4j), abs=1e-5)
    correction = np.stack([np.full((SIDE, SIDE), 2.0), np.full((SIDE, SIDE), -1.0)])
    changed = features.apply(value * full, correction)[MIDDLE]
    assert changed == pytest.approx(value + (2 - 1j) * scale * lit * np.exp(0.4j), rel=1e-5)


@pytest.mark.parametrize('step', [0.0, 0.05])
def test_the_images_of_a_checked_object(step: float) -> None:
    """The board's squares differ from their average by 0.1, along the axis of its phase."""
    board = 1 - 2 * (np.indices((SIDE, SIDE)).sum(axis=0) % 2)
    full = np.ones((SIDE, SIDE))
    factor = np.exp(-1.1j)
    features = prior_features((1 + 0.1 * board) * factor, step * factor * full, 9 * full, full)
    total = np.sqrt(0.01 + step**2 + 1e-6)
    scale = np.sqrt(step**2 + 0.04 * 0.01 + 1e-6)
    lit = 1 / 1.02
    y, x = MIDDLE
    np.testing.assert_allclose(
        features.images[0, y, x : x + 2], np.array([0.1, -0.1]) * lit / total, rtol=1e-3
    )
    np.testing.assert_allclose(features.images[1, y, x : x + 2], 0, atol=1e-4)
    assert features.images[2][MIDDLE] == pytest.approx(step * lit / scale, rel=1e-3)
    assert features.images[6][MIDDLE] == pytest.approx(np.log1p(9 * total**2) / 5, rel=1e-3)
    assert features.images[9][MIDDLE] == pytest.approx(np.log(scale / total), rel=1e-3)
    assert features.scale[MIDDLE] == pytest.approx(scale * lit, rel=1e-3)


def test_a_pixel_in_dim_light_counts_half() -> None:
    """Far from the border between both halves an average is that of its own half."""
    coverage = np.full((SIDE, SIDE), 1000.0)
    coverage[:, SIDE // 2 :] = 0.02 * 1000
    step = np.full((SIDE, SIDE), 0.3)
    features = prior_features(np.ones((SIDE, SIDE)), step, coverage, np.ones((SIDE, SIDE)))
    bright, dim = features.images[:, SIDE // 2, 4], features.images[:, SIDE // 2, -4]
    assert dim[2] / bright[2] == pytest.approx(1.02 / 2, rel=1e-4)
    assert dim[5] == pytest.approx(0.02)
    assert dim[10] == pytest.approx(bright[10], abs=1e-4)


def test_exposures_of_a_beam_that_is_brighter_in_the_middle() -> None:
    """One pattern counts once wherever its light is well above a thousandth of the brightest."""
    probe = np.array([[[1.0, 2.0, 0.0, 10.0]]], np.complex64)
    squares = np.array([1.0, 4.0, 0.0, 100.0]) ** 2
    once = count_exposures(probe, np.array([[0.0, 0.0]]), (1, 4))
    np.testing.assert_allclose(once[0], squares / (squares + 10.0), rtol=1e-5)
    twice = count_exposures(probe, np.zeros((2, 2)), (1, 4))
    np.testing.assert_allclose(twice[0], 4 * squares / (2 * squares + 20.0), rtol=1e-5)


def test_a_flat_object_without_a_step_has_finite_images() -> None:
    full, dark = np.ones((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    features = prior_features(full, dark, 9 * full, dark)
    assert np.isfinite(features.images).all()
    assert features.scale[MIDDLE] == pytest.approx(1e-3 / 1.02, rel=1e-3)


def test_a_neighbourhood_ends_at_three_standard_deviations() -> None:
    """The built-in model was trained with it."""
    image = np.zeros((1, 64))
    image[0, 20] = 1.0
    (found,) = smooth(image)
    assert np.flatnonzero(found).tolist() == list(range(2, 39))
    assert found[26] / found[20] == pytest.approx(np.exp(-0.5))
