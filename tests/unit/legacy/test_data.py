"""PtychoPINN's scans: every layout of its files, its objects in memory, its grouped patterns."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ptychopinn_plugin as pinn
from ptychopinn_plugin import legacy
from ptychopinn_plugin.data import load_scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.legacy import group_cache
from ptychopinn_plugin.legacy.groups import GroupOptions, find_groups, group_scan
from ptychopinn_plugin.opening import as_scan, as_scans

Arrays = dict[str, Any]


@pytest.fixture(scope='module')
def scan() -> pinn.Scan:
    """Return 42 patterns of a field that is neither square nor symmetric."""
    return simulate(
        SimulationConfig(
            size=32, rows=6, columns=7, step_px=4.0, photons=2e4, object_kind='letters'
        )
    )


@pytest.fixture
def contract(scan: pinn.Scan) -> Arrays:
    """Return the arrays of a scan as PtychoPINN's contract has them."""
    return {
        'diff3d': np.sqrt(scan.patterns).astype(np.float32),
        'probeGuess': scan.probe[0],
        'objectGuess': scan.object_,
        'xcoords': scan.positions_px[:, 1],
        'ycoords': scan.positions_px[:, 0],
        'xcoords_start': scan.positions_px[:, 1] + 0.25,
        'ycoords_start': scan.positions_px[:, 0] - 0.5,
        'scan_index': np.zeros(len(scan), np.int64),
    }


def transposed(arrays: Arrays) -> Arrays:
    return {**arrays, 'diff3d': np.moveaxis(arrays['diff3d'], 0, 2)}


def renamed(arrays: Arrays) -> Arrays:
    rest = {name: array for name, array in arrays.items() if name != 'diff3d'}
    return {**rest, 'diffraction': arrays['diff3d']}


def least(arrays: Arrays) -> Arrays:
    keep = ('diff3d', 'probeGuess', 'xcoords', 'ycoords')
    return {name: arrays[name] for name in keep}


def described(arrays: Arrays) -> Arrays:
    text = json.dumps({'nphotons': 2e4, 'schema_version': '1.0'})
    return {**arrays, '_metadata': np.array([text])}


def doubled(arrays: Arrays) -> Arrays:
    return {name: array.astype(_wider(array.dtype)) for name, array in arrays.items()}


def _wider(kind: np.dtype[Any]) -> Any:
    return {'f': np.float64, 'c': np.complex128}.get(kind.kind, kind)


def unit_amplitudes(arrays: Arrays) -> Arrays:
    """Scale amplitudes to another unit, with the number of photons stated."""
    return described({**arrays, 'diff3d': arrays['diff3d'] / 137.0})


def whole_counts(arrays: Arrays) -> Arrays:
    return {**arrays, 'diff3d': np.rint(arrays['diff3d'] ** 2).astype(np.uint16)}


LAYOUTS = [
    dict,
    transposed,
    renamed,
    lambda arrays: renamed(transposed(arrays)),
    least,
    described,
    doubled,
    unit_amplitudes,
    whole_counts,
    lambda arrays: transposed(whole_counts(arrays)),
]
NAMES = [
    'contract',
    'transposed',
    'renamed',
    'renamed-transposed',
    'least',
    'described',
    'doubled',
    'unit',
    'counts',
    'transposed-counts',
]


@pytest.mark.parametrize('layout', LAYOUTS, ids=NAMES)
def test_layouts(scan: pinn.Scan, contract: Arrays, layout: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / 'scan.npz', **layout(contract))
    found = load_scan(tmp_path / 'scan.npz')
    assert np.allclose(found.patterns, scan.patterns, rtol=0.02, atol=1e-2)
    assert np.allclose(found.positions_px, scan.positions_px)
    assert np.allclose(found.probe, scan.probe)


def test_raw_data_in_memory(scan: pinn.Scan, contract: Arrays) -> None:
    before = {name: array.copy() for name, array in contract.items()}
    found = legacy.scan_from_raw_data(SimpleNamespace(**contract))
    assert np.allclose(found.patterns, scan.patterns, rtol=1e-4, atol=1e-3)
    assert np.allclose(found.nominal_positions_px, scan.positions_px + np.array([-0.5, 0.25]))
    assert found.object_ is not None
    assert found.name == 'SimpleNamespace'
    # What belongs to others stays as it was.
    assert all(np.array_equal(contract[name], before[name]) for name in before)
    assert contract['diff3d'].flags.writeable


def test_raw_data_says_what_is_wrong(contract: Arrays) -> None:
    with pytest.raises(DataError, match='same length'):
        legacy.scan_from_raw_data(SimpleNamespace(**{**contract, 'xcoords': np.zeros(3)}))
    with pytest.raises(DataError, match='domain must be'):
        legacy.scan_from_raw_data(SimpleNamespace(**contract), domain='x')  # type: ignore[arg-type]


def test_the_api_takes_raw_data(contract: Arrays, scan: pinn.Scan) -> None:
    raw = SimpleNamespace(**contract)
    assert len(as_scan(raw)) == len(scan)
    assert [len(each) for each in as_scans(raw)] == [42]
    assert [len(each) for each in as_scans([raw, scan])] == [42, 42]


@pytest.mark.parametrize('gridsize', [1, 2])
def test_grouped(scan: pinn.Scan, gridsize: int) -> None:
    assert scan.object_ is not None
    group = gridsize**2
    nominal = scan.positions_px + np.array([0.5, -0.25])
    scan = pinn.Scan(
        scan.patterns, scan.positions_px, scan.probe, scan.object_, nominal_positions_px=nominal
    )
    found: Arrays = group_scan(scan, GroupOptions(gridsize=gridsize, n_groups=10))
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == {
        'diffraction': (10, 32, 32, group),
        'X_full': (10, 32, 32, group),
        'Y': (10, 32, 32, group),
        'coords_nn': (10, 1, 2, group),
        'coords_offsets': (10, 1, 2, 1),
        'coords_relative': (10, 1, 2, group),
        'coords_start_nn': (10, 1, 2, group),
        'coords_start_offsets': (10, 1, 2, 1),
        'coords_start_relative': (10, 1, 2, group),
        'nn_indices': (10, group),
        'objectGuess': scan.object_.shape,
    }
    which = found['nn_indices'][3, -1]
    assert np.allclose(found['diffraction'][3, :, :, -1] ** 2, scan.patterns[which], atol=1e-3)
    y, x = scan.positions_px[which]
    assert np.allclose(found['coords_nn'][3, 0, :, -1], [x, y])
    mean = found['coords_nn'][3, 0].mean(axis=1)
    assert np.allclose(found['coords_offsets'][3, 0, :, 0], mean)
    assert np.allclose(found['coords_relative'][3, 0, :, -1], mean - [x, y])
    assert np.allclose(found['coords_start_nn'][3, 0, :, -1], [x - 0.25, y + 0.5])
    # The patch's middle is the object at the position, between pixels.
    row, column = int(y), int(x)
    around = scan.object_[row : row + 2, column : column + 2]
    fy, fx = y - row, x - column
    expected = np.array([1 - fy, fy]) @ around @ np.array([1 - fx, fx])
    assert found['Y'][3, 16, 16, -1] == pytest.approx(expected, abs=1e-5)


def test_grouped_from_whatever_holds_a_scan(
    scan: pinn.Scan, contract: Arrays, tmp_path: Path
) -> None:
    write_scan(tmp_path / 'scan.npz', scan)
    wanted = group_scan(scan, OPTIONS)['nn_indices']
    for source in (SimpleNamespace(**contract), tmp_path / 'scan.npz', f'{tmp_path}/scan.npz'):
        assert np.array_equal(legacy.group_scan(source, OPTIONS)['nn_indices'], wanted)
    with pytest.raises(DataError, match="int must hold 'xcoords'"):
        group_scan(3)


def test_normalization_is_that_of_the_network(scan: pinn.Scan) -> None:
    found: Arrays = group_scan(scan)
    energy = (found['X_full'].astype(np.float64) ** 2).sum(axis=(1, 2))
    assert energy.mean() == pytest.approx(16**2, rel=1e-4)


def test_real_coordinates(legacy_data: Path) -> None:
    with np.load(legacy_data / 'tf_gs1' / 'expected.npz') as expected:
        offsets, relative = expected['global_offsets'], expected['input_positions']
    positions = offsets[:, 0, ::-1, 0]
    patterns = np.ones((8, 32, 32), np.float32)
    found: Arrays = group_scan(pinn.Scan(patterns, positions, np.ones((32, 32))))
    order = np.argsort(found['nn_indices'][:, 0])
    assert np.allclose(found['coords_offsets'][order], offsets)
    assert np.allclose(found['coords_relative'][order], relative)
    assert found['Y'] is None
    assert found['objectGuess'] is None


def test_groups(scan: pinn.Scan, caplog: pytest.LogCaptureFixture) -> None:
    positions = scan.positions_px
    all_ = find_groups(positions, GroupOptions(gridsize=2))
    assert all_.shape == (42, 4)
    assert sorted(all_[:, 0]) == list(range(42))
    assert len(find_groups(positions, GroupOptions(gridsize=2, n_groups=99))) == 42
    assert 'Set enable_oversampling' in caplog.text
    many = GroupOptions(gridsize=2, n_groups=99, enable_oversampling=True, neighbor_count=7)
    assert len(np.unique(np.sort(find_groups(positions, many), axis=1), axis=0)) > 80
    cover = find_groups(positions, GroupOptions(gridsize=2, cover=True))
    assert set(cover.ravel()) == set(range(42))
    assert len(cover) < 20
    assert np.array_equal(all_, find_groups(positions, GroupOptions(gridsize=2)))
    assert not np.array_equal(all_, find_groups(positions, GroupOptions(gridsize=2, seed=1)))


def test_without_patches(scan: pinn.Scan) -> None:
    found = group_scan(scan, with_patches=False)
    assert found['Y'] is None
    assert found['objectGuess'] is not None


OPTIONS = GroupOptions(gridsize=2, n_groups=12)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return group_cache.cache_path(tmp_path / 'scan.npz')


def never() -> Any:
    raise AssertionError('The cache should have been used.')


def test_cache(scan: pinn.Scan, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.name == 'scan.groups_cache.npz'
    first = find_groups(scan.positions_px, OPTIONS, cache=cache)
    written = cache.read_bytes()
    options = {**vars(OPTIONS)}
    again = group_cache.cached_groups(cache, scan.positions_px, options, never)
    assert np.array_equal(first, again)
    assert cache.read_bytes() == written
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    assert caplog.text == ''


@pytest.mark.parametrize('change', ['positions', 'options'])
def test_stale_cache(
    scan: pinn.Scan, cache: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    find_groups(scan.positions_px, OPTIONS, cache=cache)
    positions, options = scan.positions_px.copy(), OPTIONS
    if change == 'positions':
        positions[0] += 0.5
    else:
        options = options.replace(seed=9)
    found = find_groups(positions, options, cache=cache)
    assert 'is of other positions or options; ignored' in caplog.text
    assert np.array_equal(found, find_groups(positions, options))
    caplog.clear()
    find_groups(positions, options, cache=cache)
    assert caplog.text == ''


def _damages(key: str) -> dict[str, Any]:
    return {
        'empty': b'',
        'text': b'no zip at all',
        'truncated': None,
        'pickled': {'key': np.array(key), 'groups': np.array([{}], dtype=object)},
        'nameless': {'groups': np.zeros((3, 4), np.int64)},
        'outside': {'key': np.array(key), 'groups': np.full((3, 4), 42)},
        'negative': {'key': np.array(key), 'groups': np.full((3, 4), -1)},
        'flat': {'key': np.array(key), 'groups': np.zeros(4, np.int64)},
        'real': {'key': np.array(key), 'groups': np.zeros((3, 4))},
    }


@pytest.mark.parametrize('name', _damages(''))
def test_damaged_cache(
    scan: pinn.Scan, cache: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    expected = find_groups(scan.positions_px, OPTIONS, cache=cache)
    damage = _damages(group_cache.groups_key(scan.positions_px, vars(OPTIONS)))[name]
    if isinstance(damage, dict):
        np.savez(cache, **damage)
    else:
        cache.write_bytes(cache.read_bytes()[:200] if damage is None else damage)
    found = find_groups(scan.positions_px, OPTIONS, cache=cache)
    assert np.array_equal(found, expected)
    assert 'ignored' in caplog.text
    caplog.clear()
    find_groups(scan.positions_px, OPTIONS, cache=cache)
    assert caplog.text == ''


def test_a_cache_that_cannot_be_written(
    scan: pinn.Scan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    found = find_groups(scan.positions_px, OPTIONS, cache=tmp_path / 'none' / 'x.npz')
    assert len(found) == 12
    assert 'The groups are not kept' in caplog.text


def test_group_command(scan: pinn.Scan, tmp_path: Path, run: Any) -> None:
    source, out = tmp_path / 'scan.npz', tmp_path / 'grouped.npz'
    write_scan(source, scan)
    text = run('group', source, out, '--gridsize', 2, '--n-groups', 5, '--no-cache')
    assert 'Wrote 5 groups of 4 patterns' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ['grouped.npz', 'scan.npz']
    values = json.loads(run('group', source, out, '--gridsize', 2, '--n-groups', 5, '--json'))
    assert values['shapes']['coords_relative'] == [5, 1, 2, 4]
    assert group_cache.cache_path(source).is_file()
    with np.load(out) as archive:
        assert archive['Y'].shape == (5, 32, 32, 4)
        assert np.allclose(archive['probeGuess'], scan.probe[0])
    assert values['cache'] == str(group_cache.cache_path(source))
    group_cache.cache_path(source).unlink()
    group_cache.cache_path(source).mkdir()
    assert 'groups kept in: no file' in run('group', source, out)
    assert json.loads(run('group', source, out, '--json'))['cache'] is None
    assert 'written as .npz' in run('group', source, tmp_path / 'x.txt', code=2)
