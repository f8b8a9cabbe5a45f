"""Docs check: the layers of docs/architecture.md and their picture are those of the imports."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('grimp')

SCRIPT = Path(__file__).parents[2] / 'docs' / 'architecture.py'


def test_the_page_and_the_picture_are_as_the_contract_and_the_imports() -> None:
    child = subprocess.run(
        [sys.executable, str(SCRIPT), '--check'],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stdout + child.stderr
