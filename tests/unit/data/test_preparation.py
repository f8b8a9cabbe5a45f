"""Fitting to a size, filling bad pixels, finding hot ones."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from ptychopinn_plugin.data import (
    Geometry,
    Scan,
    find_hot_pixels,
    fit_to_size,
    inpaint,
    one_by_one,
    without_dark_patterns,
)
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import predict_patterns

MakeScan = Callable[..., Scan]
Residual = Callable[[Scan], float]


@pytest.mark.parametrize('size', [32, 33])
@pytest.mark.parametrize('shape', [(20, 20), (20, 24), (17, 20), (16, 17)])
def test_padding_keeps_the_physics(
    make_scan: MakeScan, residual: Residual, shape: tuple[int, int], size: int
) -> None:
    """A finer grid holds the same band-limited waves, so the same patterns come out."""
    scan = make_scan(shape=shape, width=2.5)
    fitted = fit_to_size(scan, size)
    assert fitted.patterns.shape == (11, size, size)
    top, left = 16 - shape[0] // 2, 16 - shape[1] // 2
    inside = np.s_[top : top + shape[0], left : left + shape[1]]
    np.testing.assert_array_equal(fitted.patterns[:, *inside], scan.patterns)
    assert not fitted.bad_pixels[inside].any()
    assert fitted.bad_pixels.sum() == size**2 - shape[0] * shape[1]
    assert residual(fitted) < 2e-4


@pytest.mark.parametrize('shape', [(24, 24), (24, 20), (23, 21)])
def test_cropping_keeps_the_physics(
    make_scan: MakeScan, residual: Residual, shape: tuple[int, int]
) -> None:
    scan = make_scan(shape=shape, width=2.5)
    fitted = fit_to_size(scan, 18)
    top, left = shape[0] // 2 - 9, shape[1] // 2 - 9
    np.testing.assert_array_equal(
        fitted.patterns, scan.patterns[:, top : top + 18, left : left + 18]
    )
    assert residual(fitted) < 2e-3
    # A misplaced object, or positions that were not scaled, would be far off.
    shifted = dataclasses.replace(fitted, positions_px=fitted.positions_px - [0.5, 0])
    assert residual(shifted) > 2 * residual(fitted)


def test_patches_at_the_edge_stay_inside_the_object(
    make_scan: MakeScan, residual: Residual
) -> None:
    scan = make_scan(shape=(17, 20), width=2.5)
    assert scan.object_ is not None
    # The least and the largest that rounding to a pixel lets in.
    corners = np.array([[7.51, 9.51], [scan.object_.shape[0] - 8.51, scan.object_.shape[1] - 9.51]])
    positions = np.concatenate([corners, scan.positions_px[2:]])
    patterns = predict_patterns(
        scan.object_.astype(complex), np.zeros(2, np.int64), positions, scan.probe
    )
    scan = dataclasses.replace(scan, positions_px=positions, patterns=patterns)
    for size in (16, 32, 40):
        assert residual(fit_to_size(scan, size)) < 5e-3


def test_an_empty_object_gives_the_cropped_pattern_exactly(make_scan: MakeScan) -> None:
    scan = make_scan(shape=(24, 20))
    flat = np.ones((60, 60), complex)
    middle = np.full((1, 2), 30.0)
    origin = np.zeros(2, np.int64)
    whole = predict_patterns(flat, origin, middle, scan.probe.astype(complex))
    fitted = fit_to_size(scan, 16)
    cut = predict_patterns(flat, origin, middle, fitted.probe.astype(complex))
    np.testing.assert_allclose(cut, whole[:, 4:20, 2:18], rtol=1e-4, atol=1e-4 * whole.max())


def test_pixel_sizes_and_positions_scale_by_axis(make_scan: MakeScan) -> None:
    scan = make_scan(shape=(24, 20))
    fitted = fit_to_size(scan, 16)
    np.testing.assert_allclose(fitted.positions_px, scan.positions_px * [16 / 24, 16 / 20])
    np.testing.assert_allclose(
        fitted.nominal_positions_px, scan.nominal_positions_px * [16 / 24, 16 / 20]
    )
    geometry = fitted.geometry
    assert geometry.pixel_height_m == pytest.approx(2e-9 * 24 / 16)
    assert geometry.pixel_width_m == pytest.approx(2e-9 * 20 / 16)
    assert geometry.detector_pixel_width_m == scan.geometry.detector_pixel_width_m
    assert 'Patterns of 24 x 20 pixels were fitted to 16 x 16' in fitted.notes[-1]
    assert 'height cropped, width cropped' in fitted.notes[-1]


def test_one_side_is_cropped_and_the_other_padded(make_scan: MakeScan) -> None:
    fitted = fit_to_size(make_scan(shape=(24, 12)), 16)
    assert 'height cropped, width padded' in fitted.notes[-1]
    assert fitted.bad_pixels[:, :2].all()
    assert fitted.bad_pixels[:, 14:].all()
    assert not fitted.bad_pixels[:, 2:14].any()


def test_bad_pixels_are_cropped_along(make_scan: MakeScan) -> None:
    bad = np.zeros((24, 24), bool)
    bad[5, 17] = True
    fitted = fit_to_size(dataclasses.replace(make_scan(shape=(24, 24)), bad_pixels=bad), 16)
    assert np.argwhere(fitted.bad_pixels).tolist() == [[1, 13]]


def test_a_scan_that_fits_is_left_alone(make_scan: MakeScan) -> None:
    scan = make_scan()
    assert fit_to_size(scan, 16) is scan


def test_without_object_and_geometry(make_scan: MakeScan) -> None:
    scan = dataclasses.replace(
        make_scan(), object_=None, nominal_positions_px=None, geometry=Geometry()
    )
    fitted = fit_to_size(scan, 20)
    assert fitted.object_ is None
    assert fitted.geometry == Geometry()


def test_counts_keep_their_type(make_scan: MakeScan) -> None:
    scan = make_scan()
    scan = dataclasses.replace(scan, patterns=scan.patterns.astype(np.uint16))
    assert fit_to_size(scan, 20).patterns.dtype == np.uint16


def test_a_size_must_be_positive(make_scan: MakeScan) -> None:
    with pytest.raises(DataError, match='got size 0'):
        fit_to_size(make_scan(), 0)


class TestInpaint:
    """Bad pixels are filled from good neighbours."""

    def test_a_single_pixel_is_the_mean_of_its_neighbours(self) -> None:
        patterns = np.random.default_rng(0).uniform(1, 9, (3, 7, 9))
        bad = np.zeros((7, 9), bool)
        bad[2, 6] = True
        filled = inpaint(patterns, bad)
        around = patterns[:, 1:4, 5:8].reshape(3, 9)
        expected = np.delete(around, 4, axis=1).mean(axis=1)
        np.testing.assert_allclose(filled[:, 2, 6], expected, rtol=1e-6)
        np.testing.assert_allclose(filled[:, ~bad], patterns[:, ~bad], rtol=1e-6)
        assert filled.dtype == np.float32

    def test_the_source_is_left_alone_and_bad_values_do_not_leak(self) -> None:
        patterns = np.ones((2, 6, 8), np.float32)
        bad = np.zeros((6, 8), bool)
        bad[2:4, 5:] = True
        patterns[:, bad] = np.nan
        before = patterns.copy()
        np.testing.assert_allclose(inpaint(patterns, bad), 1)
        np.testing.assert_array_equal(patterns, before)

    def test_a_large_hole_is_grown_inwards(self) -> None:
        ramp = np.tile(np.arange(15.0), (15, 1))[np.newaxis]
        bad = np.zeros((15, 15), bool)
        bad[3:12, 3:12] = True
        filled = inpaint(ramp, bad)[0]
        assert 2 <= filled[7, 3] < filled[7, 7] < filled[7, 11] <= 12
        assert filled[7, 7] == pytest.approx(7, abs=0.5)
        np.testing.assert_allclose(filled[3:12], filled[3:12][::-1], rtol=1e-5)

    def test_integers(self) -> None:
        patterns = np.full((1, 5, 5), 60000, np.uint16)
        bad = np.zeros((5, 5), bool)
        bad[0, 0] = True
        np.testing.assert_array_equal(inpaint(patterns, bad), 60000)

    def test_nothing_is_bad(self) -> None:
        patterns = np.arange(24.0).reshape(1, 4, 6)
        np.testing.assert_array_equal(inpaint(patterns, np.zeros((4, 6), bool)), patterns)

    def test_nothing_is_good(self) -> None:
        with pytest.raises(DataError, match='marks every pixel'):
            inpaint(np.ones((1, 4, 6)), np.ones((4, 6), bool))

    def test_another_shape(self) -> None:
        with pytest.raises(DataError, match=r'must have shape \(4, 6\)'):
            inpaint(np.ones((1, 4, 6)), np.ones((6, 4), bool))


class TestHotPixels:
    """A pixel that is bright in most patterns and alone in it."""

    def test_found_in_noise(self) -> None:
        patterns = np.random.default_rng(0).poisson(3, (40, 16, 20))
        patterns[:, 4, 15] = 300
        # Bright in a few patterns alone: a speckle.
        patterns[:9, 10, 3] = 300
        assert np.argwhere(find_hot_pixels(patterns)).tolist() == [[4, 15]]

    def test_the_beam_and_known_pixels_are_not_called_hot(self) -> None:
        patterns = np.random.default_rng(0).poisson(3, (40, 16, 20))
        patterns[:, 8, 10] = 9000
        patterns[:, 2, 2] = 9000
        bad = np.zeros((16, 20), bool)
        bad[2, 2] = True
        assert not find_hot_pixels(patterns, bad).any()

    def test_a_smooth_pattern_has_none(self, make_scan: MakeScan) -> None:
        assert not find_hot_pixels(make_scan().patterns).any()


def test_patterns_without_light_are_left_out(make_scan: MakeScan) -> None:
    scan = make_scan()
    assert without_dark_patterns(scan) is scan
    patterns = scan.patterns.copy()
    patterns[[2, 7]] = 0
    patterns[7, 3, 3] = 1
    dark = dataclasses.replace(scan, patterns=patterns)
    with pytest.warns(UserWarning, match=r'left out 2 of 11 patterns, with .* 1% .* number 2\)'):
        lit = without_dark_patterns(dark)
    left = [0, 1, 3, 4, 5, 6, 8, 9, 10]
    np.testing.assert_array_equal(lit.positions_px, scan.positions_px[left])
    np.testing.assert_array_equal(lit.patterns, scan.patterns[left])


def test_patterns_that_touch_lie_side_by_side_when_each_is_alone() -> None:
    scan = simulate(SimulationConfig(size=32, rows=3, columns=4, step_px=2.0))
    alone = one_by_one(scan)
    assert alone.is_single_shot
    assert alone.object_ is None
    distances = np.linalg.norm(alone.positions_px[:, None] - alone.positions_px[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    pitch = distances.min()
    assert 16 <= pitch <= 32
    assert f'the patches lie {pitch:.0f} px apart in rows of 4' in alone.notes[-1]
    np.testing.assert_array_equal(alone.patterns, scan.patterns)


def test_patterns_that_do_not_touch_keep_their_places() -> None:
    scan = simulate(SimulationConfig(size=32, rows=2, columns=2, step_px=40.0, jitter_px=0.0))
    alone = one_by_one(scan)
    np.testing.assert_array_equal(alone.positions_px, scan.positions_px)
    assert alone.object_ is scan.object_


def test_patterns_that_lie_far_apart_are_put_into_a_table() -> None:
    """Their own places would take gigabytes of empty object."""
    scan = simulate(SimulationConfig(size=32, rows=2, columns=2, step_px=40.0, jitter_px=0.0))
    far = dataclasses.replace(scan, positions_px=500 * scan.positions_px, object_=None)
    alone = one_by_one(far)
    assert np.ptp(alone.positions_px, axis=0).max() <= 32


def test_a_table_of_other_patterns_than_squares_leaves_room_for_the_longer_side() -> None:
    scan = simulate(SimulationConfig(size=48, rows=2, columns=2, step_px=2.0))
    wide = dataclasses.replace(
        scan, patterns=scan.patterns[:, 18:-18], probe=scan.probe[:, 18:-18], bad_pixels=None
    )
    columns = np.unique(one_by_one(wide).positions_px[:, 1])
    assert np.diff(columns).min() == 48
