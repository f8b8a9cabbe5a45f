"""A run that drops what does not fit: two runs that share one limit, and what Stop leaves."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.outliers import reconstruct_without_outliers
from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.pattern_fit import Outlier, PatternFit
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate(SimulationConfig(size=16, rows=8, columns=8, step_px=3.0, pupil_radius=0.2))


class Runs:
    """Two runs of ten seconds, the first of which finds an outlier."""

    def __init__(self, scan: Scan, outlier: bool = True) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self.limits: list[float | None] = []
        self._scan, self._outlier = scan, outlier

    def __call__(self, scan: Scan, observer: Observer, limit_s: float | None) -> Reconstruction:
        self.limits.append(limit_s)
        self.sizes.append(len(scan))
        self.now += 10
        observer(Progress('refine', len(self.sizes), 2))
        outliers: tuple[Outlier, ...] = ()
        if self._outlier and len(self.sizes) == 1:
            fields = {field.name: 0 for field in dataclasses.fields(Outlier)}
            outliers = (Outlier(**{**fields, 'pattern_index': 5}),)  # type: ignore[arg-type]
        object_ = np.ones((4, 4), np.complex64)
        return Reconstruction(
            object_,
            origin_px=np.zeros(2),
            coverage=np.ones((4, 4)),
            probe=scan.probe,
            positions_px=scan.positions_px,
            backend='none',
            likelihoods=tuple(range(20)),
            pattern_fit=PatternFit(np.ones(len(scan)), np.ones(len(scan)), outliers),
        )

    def clock(self) -> float:
        return self.now


def reconstruct(
    runs: Runs, scan: Scan, stop: Callable[[Progress], Any] = lambda progress: False
) -> Reconstruction:
    return reconstruct_without_outliers(scan, runs, stop, limit_s=40.0, clock=runs.clock)


def test_the_second_run_gets_what_the_first_has_left(scan: Scan) -> None:
    runs = Runs(scan)
    found = reconstruct(runs, scan)
    assert runs.sizes == [64, 63]
    assert runs.limits == [20.0, 30.0]
    assert len(found.dropped) == 1


def test_a_scan_without_outliers_is_reconstructed_once(scan: Scan) -> None:
    runs = Runs(scan, outlier=False)
    assert reconstruct(runs, scan).dropped == ()
    assert runs.sizes == [64]


def test_a_stop_of_the_second_run_keeps_the_first(
    scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = reconstruct(Runs(scan), scan, lambda progress: progress.step == 2)
    assert len(found.positions_px) == 64
    assert found.dropped == ()
    assert 'the object of all patterns is kept' in caplog.text
