"""EMD files of electron microscopes."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Geometry, Scan, load_scan
from ptychopinn_plugin.data.geometry import wavelength_m
from ptychopinn_plugin.data.readers.matching import photon_energy_of_electrons
from ptychopinn_plugin.errors import DataError

ROWS, COLUMNS = 3, 4


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(5).poisson(9, (ROWS, COLUMNS, 16, 12)).astype(np.uint16)


@pytest.fixture
def write(tmp_path: Path, counts: np.ndarray) -> Callable[..., Path]:
    def save(*, steps: tuple[float, float, str] | None = None, **calibration: float | str) -> Path:
        path = tmp_path / 'scan.h5'
        with h5py.File(path, 'w') as file:
            root = file.create_group('experiment')
            root.attrs['emd_group_type'] = 'root'
            cube = root.create_group('datacube')
            cube.attrs['emd_group_type'] = 'array'
            cube['data'] = counts
            for key, value in calibration.items():
                root[f'metadatabundle/calibration/{key}'] = value
            for axis in range(2 if steps else 0):
                cube[f'dim{axis}'] = np.arange(counts.shape[axis]) * steps[axis]
                cube[f'dim{axis}'].attrs['units'] = steps[2]
        return path

    return save


def pixels(scan: Scan) -> np.ndarray:
    return scan.positions_px - scan.positions_px[0]


def test_the_calibration_gives_steps_and_pixels(
    write: Callable[..., Path], counts: np.ndarray
) -> None:
    path = write(R_pixel_size=2.0, R_pixel_units='A', Q_pixel_size=0.05, Q_pixel_units='A^-1')
    scan = load_scan(path)
    np.testing.assert_array_equal(scan.patterns, counts.reshape(-1, 16, 12))
    # A pixel of the object is 1 / (16 x 0.05) = 1.25 angstrom high and 1 / 0.6 wide.
    assert scan.geometry.pixel_height_m == pytest.approx(1.25e-10)
    assert scan.geometry.pixel_width_m == pytest.approx(1e-10 / 0.6)
    expected = np.indices((ROWS, COLUMNS)).reshape(2, -1).T * [2 / 1.25, 2 * 0.6]
    np.testing.assert_allclose(pixels(scan), expected, atol=1e-9)
    assert scan.probe_origin == 'patterns'
    assert any('raster of 3 x 4' in note for note in scan.notes)


def test_pixels_are_those_of_frames_that_are_cut(write: Callable[..., Path]) -> None:
    path = write(R_pixel_size=2.0, R_pixel_units='A', Q_pixel_size=0.05, Q_pixel_units='A^-1')
    np.save(path.with_suffix('.npy'), np.ones((8, 8), complex))
    scan = load_scan(path, beam_center_px=(8, 6), probe_from=path.with_suffix('.npy'))
    assert scan.patterns.shape[1:] == (8, 8)
    assert scan.geometry.pixel_height_m == pytest.approx(1 / (8 * 0.05e10))


def test_the_calibration_cannot_be_that_of_another_file(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    secret = tmp_path / 'secret'
    secret.write_bytes(np.array([3.0]).tobytes())
    path = write(R_pixel_units='A', Q_pixel_size=0.05, Q_pixel_units='A^-1')
    with h5py.File(path, 'a') as file:
        group = file['experiment/metadatabundle/calibration']
        group.create_dataset('R_pixel_size', (1,), 'f8', external=[(str(secret), 0, 8)])
    with pytest.raises(DataError, match='raw'):
        load_scan(path)


def test_the_axes_give_steps(write: Callable[..., Path]) -> None:
    energy = photon_energy_of_electrons(3e5)
    assert wavelength_m(energy) == pytest.approx(1.9687e-12, rel=1e-4)
    path = write(steps=(0.3, 0.2, 'nm'), Q_pixel_size=0.5, Q_pixel_units='mrad')
    scan = load_scan(path, geometry=Geometry(photon_energy_eV=energy))
    pixel = wavelength_m(energy) / 0.5e-3 / np.array([16, 12])
    expected = np.indices((ROWS, COLUMNS)).reshape(2, -1).T * [0.3e-9, 0.2e-9] / pixel
    np.testing.assert_allclose(pixels(scan), expected, atol=1e-9)


def test_an_axis_that_falls(write: Callable[..., Path]) -> None:
    path = write(steps=(-0.3, 0.2, 'nm'), Q_pixel_size=0.05, Q_pixel_units='A^-1')
    expected = np.indices((ROWS, COLUMNS)).reshape(2, -1).T * [-3 / 1.25, 2 * 0.6]
    np.testing.assert_allclose(pixels(load_scan(path)), expected, atol=1e-9)


@pytest.mark.parametrize('unit', ['1/nm', 'nm^-1', 'nm**-1', '1 / nm'])
def test_units_of_reciprocal_space(write: Callable[..., Path], unit: str) -> None:
    path = write(R_pixel_size=2.0, R_pixel_units='A', Q_pixel_size=0.5, Q_pixel_units=unit)
    assert load_scan(path).geometry.pixel_height_m == pytest.approx(1.25e-10)


def test_the_user_gives_what_the_file_lacks(write: Callable[..., Path]) -> None:
    geometry = Geometry(
        photon_energy_eV=8000.0,
        detector_distance_m=2.0,
        detector_pixel_height_m=75e-6,
        detector_pixel_width_m=75e-6,
    )
    path = write(R_pixel_size=1.0, R_pixel_units='pixels')
    with pytest.raises(DataError, match='--scan-step'):
        load_scan(path, geometry=geometry)
    with pytest.raises(DataError, match='--scan-step'):
        load_scan(write(R_pixel_size=-1.0, R_pixel_units='nm'), geometry=geometry)
    path = write(R_pixel_size=1.0, R_pixel_units='pixels')
    scan = load_scan(path, geometry=geometry, scan_step_m=1e-7)
    pixel = wavelength_m(8000.0) * 2 / 75e-6 / np.array([16, 12])
    np.testing.assert_allclose(pixels(scan)[-1], [2e-7, 3e-7] / pixel)
    with pytest.raises(DataError, match='--electron-energy'):
        load_scan(path, scan_step_m=1e-7)


def test_all_that_is_missing_is_named_at_once(write: Callable[..., Path]) -> None:
    """Who gives what the first refusal names has a scan."""
    with pytest.raises(DataError, match='--scan-step') as caught:
        load_scan(write())
    for option in ('--electron-energy', '--detector-distance', '--detector-pixel'):
        assert option in str(caught.value)
    path = write(Q_pixel_size=0.5, Q_pixel_units='mrad')
    with pytest.raises(DataError, match=r'--scan-step.*--electron-energy') as caught:
        load_scan(path)
    assert '--detector-distance' not in str(caught.value)
    geometry = Geometry(photon_energy_eV=photon_energy_of_electrons(3e5))
    assert len(load_scan(path, scan_step_m=1e-10, geometry=geometry)) == ROWS * COLUMNS
    with pytest.raises(DataError, match='--scan-step') as caught:
        load_scan(path, geometry=geometry)
    assert '--electron-energy' not in str(caught.value)


def test_a_step_is_for_rasters_of_emd_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / 'scan.npz', diff3d=np.ones((2, 8, 8)), xcoords=[0, 1], ycoords=[0, 0])
    with pytest.raises(DataError, match='raster of an electron microscope'):
        load_scan(tmp_path / 'scan.npz', scan_step_m=1e-7)
