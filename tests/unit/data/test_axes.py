"""Orders of axes that other programs write: of probes, and of patterns of a raster."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.data.readers.probe_axes import single_probe
from ptychopinn_plugin.errors import DataError

MakeScan = Callable[..., Scan]
SaveNpz = Callable[..., Path]


@pytest.fixture(scope='module')
def modes() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(3, 12, 10)) + 1j * rng.normal(size=(3, 12, 10))


@pytest.mark.parametrize(
    ('arrange', 'note'),
    [
        (lambda modes: modes, ''),
        (lambda modes: modes[np.newaxis], ''),
        (lambda modes: modes[None, None, :, None], ''),
        (lambda modes: np.moveaxis(modes, 0, 2), 'first two axes'),
        (lambda modes: np.moveaxis(modes, 0, 2)[..., None], 'first two axes'),
        (
            lambda modes: np.stack([np.moveaxis(modes, 0, 2), 0 * np.moveaxis(modes, 0, 2)], -1),
            'first two axes',
        ),
        (lambda modes: np.stack([modes, 0 * modes]), 'first of 2'),
        (lambda modes: np.stack([modes.real, modes.imag], -1), 'real and imaginary'),
    ],
)
def test_axes_of_a_probe(
    modes: np.ndarray, arrange: Callable[[np.ndarray], np.ndarray], note: str
) -> None:
    found, notes = single_probe(arrange(modes))
    np.testing.assert_array_equal(found, modes)
    assert note in ' '.join(notes)
    assert bool(note) == bool(notes)


def test_variations_of_one_mode_are_no_modes(modes: np.ndarray) -> None:
    found, notes = single_probe(modes[:, np.newaxis])
    np.testing.assert_array_equal(found, modes[:1])
    assert 'first of 3' in notes[0]


@pytest.mark.parametrize('shape', [(12,), (2, 3, 2, 12, 10)])
def test_a_probe_of_other_axes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r'\(modes, height, width\)'):
        single_probe(np.ones(shape, complex))


@pytest.mark.parametrize('last', [False, True])
def test_a_raster_is_taken_row_by_row(make_scan: MakeScan, save_npz: SaveNpz, last: bool) -> None:
    scan = make_scan((16, 12), count=15)
    raster = np.sqrt(scan.patterns).reshape(3, 5, 16, 12)
    raster = np.moveaxis(raster, (0, 1), (2, 3)) if last else raster
    y, x = scan.positions_px.T.reshape(2, 3, 5)
    loaded = load_scan(save_npz(scan, diff3d=raster, ycoords=y, xcoords=x))
    np.testing.assert_allclose(loaded.patterns, scan.patterns, rtol=1e-5)
    np.testing.assert_array_equal(loaded.positions_px, scan.positions_px)
    assert any('raster of 3 x 5' in note for note in loaded.notes)


def test_a_raster_of_another_number_of_patterns(make_scan: MakeScan, save_npz: SaveNpz) -> None:
    scan = make_scan(count=15)
    with pytest.raises(DataError, match='each of the 15 positions'):
        load_scan(save_npz(scan, diff3d=np.ones((4, 5, 16, 16))))


def test_a_raster_in_cxi(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(count=12)
    path = tmp_path / 'raster.cxi'
    with h5py.File(path, 'w') as file:
        detector = file.create_group('entry_1/instrument_1/detector_1')
        detector['data'] = np.rint(scan.patterns).astype(np.uint32).reshape(3, 4, 16, 16)
        detector['distance'], detector['x_pixel_size'], detector['y_pixel_size'] = 2.0, 1e-4, 1e-4
        detector['mask'] = np.zeros((3, 4, 16, 16), np.uint32)
        detector['mask'][1, 2, 4, 5] = 1
        file['entry_1/instrument_1/source_1/energy'] = 8000 * 1.602176634e-19
        file['entry_1/instrument_1/source_1/illumination'] = scan.probe
        metres = np.zeros((3, 4, 3))
        metres[..., 0], metres[..., 1] = np.meshgrid(np.arange(4) * 1e-7, np.arange(3) * 1e-7)
        file['entry_1/sample_1/geometry_1/translation'] = metres
    loaded = load_scan(path)
    assert loaded.bad_pixels is not None
    valid = ~loaded.bad_pixels
    np.testing.assert_allclose(loaded.patterns[:, valid], np.rint(scan.patterns)[:, valid])
    y, x = (loaded.positions_px - loaded.positions_px[0]).T
    np.testing.assert_allclose(x.reshape(3, 4) / x[1], np.tile(np.arange(4), (3, 1)), atol=1e-9)
    np.testing.assert_allclose(y.reshape(3, 4)[:, 0] / x[1], np.arange(3), atol=1e-9)
    assert np.argwhere(loaded.bad_pixels).tolist() == [[4, 5]]
