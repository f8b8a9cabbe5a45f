"""Shared memory goes with the process that owns it, even where all of it was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.host.worker import jobs
from ptychopinn_plugin.host.worker.arrays import ReportArrays
from ptychopinn_plugin.host.worker.blocks import FOLDER, create_block, remove_orphans
from ptychopinn_plugin.host.worker.ipc import SharedArrays
from ptychopinn_plugin.host.worker.jobs import Reporter
from ptychopinn_plugin.host.worker.messages import Report

KEEP_BLOCK = """
import sys, time
from ptychopinn_plugin.host.worker.blocks import create_block
block = create_block(4096)
print(block.name, flush=True)
time.sleep(600)
"""

needs_list = pytest.mark.skipif(not FOLDER.is_dir(), reason='this system lists no shared memory')


@needs_list
def test_a_start_removes_what_a_killed_group_has_left() -> None:
    child = subprocess.Popen(
        [sys.executable, '-c', KEEP_BLOCK], stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    name = child.stdout.readline().decode().strip()
    mine = create_block(1)
    try:
        remove_orphans()
        assert (FOLDER / name).exists(), 'its owner is alive'
        # With the resource tracker, which is of the same group.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        # Another worker of the tests may be quicker.
        remove_orphans()
        assert not (FOLDER / name).exists()
        assert (FOLDER / mine.name).exists()
    finally:
        mine.close()
        mine.unlink()


@needs_list
def test_other_names_are_left_alone(tmp_path: Path) -> None:
    for name in ('psm_1234', 'ppnn-else', 'ppnn-ffff-1-1-0', 'ppnn-0000-1-1-0'):
        (tmp_path / name).touch()
    remove_orphans(tmp_path)
    assert len(list(tmp_path.iterdir())) >= 3


def test_pictures_wait_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen window holds one picture, however long the run goes on."""
    monkeypatch.setattr(jobs, 'PREVIEW_S', 0.0)
    monkeypatch.setattr(jobs, 'REPORT_S', 0.0)
    shared = SharedArrays()
    names: list[str] = []
    reports = []

    class Frozen:
        is_stopping = False

        @property
        def is_host_behind(self) -> bool:
            return len(shared) > 0

        def send(self, report: Report, arrays: ReportArrays | None = None) -> None:
            reports.append(report)
            names.extend(array.block for array in shared.share_fields(arrays).values())

        def confirm_read(self, block: str) -> None:
            raise AssertionError

    reporter = Reporter(Frozen())
    picture = np.ones((4, 4), np.complex64)
    try:
        for step in range(5):
            reporter(Progress('refine', step, 9, object_=picture, origin_px=np.zeros(2)))
        assert len(names) == 2
        assert len(reports) == 5
        for name in names[:]:
            shared.release(name)
        reporter(Progress('refine', 6, 9, object_=picture, origin_px=np.zeros(2)))
        assert len(names) == 4
    finally:
        shared.release_all()
