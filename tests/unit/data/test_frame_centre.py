"""The beam elsewhere than in the middle, and counts in disguise, in every reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from ptychopinn_plugin.data import Reconstruction, Scan, load_scan, write_product
from ptychopinn_plugin.data.readers.frame_centre import centre_note, corners_to_middle
from ptychopinn_plugin.errors import DataError

# Of modules that Ptychodus' readers import.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

MakeScan = Callable[..., Scan]
Patterns = np.ndarray[Any, Any]


def _npz(patterns: Patterns, folder: Path, scan: Scan, **options: Any) -> Scan:
    y, x = scan.positions_px.T
    np.savez(folder / 's.npz', diff3d=patterns, xcoords=x, ycoords=y, probeGuess=scan.probe[0])
    return load_scan(folder / 's.npz', **options)


def _cxi(patterns: Patterns, folder: Path, scan: Scan, **options: Any) -> Scan:
    with h5py.File(folder / 's.cxi', 'w') as file:
        detector = file.create_group('entry_1/instrument_1/detector_1')
        detector['data'], detector['distance'] = patterns, 2.0
        detector['x_pixel_size'] = detector['y_pixel_size'] = 75e-6
        file['entry_1/instrument_1/source_1/energy'] = 8000 * 1.602176634e-19
        file['entry_1/instrument_1/source_1/illumination'] = scan.probe[0]
        y, x = scan.positions_px.T * 2e-9
        file['entry_1/data_1/translation'] = np.stack([x, y, 0 * x], axis=1)
    return load_scan(folder / 's.cxi', **options)


def _pair(patterns: Patterns, folder: Path, scan: Scan, **options: Any) -> Scan:
    _product(folder, scan)
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['patterns'] = patterns
    return load_scan(folder, **options)


def _plugin(patterns: Patterns, folder: Path, scan: Scan, **options: Any) -> Scan:
    pytest.importorskip('ptychodus')
    np.save(folder / 'patterns.npy', patterns)
    product = _product(folder, scan)
    return load_scan(folder / 'patterns.npy', reader='NPY', product=product, **options)


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


READERS = {'npz': _npz, 'cxi': _cxi, 'pair': _pair, '--reader': _plugin}


@pytest.fixture(params=READERS)
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Scan]:
    """Return a function that writes patterns for a reader and reads them with it."""
    read = READERS[request.param]
    return lambda patterns, scan, **options: read(patterns, tmp_path, scan, **options)


@pytest.fixture
def scan(make_scan: MakeScan) -> Scan:
    """Return a scan whose light is well within its patterns."""
    return make_scan(shape=(32, 32))


@pytest.fixture
def counts(scan: Scan) -> Patterns:
    """Return whole counts."""
    return np.rint(scan.patterns).astype(np.int64)


def _notes_with(scan: Scan, text: str) -> list[str]:
    return [note for note in scan.notes if text in note]


def test_a_right_scan_gets_no_note(load: Callable[..., Scan], scan: Scan, counts: Patterns) -> None:
    for right in (counts, scan.patterns):
        loaded = load(right, scan, domain='counts')
        assert not _notes_with(loaded, 'corners')
        assert not _notes_with(loaded, 'beam')
        assert not _notes_with(loaded, '1 + counts')


@pytest.mark.parametrize('kind', ['int32', 'float32'])
def test_zero_frequency_in_the_corners_is_put_right(
    load: Callable[..., Scan], scan: Scan, counts: Patterns, kind: str
) -> None:
    corners = np.fft.ifftshift(counts, axes=(1, 2)).astype(kind)
    loaded = load(corners, scan)
    np.testing.assert_array_equal(loaded.patterns, counts)
    assert _notes_with(loaded, 'was in the corners of the patterns and was moved')


def test_a_beam_off_the_middle_is_told_and_mended(
    load: Callable[..., Scan], scan: Scan, counts: Patterns
) -> None:
    off = np.roll(counts, (5, -6), (1, 2))
    (note,) = _notes_with(load(off, scan), 'the beam is off the middle')
    assert '--beam-center 21,10' in note
    mended = load(off, scan, beam_center_px=(21, 10))
    assert mended.bad_pixels is not None
    valid = ~mended.bad_pixels
    np.testing.assert_array_equal(mended.patterns[:, valid], counts[:, valid])
    assert valid.sum() == 27 * 26
    assert not _notes_with(mended, 'the beam is off the middle')


@pytest.mark.parametrize(
    'function', [np.log1p, lambda n: np.log10(1 + n), lambda n: np.log2(1 + n)]
)
def test_logarithms_of_counts_are_undone(
    load: Callable[..., Scan], scan: Scan, counts: Patterns, function: Any
) -> None:
    loaded = load(function(counts).astype(np.float32), scan)
    np.testing.assert_allclose(loaded.patterns, counts, atol=0.5, rtol=1e-5)
    assert _notes_with(loaded, '(1 + counts), because they then are whole numbers')


def test_counts_divided_by_the_largest(scan: Scan, counts: Patterns, tmp_path: Path) -> None:
    few = np.minimum(counts, 3000)
    loaded = _npz((few / few.max()).astype(np.float32), tmp_path, scan)
    np.testing.assert_allclose(loaded.patterns * few.max(), few, rtol=1e-5)
    assert _notes_with(loaded, 'whole multiples of the least')
    assert _notes_with(loaded, 'photons=N')


def test_a_ring_of_light_is_no_corner() -> None:
    rows, columns = np.mgrid[:64, :64] - 32
    radius = np.hypot(rows, columns)
    ring = ((radius > 25) & (radius < 31)).astype(float)[np.newaxis] * 100
    kept, _, notes = corners_to_middle(ring, np.zeros((64, 64), bool))
    assert kept is ring
    assert not notes


def test_a_dark_corner_of_the_mask_moves_no_beam(scan: Scan, counts: Patterns) -> None:
    bad = np.zeros((32, 32), bool)
    bad[:16, :14] = True
    assert not centre_note(counts, bad, scan.probe)


@pytest.mark.parametrize('kind', ['npy', 'tif', 'h5', 'h5:entry/mask'])
def test_a_mask_in_another_file(
    load: Callable[..., Scan], scan: Scan, counts: Patterns, tmp_path: Path, kind: str
) -> None:
    hidden = np.zeros((32, 32), bool)
    hidden[14:18, 15:19] = True
    np.save(tmp_path / 'mask.npy', hidden)
    tifffile.imwrite(tmp_path / 'mask.tif', hidden.astype(np.uint8))
    with h5py.File(tmp_path / 'mask.h5', 'w') as file:
        file['entry/mask'] = hidden.astype(np.uint8)
        if ':' in kind:
            file['other'] = np.ones((3, 3), int)
    patterns = np.where(hidden, 0, counts)
    loaded = load(patterns, scan, mask=tmp_path / f'mask.{kind}')
    np.testing.assert_array_equal(loaded.bad_pixels, hidden)


def test_a_mask_moves_with_the_patterns(
    load: Callable[..., Scan], scan: Scan, counts: Patterns, tmp_path: Path
) -> None:
    hidden = np.zeros((32, 32), bool)
    hidden[20:23, 9:12] = True
    np.save(tmp_path / 'mask.npy', hidden)
    off = np.roll(counts, (5, -6), (1, 2))
    loaded = load(off, scan, beam_center_px=(21, 10), mask=tmp_path / 'mask.npy')
    assert loaded.bad_pixels is not None
    assert loaded.bad_pixels[15:18, 15:18].all()
    assert not loaded.bad_pixels[12, 12]


def test_masks_that_are_none(scan: Scan, counts: Patterns, tmp_path: Path) -> None:
    path = tmp_path / 'mask.npy'
    for mask, message in (
        (np.ones((32, 32), bool), 'marks good pixels, invert it'),
        (np.zeros((16, 16), bool), 'must be 32 x 32 pixels as the frames are'),
        (np.zeros(3), 'must be one image of numbers'),
    ):
        np.save(path, mask)
        with pytest.raises(DataError, match=message):
            _npz(counts, tmp_path, scan, mask=path)
    path.write_text('text')
    with pytest.raises(DataError, match='read from an NPY, TIFF, HDF5 or MATLAB file'):
        _npz(counts, tmp_path, scan, mask=path)
