"""Scans that were turned on purpose come back as they were, in every reader."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Reconstruction, Scan, load_scan, write_product
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.reorientation import change_axes, orient_positions, reorient
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.orientation import AxisChange, Orientation

# Of modules that Ptychodus' readers import.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

AXIS_CHANGES = [AxisChange(*flags) for flags in itertools.product((False, True), repeat=3)]


@pytest.fixture(scope='module')
def scan() -> Scan:
    """Return a scan with a hidden pixel, whose probe and field have no symmetry."""
    found = simulate(SimulationConfig(size=32, rows=4, columns=6, step_px=4.0, defocus=100.0))
    rows, columns = np.mgrid[:32, :32] / 32
    probe = found.probe * (1 + 0.5 * rows + 0.8j * columns**2)
    bad = np.zeros((32, 32), dtype=bool)
    bad[3, 9] = True
    geometry = Geometry(2e-9, 2e-9)
    return dataclasses.replace(found, probe=probe, bad_pixels=bad, geometry=geometry)


def _npz(scan: Scan, folder: Path, patterns: Any, positions_px: Any, **options: Any) -> Scan:
    y, x = positions_px.T
    np.savez(folder / 's.npz', diff3d=patterns, xcoords=x, ycoords=y, probeGuess=scan.probe[0])
    return load_scan(folder / 's.npz', **options)


def _cxi(scan: Scan, folder: Path, patterns: Any, positions_px: Any, **options: Any) -> Scan:
    with h5py.File(folder / 's.cxi', 'w') as file:
        detector = file.create_group('entry_1/instrument_1/detector_1')
        detector['data'], detector['distance'] = patterns, 2.0
        detector['x_pixel_size'] = detector['y_pixel_size'] = 75e-6
        file['entry_1/instrument_1/source_1/energy'] = 8000 * 1.602176634e-19
        file['entry_1/instrument_1/source_1/illumination'] = scan.probe[0]
        y, x = positions_px.T * (1.549802460e-10 * 2 / 32 / 75e-6)
        file['entry_1/data_1/translation'] = np.stack([x, y, 0 * x], axis=1)
    return load_scan(folder / 's.cxi', **options)


def _pair(scan: Scan, folder: Path, patterns: Any, positions_px: Any, **options: Any) -> Scan:
    _product(scan, folder, positions_px)
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['patterns'] = patterns
    return load_scan(folder, **options)


def _plugin(scan: Scan, folder: Path, patterns: Any, positions_px: Any, **options: Any) -> Scan:
    pytest.importorskip('ptychodus')
    _product(scan, folder, positions_px)
    np.save(folder / 'patterns.npy', patterns)
    return load_scan(
        folder / 'patterns.npy', reader='NPY', product=folder / 'product.h5', **options
    )


def _product(scan: Scan, folder: Path, positions_px: Any) -> None:
    found = Reconstruction(
        object_=np.ones((4, 4), np.complex64),
        origin_px=np.zeros(2),
        coverage=np.ones((4, 4), np.float32),
        probe=scan.probe,
        positions_px=positions_px,
        backend='none',
        geometry=scan.geometry,
    )
    write_product(folder / 'product.h5', found)


READERS = {'npz': _npz, 'cxi': _cxi, 'pair': _pair, '--reader': _plugin}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('about', ['zero frequency', 'the middle of the frame'])
def test_turned_patterns_come_back_in_every_reader(
    scan: Scan, tmp_path: Path, reader: str, about: str
) -> None:
    mirrored = (about != 'zero frequency',) * 2
    reoriented = change_axes(scan.patterns, AxisChange(True, True, False), mirrored)
    mask = change_axes(scan.bad_pixels, AxisChange(True, True, False), mirrored)
    np.save(tmp_path / 'mask.npy', mask)
    # What was transposed and then flipped vertically is undone by a transposition and a
    # horizontal flip.
    read = READERS[reader](
        scan,
        tmp_path,
        reoriented,
        scan.positions_px,
        mask=tmp_path / 'mask.npy',
        domain='counts',
        orientation=Orientation(transpose=True, flip='horizontal'),
    )
    valid = ~read.bad_pixels
    np.testing.assert_array_equal(read.patterns[:, valid], scan.patterns[:, valid])
    np.testing.assert_array_equal(read.bad_pixels, scan.bad_pixels)
    np.testing.assert_array_equal(read.probe, scan.probe)
    assert any('--transpose --flip horizontal' in note for note in read.notes)


@pytest.mark.parametrize('reader', READERS)
def test_turned_positions_come_back_in_every_reader(
    scan: Scan, tmp_path: Path, reader: str
) -> None:
    y, x = (scan.positions_px / 1.25).T
    read = READERS[reader](
        scan,
        tmp_path,
        scan.patterns,
        np.stack([-x, y], axis=1),
        domain='counts',
        orientation=Orientation(swap_positions=True, invert_positions='x', scale_positions=1.25),
    )
    moved = read.positions_px - scan.positions_px
    if reader == 'npz':
        np.testing.assert_allclose(moved, 0, atol=1e-9)
    # Files in metres have no common zero.
    np.testing.assert_allclose(moved - moved[0], 0, atol=1e-6)
    np.testing.assert_array_equal(read.patterns, scan.patterns)


def test_a_beam_center_is_of_the_frames_as_stored(scan: Scan, tmp_path: Path) -> None:
    frames = np.zeros((len(scan), 50, 48), dtype=np.float32)
    frames[:, 11:43, 5:37] = change_axes(scan.patterns, AxisChange(False, True, False))
    read = _npz(
        scan,
        tmp_path,
        frames,
        scan.positions_px,
        domain='counts',
        beam_center_px=(27, 21),
        orientation=Orientation(flip='vertical'),
    )
    np.testing.assert_array_equal(read.patterns, scan.patterns)


@pytest.mark.parametrize('change', AXIS_CHANGES)
def test_a_turned_exit_wave_has_a_turned_pattern(scan: Scan, change: AxisChange) -> None:
    """The eight orientations of patterns are those of the waves, about pixel n // 2."""
    wave = scan.probe[0]

    def far(image: Any) -> Any:
        return np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))) ** 2

    reoriented = change_axes(wave.real, change) + 1j * change_axes(wave.imag, change)
    np.testing.assert_allclose(
        far(reoriented), change_axes(far(wave), change), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize('first', AXIS_CHANGES)
@pytest.mark.parametrize('second', AXIS_CHANGES)
def test_changes_of_axes_follow_each_other(
    scan: Scan, first: AxisChange, second: AxisChange
) -> None:
    images, positions = scan.patterns[:1], scan.positions_px
    one = Orientation.of(first, first, rotate_scan_deg=20.0, scale_positions=2.0)
    two = Orientation.of(second, second, rotate_scan_deg=-50.0, scale_positions=0.25)
    np.testing.assert_array_equal(
        change_axes(change_axes(images, first), second), change_axes(images, second.after(first))
    )
    np.testing.assert_allclose(
        orient_positions(orient_positions(positions, one), two),
        orient_positions(positions, two.after(one)),
    )


def test_a_scan_is_rotated_counter_clockwise_in_the_picture() -> None:
    middle, right = np.array([5.0, 7.0]), np.array([0.0, 3.0])
    positions = np.stack([middle, middle + right, middle - right])
    reoriented = orient_positions(positions, Orientation(rotate_scan_deg=90.0))
    # What lay on the right lies above; y points down.
    np.testing.assert_allclose(reoriented[1], middle - right[::-1], atol=1e-12)
    back = orient_positions(reoriented, Orientation(rotate_scan_deg=-90.0))
    np.testing.assert_allclose(back, positions, atol=1e-12)


def test_an_object_of_the_file_is_met_by_corrected_positions(scan: Scan, tmp_path: Path) -> None:
    x, y = -scan.positions_px[:, 1], -scan.positions_px[:, 0]
    np.savez(
        tmp_path / 's.npz',
        diff3d=scan.patterns,
        xcoords=x,
        ycoords=y,
        probeGuess=scan.probe[0],
        objectGuess=scan.object_,
    )
    assert load_scan(tmp_path / 's.npz', domain='counts').object_ is None
    mended = load_scan(
        tmp_path / 's.npz', domain='counts', orientation=Orientation(invert_positions='both')
    )
    np.testing.assert_array_equal(mended.positions_px, scan.positions_px)
    np.testing.assert_array_equal(mended.object_, scan.object_)


def test_patterns_that_are_not_square_change_the_pixel(scan: Scan) -> None:
    """A transposed pattern of the same field of view has pixels of another height."""
    wide = dataclasses.replace(
        scan,
        patterns=scan.patterns[:, :, 4:28],
        bad_pixels=scan.bad_pixels[:, 4:28],
        probe=scan.probe[:, :, 4:28],
        object_=None,
        geometry=Geometry(3e-9, 4e-9),
    )
    reoriented = reorient(wide, Orientation(transpose=True))
    assert reoriented.pattern_shape == (24, 32)
    assert reoriented.probe.shape == (1, 24, 32)
    assert reoriented.geometry.pixel_height_m == pytest.approx(4e-9)
    assert reoriented.geometry.pixel_width_m == pytest.approx(3e-9)
    lengths = [
        each.positions_px * [each.geometry.pixel_height_m, each.geometry.pixel_width_m]
        for each in (wide, reoriented)
    ]
    np.testing.assert_allclose(lengths[0], lengths[1])
    oblong = dataclasses.replace(
        scan,
        geometry=Geometry(detector_pixel_height_m=5e-5, detector_pixel_width_m=7e-5),
    )
    with pytest.raises(DataError, match='pixels of the detector are square'):
        reorient(oblong, Orientation(transpose=True))


def test_words_of_an_orientation() -> None:
    given = Orientation(transpose=True, flip='both', invert_positions='y', rotate_scan_deg=-12.5)
    assert given.to_words() == (
        ['--transpose', '--flip', 'both', '--invert-positions', 'y', '--rotate-scan', '-12.5']
    )
    assert Orientation().to_words() == []
