"""What each backend makes of an object that is to keep to constraints."""

import numpy as np
import pytest
from parity.frameworks import Framework
from parity.helpers import noise

from ptychopinn_plugin.backends.common import constraints
from ptychopinn_plugin.backends.common.constraints import NOTHING_KNOWN, ObjectConstraints

SHAPE = (24, 17)
COVERAGE = np.random.default_rng(0).uniform(0.1, 1, SHAPE)


def constrained(
    fw: Framework,
    object_: np.ndarray,
    constraints: ObjectConstraints = NOTHING_KNOWN,
    weight: float = 0.0,
    growth: float = 1.0,
) -> np.ndarray:
    found = fw.constraints.constrain(
        fw.tensor(object_), fw.tensor(COVERAGE), constraints, weight, growth
    )
    return fw.array(found)


def variation(object_: np.ndarray) -> float:
    y, x = np.diff(object_, axis=0)[:, :-1], np.diff(object_, axis=1)[:-1]
    return float(np.sqrt(np.abs(y) ** 2 + np.abs(x) ** 2).sum())


@pytest.mark.parametrize('axis', [0, 1])
def test_total_variation_brings_the_sides_of_an_edge_together_and_keeps_it_sharp(
    fw: Framework, axis: int
) -> None:
    r"""Of two flat halves, each moves by the weight over its width: the exact minimum."""
    shape, weight = (8, 6), 0.05
    side = shape[axis]
    middle = side // 2
    steps = np.where(np.arange(side) < middle, 0.0, 1.0) * np.exp(0.7j)
    edge = np.broadcast_to(steps[:, None] if axis == 0 else steps, shape)
    moves = np.where(np.arange(side) < middle, weight / middle, -weight / (side - middle))
    expected = edge + (moves[:, None] if axis == 0 else moves) * np.exp(0.7j)
    # The iterations take fewer steps, as they go on from there.
    given = fw.tensor(edge), fw.tensor(np.float64(weight))
    found = fw.array(fw.constraints.smooth_variation(*given, 60))
    np.testing.assert_allclose(found, expected, atol=0.0005)


def test_total_variation_takes_noise_away(fw: Framework) -> None:
    flat = np.full(SHAPE, 0.8 + 0.1j)
    rough = flat + 0.02 * noise(SHAPE)
    found = constrained(fw, rough, ObjectConstraints(total_variation=1.0), weight=0.05)
    assert np.abs(found - flat).std() < 0.3 * np.abs(rough - flat).std()
    assert variation(found) < 0.2 * variation(rough)
    # The mean is kept: no light is made or lost.
    assert found.mean() == pytest.approx(rough.mean(), abs=1e-5)


def test_a_large_object_is_smoothed_in_bands(
    fw: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_ = fw.tensor(1 + 0.3 * noise((61, 17)))

    def computed() -> tuple[np.ndarray, float]:
        smooth = fw.constraints.constrain(
            object_, None, ObjectConstraints(total_variation=0.25), 0.2, 1.0
        )
        return fw.array(smooth), float(fw.constraints.object_variation(object_))

    expected, variation_of_all = computed()
    monkeypatch.setattr(constraints, 'MAX_BAND_PIXELS', 200)
    assert len(constraints.cut_bands((61, 17), 5)) == 4
    found, sum_of_bands = computed()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert sum_of_bands == pytest.approx(variation_of_all, rel=1e-5)


def test_an_amplitude_object_has_no_phase(fw: Framework) -> None:
    amplitude = np.random.default_rng(1).uniform(0.2, 1, SHAPE)
    object_ = amplitude * np.exp(1.3j) + 0.05j * np.exp(1.3j)
    object_[3, 4] = -0.5 * np.exp(1.3j)
    found = constrained(fw, object_, ObjectConstraints('amplitude'))
    assert (found.imag == 0).all()
    assert found[3, 4] == 0
    # The phase of the whole is that of the mean, which the other part turns a little.
    np.testing.assert_allclose(np.delete(found.real, 55), np.delete(amplitude, 55), atol=0.02)


def test_a_phase_object_absorbs_nothing(fw: Framework) -> None:
    object_ = 1 + 0.3 * noise(SHAPE)
    found = constrained(fw, object_, ObjectConstraints('phase'))
    level = np.sqrt((np.abs(object_) ** 2 * COVERAGE).sum() / COVERAGE.sum())
    np.testing.assert_allclose(np.abs(found), level, rtol=1e-4)
    np.testing.assert_allclose(np.angle(found), np.angle(object_), atol=1e-4)


def test_bounds_hold_for_an_object_that_a_probe_has_grown_with(fw: Framework) -> None:
    object_ = 1 + 0.5 * noise(SHAPE)
    found = constrained(fw, object_, ObjectConstraints('complex', 0.6, 1.1), growth=2.0)
    amplitude = 2 * np.abs(object_)
    np.testing.assert_allclose(2 * np.abs(found), amplitude.clip(0.6, 1.1), rtol=1e-4)
    np.testing.assert_allclose(np.angle(found), np.angle(object_), atol=1e-4)
    open_above = constrained(fw, object_, ObjectConstraints(min_amplitude=0.9))
    np.testing.assert_allclose(np.abs(open_above), np.abs(object_).clip(0.9), rtol=1e-4)


def test_both_backends_agree(both: tuple[Framework, Framework]) -> None:
    object_ = 1 + 0.3 * noise(SHAPE)
    constraints = ObjectConstraints('amplitude', 0.7, 1.2, 0.5)
    found = [constrained(fw, object_, constraints, 0.04, 1.1) for fw in both]
    np.testing.assert_allclose(*found, atol=1e-5)
