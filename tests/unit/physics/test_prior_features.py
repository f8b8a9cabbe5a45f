"""The input of a learned prior: what means nothing to it, and where it may change an object."""

import numpy as np
import pytest

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.physics.prior_features import (
    PRIOR_FEATURES,
    count_exposures,
    prior_features,
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
