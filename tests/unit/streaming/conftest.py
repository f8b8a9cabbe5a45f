"""A small scan, and a helper that receives a whole stream."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.data import Geometry, Scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.streaming.matching import MatchedBatch, PatternMatcher
from ptychopinn_plugin.streaming.reception import Patience, Reception
from ptychopinn_plugin.streaming.sources import open_stream
from ptychopinn_plugin.streaming.store import PatternStore

LOOPBACK = {
    'EPICS_PVA_ADDR_LIST': '127.0.0.1',
    'EPICS_PVA_AUTO_ADDR_LIST': 'NO',
    'EPICS_PVAS_INTF_ADDR_LIST': '127.0.0.1',
}
"""PV Access stays on this machine."""


@pytest.fixture(autouse=True, scope='session')
def loopback() -> None:
    """Let PV Access, which reads these once, look for servers on this machine alone."""
    os.environ.update(LOOPBACK)


@pytest.fixture(scope='session')
def scan() -> Scan:
    """Return 36 patterns of 32 px, with the size of a pixel."""
    found = simulate(SimulationConfig(size=32, rows=6, columns=6, step_px=4.0, photons=1e4))
    geometry = Geometry(pixel_height_m=2e-8, pixel_width_m=2e-8, photon_energy_eV=9e3)
    return Scan(
        patterns=found.patterns,
        positions_px=found.positions_px,
        probe=found.probe,
        geometry=geometry,
        name='small',
    )


@pytest.fixture
def scan_file(tmp_path: Path, scan: Scan) -> Path:
    """Return that scan in a file."""
    write_scan(tmp_path / 'small.npz', scan)
    return tmp_path / 'small.npz'


@pytest.fixture
def start_replay(scan_file: Path) -> Any:
    """Return a function that starts a sender in a process of its own."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, '-m', 'ptychopinn_plugin', 'replay', str(scan_file), *arguments]
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def receive() -> Callable[..., tuple[Reception, MatchedBatch | None]]:
    """Return a function that receives from sources until the scan is over."""

    def run(
        *addresses: str,
        wait_s: float = 3.0,
        limit_s: float = 90.0,
        idle_s: float = 60.0,
        at_start: Callable[[Reception], None] = lambda reception: None,
    ) -> tuple[Reception, MatchedBatch | None]:
        matcher = PatternMatcher(wait_s, 1000)
        store = PatternStore(keeps=True, max_queued=1000, drops=False)
        deadline = time.monotonic() + limit_s
        with Reception(matcher, store, Patience(idle_s=idle_s)) as reception:
            at_start(reception)
            reception.begin([open_stream(each, reception.on_fault) for each in addresses])
            while not reception.is_over():
                assert time.monotonic() < deadline, reception.counts()
                time.sleep(0.02)
        count = store.n_appended
        return reception, store.read(0, count) if count else None

    return run


def check_same(batch: MatchedBatch | None, scan: Scan, unit: str) -> None:
    """Check that every pattern has come once, whole and with its own position."""
    assert batch is not None
    order = np.argsort(batch.indexes)
    np.testing.assert_array_equal(batch.indexes[order], np.arange(len(scan)))
    np.testing.assert_array_equal(batch.patterns[order], scan.patterns)
    assert batch.patterns.dtype == scan.patterns.dtype
    expected = scan.positions_px * (2e-8 if unit == 'm' else 1.0)
    np.testing.assert_allclose(batch.positions[order], expected, rtol=1e-12)
