"""MATLAB files in both formats that MATLAB writes, against the same scan in an NPZ file."""

import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from ptychopinn_plugin.data import Scan, load_scan, read_probe
from ptychopinn_plugin.data.readers.mask_files import read_mask
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import is_stored

MakeScan = Callable[..., Scan]
Variables = dict[str, Any]
CLASSES = {'f8': 'double', 'f4': 'single', 'u1': 'uint8', 'u2': 'uint16', 'i8': 'int64'}


class Cell(list[np.ndarray]):
    """A cell array of one column."""


def _put(group: h5py.Group, name: str, value: Any) -> None:
    """Write a value as MATLAB 7.3 does."""
    if isinstance(value, dict):
        struct_ = group.create_group(name)
        struct_.attrs['MATLAB_class'] = np.bytes_('struct')
        for key, item in value.items():
            _put(struct_, key, item)
        return
    if isinstance(value, Cell):
        internal = group.file.require_group('#refs#')
        for item in value:
            _put(internal, f'c{len(internal)}', item)
        references = [internal[key].ref for key in sorted(internal, key=lambda key: int(key[1:]))]
        group.create_dataset(name, data=np.array([references], h5py.ref_dtype))
        group[name].attrs['MATLAB_class'] = np.bytes_('cell')
        return
    if isinstance(value, str):
        codes = np.frombuffer(value.encode('utf-16-le'), np.uint16)
        group.create_dataset(name, data=codes[:, np.newaxis])
        group[name].attrs['MATLAB_class'] = np.bytes_('char')
        group[name].attrs['MATLAB_int_decode'] = np.int32(2)
        return
    array = np.atleast_2d(value)
    if not array.size:
        group.create_dataset(name, data=np.array(array.shape, np.uint64))
        group[name].attrs['MATLAB_empty'] = np.uint8(1)
        kind = 'double'
    elif np.iscomplexobj(array):
        part = array.real.dtype
        pairs = np.empty(array.T.shape, [('real', part), ('imag', part)])
        pairs['real'], pairs['imag'] = array.T.real, array.T.imag
        group.create_dataset(name, data=pairs)
        kind = CLASSES[part.str[1:]]
    elif array.dtype == bool:
        group.create_dataset(name, data=array.T.astype(np.uint8))
        group[name].attrs['MATLAB_int_decode'] = np.int32(1)
        kind = 'logical'
    else:
        group.create_dataset(name, data=array.T)
        kind = CLASSES[array.dtype.str[1:]]
    group[name].attrs['MATLAB_class'] = np.bytes_(kind)


def save_hdf5(path: Path, variables: Variables) -> None:
    """Write a file of MATLAB 7.3: HDF5 behind 512 bytes that begin with a text."""
    with h5py.File(path, 'w', userblock_size=512) as file:
        for name, value in variables.items():
            _put(file, name, value)
    text = b'MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .'.ljust(116)
    with path.open('r+b') as file:
        file.write(text + bytes(8) + b'\x00\x02IM')


def save_v7(path: Path, variables: Variables) -> None:
    """Write a file of MATLAB 7, whose variables are compressed."""
    savemat(path, variables, do_compression=True)


def save_v6(path: Path, variables: Variables) -> None:
    """Write a file of MATLAB 6."""
    savemat(path, variables)


SAVES = {'7.3': save_hdf5, '7': save_v7, '6': save_v6}


@pytest.fixture(params=list(SAVES))
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Variables], Path]:
    """Return a function that writes variables, in each format."""

    def write(variables: Variables) -> Path:
        SAVES[request.param](tmp_path / 'scan.mat', variables)
        return tmp_path / 'scan.mat'

    return write


GEOMETRY = {
    'photon_energy_eV': 8000.0,
    'detector_distance_m': 2.0,
    'pixel_height_m': 2e-9,
    'pixel_width_m': 3e-9,
}


def as_variables(scan: Scan) -> Variables:
    """Return a scan as a user of MATLAB has it: images first, coordinates in columns."""
    return {
        'diff3d': np.moveaxis(np.sqrt(scan.patterns), 0, 2).astype(np.float32),
        'xcoords': scan.positions_px[:, 1, np.newaxis],
        'ycoords': scan.positions_px[:, 0, np.newaxis],
        'probeGuess': np.moveaxis(scan.probe, 0, 2),
        'objectGuess': scan.object_,
        'scan_index': np.zeros((len(scan), 1)),
        'metadata': json.dumps({'diffraction_domain': 'amplitudes', 'geometry': GEOMETRY}),
    }


def _as_npz(path: Path, scan: Scan) -> Scan:
    variables = as_variables(scan)
    variables['_metadata'] = variables.pop('metadata')
    np.savez(path, **{**variables, 'probeGuess': scan.probe})
    return load_scan(path)


def _same(found: Scan, expected: Scan) -> None:
    np.testing.assert_array_equal(found.patterns, expected.patterns)
    np.testing.assert_array_equal(found.positions_px, expected.positions_px)
    np.testing.assert_array_equal(found.probe, expected.probe)
    np.testing.assert_array_equal(found.object_, expected.object_)
    np.testing.assert_array_equal(found.bad_pixels, expected.bad_pixels)
    assert found.geometry == expected.geometry


@pytest.mark.parametrize('modes', [1, 2])
def test_a_file_of_matlab_is_the_same_scan_as_an_npz_file(
    save: Callable[[Variables], Path],
    make_scan: MakeScan,
    residual: Callable[[Scan], float],
    tmp_path: Path,
    modes: int,
) -> None:
    scan = make_scan(shape=(16, 12), modes=modes)
    found = load_scan(save(as_variables(scan)))
    _same(found, _as_npz(tmp_path / 'scan.npz', scan))
    assert found.geometry.pixel_width_m == 3e-9
    assert found.object_ is not None
    assert residual(found) < 1e-5


def test_one_pattern_has_no_third_axis(
    save: Callable[[Variables], Path], make_scan: MakeScan
) -> None:
    scan = make_scan(shape=(16, 12), count=1)
    variables = {**as_variables(scan), 'diff3d': np.sqrt(scan.patterns[0])}
    assert load_scan(save(variables)).patterns.shape == (1, 16, 12)


@pytest.mark.parametrize('as_matrix', [False, True])
def test_a_raster_is_taken_column_by_column(
    save: Callable[[Variables], Path], make_scan: MakeScan, as_matrix: bool
) -> None:
    scan = make_scan(shape=(16, 12), count=6)
    variables = as_variables(scan)
    rows, columns = 2, 3
    # In MATLAB, reshape(diff3d, 16, 12, 2, 3) leaves the elements in their order.
    variables['diff3d'] = variables['diff3d'].reshape(16, 12, rows, columns, order='F')
    if as_matrix:
        for name in ('xcoords', 'ycoords', 'scan_index'):
            variables[name] = variables[name].reshape(rows, columns, order='F')
    found = load_scan(save(variables))
    np.testing.assert_allclose(found.patterns, scan.patterns, rtol=1e-5)
    np.testing.assert_array_equal(found.positions_px, scan.positions_px)
    assert any('column by column' in note for note in found.notes)


def test_a_raster_with_its_positions_first(
    save: Callable[[Variables], Path], make_scan: MakeScan
) -> None:
    scan = make_scan(shape=(16, 12), count=6)
    raster = np.sqrt(scan.patterns).reshape(2, 3, 16, 12, order='F')
    found = load_scan(save({**as_variables(scan), 'diff3d': raster}))
    np.testing.assert_allclose(found.patterns, scan.patterns, rtol=1e-5)


def test_bad_pixels_and_empty_variables(
    save: Callable[[Variables], Path], make_scan: MakeScan
) -> None:
    scan = make_scan(shape=(16, 12))
    bad = np.zeros((16, 12), bool)
    bad[3, 7] = True
    variables = {**as_variables(scan), 'bad_pixels': bad, 'objectGuess': np.zeros((0, 0))}
    found = load_scan(save(variables))
    np.testing.assert_array_equal(found.bad_pixels, bad)
    assert found.object_ is None


def test_probe_and_mask_from_files_of_matlab(
    save: Callable[[Variables], Path], make_scan: MakeScan, tmp_path: Path
) -> None:
    scan = make_scan(shape=(16, 12), modes=2)
    np.testing.assert_array_equal(read_probe(save(as_variables(scan))), scan.probe)
    bad = np.zeros((16, 12), bool)
    bad[3, 7] = True
    np.testing.assert_array_equal(read_mask(save({'hidden': bad})), bad)
    path = save({'hidden': bad, 'other': bad.T})
    np.testing.assert_array_equal(read_mask(Path(f'{path}:hidden')), bad)
    with pytest.raises(DataError, match=r'scan\.mat:VARIABLE; it holds hidden, other'):
        read_mask(path)


def test_structs_and_cells_of_7_3(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(shape=(16, 12))
    variables = as_variables(scan)
    variables['diff3d'] = Cell(np.sqrt(scan.patterns).astype(np.float32))
    variables['metadata'] = {'diffraction_domain': 'amplitudes', 'geometry': GEOMETRY}
    path = tmp_path / 'scan.mat'
    save_hdf5(path, {'experiment': variables, 'remarks': 'of no use', 'setup': {'gain': 2.0}})
    _same(load_scan(path), _as_npz(tmp_path / 'scan.npz', scan))


@pytest.mark.parametrize('as_cells', [False, True])
def test_more_than_fits_into_memory(make_scan: MakeScan, tmp_path: Path, as_cells: bool) -> None:
    scan = make_scan(shape=(16, 12))
    variables = as_variables(scan)
    if as_cells:
        variables['diff3d'] = Cell(np.sqrt(scan.patterns).astype(np.float32))
    save_hdf5(tmp_path / 'scan.mat', variables)
    found = load_scan(tmp_path / 'scan.mat', max_memory_gib=1e-6)
    assert is_stored(found.patterns)
    _same(found, _as_npz(tmp_path / 'scan.npz', scan))


def test_a_raster_of_cells(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(shape=(16, 12), count=6)
    path = tmp_path / 'scan.mat'
    save_hdf5(path, as_variables(scan) | {'diff3d': Cell(np.sqrt(scan.patterns))})
    with h5py.File(path, 'r+') as file:
        references = file['diff3d'][()].reshape(3, 2)
        del file['diff3d']
        # The three columns of two cells come first, as the axes are reversed.
        file.create_dataset('diff3d', data=references)
    np.testing.assert_allclose(load_scan(path).patterns, scan.patterns, rtol=1e-5)


def test_cells_of_different_sizes(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(shape=(16, 12))
    cells = Cell([*np.sqrt(scan.patterns[1:]), np.ones((16, 10))])
    save_hdf5(tmp_path / 'scan.mat', {**as_variables(scan), 'diff3d': cells})
    with pytest.raises(DataError, match=r'must all be of one size; they are \(16, 10\), \(16, 12'):
        load_scan(tmp_path / 'scan.mat')


def test_references_lead_nowhere_else(make_scan: MakeScan, tmp_path: Path) -> None:
    path = tmp_path / 'scan.mat'
    variables = as_variables(make_scan(shape=(16, 12)))
    del variables['diff3d']
    save_hdf5(path, variables)
    with h5py.File(path, 'r+') as file:
        file.create_dataset('diff3d', data=np.array([[file.ref]], h5py.ref_dtype))
    with pytest.raises(DataError, match='a cell array of other than images'):
        load_scan(path)


@pytest.mark.parametrize(
    ('value', 'kind'),
    [
        ('words', 'char'),
        ({'a': 1.0}, 'struct'),
        (np.array([[1.0, 'two']], object), 'cell'),
    ],
)
def test_what_is_no_array_of_numbers(
    make_scan: MakeScan, tmp_path: Path, value: Any, kind: str
) -> None:
    path = tmp_path / 'scan.mat'
    variables = as_variables(make_scan(shape=(16, 12))) | {'diff3d': value}
    save_v7(path, variables)
    advice = '7.3' if kind != 'char' else 'write numbers'
    with pytest.raises(DataError, match=f'must be an array of numbers; .*{kind}.*{advice}'):
        load_scan(path)
    if kind != 'cell':
        save_hdf5(path, variables)
        with pytest.raises(DataError, match=f'must be an array of numbers; it is .*{kind}'):
            load_scan(path)


def test_metadata_without_a_shape(make_scan: MakeScan, tmp_path: Path) -> None:
    variables = as_variables(make_scan(shape=(16, 12)))
    save_hdf5(tmp_path / 'scan.mat', variables)
    with h5py.File(tmp_path / 'scan.mat', 'r+') as file:
        del file['metadata']
        file['metadata'] = h5py.Empty('u2')
        file['metadata'].attrs['MATLAB_class'] = np.bytes_('char')
    found = load_scan(tmp_path / 'scan.mat')
    # What they hold, the domain among it, is inferred.
    assert any('amplitudes' in note for note in found.notes)


def test_a_sparse_matrix(make_scan: MakeScan, tmp_path: Path) -> None:
    path = tmp_path / 'scan.mat'
    save_hdf5(path, as_variables(make_scan(shape=(16, 12))) | {'diff3d': {'ir': np.ones(2)}})
    with h5py.File(path, 'r+') as file:
        file['diff3d'].attrs['MATLAB_sparse'] = np.uint64(16)
    with pytest.raises(DataError, match=r'a sparse matrix\. Save full\(diff3d\) under'):
        load_scan(path)


def test_a_variable_is_missing(save: Callable[[Variables], Path], make_scan: MakeScan) -> None:
    variables = as_variables(make_scan(shape=(16, 12)))
    del variables['ycoords']
    path = save(variables)
    with pytest.raises(DataError, match=r"must hold the variable 'ycoords'; it holds .*xcoords"):
        load_scan(path)
    with pytest.raises(DataError, match='a MATLAB scan, which holds its own positions'):
        load_scan(path, product=path)


@pytest.mark.parametrize('share', [0.02, 0.5, 0.97, 1])
def test_a_file_that_is_cut_off(
    save: Callable[[Variables], Path], make_scan: MakeScan, share: float
) -> None:
    path = save(as_variables(make_scan(shape=(16, 12), count=200)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share) - 5])
    with pytest.raises(DataError, match=r'scan\.mat.*truncated.*[Ww]rite the file again'):
        load_scan(path)


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('name', list(SAVES))
def test_bytes_that_make_no_sense(make_scan: MakeScan, tmp_path: Path, name: str) -> None:
    path = tmp_path / 'scan.mat'
    scan = make_scan(shape=(16, 12))
    cells = {'diff3d': Cell(np.sqrt(scan.patterns))} if name == '7.3' else {}
    SAVES[name](path, as_variables(scan) | cells)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(3)
    for _ in range(60):
        damaged = whole.copy()
        places = rng.integers(128, len(whole), 4)
        damaged[places] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            load_scan(path)
        except DataError:
            continue


def test_a_text_is_cut_off(make_scan: MakeScan, tmp_path: Path) -> None:
    path = tmp_path / 'scan.mat'
    save_v6(path, as_variables(make_scan(shape=(16, 12))))
    whole = path.read_bytes()
    # Its number of bytes lies before it.
    text = whole.index(b'{"diffraction_domain"')
    path.write_bytes(whole[: text - 4] + struct.pack('<I', 5000) + whole[text:])
    with pytest.raises(DataError, match='5000 bytes were expected, '):
        load_scan(path)


def _element(kind: int, body: bytes) -> bytes:
    return struct.pack('<II', kind, len(body)) + body.ljust(-len(body) // 8 * -8, b'\0')


def _claiming(shape: tuple[int, int], body: bytes) -> bytes:
    """Return a variable diff3d of doubles whose numbers are of `body`."""
    inner = _element(6, struct.pack('<II', 6, 0)) + _element(5, struct.pack('<ii', *shape))
    return inner + _element(1, b'diff3d') + body


def test_no_more_memory_than_allowed(make_scan: MakeScan, tmp_path: Path) -> None:
    path = tmp_path / 'scan.mat'
    variables = as_variables(make_scan(shape=(16, 12)))
    del variables['diff3d']
    save_v7(path, variables)
    # A kilobyte that inflates to a gigabyte of zeros is refused by what its own tag claims ...
    size = 2**30
    inflated = struct.pack('<II', 14, size)
    stream = zlib.compressobj(9)
    bomb = stream.compress(inflated + _claiming((16, 12), b''))
    bomb += b''.join(stream.compress(bytes(2**20)) for _ in range(80)) + stream.flush()
    intact = path.read_bytes()
    path.write_bytes(intact + struct.pack('<II', 15, len(bomb)) + bomb)
    with pytest.raises(DataError, match=r"'diff3d' of .*would grow .*--max-gib"):
        load_scan(path)
    # ... and what claims little and inflates to more is read no further than its claim.
    claim = _claiming((16, 12), struct.pack('<II', 9, size))
    bomb = zlib.compress(struct.pack('<II', 14, len(claim)) + claim + bytes(2**26))
    path.write_bytes(intact + struct.pack('<II', 15, len(bomb)) + bomb)
    tracemalloc.start()
    with pytest.raises(DataError, match='truncated or damaged'):
        load_scan(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_no_number_of_another_file(make_scan: MakeScan, tmp_path: Path) -> None:
    path, secret = tmp_path / 'scan.mat', tmp_path / 'secret'
    variables = as_variables(make_scan(shape=(16, 12)))
    del variables['diff3d']
    save_hdf5(path, variables)
    secret.write_bytes(bytes(range(256)) * 200)
    with h5py.File(path, 'r+') as file:
        file.create_dataset('diff3d', (11, 12, 16), 'u1', external=[(str(secret), 0, 2112)])
    with pytest.raises(DataError, match='raw file'):
        load_scan(path)
    with h5py.File(path, 'r+') as file:
        file['cell'] = file['diff3d']
        del file['diff3d']
        file.create_dataset('diff3d', data=np.array([[file['cell'].ref]], h5py.ref_dtype))
    with pytest.raises(DataError, match='raw file'):
        load_scan(path)
    with h5py.File(path, 'r+') as file:
        del file['diff3d']
        file['diff3d'] = h5py.ExternalLink('/etc/hostname', 'data')
    with pytest.raises(DataError, match=r'outside the folder|missing|does not hold'):
        load_scan(path)
