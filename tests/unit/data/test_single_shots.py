"""Patterns that share nothing: found by their positions, and read without any."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.data.grouping import check_positions
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.data.single_shots import alone_where_apart
from ptychopinn_plugin.errors import DataError

MakeScan = Callable[..., Scan]
NOTE = 'No positions were read; each pattern stands alone.'


@pytest.fixture(scope='module')
def apart() -> Scan:
    """Return six patterns whose illuminations do not touch."""
    config = SimulationConfig(size=32, rows=2, columns=3, step_px=36.0, jitter_px=0.0)
    return simulate(config)


def test_illuminations_that_do_not_touch_are_taken_alone_and_a_warning_says_so(
    apart: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger='ptychopinn_plugin'):
        alone = alone_where_apart(apart)
    assert alone.is_single_shot
    np.testing.assert_array_equal(alone.positions_px, apart.positions_px)
    assert alone.object_ is apart.object_
    assert caplog.messages[0].startswith(
        f'{apart.name}: no two illuminations touch: the nearest positions are 36.0 px apart and '
        'the probe is '
    )
    assert 'as with --single-shot (reading.single_shot)' in caplog.text
    assert alone_where_apart(alone) is alone
    assert len(caplog.messages) == 1


def test_illuminations_that_touch_stay_a_scan(apart: Scan) -> None:
    close = dataclasses.replace(apart, positions_px=apart.positions_px / 6, object_=None)
    assert alone_where_apart(close) is close


def test_positions_further_apart_than_two_patterns_are_refused_as_before(apart: Scan) -> None:
    far = dataclasses.replace(apart, positions_px=apart.positions_px * 2, object_=None)
    assert alone_where_apart(far) is far
    with pytest.raises(DataError, match=r'illuminations must overlap.*--single-shot'):
        check_positions(far)


def test_a_probe_that_is_a_guess_decides_nothing(apart: Scan) -> None:
    guessed = dataclasses.replace(apart, probe_origin='patterns')
    assert alone_where_apart(guessed) is guessed


def _arrays(scan: Scan, *, last: bool = False) -> dict[str, Any]:
    return {
        'diff3d': np.moveaxis(scan.patterns, 0, -1) if last else scan.patterns,
        'probeGuess': scan.probe[0],
        '_metadata': np.array(json.dumps({'diffraction_domain': 'counts'})) if not last else None,
    }


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('shape', [(16, 16), (16, 20)])
def test_an_npz_without_positions(
    make_scan: MakeScan, tmp_path: Path, last: bool, shape: tuple[int, int]
) -> None:
    scan = make_scan(shape=shape)
    arrays = {key: value for key, value in _arrays(scan, last=last).items() if value is not None}
    np.savez(tmp_path / 'alone.npz', **arrays)
    found = load_scan(tmp_path / 'alone.npz', single_shot=True, domain='counts')
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    assert found.is_single_shot
    assert NOTE in found.notes
    # They lie side by side, in rows of four.
    assert len(np.unique(found.positions_px, axis=0)) == len(scan)
    with pytest.raises(DataError, match=r"must hold 'xcoords'.* --single-shot"):
        load_scan(tmp_path / 'alone.npz')


def test_one_pattern_is_a_scan(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan()
    np.savez(tmp_path / 'one.npz', diff3d=scan.patterns[3], probeGuess=scan.probe[0])
    found = load_scan(tmp_path / 'one.npz', single_shot=True, domain='counts')
    np.testing.assert_array_equal(found.patterns, scan.patterns[3:4])
    assert 'The pattern is reconstructed alone.' in found.notes


def test_a_raster_of_patterns_without_positions(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(count=6)
    raster = scan.patterns.reshape(2, 3, 16, 16)
    np.savez(tmp_path / 'raster.npz', diff3d=raster, probeGuess=scan.probe[0])
    found = load_scan(tmp_path / 'raster.npz', single_shot=True, domain='counts')
    np.testing.assert_array_equal(found.patterns, scan.patterns)


def test_which_axis_counts_the_patterns_may_be_unknown(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(shape=(16, 20))
    np.savez(tmp_path / 'bare.npz', diff3d=scan.patterns)
    with pytest.raises(DataError, match=r'\(11, 16, 20\), and without .*--probe-from FILE'):
        load_scan(tmp_path / 'bare.npz', single_shot=True, domain='counts')
    np.savez(tmp_path / 'flat.npz', diff3d=np.ones(7), probeGuess=scan.probe[0])
    with pytest.raises(DataError, match=r'diff3d must hold patterns.* shape is \(7,\)'):
        load_scan(tmp_path / 'flat.npz', single_shot=True)


def test_a_stack_in_a_file_of_its_own(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan()
    np.save(tmp_path / 'stack.npy', scan.patterns)
    np.save(tmp_path / 'probe.npy', scan.probe)
    found = load_scan(
        tmp_path / 'stack.npy',
        single_shot=True,
        domain='counts',
        probe_from=tmp_path / 'probe.npy',
    )
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    np.testing.assert_array_equal(found.probe, scan.probe)
    with pytest.raises(DataError, match=r'stack.npy is a single NumPy array; .* --single-shot'):
        load_scan(tmp_path / 'stack.npy')


def test_a_file_of_matlab_without_positions(make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(shape=(16, 20))
    arrays = _arrays(scan, last=True)
    savemat(tmp_path / 'alone.mat', {key: arrays[key] for key in ('diff3d', 'probeGuess')})
    found = load_scan(tmp_path / 'alone.mat', single_shot=True, domain='counts')
    np.testing.assert_array_equal(found.patterns, scan.patterns)
