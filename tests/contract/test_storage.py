"""A scan that lies in a file gives what it gives in memory, and takes no more memory for it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.storage.scratch import is_stored

CPU = InferenceConfig(device='cpu')


@pytest.fixture(scope='module')
def scan_file(tiny_scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('scan') / 'scan.npz'
    write_scan(path, tiny_scan)
    return path


def test_the_same_object(make_backend: Any, tiny_model: Any, scan_file: Path) -> None:
    inside, outside = load_scan(scan_file), load_scan(scan_file, max_memory_gib=0)
    assert is_stored(outside.patterns)
    assert not is_stored(inside.patterns)
    assert any('temporary file' in note for note in outside.notes)
    known = {'total_variation': 0.5, 'max_amplitude': 1.2, 'probe_radius': 11.0}
    settings = RefinementConfig(iterations=6, probe=True, **known)
    for reconstruct in (
        lambda scan: make_backend().refine(scan, settings, device='cpu'),
        lambda scan: tiny_model.reconstruct(scan, CPU, settings),
    ):
        objects = [reconstruct(scan).object_ for scan in (inside, outside)]
        np.testing.assert_allclose(objects[1], objects[0], atol=2e-5)


def test_the_same_training(make_backend: Any, brief: Any, scan_file: Path) -> None:
    losses = []
    for limit in (None, 0):
        scan = load_scan(scan_file, max_memory_gib=limit)
        result = make_backend().train([scan], brief())
        losses.append([row['loss'] for row in result.history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


_PROGRAM = """
import sys
from pathlib import Path
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import load_scan
from ptychopinn_plugin.storage import scratch

# Of 256 MiB in files, pages are given back often enough to show apart from those of the program.
scratch.MAX_RESIDENT_BYTES = 8 << 20

def resident_mib():
    text = Path('/proc/self/status').read_text()
    return int(text.split('VmRSS:')[1].split()[0]) / 1024

def largest_growth(path, limit):
    before, most = resident_mib(), 0.0

    def watch(progress):
        nonlocal most
        most = max(most, resident_mib())

    scan = load_scan(path, max_memory_gib=limit)
    settings = RefinementConfig(iterations=1, batch_size=32)
    backend.refine(scan, settings, device='cpu', observer=watch)
    return most - before

backend = create_backend(sys.argv[1])
small, large = map(Path, sys.argv[2:])
# What the framework takes once and for all is taken by the first.
largest_growth(small, 8)
print('grew', largest_growth(large, 0.03), largest_growth(large, 8))
"""


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='Linux lists resident memory.')
def test_memory_stays_flat(backend_name: str, tmp_path: Path) -> None:
    one = simulate(SimulationConfig(size=64, rows=16, columns=32, step_px=4.0))
    # Each position is measured 16 times, so that the canvas stays small.
    large = one.subset(np.tile(np.arange(len(one)), 16))
    paths = tmp_path / 'small.npz', tmp_path / 'large.npz'
    for path, scan in zip(paths, (one, large), strict=True):
        write_scan(path, scan)
    done = subprocess.run(
        [sys.executable, '-c', _PROGRAM, backend_name, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    in_a_file, in_memory = map(float, done.stdout.split('grew')[1].split())
    # The patterns take 128 MiB more, and their roots as much.
    assert in_memory > 220
    assert in_a_file < in_memory / 2
