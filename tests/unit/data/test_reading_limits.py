"""A scan's file leads to no other file of the machine and takes no more memory than it may."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Reconstruction, Scan, load_scan, write_product, write_scan
from ptychopinn_plugin.data.readers import limits as rules
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage import scratch

MakeScan = Callable[..., Scan]


@pytest.fixture
def pair(tmp_path: Path, make_scan: MakeScan) -> tuple[Path, Scan]:
    """Return a scan, and a folder with its product, whose patterns are still missing."""
    scan, folder = make_scan(), tmp_path / 'scan'
    folder.mkdir()
    assert scan.object_ is not None
    write_product(
        folder / 'product.h5',
        Reconstruction(
            object_=scan.object_,
            origin_px=np.zeros(2),
            coverage=np.ones(scan.object_.shape, np.float32),
            probe=scan.probe,
            positions_px=scan.positions_px,
            backend='none',
            geometry=scan.geometry,
        ),
    )
    return folder, scan


def _data(path: Path, scan: Scan) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, 'w') as file:
        file['data'] = scan.patterns
    return path


def _link(folder: Path, target: str) -> None:
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['patterns'] = h5py.ExternalLink(target, 'data')


def _virtual(folder: Path, target: str, shape: tuple[int, ...]) -> None:
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        layout = h5py.VirtualLayout(shape, np.float64)
        layout[...] = h5py.VirtualSource(target, 'data', shape)
        file.create_virtual_dataset('patterns', layout)


def test_a_raw_file_is_never_taken_for_numbers(pair: tuple[Path, Scan], tmp_path: Path) -> None:
    folder, scan = pair
    (tmp_path / 'secret').write_bytes(scan.patterns.astype(np.uint8).tobytes())
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        external = [(str(tmp_path / 'secret'), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset('patterns', scan.patterns.shape, np.uint8, external=external)
    for allow in (False, True):
        with pytest.raises(DataError, match=r'raw file .*secret, which is not read.*h5repack'):
            load_scan(folder, allow_links=allow)


@pytest.mark.parametrize('kind', ['link', 'virtual'])
@pytest.mark.parametrize('place', ['../elsewhere/data.h5', 'absolute', 'symlink.h5'])
def test_links_lead_out_of_the_folder_only_where_that_is_allowed(
    pair: tuple[Path, Scan], tmp_path: Path, kind: str, place: str
) -> None:
    folder, scan = pair
    target = _data(tmp_path / 'elsewhere' / 'data.h5', scan)
    if place == 'symlink.h5':
        (folder / place).symlink_to(target)
    name = str(target) if place == 'absolute' else place
    if kind == 'link':
        _link(folder, name)
    else:
        _virtual(folder, name, scan.patterns.shape)
    with pytest.raises(DataError, match=r'data\.h5|symlink\.h5.*outside.*--allow-links'):
        load_scan(folder)
    loaded = load_scan(folder, allow_links=True)
    np.testing.assert_array_equal(loaded.patterns, scan.patterns)
    assert any('1 other file' in note and 'data.h5' in note for note in loaded.notes)


@pytest.mark.parametrize('kind', ['link', 'virtual'])
def test_links_below_the_folder_are_followed_and_told(pair: tuple[Path, Scan], kind: str) -> None:
    folder, scan = pair
    _data(folder / 'raw' / 'data.h5', scan)
    if kind == 'link':
        _link(folder, 'raw/data.h5')
    else:
        _virtual(folder, 'raw/data.h5', scan.patterns.shape)
    loaded = load_scan(folder)
    np.testing.assert_array_equal(loaded.patterns, scan.patterns)
    assert any('1 other file' in note and 'data.h5' in note for note in loaded.notes)


def test_a_linked_file_may_lead_back_into_the_folder(pair: tuple[Path, Scan]) -> None:
    folder, scan = pair
    _data(folder / 'data.h5', scan)
    (folder / 'raw').mkdir()
    with h5py.File(folder / 'raw' / 'inner.h5', 'w') as file:
        file['data'] = h5py.ExternalLink('../data.h5', 'data')
    _link(folder, 'raw/inner.h5')
    assert any('2 other files' in note for note in load_scan(folder).notes)


def test_a_link_in_a_linked_file_is_checked_too(pair: tuple[Path, Scan], tmp_path: Path) -> None:
    folder, scan = pair
    _data(tmp_path / 'elsewhere' / 'data.h5', scan)
    with h5py.File(folder / 'inner.h5', 'w') as file:
        file['data'] = h5py.ExternalLink('../elsewhere/data.h5', 'data')
    _link(folder, 'inner.h5')
    with pytest.raises(DataError, match='outside'):
        load_scan(folder)
    _virtual(folder, 'inner.h5', scan.patterns.shape)
    with pytest.raises(DataError, match='outside'):
        load_scan(folder)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='there are no pipes')
def test_a_pipe_is_not_waited_for(pair: tuple[Path, Scan]) -> None:
    folder, _ = pair
    os.mkfifo(folder / 'pipe.h5')
    _link(folder, 'pipe.h5')
    with pytest.raises(DataError, match='no regular file'):
        load_scan(folder, allow_links=True)


def _npz(path: Path, make_scan: MakeScan, **more: Any) -> Path:
    write_scan(path, make_scan())
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez_compressed(path, **{**arrays, **more})
    return path


def test_zeros_that_were_packed_to_nothing(
    tmp_path: Path, make_scan: MakeScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, 'FREE_BYTES', 1 << 20)
    path = _npz(tmp_path / 'a.npz', make_scan, diff3d=np.zeros((11, 512, 512), np.float32))
    with pytest.raises(DataError, match=r"'diff3d'.* would grow .*more than 500 times.*--max-gib"):
        load_scan(path)
    with pytest.raises(DataError) as caught:
        load_scan(path, max_gib=0.5)
    assert 'would grow' not in str(caught.value)
    with pytest.raises(DataError, match='would take 11 MiB; max_gib'):
        load_scan(path, max_gib=0.005)


def test_what_was_never_written_claims_no_memory(
    pair: tuple[Path, Scan], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = pair
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file.create_dataset('patterns', (1 << 20, 512, 512), np.uint16, chunks=(1, 512, 512))
    with pytest.raises(DataError, match=r'patterns.* would grow from a file of'):
        load_scan(folder)


def test_an_honest_scan_that_does_not_fit_lies_in_a_file(
    tmp_path: Path, make_scan: MakeScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scan(tmp_path / 'a.npz', make_scan())
    monkeypatch.setattr(scratch, 'SMALL_BYTES', 1000)
    monkeypatch.setattr(scratch, 'available_bytes', lambda: 3000)
    assert scratch.is_stored(load_scan(tmp_path / 'a.npz').patterns)


def test_a_shape_beyond_its_bytes(tmp_path: Path, make_scan: MakeScan) -> None:
    path = _npz(tmp_path / 'a.npz', make_scan)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    claims = {'descr': '<f4', 'fortran_order': False, 'shape': (1 << 40, 32, 32)}
    np.lib.format.write_array_header_1_0(header, claims)
    members['diff3d.npy'] = header.getvalue() + bytes(100)
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(DataError, match='claims the shape'):
        load_scan(path)
