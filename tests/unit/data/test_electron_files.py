"""Files of electron cameras: of an EMPAD and a Merlin packed here, others as RosettaSciIO does."""

import dataclasses
import importlib
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.data import Geometry, Scan, load_scan
from ptychopinn_plugin.data.geometry import wavelength_m
from ptychopinn_plugin.data.readers.matching import photon_energy_of_electrons
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import normalize_probe, predict_patterns
from ptychopinn_plugin.storage.scratch import is_stored

pytest.importorskip('rsciio')
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

ROWS, COLUMNS = 3, 4
LENGTH_M, ENERGY_EV, STEP_M = 0.369, 3e5, 2e-10
WAVELENGTH_M = wavelength_m(photon_energy_of_electrons(ENERGY_EV))
PIXEL_M = WAVELENGTH_M * LENGTH_M / (128 * 150e-6)


@pytest.fixture(scope='module')
def truth() -> Scan:
    """Return a simulated raster of an EMPAD's size."""
    y, x = np.meshgrid(*[np.arange(128) - 64.0] * 2, indexing='ij')
    radius = np.hypot(y, x)
    # A round aperture with some defocus in the plane of the detector.
    far = (radius < 30) * np.exp(-0.004j * radius**2)
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(far)))[np.newaxis]
    probe = normalize_probe(probe, 1e5)
    rng = np.random.default_rng(2)
    object_ = np.exp(1j * rng.uniform(0, 0.4, (170, 180)))
    step = STEP_M / PIXEL_M
    positions = np.indices((ROWS, COLUMNS)).reshape(2, -1).T * step + 64.0
    patterns = predict_patterns(object_, np.zeros(2, np.int64), positions, probe)
    return Scan(patterns.astype(np.float32), positions, probe, object_=object_)


OLD_XML = """<root name="acquisition"><timestamp isoformat="2020-03-12T10:11:12"/>
<raw_file filename="{raw}"/><pix_x>{columns}</pix_x><pix_y>{rows}</pix_y>
<iom_measurements>
<optics.get_full_scan_field_of_view>({height}, {width})</optics.get_full_scan_field_of_view>
<calibrated_pixelsize>{frequency}</calibrated_pixelsize>
<nominal_camera_length>{length}</nominal_camera_length></iom_measurements></root>"""

NEW_XML = """<root name="acquisition"><timestamp isoformat="2026-03-25T16:47:52.5"/>
<software_version>1.2.2  (2021-08-20)</software_version><raw_file filename="{raw}"/>
<scan_parameters mode="acquire"><scan_resolution_y>{rows}</scan_resolution_y>
<scan_resolution_x>{columns}</scan_resolution_x></scan_parameters><iom_measurements>
<full_scan_field_of_view><scale_factor>0.72</scale_factor><x>{view}</x><y>{view}</y>
</full_scan_field_of_view><nominal_camera_length>{length}</nominal_camera_length>
<high_voltage>300000.0</high_voltage></iom_measurements></root>"""


@pytest.fixture
def empad(truth: Scan, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the two files of an EMPAD and returns the XML file."""

    def write(xml: str = NEW_XML, raw: str = f'scan_x{COLUMNS}_y{ROWS}.raw') -> Path:
        frames = np.full((len(truth), 130, 128), -7.0, '<f4')
        frames[:, :128] = truth.patterns
        (tmp_path / raw).write_bytes(frames.tobytes())
        text = xml.format(
            raw=raw,
            rows=ROWS,
            columns=COLUMNS,
            height=ROWS * STEP_M,
            width=COLUMNS * STEP_M,
            view=max(ROWS, COLUMNS) * STEP_M * 0.72,
            length=LENGTH_M,
            # RosettaSciIO takes it times 1e9 as 1/nm.
            frequency=1 / (128 * PIXEL_M) * 1e-18,
        )
        # The camera writes one line; in others RosettaSciIO loses parts.
        (tmp_path / 'scan.xml').write_text(text.replace('\n', ''))
        return tmp_path / 'scan.xml'

    return write


@pytest.fixture
def probe(truth: Scan, tmp_path: Path) -> Path:
    np.save(tmp_path / 'probe.npy', truth.probe)
    return tmp_path / 'probe.npy'


@pytest.mark.parametrize('xml', [OLD_XML, NEW_XML], ids=['1.0', '1.2'])
def test_an_empad_is_the_scan_that_it_recorded(
    truth: Scan,
    empad: Callable[..., Path],
    probe: Path,
    residual: Callable[[Scan], float],
    xml: str,
) -> None:
    found = load_scan(empad(xml), probe_from=probe)
    np.testing.assert_array_equal(found.patterns, truth.patterns)
    np.testing.assert_allclose(found.positions_px, truth.positions_px, atol=1e-4)
    assert found.geometry.pixel_height_m == pytest.approx(PIXEL_M)
    moved = Scan(found.patterns, found.positions_px, found.probe, object_=truth.object_)
    assert residual(moved) < 1e-4
    # It is needed where pixels are not calibrated.
    is_told = any('nominal camera length, 0.369 m' in note for note in found.notes)
    assert is_told == (xml == NEW_XML)
    if xml == NEW_XML:
        energy = photon_energy_of_electrons(ENERGY_EV)
        assert found.geometry.photon_energy_eV == pytest.approx(energy)


def test_the_same_scan_in_an_npz_file(
    truth: Scan, empad: Callable[..., Path], probe: Path, tmp_path: Path
) -> None:
    found = load_scan(empad(), probe_from=probe)
    np.savez(
        tmp_path / 'scan.npz',
        diff3d=truth.patterns,
        xcoords=truth.positions_px[:, 1],
        ycoords=truth.positions_px[:, 0],
        probeGuess=truth.probe,
    )
    same = load_scan(tmp_path / 'scan.npz', domain='counts')
    np.testing.assert_array_equal(found.patterns, same.patterns)
    np.testing.assert_allclose(found.positions_px, same.positions_px, atol=1e-4)
    np.testing.assert_array_equal(found.probe, same.probe)


def test_the_raw_file_leads_to_the_other(
    truth: Scan, empad: Callable[..., Path], tmp_path: Path
) -> None:
    path = empad()
    (tmp_path / 'a.xml').write_text('<root><raw_file filename="other.raw"/></root>')
    (tmp_path / 'b.xml').write_text('no XML')
    found = load_scan(tmp_path / f'scan_x{COLUMNS}_y{ROWS}.raw')
    np.testing.assert_array_equal(found.patterns, truth.patterns)
    assert found.geometry.photon_energy_eV is not None
    path.unlink()


def test_a_raw_file_alone(
    truth: Scan, empad: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empad().unlink()
    raw = tmp_path / f'scan_x{COLUMNS}_y{ROWS}.raw'
    # RosettaSciIO is not needed for it.
    monkeypatch.setitem(sys.modules, 'rsciio', None)
    energy = photon_energy_of_electrons(ENERGY_EV)
    options: dict[str, Any] = {
        'geometry': Geometry(photon_energy_eV=energy, detector_distance_m=LENGTH_M),
        'scan_step_m': STEP_M,
    }
    found = load_scan(raw, **options)
    np.testing.assert_array_equal(found.patterns, truth.patterns)
    np.testing.assert_allclose(found.positions_px, truth.positions_px, atol=1e-4)
    assert any('No XML file beside it' in note for note in found.notes)
    with pytest.raises(DataError, match='--scan-step'):
        load_scan(raw)
    with pytest.raises(DataError, match=r'The patterns of .* would take .*--max-gib'):
        load_scan(raw, **options, max_gib=0.0005)
    raw = raw.rename(tmp_path / 'frames.raw')
    with pytest.raises(DataError, match=r'a stack of 12 patterns .*--scan-shape'):
        load_scan(raw, **options)
    found = load_scan(raw, **options, scan_shape=(ROWS, COLUMNS))
    np.testing.assert_allclose(found.positions_px, truth.positions_px, atol=1e-4)
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(DataError, match='are not a whole number of them'):
        load_scan(raw, **options)


def test_the_users_geometry_goes_first(empad: Callable[..., Path]) -> None:
    geometry = Geometry(photon_energy_eV=photon_energy_of_electrons(8e4), detector_distance_m=0.3)
    found = load_scan(empad(), geometry=geometry, scan_step_m=5e-10, scan_shape=(4, 3))
    pixel = wavelength_m(photon_energy_of_electrons(8e4)) * 0.3 / (128 * 150e-6)
    assert found.geometry.pixel_width_m == pytest.approx(pixel)
    expected = np.indices((4, 3)).reshape(2, -1).T * 5e-10 / pixel + 64
    np.testing.assert_allclose(found.positions_px, expected)
    with pytest.raises(DataError, match=r'must hold the 12 patterns of .*; 4 x 4 are 16'):
        load_scan(empad(), scan_shape=(4, 4))


def test_what_is_no_empad(empad: Callable[..., Path], tmp_path: Path) -> None:
    path, raw = empad(), tmp_path / f'scan_x{COLUMNS}_y{ROWS}.raw'
    whole = raw.read_bytes()
    raw.write_bytes(whole[:-1000])
    with pytest.raises(DataError, match=r'frames of 66560 bytes, .* 797720 bytes are not a whole'):
        load_scan(path)
    raw.write_bytes(whole[:-66560])
    with pytest.raises(DataError, match=r'RosettaSciIO cannot read .*truncated'):
        load_scan(path)
    raw.unlink()
    with pytest.raises(DataError, match=r'\.raw, the raw file that .* names, is missing'):
        load_scan(path)
    path.write_text('<root><raw_file/></root>')
    with pytest.raises(DataError, match='must be the XML file of an EMPAD'):
        load_scan(path)
    path.write_text('<root><raw_file filename="scan')
    with pytest.raises(DataError, match='must be the XML file of an EMPAD'):
        load_scan(path)
    raw.write_bytes(whole)
    empad(NEW_XML, raw='renamed.raw')
    with pytest.raises(DataError, match='RosettaSciIO cannot read'):
        load_scan(path)


def test_an_empad_leads_to_no_other_folder(empad: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / 'inside').mkdir()
    path = empad()
    secret = tmp_path / 'scan_x4_y3.raw'
    inside = tmp_path / 'inside' / 'scan.xml'
    inside.write_text(path.read_text().replace(secret.name, f'../{secret.name}'))
    with pytest.raises(DataError, match=r'which lies outside the folder .*--allow-links'):
        load_scan(inside)


def test_no_more_memory_than_allowed(empad: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r'The patterns of .* would take .*--max-gib'):
        load_scan(empad(), max_gib=0.0005)


@pytest.mark.parametrize('with_xml', [True, False])
def test_more_than_fits_into_memory(
    truth: Scan, empad: Callable[..., Path], with_xml: bool
) -> None:
    path = empad()
    options: dict[str, Any] = {'max_memory_gib': 1e-6}
    if not with_xml:
        path.unlink()
        path = path.parent / f'scan_x{COLUMNS}_y{ROWS}.raw'
        energy = photon_energy_of_electrons(ENERGY_EV)
        options['geometry'] = Geometry(photon_energy_eV=energy, detector_distance_m=LENGTH_M)
        options['scan_step_m'] = STEP_M
    found = load_scan(path, **options)
    assert is_stored(found.patterns)
    np.testing.assert_array_equal(found.patterns, truth.patterns)


def _merlin(path: Path, patterns: np.ndarray, *, with_shape: bool) -> Path:
    """Write a file of a Merlin camera: frames of 16 bits, each behind a text of 384 bytes."""
    height, width = patterns.shape[1:]
    with path.open('wb') as file:
        for number, pattern in enumerate(patterns, 1):
            head = f'MQ1,{number:06d},00384,01,{width:04d},{height:04d},U16,   1x1,01,'
            head += '2019-06-19 11:46:46.123456,0.001000,0,0,1.2E+2,5.1E+2,0.0E+0,MQ1A,'
            head += '2019-06-19T10:46:46.123456789Z,1000000ns,12,'
            file.write(head.ljust(384, '\0').encode())
            # The lowest row comes first.
            file.write(pattern[::-1].astype('>u2').tobytes())
    if with_shape:
        text = f'HDR,\nFrames in Acquisition (Number):\t{ROWS * COLUMNS}\n'
        text += f'Frames per Trigger (Number):\t{COLUMNS}\nEnd\t\n'
        path.with_suffix('.hdr').write_text(text)
    return path


GEOMETRY = Geometry(
    photon_energy_eV=photon_energy_of_electrons(ENERGY_EV),
    detector_distance_m=0.5,
    detector_pixel_height_m=55e-6,
    detector_pixel_width_m=55e-6,
)


@pytest.mark.parametrize('with_shape', [True, False])
def test_a_merlin_camera(tmp_path: Path, with_shape: bool) -> None:
    counts = np.random.default_rng(4).poisson(20, (ROWS * COLUMNS, 24, 16)).astype(np.uint16)
    path = _merlin(tmp_path / 'scan.mib', counts, with_shape=with_shape)
    options: dict[str, Any] = {'geometry': GEOMETRY, 'scan_step_m': 3e-10}
    if not with_shape:
        with pytest.raises(DataError, match=r'a stack of 12 patterns .*--scan-shape'):
            load_scan(path, **options)
        options['scan_shape'] = (ROWS, COLUMNS)
    found = load_scan(path, **options)
    np.testing.assert_array_equal(found.patterns, counts)
    pixel = WAVELENGTH_M * 0.5 / 55e-6 / np.array([24, 16])
    expected = np.indices((ROWS, COLUMNS)).reshape(2, -1).T * 3e-10 / pixel + [12, 8]
    np.testing.assert_allclose(found.positions_px, expected)
    del options['scan_step_m']
    with pytest.raises(DataError, match='--scan-step'):
        load_scan(path, **options)


def _signal(data: np.ndarray) -> dict[str, Any]:
    """Return a raster as RosettaSciIO's writers take it."""
    names = ('y', 'x', 'dy', 'dx')
    scales, units = (0.2, 0.3, 0.05, 0.05), ('nm', 'nm', 'cm', 'cm')
    axes = [
        {
            'name': name,
            'size': size,
            'scale': scale,
            'units': unit,
            'offset': 0.0,
            'navigate': number < 2,
            'index_in_array': number,
        }
        for number, (name, size, scale, unit) in enumerate(
            zip(names, data.shape, scales, units, strict=True)
        )
    ]
    return {
        'data': data,
        'axes': axes,
        'metadata': {'Signal': {'signal_type': 'electron_diffraction'}, 'General': {}},
        'original_metadata': {},
        'attributes': {'_lazy': False},
    }


def test_a_file_of_nanomegas(tmp_path: Path) -> None:
    counts = np.random.default_rng(4).poisson(20, (ROWS, COLUMNS, 16, 16)).astype(np.uint8)
    path = tmp_path / 'scan.blo'
    writer = importlib.import_module('rsciio.blockfile').file_writer
    writer(str(path), _signal(counts), navigator=None, show_progressbar=False)
    found = load_scan(path, geometry=GEOMETRY)
    np.testing.assert_array_equal(found.patterns, counts.reshape(-1, 16, 16))
    pixel = WAVELENGTH_M * 0.5 / 55e-6 / 16
    expected = np.indices((ROWS, COLUMNS)).reshape(2, -1).T * [0.2e-9, 0.3e-9] / pixel + 8
    np.testing.assert_allclose(found.positions_px, expected, rtol=1e-5)


def test_a_file_of_tvips(tmp_path: Path) -> None:
    counts = np.random.default_rng(4).poisson(20, (ROWS, COLUMNS, 16, 16)).astype(np.uint8)
    signal = _signal(counts)
    signal['metadata']['Acquisition_instrument'] = {'TEM': {'beam_energy': ENERGY_EV / 1e3}}
    writer = importlib.import_module('rsciio.tvips').file_writer
    writer(str(tmp_path / 'scan.tvips'), signal, mode=2, show_progressbar=False)
    # The camera numbers its files.
    path = tmp_path / 'scan_000.tvips'
    geometry = dataclasses.replace(GEOMETRY, photon_energy_eV=None)
    found = load_scan(path, geometry=geometry, scan_step_m=3e-10, scan_shape=(ROWS, COLUMNS))
    np.testing.assert_array_equal(found.patterns, counts.reshape(-1, 16, 16))
    pixel = WAVELENGTH_M * 0.5 / 55e-6 / 16
    assert found.geometry.pixel_height_m == pytest.approx(pixel)


def _tag(name: str, content: bytes | list[bytes]) -> bytes:
    """Return a tag of a DM4 file: a group of tags, or data."""
    kind = 21
    if isinstance(content, list):
        kind = 20
        content = b'\1\0' + struct.pack('>q', len(content)) + b''.join(content)
    return (
        struct.pack('>BH', kind, len(name))
        + name.encode()
        + struct.pack('>q', len(content))
        + content
    )


def _values(values: np.ndarray | str | float) -> bytes:
    """Return the data of a tag: an array, a text of 16 bits, a float or a whole number."""
    if isinstance(values, str):
        values = np.frombuffer(values.encode('utf-16-le'), np.uint16)
    if isinstance(values, np.ndarray):
        info, raw = [20, {'uint16': 4, 'uint32': 5}[values.dtype.name], values.size], values
    elif isinstance(values, float):
        info, raw = [6], np.array(values, np.float32)
    else:
        info, raw = [5], np.array(values, np.uint32)
    return b'%%%%' + struct.pack(f'>{len(info) + 1}q', len(info), *info) + raw.tobytes()


def _image(data: np.ndarray, kind: int, axes: list[tuple[float, str]]) -> bytes:
    """Return the image of a DM4 file, whose axes are written with the fastest first."""
    step = [('Origin', 0.0), ('Scale', 1.0), ('Units', '')]
    brightness = [_tag(name, _values(value)) for name, value in step]
    calibrations = [
        [_tag('Origin', _values(0.0)), _tag('Scale', _values(size)), _tag('Units', _values(unit))]
        for size, unit in axes[::-1]
    ]
    dimension = [_tag('', each) for each in calibrations]
    sides = [_tag('', _values(side)) for side in data.shape[::-1]]
    content = [
        _tag('Calibrations', [_tag('Brightness', brightness), _tag('Dimension', dimension)]),
        _tag('Data', _values(data)),
        _tag('DataType', _values(kind)),
        _tag('Dimensions', sides),
        _tag('PixelDepth', _values(data.itemsize)),
    ]
    return _tag('ImageData', content)


def _gatan(path: Path, counts: np.ndarray) -> Path:
    """Write a DM4 file as Digital Micrograph does: a thumbnail, a survey, and the raster."""
    thumbnail = _image(np.zeros((2, 2), np.uint32), 23, [(1.0, ''), (1.0, '')])
    raster = _image(counts, 10, [(0.2, 'nm'), (0.3, 'nm'), (0.5, '1/nm'), (0.25, '1/nm')])
    info = _tag('ImageTags', [_tag('Microscope Info', [_tag('Voltage', _values(ENERGY_EV))])])
    survey = _image(np.ones((5, 5), np.uint16), 10, [(1.0, 'nm'), (1.0, 'nm')])
    images = [_tag('', [thumbnail]), _tag('', [survey, info]), _tag('', [raster, info])]
    index = _tag('', [_tag('ImageIndex', _values(0))])
    tags = [_tag('ImageList', images), _tag('Thumbnails', [index])]
    root = b'\1\0' + struct.pack('>q', len(tags)) + b''.join(tags)
    path.write_bytes(struct.pack('>iqi', 4, len(root), 1) + root + bytes(8))
    return path


def test_a_gatan_camera(tmp_path: Path) -> None:
    counts = np.random.default_rng(4).poisson(20, (ROWS, COLUMNS, 24, 16)).astype(np.uint16)
    found = load_scan(_gatan(tmp_path / 'scan.dm4', counts))
    np.testing.assert_array_equal(found.patterns, counts.reshape(-1, 24, 16))
    pixel = 1e-9 / (np.array([24, 16]) * [0.5, 0.25])
    assert found.geometry.pixel_height_m == pytest.approx(pixel[0])
    expected = np.indices((ROWS, COLUMNS)).reshape(2, -1).T * [0.2e-9, 0.3e-9] / pixel + [12, 8]
    np.testing.assert_allclose(found.positions_px, expected, rtol=1e-6)
    energy = photon_energy_of_electrons(ENERGY_EV)
    assert found.geometry.photon_energy_eV == pytest.approx(energy)


def test_without_rosettasciio(empad: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'rsciio', None)
    with pytest.raises(DataError, match=r"Run: pip install 'ptychopinn-plugin\[electron\]'"):
        load_scan(empad())


def test_a_shape_is_for_cameras_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / 'scan.npz', diff3d=np.ones((2, 8, 8)), xcoords=[0, 1], ycoords=[0, 0])
    with pytest.raises(DataError, match='shape of a raster in a file of an electron camera'):
        load_scan(tmp_path / 'scan.npz', scan_shape=(1, 2))
