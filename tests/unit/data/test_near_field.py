"""Scans of the near field: geometry, reading and writing, fitting, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from ptychopinn_plugin.data import (
    Geometry,
    Reconstruction,
    Scan,
    describe_scan,
    fit_to_size,
    load_scan,
    one_by_one,
    read_reconstruction,
    write_product,
    write_reconstruction,
    write_scan,
)
from ptychopinn_plugin.data.geometry import wavelength_m
from ptychopinn_plugin.data.grouping import check_positions
from ptychopinn_plugin.data.readers.matching import known_geometry
from ptychopinn_plugin.data.reorientation import reorient
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.data.single_shots import alone_where_apart
from ptychopinn_plugin.data.starting_probe import made_probe
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.orientation import Orientation
from ptychopinn_plugin.physics import predict_patterns
from ptychopinn_plugin.physics.propagation import light_on_detector

CONE = Geometry(
    photon_energy_eV=10e3,
    detector_distance_m=0.3,
    detector_pixel_height_m=3e-6,
    detector_pixel_width_m=2e-6,
    near_field=True,
    focus_object_distance_m=-0.1,
)


@pytest.fixture(scope='module')
def scan() -> Scan:
    """Return 20 images of a sample before a diffuser."""
    return simulate(
        SimulationConfig(
            size=32,
            rows=4,
            columns=5,
            step_px=5.0,
            fresnel_number=0.1,
            probe_kind='diffuser',
            dead_pixels=3,
            photons=1e6,
        )
    )


def residual(scan: Scan) -> float:
    """Return how much the scan's own object and probe leave, in times of shot noise."""
    assert scan.object_ is not None
    assert scan.bad_pixels is not None
    expected = predict_patterns(
        *(scan.object_.astype(complex), np.zeros(2, np.int64), scan.positions_px),
        *(scan.probe.astype(complex), scan.transfer_function()),
    )
    valid_mask = ~scan.bad_pixels
    misfit = (np.sqrt(expected) - np.sqrt(scan.patterns))[:, valid_mask]
    return float(4 * (misfit**2).mean())


def test_a_cone_beam_magnifies() -> None:
    assert CONE.magnification() == pytest.approx(4)
    assert dataclasses.replace(CONE, focus_object_distance_m=None).magnification() == 1
    # A beam that converges behind the detector makes a smaller image.
    converging = dataclasses.replace(CONE, focus_object_distance_m=0.4)
    assert converging.magnification() == pytest.approx(0.25)
    with pytest.raises(DataError, match=r'it lies 0.2 m behind the sample.*--focus-distance'):
        dataclasses.replace(CONE, focus_object_distance_m=0.2).magnification()


def test_pixels_and_distance_of_a_cone_beam() -> None:
    """It makes the image of a parallel beam at a fourth of the distance, four times as large."""
    found = known_geometry(Geometry(), CONE, (7, 32, 40))
    assert (found.pixel_height_m, found.pixel_width_m) == (0.75e-6, 0.5e-6)
    parallel = Geometry(0.75e-6, 0.5e-6, 10e3, 0.075, near_field=True)
    transfer = found.transfer_function((1024, 1024))
    assert transfer is not None
    np.testing.assert_array_equal(transfer, parallel.transfer_function((1024, 1024)))
    assert dataclasses.replace(found, near_field=None).transfer_function((32, 40)) is None


@pytest.mark.parametrize('magnification', [1.0, 2.0, 20.0, 200.0])
def test_a_cone_beam_makes_the_image_of_the_fresnel_integral(magnification: float) -> None:
    """Computed with the curvature of the beam, on a grid eight times as fine as the object's."""
    size, finer, pixel_m = 32, 8, 50e-9
    wavelength, n = wavelength_m(1e4), size * finer
    # So one pixel of the detector is four of the integral.
    distance_m = magnification * size * pixel_m**2 / (4 * wavelength)
    focus_m = None if magnification == 1 else -distance_m / (magnification - 1)
    geometry = Geometry(
        *(pixel_m, pixel_m, 1e4, distance_m, magnification * pixel_m, magnification * pixel_m),
        near_field=True,
        focus_object_distance_m=focus_m,
    )
    rng = np.random.default_rng(0)
    y, x = np.indices((size, size)) - size // 2
    phase = ndimage.gaussian_filter(rng.standard_normal((size, size)), 2.0)
    wave = np.exp(-(x**2 + y**2) / (2 * 3.5**2) + 8j * phase)
    transfer = geometry.transfer_function((size, size))
    expected = np.abs(np.fft.ifft2(np.fft.fft2(wave) * transfer)) ** 2

    spectrum = np.pad(np.fft.fftshift(np.fft.fft2(wave)), (n - size) // 2)
    fine = np.fft.ifft2(np.fft.ifftshift(spectrum)) * finer**2
    along_m = (np.arange(n) - n // 2) * pixel_m / finer
    square = along_m[:, np.newaxis] ** 2 + along_m**2
    curvature = 1 / distance_m - (1 / focus_m if focus_m else 0)
    fine *= np.exp(1j * np.pi / wavelength * curvature * square)
    far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(fine)))
    step_m = pixel_m / finer
    image = np.abs(far * step_m**2 / (wavelength * distance_m)) ** 2 * magnification**2
    middle = slice(n // 2 - 2 * size, n // 2 + 2 * size, 4)
    np.testing.assert_allclose(image[middle, middle], expected, atol=0.01 * expected.max())


@pytest.mark.parametrize(
    ('missing', 'option'),
    [
        ('photon_energy_eV', '--photon-energy'),
        ('detector_distance_m', '--detector-distance'),
        ('pixel_height_m', '--detector-pixel'),
    ],
)
def test_a_missing_number_is_named_with_its_option(scan: Scan, missing: str, option: str) -> None:
    geometry = dataclasses.replace(scan.geometry, **{missing: None})
    with pytest.raises(DataError, match=rf'{option}.*--no-near-field'):
        dataclasses.replace(scan, geometry=geometry)


def test_a_distance_at_which_a_pixel_fills_the_frame_is_refused(scan: Scan) -> None:
    geometry = dataclasses.replace(scan.geometry, detector_distance_m=1.0)
    with pytest.raises(DataError, match=r'must be at least 1; it is 0.0026 \(32 pixels of 1e-07 m'):
        dataclasses.replace(scan, geometry=geometry)


def test_a_simulated_scan_is_explained_by_its_truth(scan: Scan) -> None:
    assert residual(scan) == pytest.approx(1, abs=0.05)
    far = dataclasses.replace(scan, geometry=Geometry())
    assert residual(far) > 100
    energy_m = wavelength_m(1e4)
    size, distance_m = scan.geometry.pixel_width_m, scan.geometry.detector_distance_m
    assert size is not None
    assert distance_m is not None
    assert size**2 / energy_m / distance_m == pytest.approx(0.1)
    with pytest.raises(ConfigError, match=r'--fresnel-number'):
        SimulationConfig(probe_kind='diffuser')


def test_it_is_written_and_read_with_its_field(scan: Scan, tmp_path: Path) -> None:
    write_scan(tmp_path / 'scan.npz', scan)
    found = load_scan(tmp_path / 'scan.npz')
    assert found.geometry == scan.geometry
    assert residual(found) == pytest.approx(residual(scan), 1e-6)
    assert not any('corners' in note or 'beam' in note for note in found.notes)
    described = describe_scan(found)['geometry']
    assert described['near_field'] is True
    far = load_scan(tmp_path / 'scan.npz', geometry=Geometry(near_field=False))
    assert far.transfer_function() is None
    with pytest.raises(DataError, match=r'without a place where the beam.*\(16, 16\)'):
        load_scan(tmp_path / 'scan.npz', beam_center_px=(16, 16))


def test_options_make_it_of_a_file_that_does_not_say_so(scan: Scan, tmp_path: Path) -> None:
    plain = dataclasses.replace(scan, geometry=Geometry())
    write_scan(tmp_path / 'scan.npz', plain)
    with pytest.raises(DataError, match=r'--photon-energy.*--detector-distance.*--detector-pixel'):
        load_scan(tmp_path / 'scan.npz', geometry=Geometry(near_field=True))
    known = dataclasses.replace(scan.geometry, pixel_height_m=None, pixel_width_m=None)
    assert load_scan(tmp_path / 'scan.npz', geometry=known).geometry == scan.geometry


def test_a_pixel_of_the_far_field_is_not_taken_for_one_of_an_image() -> None:
    far = Geometry(1e-9, 1e-9, 8e3, 1.0)
    found = known_geometry(far, Geometry(near_field=True), (5, 64, 64))
    assert found.pixel_height_m is None
    given = Geometry(near_field=True, detector_pixel_height_m=2e-6, detector_pixel_width_m=2e-6)
    assert known_geometry(far, given, (5, 64, 64)).pixel_width_m == 2e-6


def result_of(scan: Scan) -> Reconstruction:
    assert scan.object_ is not None
    return Reconstruction(
        object_=scan.object_,
        origin_px=np.zeros(2),
        coverage=np.ones(scan.object_.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='none',
        geometry=dataclasses.replace(scan.geometry, focus_object_distance_m=-0.5),
    )


def test_results_keep_the_field(scan: Scan, tmp_path: Path) -> None:
    result = result_of(scan)
    write_reconstruction(tmp_path / 'r.npz', result)
    assert read_reconstruction(tmp_path / 'r.npz').geometry == result.geometry
    write_product(tmp_path / 'product.h5', result)
    found = read_reconstruction(tmp_path / 'product.h5').geometry
    assert found.near_field is True
    assert found.focus_object_distance_m == -0.5
    assert found.pixel_width_m == scan.geometry.pixel_width_m


@pytest.mark.parametrize('size', [24, 41])
def test_another_size_crops_or_pads_images(scan: Scan, size: int) -> None:
    fitted = fit_to_size(scan, size)
    assert fitted.geometry == scan.geometry
    assert fitted.pattern_shape == (size, size)
    assert 'around their middle' in fitted.notes[-1]
    middle = (slice(None), slice(2, -2), slice(2, -2))
    smaller = fit_to_size(scan, 28) if size > 28 else fitted
    np.testing.assert_array_equal(
        fit_to_size(fitted, 24).patterns, fit_to_size(smaller, 24).patterns
    )
    np.testing.assert_array_equal(scan.patterns[middle], fit_to_size(scan, 28).patterns)
    np.testing.assert_array_equal(scan.probe[middle], fit_to_size(scan, 28).probe)
    # Patches lie at the same places of the object.
    assert fitted.object_ is not None
    assert scan.object_ is not None
    shift = np.array(fitted.positions_px - scan.positions_px)[0].astype(int)
    corner = fitted.object_[shift[0] :, shift[1] :]
    height, width = scan.object_.shape
    np.testing.assert_array_equal(corner[:height, :width], scan.object_)


def test_images_are_turned_about_their_middle(scan: Scan) -> None:
    flipped = reorient(scan, Orientation(flip='vertical'))
    back = reorient(flipped, Orientation(flip='vertical'))
    np.testing.assert_array_equal(back.patterns, scan.patterns)
    np.testing.assert_array_equal(back.positions_px, scan.positions_px)


def test_hidden_light_is_that_of_the_image(scan: Scan) -> None:
    hidden = np.zeros(scan.pattern_shape, bool)
    hidden[:, :16] = True
    patterns = scan.patterns.copy()
    patterns[:, hidden] = 0
    half = dataclasses.replace(scan, patterns=patterns, bad_pixels=hidden)
    assert half.mean_photons() == pytest.approx(scan.mean_photons(), rel=0.05)


def test_a_probe_of_the_mean_image(scan: Scan) -> None:
    found, note = made_probe(scan.patterns, scan.bad_pixels, scan.geometry)
    assert 'propagated back' in note
    light = light_on_detector(found, scan.transfer_function())
    valid_mask = ~scan.bad_pixels if scan.bad_pixels is not None else ...
    np.testing.assert_allclose(light[valid_mask], scan.patterns.mean(axis=0)[valid_mask], rtol=1e-3)


def test_what_cannot_be_done_is_refused(scan: Scan) -> None:
    with pytest.raises(DataError, match=r'a single pattern is one image.*--single-shot'):
        one_by_one(scan)


def test_images_that_do_not_touch_are_not_taken_one_by_one(scan: Scan) -> None:
    positions_px = 40.0 * np.indices((4, 5)).reshape(2, -1).T
    apart = dataclasses.replace(scan, positions_px=positions_px, object_=None)
    assert alone_where_apart(apart) is apart
    with pytest.raises(DataError, match=r'illuminations must overlap'):
        check_positions(apart)
    far = dataclasses.replace(apart, geometry=Geometry())
    assert alone_where_apart(far).is_single_shot


def test_frames_get_room_for_light_from_outside(scan: Scan, tmp_path: Path) -> None:
    write_scan(tmp_path / 'scan.npz', scan)
    found = load_scan(tmp_path / 'scan.npz', frame_margin_px=5)
    assert found.pattern_shape == (42, 42)
    assert found.bad_pixels is not None
    assert found.bad_pixels.sum() == 42 * 42 - 32 * 32 + 3
    # The iterations correct a probe that is no longer the given one.
    assert found.probe_origin == 'extended'
    np.testing.assert_array_equal(found.probe[:, 5:-5, 5:-5], scan.probe)
    assert fit_to_size(found, 32).patterns.sum() == scan.patterns.sum()
    with pytest.raises(DataError, match=r'--frame-margin.*of the far field'):
        load_scan(tmp_path / 'scan.npz', frame_margin_px=5, geometry=Geometry(near_field=False))


def test_a_struct_of_matlab_has_numbers(scan: Scan, tmp_path: Path) -> None:
    write_scan(tmp_path / 'scan.npz', scan)
    with np.load(tmp_path / 'scan.npz') as archive:
        arrays: dict[str, Any] = dict(archive)
    metadata = json.loads(str(arrays['_metadata']))
    metadata['geometry']['near_field'] = 1.0
    arrays['_metadata'] = np.array(json.dumps(metadata))
    np.savez(tmp_path / 'other.npz', **arrays)
    assert load_scan(tmp_path / 'other.npz').geometry == scan.geometry
