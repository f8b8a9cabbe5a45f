"""The outline of a scan is that of the scan, and no pattern is read for it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import (
    Reconstruction,
    Scan,
    ScanOutline,
    load_outline,
    load_scan,
    write_product,
    write_scan,
)
from ptychopinn_plugin.data.grouping import check_positions
from ptychopinn_plugin.errors import DataError

MakeScan = Callable[..., Scan]
SaveNpz = Callable[..., Path]


def write_pair(folder: Path, scan: Scan, probe: np.ndarray | None = None) -> Path:
    """Write Ptychodus' two files; every other position has lost its pattern."""
    folder.mkdir()
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['patterns'], file['indexes'] = scan.patterns[::2], np.arange(len(scan))[::2]
        for side in ('height', 'width'):
            file['patterns'].attrs[f'detector_pixel_{side}_m'] = 75e-6
    assert scan.object_ is not None
    result = Reconstruction(
        object_=scan.object_,
        origin_px=np.zeros(2),
        coverage=np.ones(scan.object_.shape, np.float32),
        probe=scan.probe if probe is None else probe,
        positions_px=scan.positions_px,
        backend='none',
        geometry=scan.geometry,
    )
    write_product(folder / 'product.h5', result)
    return folder


def check_outline(path: Path) -> ScanOutline:
    """Check that the outline of a file is that of the scan in it."""
    outline, wanted = load_outline(path), ScanOutline.of(load_scan(path))
    np.testing.assert_allclose(outline.positions_px, wanted.positions_px)
    assert len(outline) == len(wanted)
    assert outline.pattern_shape == wanted.pattern_shape
    assert outline.name == wanted.name
    if outline.probe is not None:
        assert wanted.probe is not None
        np.testing.assert_allclose(outline.probe, wanted.probe, rtol=1e-6)
    return outline


def test_it_is_that_of_the_scan(make_scan: MakeScan, save_npz: SaveNpz, tmp_path: Path) -> None:
    scan = make_scan((16, 12), modes=2)
    last = np.moveaxis(scan.patterns, 0, 2)
    export = {'bad_pixels': np.zeros((16, 12), bool), 'diff3d': scan.patterns}
    for changes in ({}, {'diff3d': np.sqrt(last)}, export):
        outline = check_outline(save_npz(scan, **changes))
        assert outline.pattern_shape == (16, 12)
        assert outline.probe is not None
    pair = check_outline(write_pair(tmp_path / 'pair', scan))
    assert len(pair) == 6, 'positions without a pattern are left out'
    write_scan(tmp_path / 'ours.npz', scan)
    assert check_outline(tmp_path / 'ours.npz').name == 'lopsided'
    assert check_outline(save_npz(scan, leave_out=('probeGuess',))).probe is None
    square = make_scan()
    raster = np.sqrt(square.subset(np.arange(6)).patterns).reshape(2, 3, 16, 16)
    few = {name: square.positions_px[:6, axis] for axis, name in enumerate(('ycoords', 'xcoords'))}
    path = save_npz(square, leave_out=('scan_index',), diff3d=raster, **few)
    assert len(check_outline(path)) == 6


def test_no_pattern_is_read(make_scan: MakeScan, save_npz: SaveNpz, tmp_path: Path) -> None:
    # Patterns whose values cannot be, which shows as soon as they are read.
    patterns = np.full((11, 16, 16), np.nan)
    scan = make_scan()
    pair = write_pair(tmp_path / 'pair', scan)
    with h5py.File(pair / 'diffraction.h5', 'a') as file:
        file['patterns'][...] = 0
    for path in (save_npz(scan, diff3d=patterns), pair):
        with pytest.raises(DataError):
            load_scan(path)
        assert load_outline(path).pattern_shape == (16, 16)


def test_what_is_wrong_without_a_look_at_patterns_is_an_error(
    make_scan: MakeScan, save_npz: SaveNpz, tmp_path: Path
) -> None:
    scan = make_scan()
    wrong = {
        'must be finite': {'xcoords': np.r_[np.nan, scan.positions_px[1:, 1]]},
        'must hold one pattern for each of the 7 positions': {
            'xcoords': np.arange(7.0),
            'ycoords': np.arange(7.0),
        },
        'probe must have shape': {'probeGuess': np.ones((8, 8), complex)},
        'must hold real numbers': {'xcoords': np.array(['a'] * 11)},
    }
    for words, changes in wrong.items():
        path = save_npz(scan, **changes)
        for read in (load_outline, load_scan):
            with pytest.raises(DataError, match=words):
                read(path)
    with pytest.raises(DataError, match='There is no file'):
        load_outline(tmp_path / 'none.npz')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='which holds the patterns, is missing'):
        load_outline(tmp_path / 'empty')


def test_units_and_overlap_are_checked_without_patterns(
    make_scan: MakeScan, save_npz: SaveNpz
) -> None:
    scan = make_scan()
    check_positions(load_outline(save_npz(scan)))
    for factor, words in ((1e-6, 'must be object pixels'), (50, 'illuminations must overlap')):
        far = dataclasses.replace(scan, positions_px=factor * scan.positions_px)
        outline = load_outline(save_npz(far))
        with pytest.raises(DataError, match=words):
            check_positions(outline)
        # Where the illuminations are unknown, positions in pixels pass.
        unknown = dataclasses.replace(outline, probe=None)
        if factor > 1:
            check_positions(unknown)
