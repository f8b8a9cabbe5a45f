"""Faults of a scan that trial reconstructions find, and that they do not invent."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.checking import search, trials
from ptychopinn_plugin.checking.search import MAX_EXCESS_RATIO
from ptychopinn_plugin.checking.trials import cut_piece, run_trial, uninformed_residual
from ptychopinn_plugin.checking.wording import remainder_note
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.data import Scan, load_scan, write_scan
from ptychopinn_plugin.data.reorientation import reorient
from ptychopinn_plugin.host.worker.arrays import ObjectPicture, ReportArrays
from ptychopinn_plugin.host.worker.check_job import check_in_worker
from ptychopinn_plugin.host.worker.messages import CheckDone, Report
from ptychopinn_plugin.orientation import Orientation


def test_held_out_patterns_tell_a_fault(
    make_backend: Callable[[], Backend], tiny_scan: Scan
) -> None:
    backend, found = make_backend(), {}
    swapped = reorient(tiny_scan, Orientation(swap_positions=True))
    for name, scan in (('right', tiny_scan), ('swapped', swapped)):
        found[name] = run_trial(cut_piece(scan), Orientation(), backend, 'cpu', refines_probe=False)
    assert found['right'].excess < MAX_EXCESS_RATIO / 2 * found['swapped'].excess
    assert found['right'].gain_over(found['swapped']) > 5
    # Positions that are scaled overlap differently: no trial is smoothed more than another.
    wide = Orientation(scale_positions=2.0)
    trial = run_trial(cut_piece(tiny_scan), wide, backend, 'cpu', refines_probe=False)
    assert trial.reconstruction is not None
    course = trial.reconstruction.provenance['course']
    assert course['overlap'] < 4
    assert course['total_variation'] == 0

    # In a window's worker, with the same backend: each trial is reported, and Stop takes effect.
    connection = Connection(n_trials=2)
    check_in_worker(swapped, backend, 'cpu', connection)
    *reported, done = connection.sent
    assert [report.step for report, _ in reported] == [0, 1, 2]
    for _, picture in reported[1:]:
        assert isinstance(picture, ObjectPicture)
        assert picture.object_.dtype == np.complex64
    assert done == (CheckDone('', 2), None)


def test_a_trial_is_judged_by_patterns_that_it_was_not_made_from(
    make_backend: Callable[[], Backend], tiny_scan: Scan
) -> None:
    """Held-out patterns in a wrong order change the residuals, and nothing of the object."""
    piece = cut_piece(tiny_scan)
    patterns = piece.scan.patterns.copy()
    patterns[piece.held_out] = patterns[np.roll(piece.held_out, 1)]
    spoilt = dataclasses.replace(piece, scan=dataclasses.replace(piece.scan, patterns=patterns))
    trial, of_spoilt = (
        run_trial(one, Orientation(), make_backend(), 'cpu', refines_probe=False)
        for one in (piece, spoilt)
    )
    right, wrong = trial.reconstruction, of_spoilt.reconstruction
    assert right is not None
    assert wrong is not None
    np.testing.assert_array_equal(wrong.object_, right.object_)
    assert len(trial.residuals) == len(piece.held_out)
    assert of_spoilt.residuals.mean() > 3 * trial.residuals.mean()


def test_what_no_orientation_mends_is_told_of_a_scan_that_is_right(
    make_backend: Callable[[], Backend], write_case: Callable[[str], Path]
) -> None:
    folder, backend, found = write_case('beamstop'), make_backend(), {}
    for path in (folder.parent / 'base.npz', folder / 'stop.npz'):
        piece = cut_piece(load_scan(path))
        # Without a correction of the probe nothing explains the patterns of the beamstop.
        trial = run_trial(piece, Orientation(), backend, 'cpu', refines_probe=True)
        uninformed = uninformed_residual(piece)
        check = search.Check('right', Orientation(), (trial,), (), uninformed, trial, trial)
        found[path.stem] = check.much_over_noise
    assert found['base'] is None
    assert found['stop'] == pytest.approx(3.4, abs=0.5)
    assert 'beamstop' in remainder_note(found['stop'])


class Connection:
    """Keeps what a check sends, and stops it after some trials."""

    is_host_behind = False

    def __init__(self, n_trials: int) -> None:
        self.n_trials = n_trials
        self.sent: list[tuple[Any, ReportArrays | None]] = []

    @property
    def is_stopping(self) -> bool:
        return len(self.sent) > self.n_trials

    def send(self, report: Report, arrays: ReportArrays | None = None) -> None:
        self.sent.append((report, arrays))


def command(capfd: Any, *words: object) -> dict[str, Any]:
    """Return the JSON of a command that ends well."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), '--json'])
    captured = capfd.readouterr()
    assert ended.value.code == 0, captured.err
    values: dict[str, Any] = json.loads(captured.out)
    return values


def test_options_of_the_command_mend_a_scan(
    tiny_scan: Scan, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('torch')
    monkeypatch.setenv('PTYCHOPINN_BACKEND', 'pytorch')
    # Fewer patterns and factors than usual, for speed.
    monkeypatch.setattr(trials, 'POSITIONS', 30)
    monkeypatch.setattr(search, 'SCALES', (0.8, 1.25))
    write_scan(tmp_path / 'right.npz', tiny_scan)
    wrong = reorient(dataclasses.replace(tiny_scan, object_=None), Orientation(swap_positions=True))
    write_scan(tmp_path / 'wrong.npz', wrong)
    found = command(capfd, 'check', tmp_path / 'right.npz', '-o', tmp_path / 'checked')
    assert (found['verdict'], found['options']) == ('right', [])
    assert (tmp_path / 'checked' / 'check.png').stat().st_size > 10_000
    found = command(capfd, 'check', tmp_path / 'wrong.npz')
    assert (found['verdict'], found['options']) == ('wrong', ['--swap-positions'])
    assert found['equally_good'] == [['--transpose']]
    assert found['residual'] < found['residual_as_given'] / 2
    similar, brief = [], ('--iterations', 10)
    for name, words in (('right', []), ('wrong', found['options'])):
        command(capfd, 'refine', tmp_path / f'{name}.npz', *words, *brief, '-o', tmp_path / name)
        file = tmp_path / name / 'reconstruction.npz'
        similar.append(command(capfd, 'evaluate', file, tmp_path / 'right.npz')['phase']['ssim'])
    assert similar[1] == pytest.approx(similar[0], abs=1e-3)
