"""Scans and products: metres and pixels, (x, y) and (y, x), against Ptychodus' own mapping."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptychodus.api.io import load_product
from ptychodus.api.object import ObjectPosition
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import Product
from ptychodus.api.reconstruct import ReconstructInput

from ptychopinn_plugin import ptychodus_names
from ptychopinn_plugin.data import Scan, fit_to_size
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host.translation import to_product, to_scan
from ptychopinn_plugin.host.versions import host_version

from .conftest import write_batch_folder


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
    """Return where Ptychodus says that an object pixel lies, (y, x) in metres."""
    found = product.object_.get_geometry().map_coordinates_object_to_probe(
        ObjectPosition(0, x_px, y_px)
    )
    return np.array(ptychodus_names.place_m(found))


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


def test_a_smaller_model_has_larger_pixels(parameters: ReconstructInput) -> None:
    scan = fit_to_size(to_scan(parameters), 16)
    assert scan.geometry.pixel_height_m is not None
    pixel_m = scan.geometry.pixel_height_m
    after = to_product(parameters.product, scan, np.ones((30, 31), np.complex64), np.zeros(2))
    assert after.object_.get_pixel_geometry().height_m == pytest.approx(pixel_m)
    assert after.probes.get_pixel_geometry().height_m == pytest.approx(pixel_m)
    # A patch of 16 px around a position: its middle is the position.
    position = scan.positions_px[7]
    # 1.5 counts from the edge of pixel 0, and so do its patches; later releases from its middle.
    middle = position - (0.0 if host_version().startswith('1.5.') else 0.5)
    found = _where(after, *middle)
    expected = ptychodus_names.positions_m(parameters.product.probe_positions)[7]
    np.testing.assert_allclose(found, expected, atol=1e-3 * pixel_m)


def test_losses_and_probe(parameters: ReconstructInput) -> None:
    scan = to_scan(parameters)
    probe = 2 * scan.probe
    object_ = np.ones((40, 53), np.complex64)
    after = to_product(
        parameters.product, scan, object_, np.zeros(2), probe=probe, losses={0: 2.0, 3: 1.0}
    )
    assert [(loss.epoch, loss.value) for loss in after.losses] == [(0, 2.0), (3, 1.0)]
    np.testing.assert_array_equal(after.probes.get_array()[0], probe)


def test_a_product_without_a_probe_says_so(parameters: ReconstructInput) -> None:
    import dataclasses

    bare = dataclasses.replace(parameters.product, probes=ProbeSequence(None, None, None))
    with pytest.raises(DataError, match='probe'):
        to_scan(ReconstructInput(parameters.diffraction_patterns, parameters.bad_pixels, bare))


def test_a_missing_mask_masks_nothing(parameters: ReconstructInput) -> None:
    scan = to_scan(ReconstructInput(parameters.diffraction_patterns, None, parameters.product))
    assert scan.bad_pixels is not None
    assert not scan.bad_pixels.any()
