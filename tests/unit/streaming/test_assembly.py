"""A stream becomes the scan that a file of the same patterns would be."""

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Geometry, Reconstruction, Scan, load_scan, write_product
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.readers.matching import Product
from ptychopinn_plugin.data.readers.ptychodus_hdf5 import read_product
from ptychopinn_plugin.data.readers.request import ReadingRequest
from ptychopinn_plugin.data.starting_probe import made_probe
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.orientation import Orientation
from ptychopinn_plugin.streaming.assembly import (
    PartMaker,
    ScanRules,
    assemble,
    write_received,
)
from ptychopinn_plugin.streaming.matching import MatchedBatch
from ptychopinn_plugin.streaming.messages import Opening

REORIENTED = Orientation.from_dict({'swap_positions': True, 'rotate_scan_deg': 20.0})


def batch_of(scan: Scan, unit: str, rows: np.ndarray) -> MatchedBatch:
    """Return patterns as they have come."""
    positions = scan.positions_px * (2e-8 if unit == 'm' else 1.0)
    return MatchedBatch(rows, scan.patterns[rows], positions[rows], np.zeros(len(rows)))


def opening_of(scan: Scan) -> Opening:
    return Opening(scan.probe, scan.bad_pixels, scan.geometry, len(scan), scan.name)


def write_pair(folder: Path, scan: Scan, *, with_object: bool) -> Path:
    """Write a scan as Ptychodus does; without an object, positions begin at a corner."""
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['patterns'] = scan.patterns
        file['indexes'] = np.arange(len(scan))
    write_product(
        folder / 'product.h5',
        Reconstruction(
            object_=np.ones((40, 40), np.complex64),
            origin_px=np.zeros(2),
            coverage=np.ones((40, 40), np.float32),
            probe=scan.probe,
            positions_px=scan.positions_px,
            backend='test',
            geometry=scan.geometry,
        ),
    )
    if not with_object:
        with h5py.File(folder / 'product.h5', 'r+') as file:
            attributes = dict(file['object'].attrs)
            del file['object']
            file['object'] = np.zeros((0, 0, 0), np.complex64)
            file['object'].attrs.update(attributes)
    return folder


def check_same(found: Scan, expected: Scan) -> None:
    np.testing.assert_array_equal(found.patterns, expected.patterns)
    np.testing.assert_array_equal(found.positions_px, expected.positions_px)
    np.testing.assert_array_equal(found.probe, expected.probe)
    np.testing.assert_array_equal(found.bad_pixels, expected.bad_pixels)
    np.testing.assert_array_equal(found.pattern_indexes, expected.pattern_indexes)
    assert found.geometry == expected.geometry


@pytest.mark.parametrize('orientation', [Orientation(), REORIENTED])
def test_positions_in_pixels_are_those_of_a_file(
    scan: Scan, scan_file: Path, orientation: Orientation
) -> None:
    rows = np.random.default_rng(0).permutation(len(scan))
    rules = ScanRules(ReadingRequest('stream'), orientation=orientation)
    found = assemble(batch_of(scan, 'px', rows), 'px', opening_of(scan), rules)
    check_same(found, load_scan(scan_file, orientation=orientation))
    assert found.name == 'small'


@pytest.mark.parametrize('orientation', [Orientation(), REORIENTED])
def test_positions_in_metres_are_those_of_a_product(
    scan: Scan, tmp_path: Path, orientation: Orientation
) -> None:
    folder = write_pair(tmp_path, scan, with_object=False)
    product = read_product(folder / 'product.h5')
    rows = np.random.default_rng(0).permutation(len(scan))
    given = batch_of(scan, 'm', rows)
    given = MatchedBatch(rows, given.patterns, product.positions_m[rows], given.received_s)
    rules = ScanRules(ReadingRequest('stream'), orientation=orientation)
    expected = load_scan(folder, orientation=orientation)
    check_same(assemble(given, 'm', opening_of(scan), rules), expected)
    # What was known before the scan serves as well as what was sent, its object's place too.
    write_pair(folder, scan, with_object=True)
    rules = dataclasses.replace(rules, product=read_product(folder / 'product.h5'))
    expected = load_scan(folder, orientation=orientation)
    check_same(assemble(given, 'm', Opening(), rules), expected)


@pytest.mark.parametrize('unit', ['px', 'm'])
def test_weights_of_a_product_are_not_those_of_a_stream(
    scan: Scan, tmp_path: Path, unit: str
) -> None:
    folder = write_pair(tmp_path, scan, with_object=True)
    product = read_product(folder / 'product.h5')
    weights = np.random.default_rng(0).uniform(0.8, 1.2, (len(scan), 1))
    varying = dataclasses.replace(product, probe_variation=ProbeVariation(scan.probe[:0], weights))
    rules = ScanRules(ReadingRequest('stream'), product=varying)
    found = assemble(batch_of(scan, unit, np.arange(10)), unit, Opening(), rules)
    assert found.probe_variation is None
    assert any('(OPR) are not used' in note for note in found.notes)


@pytest.mark.parametrize('unit', ['px', 'm'])
@pytest.mark.parametrize('orientation', [Orientation(), REORIENTED])
def test_parts_are_in_the_coordinates_of_the_whole(
    scan: Scan, unit: str, orientation: Orientation
) -> None:
    """They differ from those of the whole scan by one and the same shift."""
    rules = ScanRules(ReadingRequest('stream'), orientation=orientation)
    everything = np.arange(len(scan))
    whole = assemble(batch_of(scan, unit, everything), unit, opening_of(scan), rules)
    maker = PartMaker(lambda: opening_of(scan), rules)
    shifts = []
    for rows in (everything[:10], everything[7:20], everything[30:]):
        part = maker.make(batch_of(scan, unit, rows), unit)
        np.testing.assert_array_equal(part.patterns, whole.patterns[rows])
        shifts.append(whole.positions_px[rows] - part.positions_px)
    together = np.concatenate(shifts)
    np.testing.assert_allclose(together, np.broadcast_to(together[0], together.shape), atol=1e-6)


def test_a_probe_that_nobody_gave_is_made_once(scan: Scan) -> None:
    """Parts with different probes would not fit together."""
    known = [Opening(geometry=scan.geometry)]
    maker = PartMaker(lambda: known[0], ScanRules(ReadingRequest('stream')))
    first = maker.make(batch_of(scan, 'px', np.arange(12)), 'px')
    second = maker.make(batch_of(scan, 'px', np.arange(12, 30)), 'px')
    np.testing.assert_array_equal(first.probe, second.probe)
    assert (first.probe_origin, second.probe_origin) == ('patterns', 'patterns')
    known[0] = opening_of(scan)
    third = maker.make(batch_of(scan, 'px', np.arange(30, 36)), 'px')
    np.testing.assert_array_equal(third.probe, scan.probe)
    assert third.probe_origin == 'given'


@pytest.mark.parametrize('orientation', [Orientation(), Orientation(transpose=True)])
@pytest.mark.parametrize('from_product', [False, True])
def test_a_probe_that_was_sent_is_left_out_where_wanted(
    scan: Scan, orientation: Orientation, from_product: bool
) -> None:
    """It is that of the patterns as they are reconstructed, in the pictures on the way too."""
    everything = np.arange(len(scan))
    product = Product(everything, scan.positions_px * 2e-8, probe=scan.probe)
    rules = ScanRules(
        ReadingRequest('stream'),
        product if from_product else None,
        orientation,
        probe_from_patterns=True,
    )
    opening = dataclasses.replace(opening_of(scan), probe=None if from_product else scan.probe)
    found = assemble(batch_of(scan, 'm', everything), 'm', opening, rules)
    assert found.probe_origin == 'patterns'
    made, _ = made_probe(found.patterns, found.bad_pixels, found.geometry)
    np.testing.assert_array_equal(found.probe, made)
    maker = PartMaker(lambda: opening, rules)
    first = maker.make(batch_of(scan, 'm', everything[:20]), 'm')
    second = maker.make(batch_of(scan, 'm', everything[20:]), 'm')
    made, _ = made_probe(first.patterns, first.bad_pixels, first.geometry)
    np.testing.assert_array_equal(first.probe, made)
    np.testing.assert_array_equal(second.probe, made)
    assert (first.probe_origin, second.probe_origin) == ('patterns', 'patterns')


def test_what_was_received_is_taken_again(scan: Scan, tmp_path: Path, receive: Any) -> None:
    """All of it: also what made no scan, as a probe of another size."""
    rows = np.random.default_rng(0).permutation(len(scan))
    batch, opening = batch_of(scan, 'm', rows), opening_of(scan)
    opening = dataclasses.replace(opening, probe=np.ones((1, 4, 4), np.complex64))
    write_received(tmp_path / 'received.npz', batch, 'm', opening)
    reception, found = receive(f'folder:{tmp_path}')
    for name in ('indexes', 'patterns', 'positions'):
        np.testing.assert_array_equal(getattr(found, name), getattr(batch, name))
    again = reception.opening
    np.testing.assert_array_equal(again.probe, opening.probe)
    assert (again.geometry, again.name, again.n_patterns) == (scan.geometry, 'small', len(scan))
    assert (reception.ended, reception.matcher.unit) == ('complete', 'm')


def test_metres_need_the_size_of_a_pixel(scan: Scan) -> None:
    batch = batch_of(scan, 'm', np.arange(4))
    rules = ScanRules(ReadingRequest('stream'))
    with pytest.raises(DataError, match='--detector-distance'):
        assemble(batch, 'm', Opening(scan.probe), rules)
    geometry = Geometry(
        photon_energy_eV=9e3,
        detector_distance_m=2.0,
        detector_pixel_height_m=1e-4,
        detector_pixel_width_m=1e-4,
    )
    rules = ScanRules(ReadingRequest('stream', geometry=geometry))
    assert assemble(batch, 'm', Opening(scan.probe), rules).geometry.pixel_width_m > 0
