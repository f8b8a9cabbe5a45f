"""Ptychodus' files against Ptychodus itself: its classes, its simulation, its readers."""

import dataclasses
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
    read_reconstruction,
    write_product,
    write_reconstruction,
)
from ptychopinn_plugin.errors import DataError, OutputError
from ptychopinn_plugin.evaluation import in_coordinates_of

MakeScan = Callable[..., Scan]
MakeProduct = Callable[..., Any]
Residual = Callable[[Scan], float]

PIXEL_M = (3e-9, 2e-9)
# Far away from the sample the far field holds no quadratic phase that is worth a name.
ENERGY_EV, DISTANCE_M = 10.0, 1e5


@pytest.fixture
def folder(ptychodus: Any, make_product: MakeProduct, make_scan: MakeScan, tmp_path: Path) -> Path:
    """Return a folder that Ptychodus wrote, with patterns that Ptychodus simulated."""
    product = make_product(make_scan(modes=2), PIXEL_M, ENERGY_EV, DISTANCE_M)
    data = ptychodus.simulate.generate_diffraction_data(product)
    ptychodus.io.save_product(tmp_path / 'product.h5', product)
    ptychodus.io.save_diffraction_data(tmp_path / 'diffraction.h5', data)
    return tmp_path


@pytest.mark.parametrize('shape', [(16, 16), (17, 17), (16, 19)])
def test_patterns_that_ptychodus_simulates_fit_our_model(
    ptychodus: Any,
    make_product: MakeProduct,
    make_scan: MakeScan,
    residual: Residual,
    tmp_path: Path,
    shape: tuple[int, int],
) -> None:
    scan = make_scan(shape=shape, modes=2)
    product = make_product(scan, PIXEL_M, ENERGY_EV, DISTANCE_M)
    data = ptychodus.simulate.generate_diffraction_data(product)
    ptychodus.io.save_product(tmp_path / 'product.h5', product)
    ptychodus.io.save_diffraction_data(tmp_path / 'diffraction.h5', data)
    loaded = load_scan(tmp_path)
    np.testing.assert_allclose(loaded.positions_px, scan.positions_px, atol=1e-6)
    assert residual(loaded) < 1e-5
    geometry = loaded.geometry
    assert (geometry.pixel_height_m, geometry.pixel_width_m) == pytest.approx(PIXEL_M)
    assert geometry.photon_energy_eV == ENERGY_EV
    assert geometry.detector_distance_m == DISTANCE_M
    # Detector and object pixels are conjugate, so either can be had from the other.
    assert geometry.detector_pixel_height_m == pytest.approx(
        1.239841984e-6 / ENERGY_EV * DISTANCE_M / (shape[0] * PIXEL_M[0])
    )


def test_a_product_without_pixel_size_takes_the_detectors(folder: Path) -> None:
    expected = load_scan(folder)
    with h5py.File(folder / 'product.h5', 'a') as file:
        del file['object'].attrs['pixel_height_m']
        del file['object'].attrs['pixel_width_m']
    loaded = load_scan(folder)
    assert loaded.geometry.pixel_height_m == pytest.approx(PIXEL_M[0])
    np.testing.assert_allclose(loaded.positions_px, expected.positions_px, atol=1e-6)


def test_the_training_export_of_ptychodus(
    ptychodus: Any,
    make_product: MakeProduct,
    make_scan: MakeScan,
    residual: Residual,
    tmp_path: Path,
) -> None:
    from ptychodus.api.reconstruct import prepare_reconstruct_input

    scan = make_scan(modes=2)
    product = make_product(scan, PIXEL_M, ENERGY_EV, DISTANCE_M)
    data = ptychodus.simulate.generate_diffraction_data(product)
    parameters = prepare_reconstruct_input(data, product)
    ptychodus.io.save_ptychopinn_training_data(tmp_path / 'train.npz', parameters)
    loaded = load_scan(tmp_path / 'train.npz')
    np.testing.assert_allclose(loaded.positions_px, scan.positions_px, atol=1e-6)
    assert residual(loaded) < 1e-5


@pytest.mark.parametrize('name', ['.', 'diffraction.h5', 'product.h5'])
def test_the_folder_or_either_file_will_do(folder: Path, residual: Residual, name: str) -> None:
    loaded = load_scan(folder / name)
    assert residual(loaded) < 1e-5
    assert loaded.name == folder.name


@pytest.mark.parametrize(
    ('file_name', 'key'),
    [('diffraction.h5', 'indexes'), ('product.h5', 'probe_position_indexes')],
)
def test_indexes_that_are_not_whole(folder: Path, file_name: str, key: str) -> None:
    with h5py.File(folder / file_name, 'r+') as file:
        indexes = file[key][()].astype(float)
        del file[key]
        file[key] = np.where(indexes == 1, 1e300, indexes)
    with pytest.raises(DataError, match=rf'The indexes of .*{file_name} .* one of them is 1e\+300'):
        load_scan(folder)


def test_a_mask_from_another_file(folder: Path, tmp_path: Path) -> None:
    without = load_scan(folder)
    assert without.bad_pixels is not None
    mask = np.zeros(without.pattern_shape, dtype=np.uint8)
    mask[3, 7] = 1
    np.save(tmp_path / 'mask.npy', mask)
    found = load_scan(folder, mask=tmp_path / 'mask.npy')
    assert found.bad_pixels is not None
    assert np.argwhere(found.bad_pixels & ~without.bad_pixels).tolist() == [[3, 7]]


def test_a_product_elsewhere(folder: Path, residual: Residual, tmp_path: Path) -> None:
    elsewhere = tmp_path / 'other.hdf5'
    (folder / 'product.h5').rename(elsewhere)
    assert residual(load_scan(folder, product=elsewhere)) < 1e-5
    assert residual(load_scan(folder / 'diffraction.h5', product=elsewhere)) < 1e-5


def test_patterns_and_positions_meet_by_index(folder: Path, residual: Residual) -> None:
    with h5py.File(folder / 'diffraction.h5', 'a') as file:
        # Backwards, the last one never recorded.
        order = np.arange(len(file['indexes']))[::-1].copy()
        file['patterns'][...] = file['patterns'][()][order]
        order[-1] = -1
        file['indexes'][...] = order
    with h5py.File(folder / 'product.h5', 'a') as file:
        indexes = file['probe_position_indexes'][()]
        indexes[3] = 77
        file['probe_position_indexes'][...] = indexes
    loaded = load_scan(folder)
    assert len(loaded) == 9
    assert residual(loaded) < 1e-5
    assert 'Left out: 2 patterns without a position.' in loaded.notes
    assert 'Left out: 2 positions without a pattern.' in loaded.notes


def test_a_product_of_ptychodus_is_a_reconstruction(folder: Path) -> None:
    scan, found = load_scan(folder), read_reconstruction(folder / 'product.h5')
    assert (found.name, len(found.probe)) == ('lopsided', 2)
    assert found.geometry.photon_energy_eV == ENERGY_EV
    np.testing.assert_array_equal(found.object_, scan.object_)
    # Metres are counted from elsewhere; the positions show from where.
    assert np.abs(found.origin_px).min() > 100
    moved = in_coordinates_of(found, scan)
    np.testing.assert_allclose(moved.origin_px, 0, atol=1e-6)
    np.testing.assert_allclose(moved.positions_px, scan.positions_px, atol=1e-6)
    # Other positions are another scan.
    other = dataclasses.replace(scan, positions_px=scan.positions_px[::-1])
    assert in_coordinates_of(found, other) is found
    # The same in another order, and without some, is the same scan.
    some = scan.subset(np.arange(len(scan))[:3:-1])
    np.testing.assert_allclose(in_coordinates_of(found, some).origin_px, 0, atol=1e-6)


def test_layers_are_multiplied_and_the_first_probe_is_taken(
    folder: Path, residual: Residual
) -> None:
    with h5py.File(folder / 'product.h5', 'a') as file:
        object_, probe = file['object'][0], file['probe'][0]
        attributes = dict(file['object'].attrs)
        del file['object'], file['probe']
        file['object'] = np.stack([np.sqrt(object_), np.sqrt(object_)])
        file['object'].attrs.update(attributes)
        file['probe'] = np.stack([probe, probe[::-1] * 0.1])
    loaded = load_scan(folder)
    assert residual(loaded) < 1e-5
    assert any('2 layers' in note for note in loaded.notes)
    assert any('first of 2 orthogonal variations' in note for note in loaded.notes)


@pytest.mark.parametrize('name', ['.', 'diffraction.h5'])
def test_patterns_that_stand_alone_need_no_product(
    folder: Path, make_scan: MakeScan, tmp_path: Path, name: str
) -> None:
    whole = load_scan(folder)
    (folder / 'product.h5').unlink()
    np.save(tmp_path / 'probe.npy', make_scan(modes=2).probe)
    found = load_scan(folder / name, single_shot=True, probe_from=tmp_path / 'probe.npy')
    assert found.is_single_shot
    np.testing.assert_array_equal(found.patterns, whole.patterns)


def test_bad_pixels_of_the_detector(folder: Path) -> None:
    with h5py.File(folder / 'diffraction.h5', 'a') as file:
        file['bad_pixels'][2, 5] = True
        file['patterns'][:, 2, 5] = np.nan
    loaded = load_scan(folder)
    assert np.argwhere(loaded.bad_pixels).tolist() == [[2, 5]]


def test_the_probe_of_a_product(folder: Path, make_scan: MakeScan) -> None:
    probe = read_probe(folder / 'product.h5')
    np.testing.assert_allclose(probe, make_scan(modes=2).probe)


class TestBadInput:
    """One line: what was expected, what came, what to do."""

    @pytest.fixture
    def refused(self, folder: Path) -> Callable[..., None]:
        def check(match: str, name: str = '.', **options: Any) -> None:
            with pytest.raises(DataError, match=match) as caught:
                load_scan(folder / name, **options)
            assert '\n' not in str(caught.value)

        return check

    def test_no_product(self, folder: Path, refused: Callable[..., None]) -> None:
        (folder / 'product.h5').unlink()
        refused('product.h5, which holds positions and probe, is missing.* --single-shot')
        refused('There is no file|is missing', product=folder / 'none.h5')

    def test_no_patterns(self, folder: Path, refused: Callable[..., None]) -> None:
        (folder / 'diffraction.h5').unlink()
        refused('holds no diffraction.h5; a scan is')
        refused('diffraction.h5, which holds the patterns, is missing', 'product.h5')

    def test_no_common_index(self, folder: Path, refused: Callable[..., None]) -> None:
        with h5py.File(folder / 'product.h5', 'a') as file:
            file['probe_position_indexes'][...] += 100
        refused('must share indexes; the patterns have 0 to 10, the positions 100 to 110')

    @pytest.mark.parametrize('key', ['probe', 'object', 'probe_position_y_m'])
    def test_missing_key_of_the_product(
        self, folder: Path, refused: Callable[..., None], key: str
    ) -> None:
        with h5py.File(folder / 'product.h5', 'a') as file:
            del file[key]
        refused(f'must hold the dataset {key}; it holds')

    def test_positions_of_two_lengths(self, folder: Path, refused: Callable[..., None]) -> None:
        with h5py.File(folder / 'product.h5', 'a') as file:
            del file['probe_position_y_m']
            file['probe_position_y_m'] = np.zeros(4)
        refused('must have one length')

    def test_indexes_of_another_length(self, folder: Path, refused: Callable[..., None]) -> None:
        with h5py.File(folder / 'diffraction.h5', 'a') as file:
            del file['indexes']
            file['indexes'] = np.arange(4)
        refused("'indexes' of .* must have 11 values")

    @pytest.mark.parametrize('shape', [(16, 16), (0, 16, 16)])
    def test_patterns_that_are_no_stack(
        self, folder: Path, refused: Callable[..., None], shape: tuple[int, ...]
    ) -> None:
        with h5py.File(folder / 'diffraction.h5', 'a') as file:
            del file['patterns']
            file['patterns'] = np.zeros(shape)
        refused('must be real numbers of shape|holds no pattern')

    def test_no_pixel_size(self, folder: Path, refused: Callable[..., None]) -> None:
        with h5py.File(folder / 'product.h5', 'a') as file:
            del file['object'].attrs['pixel_height_m']
            file.attrs['photon_energy_eV'] = 0.0
        refused('height of an object pixel is needed')

    def test_nan_in_positions(self, folder: Path, refused: Callable[..., None]) -> None:
        with h5py.File(folder / 'product.h5', 'a') as file:
            file['probe_position_x_m'][2] = np.nan
        refused('positions_px must be finite; position 2')

    def test_truncated_file(self, folder: Path, refused: Callable[..., None]) -> None:
        path = folder / 'diffraction.h5'
        path.write_bytes(path.read_bytes()[:-3000])
        refused('truncated, damaged or no HDF5 file')

    def test_another_hdf5_file(self, folder: Path, refused: Callable[..., None]) -> None:
        with h5py.File(folder / 'other.h5', 'w') as file:
            file['a'] = 1
        refused('is HDF5 and holds a; a scan is', 'other.h5')

    def test_an_empty_folder(self, folder: Path, refused: Callable[..., None]) -> None:
        (folder / 'empty').mkdir()
        refused('holds no diffraction.h5', 'empty')


@pytest.fixture
def reconstruction(make_scan: MakeScan) -> Reconstruction:
    """Return a scan's own object as if it had been reconstructed, away from the origin."""
    scan = make_scan(modes=2)
    assert scan.object_ is not None
    return Reconstruction(
        object_=scan.object_,
        origin_px=np.array([-31.0, 12.0]),
        coverage=np.abs(scan.object_).astype(np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px + np.array([-31, 12]),
        backend='pytorch',
        likelihoods=(3.0, 2.0, 1.5),
        timing={'predict': 0.5, 'stitch': 0.25},
        amplitude_residual=0.02,
        geometry=scan.geometry,
        name='lopsided',
    )


@pytest.mark.parametrize('known', [True, False])
def test_ptychodus_opens_our_product(
    ptychodus: Any, reconstruction: Reconstruction, tmp_path: Path, known: bool
) -> None:
    import dataclasses

    from ptychopinn_plugin.data import Geometry

    if not known:
        reconstruction = dataclasses.replace(reconstruction, geometry=Geometry())
    path = tmp_path / 'product.h5'
    write_product(path, reconstruction)
    product = ptychodus.io.load_product(path)
    np.testing.assert_array_equal(product.object_.get_layer(0), reconstruction.object_)
    np.testing.assert_array_equal(product.probes.get_array()[0], reconstruction.probe)
    assert [loss.value for loss in product.losses] == [3.0, 2.0, 1.5]
    assert product.metadata.name == 'lopsided'
    assert 'pytorch' in product.metadata.comments
    assert ('pixel size is unknown' in product.metadata.comments) is not known
    geometry = product.object_.get_geometry()
    for point, (y, x) in zip(
        product.probe_positions, reconstruction.positions_px - reconstruction.origin_px, strict=True
    ):
        position = geometry.map_coordinates_probe_to_object(point)
        bounds = product.probes.get_geometry().resolve_patch_bounds(position.x_px, position.y_px)
        # The patch that Ptychodus cuts begins 8 pixels before our position, as ours does.
        assert bounds.y_slice.start + bounds.dy == pytest.approx(y - 8, abs=1e-6)
        assert bounds.x_slice.start + bounds.dx == pytest.approx(x - 8, abs=1e-6)


def test_our_product_beside_patterns_is_a_scan(
    ptychodus: Any, make_scan: MakeScan, reconstruction: Reconstruction, tmp_path: Path
) -> None:
    scan = make_scan(modes=2)
    write_product(tmp_path / 'product.h5', reconstruction)
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as file:
        file['patterns'] = scan.patterns
    loaded = load_scan(tmp_path)
    np.testing.assert_allclose(loaded.positions_px, scan.positions_px, atol=1e-6)
    assert loaded.geometry.photon_energy_eV == scan.geometry.photon_energy_eV


def test_a_reconstruction_comes_back(reconstruction: Reconstruction, tmp_path: Path) -> None:
    path = tmp_path / 'reconstruction.npz'
    write_reconstruction(path, reconstruction)
    with np.load(path) as members:
        assert set(members) == {
            'object', 'origin_px', 'coverage', 'probe', 'positions_px', 'pixel_size_m',
            'pattern_indexes', 'likelihoods', '_metadata',
        }  # fmt: skip
        assert members['object'].dtype == np.complex64
        assert members['pixel_size_m'].tolist() == [2e-9, 2e-9]
    loaded = read_reconstruction(path)
    for name in ('object_', 'origin_px', 'coverage', 'probe', 'positions_px'):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(reconstruction, name))
    for name in ('backend', 'likelihoods', 'timing', 'amplitude_residual', 'geometry', 'name'):
        assert getattr(loaded, name) == getattr(reconstruction, name)


def test_an_unknown_residual_comes_back_as_nan(
    reconstruction: Reconstruction, tmp_path: Path
) -> None:
    import dataclasses

    path = tmp_path / 'reconstruction.npz'
    write_reconstruction(path, dataclasses.replace(reconstruction, amplitude_residual=float('nan')))
    assert np.isnan(read_reconstruction(path).amplitude_residual)


def test_a_scan_is_no_reconstruction(tmp_path: Path) -> None:
    np.savez(tmp_path / 'scan.npz', diff3d=1)
    with pytest.raises(DataError, match="must hold 'object'; it holds diff3d"):
        read_reconstruction(tmp_path / 'scan.npz')
    with pytest.raises(DataError, match='There is no file'):
        read_reconstruction(tmp_path / 'none.npz')


@pytest.mark.parametrize('write', [write_product, write_reconstruction])
def test_a_missing_folder_is_said(
    reconstruction: Reconstruction, tmp_path: Path, write: Callable[..., None]
) -> None:
    with pytest.raises(OutputError, match='no folder'):
        write(tmp_path / 'none' / 'file', reconstruction)


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='there is no /dev/full')
@pytest.mark.parametrize('write', [write_product, write_reconstruction])
def test_a_full_disk_leaves_the_old_file(
    reconstruction: Reconstruction,
    tmp_path: Path,
    write: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / 'result'
    path.write_text('old')
    monkeypatch.setattr('secrets.token_hex', lambda _: 'x')
    (tmp_path / '.unfinished-x-result').symlink_to('/dev/full')
    with pytest.raises(OutputError, match='the disk is full'):
        write(path, reconstruction)
    assert path.read_text() == 'old'
    assert [each.name for each in tmp_path.iterdir()] == ['result']


def test_what_the_user_says_of_the_geometry_stands(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan()
    found = Reconstruction(
        object_=scan.object_,
        origin_px=np.zeros(2),
        coverage=np.ones(scan.object_.shape),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='none',
        geometry=scan.geometry,
    )
    write_product(tmp_path / 'product.h5', found)
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as file:
        file['patterns'] = scan.patterns
    right = load_scan(tmp_path)
    # A pixel of the detector that gives objects' pixels of 4 nm, where the product has 2 nm.
    wavelength_m = 6.62607015e-34 * 299792458 / (8000 * 1.602176634e-19)
    pixel_m = wavelength_m * 2.0 / (16 * 4e-9)
    given = Geometry(detector_pixel_height_m=pixel_m, detector_pixel_width_m=pixel_m)
    other = load_scan(tmp_path, geometry=given)
    assert other.geometry.pixel_height_m == pytest.approx(4e-9)
    assert other.object_ is None
    assert any('by the options given' in note for note in other.notes)
    np.testing.assert_allclose(
        np.ptp(other.positions_px, axis=0) * 2, np.ptp(right.positions_px, axis=0), rtol=1e-6
    )
