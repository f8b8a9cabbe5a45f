"""Scans and products: metres and pixels, (x, y) and (y, x), against Ptychodus' own mapping."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ptychodus.api.io import load_product
from ptychodus.api.object import ObjectPosition
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import Product
from ptychodus.api.reconstruct import ReconstructInput

from ptychopinn_plugin import ptychodus_compat
from ptychopinn_plugin.data import Scan, fit_to_size, load_scan, write_scan
from ptychopinn_plugin.data.starting_probe import starting_probe
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host.resampling import Resampling
from ptychopinn_plugin.host.translation import to_product, to_scan
from ptychopinn_plugin.host.versions import host_version

from .conftest import PIXEL_M, SIZE, write_batch_folder


@pytest.fixture
def parameters(small_scan: Scan, tmp_path: Path) -> ReconstructInput:
    write_batch_folder(tmp_path, small_scan, shift_px=(3.25, -7.5))
    product = load_product(tmp_path / 'product.h5')
    return ReconstructInput(small_scan.patterns, small_scan.bad_pixels, product)


def test_positions_come_back_in_pixels(parameters: ReconstructInput, small_scan: Scan) -> None:
    scan = to_scan(parameters)
    # The product was moved as a whole, the object with it.
    np.testing.assert_allclose(scan.positions_px, small_scan.positions_px, atol=1e-6)
    assert scan.geometry.pixel_height_m == pytest.approx(small_scan.geometry.pixel_height_m)
    assert scan.geometry.photon_energy_eV == pytest.approx(small_scan.geometry.photon_energy_eV)
    np.testing.assert_array_equal(scan.probe, small_scan.probe)


def _where(product: Product, y_px: float, x_px: float) -> np.ndarray[Any, Any]:
    """Return where an object pixel lies by Ptychodus, (y, x) in metres."""
    found = product.object_.get_geometry().map_coordinates_object_to_probe(
        ObjectPosition(0, x_px, y_px)
    )
    return np.array(ptychodus_compat.point_m(found))


@pytest.mark.parametrize('origin', [(0, 0), (-3, 5), (4, -11)])
def test_an_object_lies_where_its_origin_says(
    parameters: ReconstructInput, origin: tuple[int, int]
) -> None:
    scan = to_scan(parameters)
    object_ = np.ones((40, 53), np.complex64)
    after = to_product(parameters.product, scan, object_, np.array(origin, float))
    # Pixel (0, 0) of the new object is pixel `origin` of the old one.
    expected = _where(parameters.product, *origin)
    np.testing.assert_allclose(_where(after, 0, 0), expected, atol=1e-14)
    assert after.metadata == parameters.product.metadata
    assert after.probe_positions is parameters.product.probe_positions


@pytest.mark.parametrize('size', [16, 24, 48, 64])
def test_a_model_of_another_size_leaves_the_pixels_of_the_scan(
    parameters: ReconstructInput, size: int
) -> None:
    """What continues from the product relies on the pixels that its patterns give it."""
    scan = to_scan(parameters)
    fitted = fit_to_size(scan, size)
    resampling = Resampling(scan, fitted)
    # A hill at a scan position, which the model sees on its own pixels.
    sides = (np.array([70, 77]) * size / SIZE).astype(int)
    corner = np.array([3.0, -2.0])
    y, x = np.indices(sides) + corner[:, np.newaxis, np.newaxis]
    top = fitted.positions_px[7]
    width = 4.0 * size / SIZE
    hill = np.exp(-((y - top[0]) ** 2 + (x - top[1]) ** 2) / (2 * width**2)).astype(np.complex64)

    object_, origin = resampling.object_back(hill, corner)
    after = to_product(parameters.product, scan, object_, origin)

    pixel = after.object_.get_pixel_geometry()
    assert pixel.height_m == pytest.approx(scan.geometry.pixel_height_m)
    y, x = np.indices(object_.shape) + origin[:, np.newaxis, np.newaxis]
    top = scan.positions_px[7]
    expected = np.exp(-((y - top[0]) ** 2 + (x - top[1]) ** 2) / (2 * 4.0**2))
    np.testing.assert_allclose(object_, expected, atol=2e-3)
    # The top lies where Ptychodus puts it; 1.5 counts from the edge of pixel 0.
    middle = 0.0 if host_version().startswith('1.5.') else 0.5
    found = _where(after, *(top - origin - middle))
    expected_m = ptychodus_compat.positions_m(parameters.product.probe_positions)[7]
    np.testing.assert_allclose(found, expected_m, atol=1e-3 * PIXEL_M)


@pytest.mark.parametrize('size', [16, 64])
def test_the_probe_of_another_size_comes_back(parameters: ReconstructInput, size: int) -> None:
    scan = to_scan(parameters)
    resampling = Resampling(scan, fit_to_size(scan, size))
    # Untouched, it loses nothing, not even what a smaller model does not see.
    np.testing.assert_array_equal(resampling.probe_back(resampling.fitted.probe), scan.probe)
    corrected = resampling.probe_back(2 * resampling.fitted.probe)
    assert corrected.shape == scan.probe.shape
    energy = np.sum(np.abs(corrected) ** 2) / np.sum(np.abs(2 * resampling.fitted.probe) ** 2)
    assert energy == pytest.approx(1, rel=1e-4)
    if size > SIZE:
        np.testing.assert_allclose(corrected, 2 * scan.probe, atol=1e-3 * np.abs(scan.probe).max())


def test_losses_and_probe(parameters: ReconstructInput) -> None:
    scan = to_scan(parameters)
    probe = 2 * scan.probe
    object_ = np.ones((40, 53), np.complex64)
    after = to_product(
        parameters.product, scan, object_, np.zeros(2), probe=probe, losses={0: 2.0, 3: 1.0}
    )
    assert [(loss.epoch, loss.value) for loss in after.losses] == [(0, 2.0), (3, 1.0)]
    np.testing.assert_array_equal(after.probes.get_array()[0], probe)


@pytest.mark.parametrize('n_modes', [1, 2])
def test_the_host_gets_the_beams_of_a_probe_of_one_mode(
    parameters: ReconstructInput, n_modes: int
) -> None:
    """It would weight the first of several modes alone."""
    scan = to_scan(parameters)
    beams = np.linspace(0.8, 1.2, len(scan))
    probe = np.concatenate([scan.probe] * n_modes)
    object_ = np.ones((40, 53), np.complex64)
    after = to_product(
        parameters.product, scan, object_, np.zeros(2), probe=probe, intensities=beams
    )
    weights = after.probes.get_opr_weights_or_none()
    if n_modes > 1:
        assert weights is None
        return
    np.testing.assert_allclose(weights[:, 0] ** 2, beams)
    one = after.probes[4].get_array()
    np.testing.assert_allclose(one, scan.probe * np.sqrt(beams[4]), rtol=1e-5)


def test_a_product_without_a_probe_says_so(parameters: ReconstructInput) -> None:
    bare = dataclasses.replace(parameters.product, probes=ProbeSequence(None, None, None))
    with pytest.raises(DataError, match='probe'):
        to_scan(ReconstructInput(parameters.diffraction_patterns, parameters.bad_pixels, bare))


@pytest.mark.parametrize('has_probe', [True, False])
def test_a_probe_can_be_made_of_the_patterns(
    parameters: ReconstructInput, *, has_probe: bool
) -> None:
    product = parameters.product
    if not has_probe:
        product = dataclasses.replace(product, probes=ProbeSequence(None, None, None))
    given = ReconstructInput(parameters.diffraction_patterns, parameters.bad_pixels, product)
    scan = to_scan(given, probe_from_patterns=True)
    assert scan.probe_origin == 'patterns'
    assert scan.probe_variation is None
    np.testing.assert_array_equal(scan.probe, starting_probe(scan.patterns, scan.bad_pixels))
    assert any('one is made of the mean pattern' in note for note in scan.notes)


@pytest.mark.usefixtures('parameters')
def test_patterns_keep_the_numbers_of_their_positions(small_scan: Scan, tmp_path: Path) -> None:
    """As Ptychodus hands them over after frames were dropped."""
    with h5py.File(tmp_path / 'product.h5', 'r+') as file:
        file['probe_position_indexes'][...] = np.arange(len(small_scan)) + 7
    product = load_product(tmp_path / 'product.h5')
    scan = to_scan(ReconstructInput(small_scan.patterns, small_scan.bad_pixels, product))
    np.testing.assert_array_equal(scan.pattern_indexes, np.arange(len(small_scan)) + 7)
    write_scan(tmp_path / 'train_data.npz', scan)
    exported = load_scan(tmp_path / 'train_data.npz')
    np.testing.assert_array_equal(exported.pattern_indexes, scan.pattern_indexes)


def test_what_is_left_out_of_a_probe_is_noted(parameters: ReconstructInput) -> None:
    probes = parameters.product.probes
    modes = np.repeat(probes.get_array(), 3, axis=0)
    # Without weights Ptychodus uses the first as well.
    varying = ProbeSequence(modes, None, probes.get_pixel_geometry())
    product = dataclasses.replace(parameters.product, probes=varying)
    scan = to_scan(ReconstructInput(parameters.diffraction_patterns, None, product))
    assert scan.probe.shape == modes.shape[1:]
    assert 'The first of 3 orthogonal variations of the probe is used.' in scan.notes
    assert not to_scan(parameters).notes


def test_marks_of_the_detector_are_masked(parameters: ReconstructInput, small_scan: Scan) -> None:
    marked = small_scan.patterns.astype(np.uint32)
    marked[:, 3, 7:9] = np.iinfo(np.uint32).max
    kept = marked.copy()
    scan = to_scan(ReconstructInput(marked, parameters.bad_pixels, parameters.product))
    assert scan.bad_pixels is not None
    assert np.argwhere(scan.bad_pixels & ~small_scan.bad_pixels).tolist() == [[3, 7], [3, 8]]
    assert any('marked as bad' in note for note in scan.notes)
    # The window's own patterns stay as they were.
    np.testing.assert_array_equal(marked, kept)


def test_a_product_of_the_near_field_stays_one(
    parameters: ReconstructInput, tmp_path: Path
) -> None:
    metadata = parameters.product.metadata
    if not hasattr(metadata, 'far_field'):
        pytest.skip('This Ptychodus knows no near field.')
    near = dataclasses.replace(
        metadata, far_field=False, detector_distance_m=1e-4, focus_object_distance_m=-1e-3
    )
    product = dataclasses.replace(parameters.product, metadata=near)
    scan = to_scan(ReconstructInput(parameters.diffraction_patterns, None, product))
    assert scan.geometry.magnification() == pytest.approx(near.magnification)
    assert scan.transfer_function() is not None
    # What is exported to be trained on knows it as well.
    write_scan(tmp_path / 'train_data.npz', scan)
    assert load_scan(tmp_path / 'train_data.npz').geometry == scan.geometry
    sampling = Resampling(scan, fit_to_size(scan, 16))
    object_ = np.ones((40, 53), np.complex64)
    back, origin = sampling.object_back(object_, np.array([3.0, -2.0]))
    np.testing.assert_array_equal(back, object_)
    shift = scan.positions_px[0] - sampling.fitted.positions_px[0]
    np.testing.assert_allclose(origin, np.array([3.0, -2.0]) + shift)
    far_away = dataclasses.replace(near, detector_distance_m=1.0, focus_object_distance_m=0.0)
    product = dataclasses.replace(product, metadata=far_away)
    with pytest.raises(DataError, match='a pixel must spread over less than the frame'):
        to_scan(ReconstructInput(parameters.diffraction_patterns, None, product))


def test_a_missing_mask_masks_nothing(parameters: ReconstructInput) -> None:
    scan = to_scan(ReconstructInput(parameters.diffraction_patterns, None, parameters.product))
    assert scan.bad_pixels is not None
    assert not scan.bad_pixels.any()


def test_moved_positions_keep_their_numbers() -> None:
    host = pytest.importorskip('ptychodus.api.probe_positions')  # of 1.7
    points = [host.ProbePosition(7, 1e-6, 2e-6), host.ProbePosition(3, 4e-6, 5e-6)]
    before = host.ProbePositionSequence(points)
    after = ptychodus_compat.moved(before, np.array([[1e-7, 0.0], [0.0, -2e-7]]))
    assert list(ptychodus_compat.position_indexes(after)) == [7, 3]
    expected = [[2.1e-6, 1e-6], [5e-6, 3.8e-6]]
    np.testing.assert_allclose(ptychodus_compat.positions_m(after), expected)
