"""Marks of detectors in place of counts: one rule, whatever reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Scan, load_scan, scan_from_arrays, write_product
from ptychopinn_plugin.data.readers.invalid_pixels import (
    clip_negative,
    mask_invalid,
    with_common_marks,
)
from ptychopinn_plugin.data.reconstruction import Reconstruction
from ptychopinn_plugin.errors import DataError

MakeScan = Callable[..., Scan]
Load = Callable[[np.ndarray[Any, Any], Path, Scan], Scan]

GAP = np.s_[:, 3, 7:9]
KINDS = ['uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'float32', 'float64']


def _npz(patterns: np.ndarray[Any, Any], folder: Path, scan: Scan) -> Scan:
    y, x = scan.positions_px.T
    np.savez(folder / 's.npz', diff3d=patterns, xcoords=x, ycoords=y, probeGuess=scan.probe[0])
    return load_scan(folder / 's.npz', domain='counts')


def _arrays(patterns: np.ndarray[Any, Any], folder: Path, scan: Scan) -> Scan:
    y, x = scan.positions_px.T
    arrays = {'diff3d': patterns, 'xcoords': x, 'ycoords': y, 'probeGuess': scan.probe[0]}
    kept = patterns.copy()
    read = scan_from_arrays(arrays, domain='counts')
    # What belongs to others stays as it was.
    np.testing.assert_array_equal(patterns, kept)
    return read


def _cxi(patterns: np.ndarray[Any, Any], folder: Path, scan: Scan) -> Scan:
    with h5py.File(folder / 's.cxi', 'w') as file:
        detector = file.create_group('entry_1/instrument_1/detector_1')
        detector['data'], detector['distance'] = patterns, 2.0
        detector['x_pixel_size'] = detector['y_pixel_size'] = 75e-6
        file['entry_1/instrument_1/source_1/energy'] = 8000 * 1.602176634e-19
        file['entry_1/instrument_1/source_1/illumination'] = scan.probe[0]
        y, x = scan.positions_px.T * 2e-9
        file['entry_1/data_1/translation'] = np.stack([x, y, 0 * x], axis=1)
    return load_scan(folder / 's.cxi')


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


def _pair(patterns: np.ndarray[Any, Any], folder: Path, scan: Scan) -> Scan:
    _product(folder, scan)
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['patterns'] = patterns
    return load_scan(folder)


def _plugin(patterns: np.ndarray[Any, Any], folder: Path, scan: Scan) -> Scan:
    pytest.importorskip('ptychodus')
    np.save(folder / 'patterns.npy', patterns)
    return load_scan(folder / 'patterns.npy', reader='NPY', product=_product(folder, scan))


READERS = {'npz': _npz, 'arrays': _arrays, 'cxi': _cxi, 'pair': _pair, '--reader': _plugin}


@pytest.fixture(params=READERS)
def load(request: pytest.FixtureRequest) -> Load:
    """Return a function that writes patterns for a reader and reads them with it."""
    return READERS[request.param]


@pytest.fixture
def counts(make_scan: MakeScan) -> np.ndarray[Any, Any]:
    """Return whole counts that fit any type."""
    scan = make_scan()
    return np.rint(scan.patterns / scan.patterns.max() * 100).astype(np.int64)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_marks_are_bad_pixels_in_every_reader(
    load: Load, counts: np.ndarray[Any, Any], make_scan: MakeScan, tmp_path: Path, kind: str
) -> None:
    marked = counts.astype(kind)
    marked[GAP] = np.nan if marked.dtype.kind == 'f' else np.iinfo(kind).max
    scan = load(marked, tmp_path, make_scan())
    expected = np.zeros((16, 16), bool)
    expected[3, 7:9] = True
    np.testing.assert_array_equal(scan.bad_pixels, expected)
    np.testing.assert_array_equal(scan.patterns[:, ~expected], counts[:, ~expected])
    (note,) = (note for note in scan.notes if 'marked as bad' in note)
    assert note.startswith('2 pixels that hold no counts')


@pytest.mark.parametrize('kind', ['int16', 'int32', 'int64', 'float32'])
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_minus_one_and_minus_two_are_marks_in_every_reader(
    load: Load, counts: np.ndarray[Any, Any], make_scan: MakeScan, tmp_path: Path, kind: str
) -> None:
    marked = counts.astype(kind)
    marked[GAP], marked[:, 10, 10] = -1, -2
    scan = load(marked, tmp_path, make_scan())
    assert scan.bad_pixels is not None
    assert np.argwhere(scan.bad_pixels).tolist() == [[3, 7], [3, 8], [10, 10]]
    assert any('(-1; -2) were marked as bad' in note for note in scan.notes)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_small_negative_noise_is_clipped_in_every_reader(
    load: Load, counts: np.ndarray[Any, Any], make_scan: MakeScan, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, counts.shape)
    scan = load((counts + noise).astype(np.float32), tmp_path, make_scan())
    assert scan.bad_pixels is not None
    assert not scan.bad_pixels.any()
    assert scan.patterns.min() == 0
    bright = counts > 2
    assert not scan.patterns[counts == 0].mean() > 0.05
    np.testing.assert_allclose(scan.patterns[bright], (counts + noise)[bright], rtol=1e-5)
    assert any('noise of a subtracted dark field' in note for note in scan.notes)


def test_dark_subtracted_floats_are_no_amplitudes(
    counts: np.ndarray[Any, Any], save_npz: Callable[..., Path], make_scan: MakeScan
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, counts.shape)
    loaded = load_scan(save_npz(make_scan(), diff3d=(counts + noise).astype(np.float32)))
    assert loaded.patterns.max() == pytest.approx(counts.max(), abs=2)


@pytest.mark.parametrize('kind', ['uint16', 'float64'])
def test_a_pixel_that_is_saturated_now_and_then_is_bad(
    counts: np.ndarray[Any, Any], kind: str
) -> None:
    marked = counts.astype(kind)
    marked[[1, 4], 8, 8] = 65535
    patterns, bad, notes = mask_invalid(marked, None)
    assert np.argwhere(bad).tolist() == [[8, 8]]
    assert not patterns[:, 8, 8].any()
    assert '1 of them for the sake of some patterns only' in notes[0]


def test_a_frame_that_was_not_recorded_hides_no_other(counts: np.ndarray[Any, Any]) -> None:
    marked = counts.astype(np.uint32)
    marked[5] = np.iinfo(np.uint32).max
    marked[GAP] = np.iinfo(np.uint32).max
    patterns, bad, notes = mask_invalid(marked, None)
    assert np.argwhere(bad).tolist() == [[3, 7], [3, 8]]
    assert np.flatnonzero(patterns.sum(axis=(1, 2)) == 0).tolist() == [5]
    assert 'the first is number 5' in notes[1]


def test_a_module_that_was_not_read_out_once_costs_one_frame(
    counts: np.ndarray[Any, Any],
) -> None:
    marked = counts.astype(np.float32)
    marked[2, :8] = np.nan
    patterns, bad, notes = mask_invalid(marked, None)
    assert not bad.any()
    assert np.flatnonzero(patterns.sum(axis=(1, 2)) == 0).tolist() == [2]
    np.testing.assert_array_equal(np.delete(patterns, 2, 0), np.delete(counts, 2, 0))
    assert len(notes) == 1


def test_noise_of_whole_numbers_is_no_mark() -> None:
    """Integers with a dark field subtracted: -1 is everywhere."""
    rng = np.random.default_rng(1)
    noisy = np.rint(rng.poisson(5, (20, 16, 16)) + rng.normal(-3, 0.4, (20, 16, 16)))
    noisy = np.maximum(noisy, -1).astype(np.int32)
    patterns, bad, notes = mask_invalid(noisy.copy(), None)
    assert not bad.any()
    assert not notes
    clipped, notes = clip_negative(patterns, bad)
    assert clipped.min() == 0
    np.testing.assert_array_equal(clipped[noisy > 2], noisy[noisy > 2])
    assert 'down to -1' in notes[0]


def test_one_number_below_zero_in_every_pattern_is_a_mark(counts: np.ndarray[Any, Any]) -> None:
    marked = counts.astype(np.float32)
    marked[GAP] = -9999.0
    _, bad, notes = mask_invalid(marked, None)
    assert np.argwhere(bad).tolist() == [[3, 7], [3, 8]]
    assert 'negative in every pattern' in notes[0]


def test_the_files_own_mask_is_not_told_again(counts: np.ndarray[Any, Any]) -> None:
    marked = counts.astype(np.uint16)
    marked[GAP] = 65535
    mask = np.zeros((16, 16), bool)
    mask[3] = True
    _, bad, notes = mask_invalid(marked, mask)
    np.testing.assert_array_equal(bad, mask)
    assert notes == ()


def test_logarithms_of_nothing_are_no_marks(counts: np.ndarray[Any, Any]) -> None:
    with np.errstate(divide='ignore'):
        logarithms = np.log10(np.random.default_rng(0).poisson(counts / 10))
    with pytest.raises(DataError, match=r'hold NaN or infinity on too many pixels.*logarithms'):
        mask_invalid(logarithms, None)


def test_files_of_several_types_keep_their_marks() -> None:
    small, large = np.full((1, 2, 2), 7, np.uint16), np.full((1, 2, 2), 65535, np.uint32)
    small[0, 0, 0] = 65535
    together = np.concatenate(with_common_marks([small, large]))
    assert together.dtype == np.uint32
    assert together[:, 0].tolist() == [[2**32 - 1, 7], [65535, 65535]]


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_amplitudes_of_marks(
    counts: np.ndarray[Any, Any], save_npz: Callable[..., Path], make_scan: MakeScan
) -> None:
    """Programs take the root of whatever an Eiger writes."""
    marked = counts.astype(np.uint32)
    marked[GAP] = np.iinfo(np.uint32).max
    loaded = load_scan(save_npz(make_scan(), diff3d=np.sqrt(marked).astype(np.float32)))
    assert loaded.bad_pixels is not None
    assert np.argwhere(loaded.bad_pixels).tolist() == [[3, 7], [3, 8]]
