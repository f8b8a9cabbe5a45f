"""CXI files, ours and those that Ptychodus writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.data import Geometry, Scan, load_scan, read_probe
from ptychopinn_plugin.errors import DataError

MakeScan = Callable[..., Scan]
Residual = Callable[[Scan], float]

ENERGY_J, DISTANCE_M, DETECTOR_PIXEL_M = 1.3e-15, 1.7, (55e-6, 75e-6)
WAVELENGTH_M = 6.62607015e-34 * 299792458 / ENERGY_J


@pytest.fixture
def write_cxi(make_scan: MakeScan, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a CXI file."""

    def write(*, leave_out: tuple[str, ...] = (), **changes: Any) -> Path:
        scan = make_scan(shape=(16, 20))
        height_m = WAVELENGTH_M * DISTANCE_M / (16 * DETECTOR_PIXEL_M[0])
        width_m = WAVELENGTH_M * DISTANCE_M / (20 * DETECTOR_PIXEL_M[1])
        y, x = (scan.positions_px * [height_m, width_m]).T
        source = 'entry_1/instrument_1/source_1'
        detector = 'entry_1/instrument_1/detector_1'
        values: dict[str, Any] = {
            'entry_1/data_1/data': scan.patterns,
            'entry_1/sample_1/geometry_1/translation': np.stack([x, y, 0 * x], axis=1),
            f'{source}/energy': ENERGY_J,
            f'{source}/illumination': scan.probe[0],
            f'{detector}/distance': DISTANCE_M,
            f'{detector}/y_pixel_size': DETECTOR_PIXEL_M[0],
            f'{detector}/x_pixel_size': DETECTOR_PIXEL_M[1],
        }
        values |= changes
        path = tmp_path / 'scan.cxi'
        with h5py.File(path, 'w') as file:
            for key, value in values.items():
                if not key.endswith(leave_out or ('\0',)):
                    file[key] = value
        return path

    return write


def _expected(make_scan: MakeScan) -> np.ndarray:
    positions = make_scan(shape=(16, 20)).positions_px
    return positions - positions.min(axis=0) + [8, 10]


def test_a_mask_from_another_file(write_cxi: Callable[..., Path], tmp_path: Path) -> None:
    mask = np.zeros((16, 20), dtype=np.uint8)
    mask[3, 7] = 1
    np.save(tmp_path / 'mask.npy', mask)
    found = load_scan(write_cxi(), mask=tmp_path / 'mask.npy')
    assert found.bad_pixels is not None
    assert np.argwhere(found.bad_pixels).tolist() == [[3, 7]]


def test_indexes_that_are_not_whole(write_cxi: Callable[..., Path], make_scan: MakeScan) -> None:
    indexes = np.arange(len(make_scan(shape=(16, 20)))) + 0.25
    path = write_cxi(**{'entry_1/ptychodus/probe_position_indexes': indexes})
    with pytest.raises(DataError, match=r'indexes of the positions .* one of them is 0\.25'):
        load_scan(path)


def test_positions_in_metres_become_pixels(
    write_cxi: Callable[..., Path], make_scan: MakeScan
) -> None:
    loaded = load_scan(write_cxi())
    np.testing.assert_allclose(loaded.positions_px, _expected(make_scan), atol=1e-9)
    np.testing.assert_array_equal(loaded.patterns, make_scan(shape=(16, 20)).patterns)
    assert loaded.geometry.pixel_height_m == pytest.approx(
        WAVELENGTH_M * DISTANCE_M / (16 * 55e-6), rel=1e-9
    )
    assert loaded.geometry.photon_energy_eV == pytest.approx(ENERGY_J / 1.602176634e-19)
    assert any('y downwards' in note for note in loaded.notes)


@pytest.mark.parametrize('missing', ['translation', 'distance'])
def test_patterns_that_stand_alone_need_no_positions_in_pixels(
    write_cxi: Callable[..., Path], make_scan: MakeScan, missing: str
) -> None:
    path = write_cxi(leave_out=(missing,))
    with pytest.raises(DataError):
        load_scan(path)
    found = load_scan(path, single_shot=True)
    assert found.is_single_shot
    np.testing.assert_array_equal(found.patterns, make_scan(shape=(16, 20)).patterns)
    assert len(np.unique(found.positions_px, axis=0)) == len(found)
    assert any('each pattern stands alone' in note for note in found.notes)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('leave_out', [(), ('illumination',)])
def test_a_file_without_an_object_is_read_by_name_too(
    write_cxi: Callable[..., Path], tmp_path: Path, leave_out: tuple[str, ...]
) -> None:
    """Ptychodus' own reader of products needs an object and a probe."""
    pytest.importorskip('ptychodus')
    path = write_cxi(leave_out=leave_out)
    known, named = load_scan(path), load_scan(path, reader='CXI')
    np.testing.assert_allclose(named.positions_px, known.positions_px)
    np.testing.assert_array_equal(named.patterns, known.patterns)
    np.testing.assert_allclose(named.probe, known.probe)
    assert named.probe_origin == known.probe_origin
    assert named.geometry == known.geometry
    np.save(tmp_path / 'patterns.npy', known.patterns)
    apart = load_scan(
        tmp_path / 'patterns.npy', reader='NPY', positions=path, geometry=known.geometry
    )
    np.testing.assert_allclose(apart.positions_px, known.positions_px)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_file_without_positions_is_refused_by_name_too(write_cxi: Callable[..., Path]) -> None:
    pytest.importorskip('ptychodus')
    with pytest.raises(DataError, match='--positions FILE'):
        load_scan(write_cxi(leave_out=('translation',)), reader='CXI')


def test_older_places_of_the_same_things(
    write_cxi: Callable[..., Path], make_scan: MakeScan
) -> None:
    expected = make_scan(shape=(16, 20))
    with h5py.File(write_cxi()) as file:
        translation = file['entry_1/sample_1/geometry_1/translation'][()]
    path = write_cxi(
        leave_out=('data_1/data', 'geometry_1/translation', 'energy', 'illumination'),
        **{
            'entry_1/instrument_1/detector_1/data': expected.patterns,
            'entry_1/data_1/translation': translation[:, :2],
            'entry_1/instrument_1/source_1/wavelength': WAVELENGTH_M,
            'entry_1/data_1/probe': expected.probe,
        },
    )
    loaded = load_scan(path)
    np.testing.assert_allclose(loaded.positions_px, _expected(make_scan), atol=1e-9)
    np.testing.assert_array_equal(loaded.probe, expected.probe)


BEAM, SOURCE = 'entry_1/instrument_1/beam_1', 'entry_1/instrument_1/source_1'
DETECTOR = 'entry_1/instrument_1/detector_1'
ENERGY_EV = ENERGY_J / 1.602176634e-19


@pytest.mark.parametrize(
    'stated',
    [
        {f'{BEAM}/energy': (ENERGY_EV / 1e3, 'keV'), f'{SOURCE}/energy': (3.0, 'GeV')},
        {f'{BEAM}/incident_energy': (ENERGY_EV, 'eV'), f'{SOURCE}/energy': (3.0, 'GeV')},
        {f'{BEAM}/incident_wavelength': (WAVELENGTH_M * 1e10, 'Angstrom')},
        {f'{SOURCE}/wavelength': (WAVELENGTH_M * 1e9, b'nm')},
        {f'{SOURCE}/energy': (ENERGY_EV, 'electronvolts')},
        {f'{SOURCE}/energy': (ENERGY_J, 'J')},
        {f'{DETECTOR}/distance': (DISTANCE_M * 1e3, 'millimeter')},
        {
            f'{DETECTOR}/x_pixel_size': (75.0, 'µm'),
            f'{DETECTOR}/y_pixel_size': (55.0, 'microns'),
        },
    ],
)
def test_units_are_read(
    write_cxi: Callable[..., Path], make_scan: MakeScan, stated: dict[str, tuple[float, Any]]
) -> None:
    leave_out = () if any('detector' in key for key in stated) else ('energy',)
    path = write_cxi(leave_out=leave_out)
    with h5py.File(path, 'r+') as file:
        for key, (value, unit) in stated.items():
            if key in file:
                del file[key]
            file[key] = value
            file[key].attrs['units'] = unit
    loaded = load_scan(path)
    np.testing.assert_allclose(loaded.positions_px, _expected(make_scan), atol=1e-6)
    assert loaded.geometry.photon_energy_eV == pytest.approx(ENERGY_EV)


def test_positions_in_another_unit(write_cxi: Callable[..., Path], make_scan: MakeScan) -> None:
    path = write_cxi()
    with h5py.File(path, 'r+') as file:
        positions = file['entry_1/sample_1/geometry_1/translation']
        positions[()] *= 1e6
        positions.attrs['units'] = 'um'
    np.testing.assert_allclose(load_scan(path).positions_px, _expected(make_scan), atol=1e-6)
    with h5py.File(path, 'r+') as file:
        file['entry_1/sample_1/geometry_1/translation'].attrs['units'] = 'steps'
    with pytest.raises(DataError, match=r"must be one of m, cm, mm.*it is 'steps'"):
        load_scan(path)


@pytest.mark.parametrize('value', [ENERGY_EV, 4.8e-10])
def test_an_energy_that_no_photon_has(
    write_cxi: Callable[..., Path], make_scan: MakeScan, value: float
) -> None:
    path = write_cxi(**{f'{SOURCE}/energy': value})
    with pytest.raises(DataError, match=r'between 1 and 1e\+07 eV; .*--photon-energy EV'):
        load_scan(path)
    loaded = load_scan(path, geometry=Geometry(photon_energy_eV=ENERGY_EV))
    np.testing.assert_allclose(loaded.positions_px, _expected(make_scan), atol=1e-6)


def test_what_the_user_says_of_the_geometry_stands(
    write_cxi: Callable[..., Path], make_scan: MakeScan
) -> None:
    path = write_cxi(leave_out=('energy', 'distance', 'y_pixel_size'))
    given = Geometry(None, None, ENERGY_EV, DISTANCE_M, *DETECTOR_PIXEL_M)
    np.testing.assert_allclose(
        load_scan(path, geometry=given).positions_px, _expected(make_scan), atol=1e-6
    )


@pytest.mark.parametrize('stack', [False, True])
def test_the_mask_marks_what_is_bad(write_cxi: Callable[..., Path], stack: bool) -> None:
    mask = np.zeros((16, 20), np.uint32)
    mask[3, 12] = 1
    if stack:
        mask = np.stack([mask, 0 * mask])
    loaded = load_scan(write_cxi(**{'entry_1/instrument_1/detector_1/mask': mask}))
    assert np.argwhere(loaded.bad_pixels).tolist() == [[3, 12]]


def test_amplitudes_where_told(write_cxi: Callable[..., Path], make_scan: MakeScan) -> None:
    loaded = load_scan(write_cxi(), domain='amplitudes')
    expected = make_scan(shape=(16, 20)).patterns.astype(np.float32) ** 2
    np.testing.assert_allclose(loaded.patterns, expected, rtol=1e-6)


def test_a_probe_from_another_file(
    write_cxi: Callable[..., Path], make_scan: MakeScan, tmp_path: Path
) -> None:
    probe = make_scan(shape=(16, 20), modes=2).probe
    np.savez(tmp_path / 'probe.npz', probe=probe)
    path = write_cxi(leave_out=('illumination',))
    made = load_scan(path)
    assert made.probe_origin == 'patterns'
    assert any('probe_from=FILE' in note for note in made.notes)
    np.testing.assert_array_equal(load_scan(path, probe_from=tmp_path / 'probe.npz').probe, probe)


def test_ptychodus_writes_patterns_and_product_apart(
    make_scan: MakeScan, residual: Residual, tmp_path: Path
) -> None:
    pytest.importorskip('ptychodus')
    from ptychodus.api.diffraction import (
        DiffractionMetadata,
        SimpleDiffractionArray,
        SimpleDiffractionDataset,
    )
    from ptychodus.api.geometry import ImageExtent, PixelGeometry
    from ptychodus.api.io import load_product
    from ptychodus.plugins.cxi_file import CXIDiffractionFileWriter, CXIProductFileIO

    from ptychopinn_plugin.data import Reconstruction, write_product

    scan = make_scan()
    bad_pixels = np.zeros((16, 16), bool)
    bad_pixels[1, 6] = True
    dataset = SimpleDiffractionDataset(
        DiffractionMetadata(
            num_patterns_per_array=[len(scan)],
            pattern_dtype=scan.patterns.dtype,
            detector_extent=ImageExtent(16, 16),
            detector_distance_m=2.0,
            detector_pixel_geometry=PixelGeometry(75e-6, 75e-6),
            photon_energy_eV=8000.0,
        ),
        None,
        [SimpleDiffractionArray('a', np.arange(len(scan)), scan.patterns)],
        bad_pixels,
    )
    CXIDiffractionFileWriter().write(tmp_path / 'diffraction.cxi', dataset)
    result = Reconstruction(
        scan.object_,
        np.zeros(2),
        np.ones(scan.object_.shape),
        scan.probe,
        scan.positions_px,
        'pytorch',
        geometry=scan.geometry,
    )
    write_product(tmp_path / 'product.h5', result)
    CXIProductFileIO().write(tmp_path / 'product.cxi', load_product(tmp_path / 'product.h5'))
    for product in ('product.cxi', 'product.h5'):
        loaded = load_scan(tmp_path / 'diffraction.cxi', product=tmp_path / product)
        np.testing.assert_allclose(loaded.positions_px, scan.positions_px, atol=1e-6)
        assert np.argwhere(loaded.bad_pixels).tolist() == [[1, 6]]
        assert residual(loaded) < 1e-9
    np.testing.assert_array_equal(read_probe(tmp_path / 'product.cxi'), scan.probe)


@pytest.mark.parametrize(
    ('leave_out', 'changes', 'match'),
    [
        ('data_1/data', {}, 'must hold the dataset entry_1/data_1/data or'),
        ('translation', {}, 'must hold the dataset .*geometry_1/translation or.* --single-shot'),
        ('energy', {}, 'height of an object pixel is needed'),
        ('distance', {}, 'height of an object pixel is needed'),
        ('x_pixel_size', {}, 'width of an object pixel is needed'),
        ('', {'entry_1/data_1/data': np.ones((16, 20))}, 'must be real numbers of shape'),
        ('', {'entry_1/data_1/data': np.ones((3, 16, 20))}, '3 patterns and 11 positions'),
        ('', {'entry_1/sample_1/geometry_1/translation': np.ones(11)}, 'must have shape'),
        ('', {'entry_1/sample_1/geometry_1/translation': np.ones((11, 2)) * np.nan}, 'finite'),
    ],
)
def test_bad_input(
    write_cxi: Callable[..., Path], leave_out: str, changes: dict[str, Any], match: str
) -> None:
    path = write_cxi(leave_out=(leave_out,) if leave_out else (), **changes)
    with pytest.raises(DataError, match=match) as caught:
        load_scan(path)
    assert '\n' not in str(caught.value)


def test_a_product_of_another_kind(write_cxi: Callable[..., Path], tmp_path: Path) -> None:
    np.savez(tmp_path / 'product.npz', a=1)
    with pytest.raises(DataError, match=r'must be a product.h5 or a CXI file'):
        load_scan(write_cxi(), product=tmp_path / 'product.npz')


def test_the_application_definition_of_nexus(make_scan: MakeScan, tmp_path: Path) -> None:
    """NXcxi_ptycho: a raster, compressed, which a virtual dataset flattens as CXI needs it."""
    hdf5plugin = pytest.importorskip('hdf5plugin')
    scan = make_scan(shape=(16, 20), count=12)
    height_m = WAVELENGTH_M * DISTANCE_M / (16 * DETECTOR_PIXEL_M[0])
    width_m = WAVELENGTH_M * DISTANCE_M / (20 * DETECTOR_PIXEL_M[1])
    y, x = (scan.positions_px * [height_m, width_m]).T
    path, raw = tmp_path / 'scan.nxs', tmp_path / 'raw' / 'eiger.h5'
    raw.parent.mkdir()
    with h5py.File(raw, 'w') as file:
        raster = scan.patterns.reshape(3, 4, 16, 20)
        packed = hdf5plugin.Bitshuffle(cname='lz4')
        file.create_dataset('entry/data', data=raster, chunks=(1, 1, 16, 20), **packed)
    with h5py.File(path, 'w') as file:
        file['cxi_version'] = 160
        entry = file.create_group('entry_1')
        entry.attrs['NX_class'], entry['definition'] = 'NXentry', 'NXcxi_ptycho'
        beam = entry.create_group('instrument_1/beam_1')
        entry['instrument_1/source_1/energy'] = 3.0
        entry['instrument_1/source_1/energy'].attrs['units'] = 'GeV'
        beam['incident_beam_energy'] = ENERGY_EV / 1e3
        beam['incident_beam_energy'].attrs['units'] = 'keV'
        detector = entry.create_group('instrument_1/detector_1')
        layout = h5py.VirtualLayout((12, 16, 20), scan.patterns.dtype)
        for row in range(3):
            source = h5py.VirtualSource('raw/eiger.h5', 'entry/data', (3, 4, 16, 20))
            layout[4 * row : 4 * row + 4] = source[row]
        detector.create_virtual_dataset('data', layout)
        detector['distance'] = DISTANCE_M * 1e3
        detector['x_pixel_size'], detector['y_pixel_size'] = 75.0, 55.0
        for key, unit in (('distance', 'mm'), ('x_pixel_size', 'um'), ('y_pixel_size', 'um')):
            detector[key].attrs['units'] = unit
        detector['translation'] = np.stack([x, y, 0 * x], axis=1)
        detector['translation'].attrs['units'] = 'm'
        entry['sample_1/geometry_1/translation'] = h5py.SoftLink(detector['translation'].name)
        entry['data_1/data'] = h5py.SoftLink(detector['data'].name)
    found = load_scan(path)
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    expected = scan.positions_px - scan.positions_px.min(axis=0) + [8, 10]
    np.testing.assert_allclose(found.positions_px, expected, atol=1e-6)
    assert found.geometry.photon_energy_eV == pytest.approx(ENERGY_EV)
    raw.unlink()
    with pytest.raises(DataError, match=r'eiger\.h5 is missing'):
        load_scan(path)
