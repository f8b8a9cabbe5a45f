"""`evaluate --half-scans`: what it requests of a backend, prints and leaves."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.data.grouping import illumination_gap
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError


def test_from_a_flat_object(run: Any, backend: Any, scan_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'halves'
    done = run('evaluate', '--half-scans', scan_file, '--iterations', 3, '-o', folder, '--json')
    assert done.code == 0, done.err
    assert backend.requested['refinement'].iterations == 3
    assert len(backend.requested['scan']) == 18
    values = json.loads(done.out)
    assert values == json.loads((folder / 'evaluation.json').read_text())
    assert values['patterns'] == [18, 18]
    assert values['model'] is None
    assert values['iterations'] == 3
    assert values['resolution']['half-bit']['is_limit_of_pixels'] is True
    assert values['resolution']['half-bit']['half_period_px'] == 1
    assert len(values['frc']['correlation']) == len(values['frc']['frequencies'])
    assert sorted(path.name for path in folder.iterdir()) == ['evaluation.json', 'evaluation.png']


def test_with_a_model(run: Any, backend: Any, scan_file: Path, model_file: Path) -> None:
    done = run('evaluate', '--half-scans', scan_file, '--model', model_file, '--device', 'cpu')
    assert done.code == 0, done.err
    assert backend.requested['inference'].device == 'cpu'
    assert 'halves of 18 and 18 patterns' in done.out
    assert 'resolution by half-bit: 1.00 px' in done.out


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (('scan.npz', 'other.npz', '--half-scans'), 'takes one scan, and no truth'),
        (('scan.npz', '--half-scans', '--model', 'a', '--iterations', '3'), 'Give one'),
        (('a.npz', 'scan.npz', '--iterations', '3'), '--iterations belongs to --half-scans'),
        (('a.npz',), 'TRUTH is missing'),
    ],
)
def test_what_does_not_go_together(run: Any, given: tuple[str, ...], message: str) -> None:
    assert message in run('evaluate', *given).error()


def test_a_stop_compares_nothing(backend: Any, scan_file: Path) -> None:
    """Halves of different length of the way would differ by that alone."""
    with pytest.raises(DataError, match='nothing is compared'):
        api.compare_half_scans(scan_file, observer=lambda progress: True)


def test_a_model_of_another_size_gets_fitted_halves(
    run: Any, backend: Any, model_file: Path, tmp_path: Path
) -> None:
    scan = simulate(SimulationConfig(size=48, rows=8, columns=8, step_px=5.0))
    found = api.compare_half_scans(scan, model=model_file)
    assert backend.requested['scan'].pattern_shape == (32, 32)
    assert found.overlap == pytest.approx(2 * found.half_overlap, rel=0.2)


@pytest.mark.parametrize('iterations', [3, None])
def test_halves_whose_illuminations_do_not_touch_are_refused(
    backend: Any, model_file: Path, iterations: int | None
) -> None:
    """One by one, each half would show other places than the other: nothing is to compare."""
    scan = simulate(SimulationConfig(size=32, rows=6, columns=6, step_px=1.0, jitter_px=0.0))
    spreads = (
        dataclasses.replace(scan, positions_px=factor * scan.positions_px)
        for factor in range(2, 40)
    )
    # The widest scan whose illuminations touch: neighbours of a half are further apart by a root.
    *_, widest = itertools.takewhile(lambda spread: illumination_gap(spread) is None, spreads)
    model = None if iterations else model_file
    with pytest.raises(DataError, match='illuminations must overlap'):
        api.compare_half_scans(widest, model=model, iterations=iterations)
