"""Commands that several processes do together, as users start them."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec('torch') is None:
    pytest.skip('PyTorch is not installed.', allow_module_level=True)

from ranks.conftest import LaunchRanks
from ranks.jobs import make_scan

from ptychopinn_plugin.backends.common.ranks import SeveralRanks, using_ranks
from ptychopinn_plugin.cli.reconstruct import RECONSTRUCTION_FILES
from ptychopinn_plugin.cli.train import TRAINING_FILES
from ptychopinn_plugin.data import read_reconstruction, write_scan
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.model_file import read_model

PROGRAM = [sys.executable, '-m', 'ptychopinn_plugin']
TORCHRUN = [
    sys.executable,
    '-m',
    'torch.distributed.run',
    '--local-addr',
    '127.0.0.1',
    '--nproc-per-node',
    '2',
]
LONG = ('--target-iterations', '10', '--epochs', '100000', '--device', 'cpu')

WITH_CHECKPOINTS = """
import sys
from ptychopinn_plugin.backends import checkpoints
checkpoints.MIN_SECONDS = 0.0
from ptychopinn_plugin.cli import main
main(sys.argv[1:])
"""
"""It writes a checkpoint after each epoch."""


@pytest.fixture(scope='module')
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('scan') / 'scan.npz'
    write_scan(path, make_scan())
    return path


def run(command: list[str], *without: str) -> 'subprocess.CompletedProcess[str]':
    without = ('PTYCHOPINN_BACKEND', *without)
    environment = {k: v for k, v in os.environ.items() if k not in without}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def test_torchrun_reconstructs(scan: Path, tmp_path: Path) -> None:
    """One set of files, one report, and the object of one process."""
    options = ['--iterations', '2', '--device', 'cpu', '--json']
    both = ['-m', 'ptychopinn_plugin', 'refine', str(scan), '-o', str(tmp_path / 'both'), *options]
    # torchrun looks up the name of its own machine, which no other test may.
    found = run([*TORCHRUN, *both], 'PTYCHOPINN_NETWORK_LOG')
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)['metrics']['provenance']['ranks'] == 2
    assert sorted(p.name for p in (tmp_path / 'both').iterdir()) == sorted(RECONSTRUCTION_FILES)
    alone = run([*PROGRAM, 'refine', str(scan), '-o', str(tmp_path / 'alone'), *options])
    assert 'ranks' not in json.loads(alone.stdout)['metrics']['provenance']
    objects = [
        read_reconstruction(tmp_path / name / 'reconstruction.npz').object_
        for name in ('both', 'alone')
    ]
    assert np.linalg.norm(objects[0] - objects[1]) < 1e-4 * np.linalg.norm(objects[1])


def test_devices_starts_as_many_processes(scan: Path, tmp_path: Path) -> None:
    output = tmp_path / 'run'
    brief = ['--target-iterations', '10', '--epochs', '1', '--device', 'cpu', '--devices', '2']
    found = run([*PROGRAM, 'train', str(scan), '-o', str(output), *brief, '--json'])
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)['epochs'] == 1
    assert sorted(path.name for path in output.iterdir()) == sorted(TRAINING_FILES)
    assert read_model(output / 'wts.h5.zip').provenance['ranks'] == 2
    with (output / 'losses.csv').open() as file:
        assert len(list(csv.DictReader(file))) == 1
    # One process logs.
    assert (output / 'train.log').read_text().count('stage: train') == 1


def test_an_error_is_told_once(tmp_path: Path) -> None:
    command = ['refine', str(tmp_path / 'none.npz'), '-o', str(tmp_path / 'out'), '--devices', '2']
    found = run([*PROGRAM, *command])
    assert found.returncode == 2
    assert found.stdout == ''
    (line,) = found.stderr.splitlines()
    assert line.startswith('error: There is no file')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('killed', [1, 0])
def test_a_killed_rank_ends_the_training(
    launch_ranks: LaunchRanks, scan: Path, tmp_path: Path, killed: int
) -> None:
    """One line names the rank and the last checkpoint; no file is half written."""
    output = tmp_path / 'run'
    command = ['-c', WITH_CHECKPOINTS, 'train', str(scan), '-o', str(output), *LONG]
    ranks = launch_ranks(2, command)
    checkpoint = output / 'checkpoint.h5.zip'
    end = time.monotonic() + 200
    while not checkpoint.exists():
        assert time.monotonic() < end, 'no checkpoint came'
        assert ranks[0].poll() is None, ranks[0].communicate()
        time.sleep(0.1)
    # Others own no folder.
    assert (output / '.ptychopinn.lock').exists()
    ranks[killed].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    teller = ranks[1 - killed]
    printed, errors = teller.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    assert teller.returncode not in (0, -signal.SIGKILL)
    (line,) = errors.splitlines()
    assert line.startswith(f'error: Rank {killed} ')
    assert 'killed or lost' in line
    assert line.endswith(f'--resume {checkpoint}.')
    assert printed == ''
    final = {path.name for path in output.iterdir() if not path.name.startswith('.')}
    assert final <= {'checkpoint.h5.zip', 'checkpoint.h5.predecessor.zip'}
    assert read_model(checkpoint).training_state is not None


def test_a_signal_ends_all_in_order(launch_ranks: LaunchRanks, scan: Path, tmp_path: Path) -> None:
    """Launchers send SIGTERM to each process; rank 0 writes the best so far."""
    output = tmp_path / 'run'
    command = ['-c', WITH_CHECKPOINTS, 'train', str(scan), '-o', str(output), *LONG]
    ranks = launch_ranks(2, command)
    end = time.monotonic() + 200
    while not (output / 'checkpoint.h5.zip').exists():
        assert time.monotonic() < end, 'no checkpoint came'
        time.sleep(0.1)
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    results = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], results
    assert results[1] == ('', '')
    assert sorted(path.name for path in output.iterdir()) == sorted(TRAINING_FILES)


@pytest.mark.parametrize('name', ['cuda:0', 'mps'])
def test_no_two_ranks_take_one_device(name: str) -> None:
    from ptychopinn_plugin.backends.pytorch.device import choose_device

    with (
        using_ranks(SeveralRanks(0, 2)),
        pytest.raises(ConfigError, match=f'a device of its own.*got {name}'),
    ):
        choose_device(name)
