"""Scans that PtyPy has prepared, and the probe of its reconstructions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import (
    Geometry,
    Reconstruction,
    Scan,
    load_scan,
    read_probe,
    write_product,
)
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import is_stored

MakeScan = Callable[..., Scan]

ENERGY_KEV, DISTANCE_M, PSIZE_M = 8.0, 2.0, (75e-6, 50e-6)
WAVELENGTH_M = 6.62607015e-34 * 299792458 / (ENERGY_KEV * 1e3 * 1.602176634e-19)
SHAPE = (16, 12)
PIXEL_M = WAVELENGTH_M * DISTANCE_M / (np.array(SHAPE) * PSIZE_M)


def _put(group: h5py.Group, name: str, value: Any) -> None:
    """Store a value as PtyPy does, with what it was in an attribute."""
    if isinstance(value, dict):
        inner = group.create_group(name)
        inner.attrs['type'] = 'dict'
        for key, item in value.items():
            _put(inner, key, item)
    elif value is None:
        group.create_dataset(name, data=np.zeros((1,)))
        group[name].attrs['type'] = 'None'
    elif isinstance(value, str):
        group.create_dataset(name, data=value, dtype=h5py.string_dtype())
        group[name].attrs['type'] = 'string'
    elif isinstance(value, list) and None in value:
        inner = group.create_group(name)
        inner.attrs['type'] = 'list'
        for number, item in enumerate(value):
            _put(inner, f'{number:05d}', item)
    else:
        array = np.asarray(value)
        packed = {'compression': 'gzip'} if array.ndim else {}
        group.create_dataset(name, data=array, **packed)
        group[name].attrs['type'] = 'arraylist' if isinstance(value, list) else 'array'


def _chunk(scan: Scan, frames: range) -> dict[str, Any]:
    return {
        'data': scan.patterns[frames],
        'indices': list(frames),
        'positions': scan.positions_px[frames] * PIXEL_M,
        'weights': np.ones((len(frames), *SHAPE)),
    }


def contents(scan: Scan) -> dict[str, Any]:
    """Return what PtyPy writes of a scan, in three chunks."""
    meta = {
        'version': '0.1',
        'num_frames': len(scan),
        'label': None,
        'shape': np.array(SHAPE),
        'psize': np.array(PSIZE_M),
        'energy': ENERGY_KEV,
        'center': np.array([8.0, 6.0]),
        'distance': DISTANCE_M,
    }
    parts = [range(0, 4), range(4, 8), range(8, len(scan))]
    return {
        'chunks': {str(number): _chunk(scan, part) for number, part in enumerate(parts)},
        'meta': meta,
        'info': {'positions_scan': scan.positions_px * PIXEL_M, 'weight2d': True},
    }


def save(path: Path, values: dict[str, Any]) -> Path:
    """Write a file as PtyPy does with save='append'."""
    with h5py.File(path, 'w') as file:
        for key, value in values.items():
            _put(file, key, value)
    return path


@pytest.fixture
def scan(make_scan: MakeScan) -> Scan:
    return make_scan(shape=SHAPE, modes=2)


@pytest.fixture
def probe(scan: Scan, tmp_path: Path) -> Path:
    np.save(tmp_path / 'probe.npy', scan.probe)
    return tmp_path / 'probe.npy'


def _expected(scan: Scan) -> np.ndarray:
    positions = scan.positions_px
    return np.asarray(positions - positions.min(axis=0) + [8, 6])


def test_all_chunks_make_the_scan(
    scan: Scan, probe: Path, residual: Callable[[Scan], float], tmp_path: Path
) -> None:
    values = contents(scan)
    # The tenth chunk comes after the second, and not before it.
    chunks = values['chunks']
    values['chunks'] = {'0': chunks['0'], '2': chunks['1'], '10': chunks['2']}
    found = load_scan(save(tmp_path / 'scan.ptyd', values), probe_from=probe)
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    np.testing.assert_allclose(found.positions_px, _expected(scan), atol=1e-6)
    np.testing.assert_array_equal(found.probe, scan.probe)
    np.testing.assert_array_equal(found.pattern_indexes, np.arange(len(scan)))
    assert found.geometry.photon_energy_eV == 8000.0
    assert found.geometry.pixel_height_m == pytest.approx(PIXEL_M[0])
    assert found.geometry.pixel_width_m == pytest.approx(PIXEL_M[1])
    moved = found.positions_px - _expected(scan) + scan.positions_px
    whole = Scan(found.patterns, moved, found.probe, object_=scan.object_)
    assert residual(whole) < 1e-5


def test_the_same_scan_in_an_npz_file(
    scan: Scan, probe: Path, save_npz: Callable[..., Path], tmp_path: Path
) -> None:
    found = load_scan(save(tmp_path / 'scan.ptyd', contents(scan)), probe_from=probe)
    x, y = _expected(scan)[:, 1], _expected(scan)[:, 0]
    path = save_npz(scan, diff3d=scan.patterns, xcoords=x, ycoords=y, probeGuess=scan.probe)
    same = load_scan(path, domain='counts')
    np.testing.assert_array_equal(found.patterns, same.patterns)
    np.testing.assert_allclose(found.positions_px, same.positions_px, atol=1e-6)
    np.testing.assert_array_equal(found.probe, same.probe)


def test_missing_frames(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    values['chunks']['1'] = {'data': [], 'indices': [4, 5], 'positions': [None], 'weights': []}
    values['chunks']['2']['indices'] = [8, 20, 10]
    values['meta']['num_frames'] = 21
    found = load_scan(save(tmp_path / 'scan.ptyd', values))
    assert found.pattern_indexes is not None
    assert found.pattern_indexes.tolist() == [0, 1, 2, 3, 8, 20, 10]
    np.testing.assert_array_equal(found.patterns, scan.patterns[[0, 1, 2, 3, 8, 9, 10]])
    assert any('announces 21 frames and holds 7' in note for note in found.notes)


def test_indices_that_repeat_number_nothing(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    values['chunks']['1']['indices'] = [0, 1, 2, 3]
    found = load_scan(save(tmp_path / 'scan.ptyd', values))
    np.testing.assert_allclose(found.positions_px, _expected(scan), atol=1e-6)
    assert any('numbered in their order' in note for note in found.notes)


def test_weights_are_bad_pixels(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    values['chunks']['0']['weights'][:, 3, 7] = 0
    values['chunks']['2']['weights'][1, 5, 2] = 0
    # A frame without any weight is left out.
    values['chunks']['1']['weights'][2] = 0
    found = load_scan(save(tmp_path / 'scan.ptyd', values))
    assert found.bad_pixels is not None
    assert sorted(map(tuple, np.argwhere(found.bad_pixels).tolist())) == [(3, 7), (5, 2)]
    assert found.pattern_indexes is not None
    assert found.pattern_indexes.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert any('Left out: 1 frame whose weights' in note for note in found.notes)
    for chunk in values['chunks'].values():
        del chunk['indices']
    found = load_scan(save(tmp_path / 'scan.ptyd', values))
    assert found.pattern_indexes is not None
    assert found.pattern_indexes.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    for chunk in values['chunks'].values():
        chunk['weights'][:] = 0
    with pytest.raises(DataError, match=r'must hold frames in chunks/0/data'):
        load_scan(save(tmp_path / 'scan.ptyd', values))


def test_weights_and_indices_that_are_no_numbers(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    path = save(tmp_path / 'scan.ptyd', values)
    with h5py.File(path, 'r+') as file:
        del file['chunks/1/weights']
        file['chunks/1/weights'] = np.zeros((4, *SHAPE), [('a', 'f4')])
    with pytest.raises(DataError, match=r'chunks/1/weights of .* must be numbers of the shape'):
        load_scan(path)
    values['chunks']['2']['indices'] = [8.0, 9.5, *range(10, len(scan))]
    with pytest.raises(DataError, match=r'chunks/2/indices of .* whole numbers .* is 9\.5'):
        load_scan(save(path, values))


@pytest.mark.parametrize('place', ['meta', 'common', 'info', 'chunks'])
def test_common_weights(scan: Scan, tmp_path: Path, place: str) -> None:
    values = contents(scan)
    weights = np.ones(SHAPE)
    weights[3, 7] = 0
    for chunk in values['chunks'].values():
        chunk['weights'] = weights if place == 'chunks' else []
    if place != 'chunks':
        values.setdefault(place, {})['weight2d'] = weights
    found = load_scan(save(tmp_path / 'scan.ptyd', values))
    assert np.argwhere(found.bad_pixels).tolist() == [[3, 7]]


def test_positions_of_all_frames(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    for chunk in values['chunks'].values():
        chunk['positions'] = [None] * len(chunk['data'])
    values['chunks']['2']['positions'] = None
    found = load_scan(save(tmp_path / 'scan.ptyd', values))
    np.testing.assert_allclose(found.positions_px, _expected(scan), atol=1e-6)
    values['info']['positions_scan'] = values['info']['positions_scan'][:9]
    with pytest.raises(DataError, match=r'indices of chunks/2 .* below .*, 9; they reach 10'):
        load_scan(save(tmp_path / 'scan.ptyd', values))
    del values['info']['positions_scan']
    with pytest.raises(DataError, match=r'chunks/0/positions .*\(4, 2\); it is missing.*--product'):
        load_scan(save(tmp_path / 'scan.ptyd', values))
    alone = load_scan(tmp_path / 'scan.ptyd', single_shot=True)
    assert alone.is_single_shot
    np.testing.assert_array_equal(alone.patterns, scan.patterns)
    assert scan.object_ is not None
    reconstruction = Reconstruction(
        object_=scan.object_,
        origin_px=np.zeros(2),
        coverage=np.ones(scan.object_.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='none',
        geometry=Geometry(PIXEL_M[0], PIXEL_M[1], 8000.0, 2.0),
    )
    write_product(tmp_path / 'product.h5', reconstruction)
    found = load_scan(tmp_path / 'scan.ptyd', product=tmp_path / 'product.h5')
    np.testing.assert_allclose(found.positions_px, scan.positions_px, atol=1e-6)
    np.testing.assert_array_equal(found.probe, scan.probe)


def test_chunks_in_files_of_their_own(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    chunks = values.pop('chunks')
    path = save(tmp_path / 'scan.ptyd', values)
    with h5py.File(path, 'r+') as file:
        for number, chunk in chunks.items():
            part = save(tmp_path / f'scan.ptyd.part{int(number):03d}', chunk)
            # The link holds the path of the time when the file was written.
            file[f'chunks/{number}'] = h5py.ExternalLink(f'/elsewhere/{part.name}', '/')
    found = load_scan(path)
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    assert any('Read from 3 other files' in note for note in found.notes)
    (tmp_path / 'scan.ptyd.part001').unlink()
    with pytest.raises(DataError, match=r'scan\.ptyd\.part001, which is missing\. Copy that file'):
        load_scan(path)


def test_the_centre_of_the_beam(scan: Scan, probe: Path, tmp_path: Path) -> None:
    values = contents(scan)
    rolled = np.pad(scan.patterns, ((0, 0), (4, 2), (0, 5)))
    for number, first, last in (('0', 0, 4), ('1', 4, 8), ('2', 8, 11)):
        values['chunks'][number]['data'] = rolled[first:last]
        values['chunks'][number]['weights'] = []
    values['meta']['center'] = np.array([12.0, 5.6])
    found = load_scan(save(tmp_path / 'scan.ptyd', values), probe_from=probe)
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    assert any('lies between pixels; row 12, column 6' in note for note in found.notes)


def test_values_that_are_none_are_the_users(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    values['meta'] |= {'energy': None, 'distance': 'None', 'psize': 75e-6}
    path = save(tmp_path / 'scan.ptyd', values)
    with pytest.raises(DataError, match=r'--photon-energy .*--detector-distance'):
        load_scan(path)
    geometry = Geometry(photon_energy_eV=8000.0, detector_distance_m=2.0)
    found = load_scan(path, geometry=geometry)
    assert found.geometry.pixel_width_m == pytest.approx(WAVELENGTH_M * 2 / (12 * 75e-6))


def test_the_near_field_has_the_pixels_of_the_detector(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    values['info']['propagation'] = 'nearfield'
    values['meta'] |= {'distance': 1.0, 'center': np.array([3.0, 2.0])}
    path = save(tmp_path / 'scan.ptyd', values)
    found = load_scan(path)
    assert found.geometry.near_field is True
    height_m, width_m = (
        getattr(found.geometry, f'detector_pixel_{axis}_m') for axis in ('height', 'width')
    )
    assert (found.geometry.pixel_height_m, found.geometry.pixel_width_m) == (height_m, width_m)
    # Images have no place of the beam, and stay as they are.
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    assert any('propagated back' in note for note in found.notes)
    assert found.transfer_function() is not None
    far = load_scan(path, geometry=Geometry(near_field=False), beam_center_px=(8, 6))
    assert far.transfer_function() is None


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('indices', [1, 2], r'chunks/1/indices .* must be 4 numbers.* shape \(2,\)'),
        ('positions', np.ones((4, 3)), r'chunks/1/positions .*\(4, 2\); .* shape \(4, 3\)'),
        ('weights', np.ones((2, 2)), r'chunks/1/weights .*\(4, 16, 12\).*; it is .*\(2, 2\)'),
        ('data', np.ones((4, 8, 8)), r'of one size; the chunks hold 8 x 8 and 16 x 12 pixels'),
        ('data', np.ones((4, 8, 8), complex), 'must be real numbers'),
    ],
)
def test_parts_that_do_not_belong_together(
    scan: Scan, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    values = contents(scan)
    if key == 'data':
        values['chunks']['1']['weights'] = []
    values['chunks']['1'][key] = value
    with pytest.raises(DataError, match=message):
        load_scan(save(tmp_path / 'scan.ptyd', values))


def test_a_common_weight_of_another_size(scan: Scan, tmp_path: Path) -> None:
    values = contents(scan)
    for chunk in values['chunks'].values():
        chunk['weights'] = []
    values['meta']['weight2d'] = np.ones((8, 8))
    with pytest.raises(DataError, match=r'must be 16 x 12 as the frames are; it is \(8, 8\)'):
        load_scan(save(tmp_path / 'scan.ptyd', values))


def test_without_frames_and_cut_off(scan: Scan, tmp_path: Path) -> None:
    path = save(tmp_path / 'scan.ptyd', contents(scan))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r'truncated, damaged .*write the file again'):
        load_scan(path)
    values = contents(scan) | {'chunks': {}}
    with pytest.raises(DataError, match=r'must hold frames in chunks/0/data .*it holds none with'):
        load_scan(save(path, values))


def test_more_than_fits_into_memory(scan: Scan, tmp_path: Path) -> None:
    path = save(tmp_path / 'scan.ptyd', contents(scan))
    found = load_scan(path, max_memory_gib=1e-6)
    assert is_stored(found.patterns)
    np.testing.assert_array_equal(found.patterns, scan.patterns)


def test_all_chunks_together_are_held_to_the_limit(scan: Scan, tmp_path: Path) -> None:
    path = save(tmp_path / 'scan.ptyd', contents(scan))
    n_bytes = scan.patterns.nbytes
    with pytest.raises(DataError, match=r'The frames of .* would take'):
        load_scan(path, max_gib=0.9 * n_bytes / 2**30)
    load_scan(path, max_gib=1.1 * n_bytes / 2**30)


def _reconstruction(probes: dict[str, Any]) -> dict[str, Any]:
    storages = {name: {'data': probe, '_psize': PIXEL_M} for name, probe in probes.items()}
    return {
        'header': {'kind': 'minimal', 'description': 'minimal'},
        'content': {'probe': storages, 'obj': {}, 'pars': {'scans': {'MF': None}}},
    }


def test_the_probe_of_a_reconstruction(scan: Scan, tmp_path: Path) -> None:
    path = save(tmp_path / 'run.ptyr', _reconstruction({'SMFG00': scan.probe}))
    np.testing.assert_array_equal(read_probe(path), scan.probe)
    with pytest.raises(DataError, match=r'HDF5 and holds content, header'):
        load_scan(path)
    save(path, _reconstruction({'SMFG00': scan.probe, 'SotherG00': scan.probe}))
    with pytest.raises(DataError, match=r'it holds SMFG00, SotherG00\. Write the one'):
        read_probe(path)
    save(path, _reconstruction({'SMFG00': scan.probe.real}))
    with pytest.raises(DataError, match=r'SMFG00/data of .* must be an array of complex numbers'):
        read_probe(path)
