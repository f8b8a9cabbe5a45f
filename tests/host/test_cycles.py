"""Cycles of train, Infer and Stop in one host process: nothing grows (a short version)."""

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import needs

pytestmark = [needs('torch'), pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')]

PROGRAM = Path(__file__).parents[2] / 'benchmarks' / 'cycles.py'


def test_five_cycles_leave_nothing_behind() -> None:
    command = [sys.executable, str(PROGRAM), '--cycles', '5']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert '5 cycles, and nothing has grown' in done.stdout
