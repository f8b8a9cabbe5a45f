"""Patterns in other files, or compressed: read, or an error that names what is missing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Reconstruction, Scan, load_scan, write_product
from ptychopinn_plugin.errors import DataError

# Of modules that Ptychodus' readers import.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

MakeScan = Callable[..., Scan]
PutPatterns = Callable[[h5py.Group, str], None]
Write = Callable[[Path, Scan, PutPatterns], Path]


def _product(folder: Path, scan: Scan) -> Path:
    assert scan.object_ is not None
    found = Reconstruction(
        object_=scan.object_,
        origin_px=np.zeros(2),
        coverage=np.ones(scan.object_.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='none',
        geometry=scan.geometry,
    )
    write_product(folder / 'product.h5', found)
    return folder / 'product.h5'


def _cxi(folder: Path, scan: Scan, put: PutPatterns) -> Path:
    with h5py.File(folder / 's.cxi', 'w') as file:
        detector = file.create_group('entry_1/instrument_1/detector_1')
        put(detector, 'data')
        file['entry_1/data_1/data'] = h5py.SoftLink('/entry_1/instrument_1/detector_1/data')
        detector['distance'] = 2.0
        detector['x_pixel_size'] = detector['y_pixel_size'] = 75e-6
        file['entry_1/instrument_1/source_1/energy'] = 8000 * 1.602176634e-19
        file['entry_1/instrument_1/source_1/illumination'] = scan.probe[0]
        y, x = scan.positions_px.T * 2e-9
        file['entry_1/sample_1/geometry_1/translation'] = np.stack([x, y, 0 * x], axis=1)
    return folder / 's.cxi'


def _pair(folder: Path, scan: Scan, put: PutPatterns) -> Path:
    _product(folder, scan)
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        put(file, 'patterns')
    return folder


def _load_cxi(path: Path) -> Scan:
    return load_scan(path)


def _load_plugin(path: Path) -> Scan:
    pytest.importorskip('ptychodus')
    return load_scan(path, reader='CXI', product=path.parent / 'product.h5')


def _for_plugin(folder: Path, scan: Scan, put: PutPatterns) -> Path:
    _product(folder, scan)
    return _cxi(folder, scan, put)


READERS: dict[str, tuple[Write, Callable[[Path], Scan]]] = {
    'cxi': (_cxi, _load_cxi),
    'pair': (_pair, _load_cxi),
    '--reader': (_for_plugin, _load_plugin),
}


@pytest.fixture(params=READERS)
def load_with(request: pytest.FixtureRequest, make_scan: MakeScan, tmp_path: Path) -> Any:
    """Return a function that lets a file be written for a reader and reads it."""
    write, load = READERS[request.param]
    return lambda put: load(write(tmp_path, make_scan(), put))


def _virtual(names: list[str], parts: list[int], shape: tuple[int, ...]) -> PutPatterns:
    def put(group: h5py.Group, key: str) -> None:
        layout = h5py.VirtualLayout(shape, np.float64)
        start = 0
        for name, length in zip(names, parts, strict=True):
            layout[start : start + length] = h5py.VirtualSource(name, 'data', (length, *shape[1:]))
            start += length
        group.create_virtual_dataset(key, layout, fillvalue=0)

    return put


def _parts(folder: Path, patterns: np.ndarray[Any, Any]) -> None:
    for name, part in (('a.h5', patterns[:6]), ('b.h5', patterns[6:])):
        with h5py.File(folder / name, 'w') as file:
            file['data'] = part


def test_virtual_datasets_are_read(load_with: Any, make_scan: MakeScan, tmp_path: Path) -> None:
    patterns = make_scan().patterns
    _parts(tmp_path, patterns)
    loaded = load_with(_virtual(['a.h5', 'b.h5'], [6, 5], patterns.shape))
    np.testing.assert_array_equal(loaded.patterns, patterns)


def test_a_missing_part_of_a_virtual_dataset_is_named(
    load_with: Any, make_scan: MakeScan, tmp_path: Path
) -> None:
    _parts(tmp_path, make_scan().patterns)
    with pytest.raises(DataError, match=r'of which gone\.h5 is missing'):
        load_with(_virtual(['a.h5', 'gone.h5'], [6, 5], make_scan().patterns.shape))


def test_a_part_without_the_dataset_is_named(
    load_with: Any, make_scan: MakeScan, tmp_path: Path
) -> None:
    _parts(tmp_path, make_scan().patterns)
    with h5py.File(tmp_path / 'b.h5', 'w') as file:
        file['other'] = 1
    with pytest.raises(DataError, match=r'b\.h5 holds no data'):
        load_with(_virtual(['a.h5', 'b.h5'], [6, 5], make_scan().patterns.shape))


@pytest.mark.parametrize(('present', 'reason'), [(False, 'is missing'), (True, 'does not hold it')])
def test_a_broken_link_is_named(load_with: Any, tmp_path: Path, present: bool, reason: str) -> None:
    if present:
        h5py.File(tmp_path / 'moved.h5', 'w').close()

    def put(group: h5py.Group, key: str) -> None:
        group[key] = h5py.ExternalLink('moved.h5', '/entry/data')

    with pytest.raises(
        DataError, match=rf'link to /entry/data in the file moved\.h5, which {reason}'
    ):
        load_with(put)


@pytest.mark.parametrize('name', ['Bitshuffle', 'Blosc', 'LZ4', 'Zstd'])
def test_compressed_patterns_are_read(load_with: Any, make_scan: MakeScan, name: str) -> None:
    hdf5plugin = pytest.importorskip('hdf5plugin')
    patterns = make_scan().patterns

    def put(group: h5py.Group, key: str) -> None:
        group.create_dataset(
            key, data=patterns, chunks=(1, *patterns.shape[1:]), **getattr(hdf5plugin, name)()
        )

    np.testing.assert_array_equal(load_with(put).patterns, patterns)


def _unknown_filter(group: h5py.Group, key: str) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((11, 16, 16))
    plist.set_filter(32019, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((11, 16, 16))
    dataset = h5py.h5d.create(group.id, key.encode(), h5py.h5t.NATIVE_DOUBLE, space, plist)
    dataset.write_direct_chunk((0, 0, 0), b'packed in some way')


def test_a_filter_that_nobody_brings_is_named(make_scan: MakeScan, tmp_path: Path) -> None:
    for write in (_cxi, _pair):
        with pytest.raises(DataError, match=r'HDF5 filter 32019\), which is not installed'):
            load_scan(write(tmp_path, make_scan(), _unknown_filter))


def test_without_hdf5plugin_the_command_is_said(make_scan: MakeScan, tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip('hdf5plugin')
    patterns = make_scan().patterns

    def put(group: h5py.Group, key: str) -> None:
        group.create_dataset(
            key, data=patterns, chunks=(1, 16, 16), **hdf5plugin.Bitshuffle(cname='lz4')
        )

    _cxi(tmp_path, make_scan(), put)
    code = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        'from ptychopinn_plugin.data import load_scan\n'
        "load_scan('s.cxi')"
    )
    child = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert 'compressed with bitshuffle (HDF5 filter 32008)' in child.stderr
    assert 'Run: pip install hdf5plugin.' in child.stderr


def test_a_name_that_is_no_text(make_scan: MakeScan, tmp_path: Path) -> None:
    _pair(tmp_path, make_scan(), lambda file, key: file.create_dataset(key, data=[1.0]))
    path = tmp_path / 'diffraction.h5'
    path.write_bytes(path.read_bytes().replace(b'patterns', b'\xff\xfetterns'))
    with pytest.raises(DataError, match=r'diffraction\.h5.*damaged.*write the file again'):
        load_scan(path)


def test_a_type_that_holds_no_numbers(make_scan: MakeScan, tmp_path: Path) -> None:
    def put(file: h5py.Group, key: str) -> None:
        space = h5py.h5s.create_simple((2, 16, 16))
        h5py.h5d.create(file.id, key.encode(), h5py.h5t.UNIX_D32LE, space)

    with pytest.raises(DataError, match=r'/patterns of .* must hold numbers or texts'):
        load_scan(_pair(tmp_path, make_scan(), put))


def test_a_file_is_looked_for_where_hdf5_does(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan()
    (tmp_path / 'scan').mkdir()

    def put(file: h5py.Group, key: str) -> None:
        with h5py.File(tmp_path / 'scan' / 'raw.h5', 'w') as other:
            other['data'] = scan.patterns
        file[key] = h5py.ExternalLink('elsewhere/raw.h5', 'data')

    folder = _pair(tmp_path / 'scan', scan, put)
    with pytest.raises(DataError, match=r'the file elsewhere/raw\.h5, which is missing'):
        load_scan(folder)
    # Of an absolute path that is not there, the last part alone is looked for.
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['patterns'] = h5py.ExternalLink('/elsewhere/raw.h5', 'data')
    np.testing.assert_array_equal(load_scan(folder).patterns, scan.patterns)


def test_an_attribute_that_is_no_text(make_scan: MakeScan, tmp_path: Path) -> None:
    def put(file: h5py.Group, key: str) -> None:
        patterns = file.create_dataset(key, data=make_scan().patterns)
        space = h5py.h5s.create_simple((1,))
        name = b'detector_pixel_width_m'
        h5py.h5a.create(patterns.id, name, h5py.h5t.UNIX_D32LE, space)

    with pytest.raises(DataError, match=r"'detector_pixel_width_m' of /patterns .* a number"):
        load_scan(_pair(tmp_path, make_scan(), put))
