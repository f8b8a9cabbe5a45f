"""Check a scan in the worker's process: what `ptychopinn check` does with a file."""

import dataclasses
from typing import Protocol

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.checking.search import Check, check_scan, is_clearly_less
from ptychopinn_plugin.checking.trials import Trial
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.readers.frame_centre import centred, find_beam_center
from ptychopinn_plugin.host.worker.arrays import CheckPictures, ObjectPicture, ReportArrays
from ptychopinn_plugin.host.worker.messages import CheckDone, Report, RunProgress
from ptychopinn_plugin.orientation import AxisChange

TILES = (2, 3)
"""The picture of several trials has these numbers of rows and columns."""

GAP_PX = 2
"""This number of pixels lies between two trials."""

TRIAL_COVERAGE = 0.1
"""An object is shown where its coverage is at least this."""


class Connection(Protocol):
    """What a check needs of `server.HostConnection`."""

    @property
    def is_stopping(self) -> bool:
        """Whether the host has requested the end of the job."""
        ...

    @property
    def is_host_behind(self) -> bool:
        """Whether the host has not copied all arrays that were sent."""
        ...

    def send(self, report: Report, arrays: ReportArrays | None = None) -> None:
        """Send a report, with arrays beside it."""
        ...


class _Stopped(Exception):
    """The host has requested the end of the check."""


def check_in_worker(scan: Scan, backend: Backend, device: str, connection: Connection) -> None:
    """Make the trials, report each, and send what they show.

    Parameters
    ----------
    scan : Scan
    backend : Backend
    device : str
    connection : Connection
    """
    n_trials = 0

    def report(number: int, trial: Trial) -> None:
        nonlocal n_trials
        n_trials = number
        has_picture = trial.reconstruction is not None and not connection.is_host_behind
        connection.send(
            RunProgress('check', number, 0), ObjectPicture(_shown(trial)) if has_picture else None
        )
        if connection.is_stopping:
            raise _Stopped

    try:
        connection.send(RunProgress('check', 0, 0))
        centred_scan, beam_center_px = _with_beam_in_the_middle(scan, backend, device)
        found = check_scan(centred_scan, backend, device=device, on_trial=report)
    except _Stopped:
        connection.send(CheckDone('', n_trials))
        return
    connection.send(_done(found, beam_center_px, n_trials), _pictures(found))


def _with_beam_in_the_middle(
    scan: Scan, backend: Backend, device: str
) -> tuple[Scan, tuple[int, ...]]:
    """Return the scan with the beam in the middle, and where it was, if that explains more."""
    assert scan.bad_pixels is not None
    beam_center_px = find_beam_center(scan.patterns, scan.bad_pixels, scan.probe)
    if beam_center_px is None:
        return scan, ()
    # Scans of the near field are refused before they come here.
    patterns, bad_pixels, *_ = centred(
        *(scan.patterns, scan.bad_pixels, scan.probe, beam_center_px), is_near_field=False
    )
    moved = dataclasses.replace(scan, patterns=patterns, bad_pixels=bad_pixels)
    return (
        (moved, (int(beam_center_px[0]), int(beam_center_px[1])))
        if is_clearly_less(moved, scan, backend, device=device)
        else (scan, ())
    )


def _done(found: Check, beam_center_px: tuple[int, ...], n_trials: int) -> CheckDone:
    is_right_but_for_the_beam = found.verdict == 'right' and bool(beam_center_px)
    return CheckDone(
        'wrong' if is_right_but_for_the_beam else found.verdict,
        n_trials,
        found.orientation,
        found.equals,
        () if found.verdict == 'unclear' else beam_center_px,
        _finite(found.best.residual),
        _finite(found.given.residual),
        _finite(found.uninformed_residual),
        found.best.refines_probe,
        found.much_over_noise,
    )


def _finite(value: float) -> float:
    """Return a number that JSON can write; -1 stands for a trial that could not be made."""
    return float(value) if np.isfinite(value) else -1.0


def _pictures(found: Check) -> CheckPictures:
    made = [trial for trial in found.trials if trial.reconstruction is not None]
    given = best = trials = None
    if found.given.reconstruction is not None:
        given = _shown(found.given)
    if found.best.reconstruction is not None and found.best is not found.given:
        # Positions that are turned back, in place of patterns, give the object turned back.
        is_turned_back = found.orientation.of_patterns == AxisChange()
        change = found.best.orientation.of_patterns if is_turned_back else AxisChange()
        best = _turned_back(_shown(found.best), change)
    if made:
        trials = _tiled([_shown(trial) for trial in made[: TILES[0] * TILES[1]]])
    return CheckPictures(given, best, trials)


def _shown(trial: Trial) -> ComplexArray:
    """Return the part of a trial's object that patterns cover, with a mean phase of zero."""
    found = trial.reconstruction
    assert found is not None
    box = found.covered_box(TRIAL_COVERAGE)
    object_ = np.where(found.coverage[box] >= TRIAL_COVERAGE, found.object_[box], 0)
    total = object_.sum()
    in_phase = object_ * np.conj(total / max(abs(total), 1e-30))
    return np.asarray(in_phase, dtype=np.complex64)


def _turned_back(object_: ComplexArray, change: AxisChange) -> ComplexArray:
    """Return a picture as it was before its axes were changed."""
    rows = slice(None, None, -1 if change.reverse_y else 1)
    columns = slice(None, None, -1 if change.reverse_x else 1)
    before = object_[rows, columns]
    return np.ascontiguousarray(before.T if change.swap else before)


def _tiled(objects: list[ComplexArray]) -> ComplexArray:
    """Return several objects in one picture, row by row."""
    rows, columns = TILES
    height, width = (min(object_.shape[axis] for object_ in objects) for axis in (0, 1))
    sheet = np.zeros(
        (rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX), np.complex64
    )
    for number, object_ in enumerate(objects):
        row, column = divmod(number, columns)
        top, left = row * (height + GAP_PX), column * (width + GAP_PX)
        first = [(object_.shape[0] - height) // 2, (object_.shape[1] - width) // 2]
        sheet[top : top + height, left : left + width] = object_[
            first[0] : first[0] + height, first[1] : first[1] + width
        ]
    return sheet
