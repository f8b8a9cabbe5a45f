"""Every reader of an installed Ptychodus, on a simulated scan in the files that it reads."""

import dataclasses
import functools
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from unit.data.layouts.files import Truth, write_csv
from unit.data.layouts.table import LAYOUTS, Layout

from ptychopinn_plugin.cli import main
from ptychopinn_plugin.data import Geometry, Scan, load_scan, reader_names
from ptychopinn_plugin.data.readers import ptychodus_plugins
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError

pytest.importorskip('ptychodus')
if version('ptychodus').startswith(('1.5', '1.6')):
    pytest.skip('The files are laid out as Ptychodus 1.7 expects them.', allow_module_level=True)

# Ptychodus' own plugins import what Python has deprecated.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

_ELSEWHERE = {'Ptychodus_Training_Data'}
"""These are tested with files that Ptychodus itself writes."""


@functools.cache
def _simulated(raster: bool) -> Scan:
    kind = 'raster' if raster else 'jittered'
    return simulate(
        SimulationConfig(size=32, rows=5, columns=6, step_px=4.3, jitter_px=1.7, path_kind=kind)
    )


def _write(layout: Layout, folder: Path) -> tuple[dict[str, Any], Truth]:
    if layout.reader not in reader_names():
        pytest.skip(f'This Ptychodus has no reader {layout.reader}.')
    truth = Truth(_simulated(layout.raster), folder, layout.pixel_m)
    probe = folder / 'probe.npy'
    np.save(probe, truth.scan.probe)
    return {'probe_from': probe, **layout.write(truth)}, truth


def _agree(loaded: Scan, scan: Scan, layout: Layout) -> None:
    bad = np.zeros(scan.pattern_shape, dtype=bool)
    if layout.bad is not None:
        bad[layout.bad] = True
    np.testing.assert_array_equal(loaded.bad_pixels, bad)
    np.testing.assert_allclose(loaded.patterns, np.where(bad, 0, scan.patterns), rtol=1e-6)
    np.testing.assert_allclose(
        loaded.positions_px - loaded.positions_px[0],
        scan.positions_px - scan.positions_px[0],
        atol=0.01,
    )
    np.testing.assert_array_equal(loaded.probe, scan.probe)


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_scan_is_read_as_it_was(layout: Layout, tmp_path: Path) -> None:
    written, truth = _write(layout, tmp_path)
    loaded = load_scan(reader=layout.reader, **written)
    _agree(loaded, truth.scan.subset(np.delete(np.arange(30), layout.lost)), layout)
    assert loaded.geometry.pixel_height_m == pytest.approx(truth.object_pixel_m, rel=1e-5)
    assert loaded.geometry.pixel_width_m == pytest.approx(truth.object_pixel_m, rel=1e-5)


def test_no_reader_is_left_out() -> None:
    assert {layout.reader for layout in LAYOUTS.values()} | _ELSEWHERE >= set(reader_names())


def _spoil(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ('layout', 'spoil', 'requested', 'message'),
    [
        ('APS_LamNI', _nothing, {'positions': None}, r'in a file of their own \(\*\.dat\)'),
        ('APS_ISN', _nothing, {'positions': None}, 'If positions are elsewhere, use positions='),
        ('fold_slice', _nothing, {'positions': None}, 'holds no positions for .* use positions='),
        ('TIFF', _nothing, {'positions': None}, 'gives patterns alone'),
        ('APS_Velociprobe, PE', _nothing, {'positions_reader': None}, 'APS_Velociprobe_LI or APS'),
        ('APS_2IDD', _nothing, {'geometry': None}, 'Use --photon-energy .*, --detector-distance'),
        ('NPY', _nothing, {'beam_center_px': (40, 3)}, 'The beam must lie within .* 32 x 32'),
        ('APS_BNP', _spoil('positions.mda', b'short'), {}, "'APS_BNP' cannot read .*: "),
        ('APS_LamNI', _spoil('scan.dat', b''), {}, 'cannot read .*scan.dat: StopIteration'),
        (
            'APS_LamNI',
            _spoil('scan.dat', b'a\nb\n'),
            {},
            'cannot read .*scan.dat: Bad LamNI header',
        ),
        ('TIFF', _spoil('positions.csv', b'1, 2\n3, x\n'), {}, 'two columns in metres, y, x'),
        ('TIFF', _spoil('positions.csv', b'1\n2\n'), {}, r'y, x; got shape \(2, 1\)'),
        ('NPY', _spoil('positions.txt', b'1 2\n3 4\n'), {}, 'span 2 m. Are they in another unit'),
        ('TIFF', _spoil('scan2_50.tif', b'no picture'), {}, "'TIFF' cannot read"),
        (
            'MAX_IV_NanoMAX',
            lambda folder: (folder / 'eiger.h5').unlink(),
            {},
            'Failed to find data',
        ),
        (
            'APS_Velociprobe, LI',
            lambda folder: (folder / 'fly_data_000002.h5').unlink(),
            {},
            'cannot read the patterns .* all files of the scan',
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    layout: str,
    spoil: Callable[[Path], object],
    requested: dict[str, object],
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    written = _write(LAYOUTS[layout], tmp_path)[0]
    spoil(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_scan(reader=LAYOUTS[layout].reader, **{**written, **requested})
    assert '\n' not in str(caught.value)
    assert capfd.readouterr().err == ''


def test_a_folder_is_no_file_of_a_scan(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; the reader 'TIFF' needs a file"):
        load_scan(tmp_path, reader='TIFF')


def test_frames_of_two_sizes(tmp_path: Path) -> None:
    import tifffile

    written = _write(LAYOUTS['TIFF'], tmp_path)[0]
    tifffile.imwrite(tmp_path / 'scan2_99.tif', np.ones((40, 32), np.uint16))
    with pytest.raises(DataError, match='must be 32 x 32 pixels; scan2_99 holds 40 x 32'):
        load_scan(reader='TIFF', **written)


def test_a_missing_filter_is_named() -> None:
    reported = pytest.raises(DataError, match=r'Run: pip install hdf5plugin\.$')
    with reported, ptychodus_plugins._failing('a', 'b', 'c', Path('a')):
        raise RuntimeError('missing filters needed to read dataset: bitshuffle!')


def test_a_line_that_cannot_be_read_costs_no_more_than_its_patterns(tmp_path: Path) -> None:
    layout = LAYOUTS['APS_2IDE']
    written, truth = _write(layout, tmp_path)
    (tmp_path / 'fly054_data_003.h5').write_bytes(b'')
    loaded = load_scan(reader=layout.reader, **written)
    _agree(loaded, truth.scan.subset(np.delete(np.arange(30), range(12, 18))), layout)
    assert any('Skipping unreadable' in note for note in loaded.notes)


def test_pixels_beyond_the_edge_of_the_frame_are_bad(tmp_path: Path) -> None:
    written, truth = _write(LAYOUTS['NPY'], tmp_path)
    loaded = load_scan(reader='NPY', **{**written, 'beam_center_px': (14, 16)})
    assert loaded.bad_pixels is not None
    np.testing.assert_array_equal(np.flatnonzero(loaded.bad_pixels.all(axis=1)), [0, 1])
    np.testing.assert_array_equal(loaded.patterns[:, 2:], truth.scan.patterns[:, :-2])


def test_positions_in_place_of_a_products(tmp_path: Path) -> None:
    layout = LAYOUTS['fold_slice, mat']
    written, truth = _write(layout, tmp_path)
    wrong = dataclasses.replace(truth, scan=truth.scan.subset(np.arange(30)[::-1]))
    loaded = load_scan(reader=layout.reader, positions=write_csv(wrong), **written)
    assert loaded.object_ is None
    expected = truth.scan.positions_px[::-1]
    np.testing.assert_allclose(loaded.positions_px - loaded.positions_px[0], expected - expected[0])


@pytest.mark.parametrize('name', ['positions', 'positions_reader'])
def test_what_belongs_to_a_reader(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'scan.npz'
    np.savez(path, diff3d=np.ones(3))
    with pytest.raises(DataError, match=f'{name} needs reader=NAME'):
        load_scan(path, **{name: (1, 2)})  # type: ignore[arg-type]


_OPTIONS = {
    'photon_energy_eV': '--photon-energy',
    'detector_distance_m': '--detector-distance',
    'detector_pixel_height_m': '--detector-pixel',
}


@pytest.mark.parametrize('name', ['APS_Velociprobe, PE', 'APS_CSSI', 'LCLS_XPP', 'NSLS_II_2'])
def test_a_reconstruction_from_the_command_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('torch')
    layout = LAYOUTS[name]
    written, truth = _write(layout, tmp_path)
    arguments = ['refine', written.pop('path'), '-o', tmp_path / 'out', '--reader', layout.reader]
    arguments += ['--iterations', 30, '--backend', 'pytorch', '--device', 'cpu']
    for option, value in dataclasses.asdict(written.pop('geometry', Geometry())).items():
        if value is not None and option in _OPTIONS:
            arguments += [_OPTIONS[option], value]
    if 'beam_center_px' in written:
        arguments += ['--beam-center', '{},{}'.format(*written.pop('beam_center_px'))]
    for option, value in written.items():
        arguments += [f'--{option.replace("_", "-")}', value]
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0, capfd.readouterr().err
    with np.load(tmp_path / 'out' / 'reconstruction.npz') as result:
        found, coverage = result['object'], result['coverage'] > 0.2
        shift = truth.scan.positions_px[0] - result['positions_px'][0] + result['origin_px']
    assert truth.scan.object_ is not None
    places = np.stack(np.nonzero(coverage)) + shift[:, None]
    expected = map_coordinates(truth.scan.object_, places, order=1)
    assert abs(np.corrcoef(found[coverage], expected)[0, 1]) > 0.9
