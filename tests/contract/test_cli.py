"""The main job on the command line: train, reconstruct, evaluate, inspect."""

import csv
import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.data import Reconstruction, write_product
from ptychopinn_plugin.model_file import read_model

Call = Callable[..., dict[str, Any]]

QUICK = ('--device', 'cpu', '--target-iterations', '10', '--batch-size', '16')


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, backend_name: str
) -> Call:
    """Return a function that runs a command with --json and returns what it printed."""
    monkeypatch.setenv('PTYCHOPINN_BACKEND', backend_name)

    def run(*arguments: object) -> dict[str, Any]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), '--json'])
        captured = capfd.readouterr()
        assert ended.value.code == 0, captured.err
        return dict(json.loads(captured.out))

    return run


@pytest.fixture
def scan_file(tmp_path: Path, call: Call) -> Path:
    path = tmp_path / 'scan.npz'
    call('simulate', path, '--size', 32, '--rows', 6, '--columns', 6, '--step', 4)
    return path


def test_round_trip(tmp_path: Path, call: Call, scan_file: Path, backend_name: str) -> None:
    trained, result = tmp_path / 'run', tmp_path / 'result'
    values = call('train', scan_file, '-o', trained, '--epochs', 1, *QUICK)
    assert (values['epochs'], values['stopped'], values['backend']) == (1, 'epochs', backend_name)
    for name in ('wts.h5.zip', 'losses.csv', 'training.png', 'config.toml', 'train.log'):
        assert (trained / name).stat().st_size > 0
    assert tomllib.loads((trained / 'config.toml').read_text())['training']['epochs'] == 1
    assert backend_name.removeprefix('py') in (trained / 'train.log').read_text()
    model = trained / 'wts.h5.zip'

    values = call('reconstruct', model, scan_file, '-o', result, '--refine', 3)
    for name in ('product.h5', 'reconstruction.png', 'metrics.json'):
        assert (result / name).stat().st_size > 0
    with np.load(result / 'reconstruction.npz') as archive:
        assert archive['object'].dtype == np.complex64
        assert archive['coverage'].shape == archive['object'].shape
    timing = json.loads((result / 'timing.json').read_text())
    network = timing['predict'] + timing['stitch']
    assert timing['patterns_per_second'] == pytest.approx(36 / network)
    assert timing['total'] > timing['load'] + network + timing['refine']
    likelihoods = values['metrics']['likelihoods']
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert len(likelihoods) == 4
    assert 0 < values['metrics']['amplitude_residual'] < 1

    measured = call('evaluate', result / 'reconstruction.npz', scan_file)
    assert measured['phase']['ssim'] == pytest.approx(
        values['metrics']['evaluation']['phase']['ssim'], abs=1e-6
    )
    inspected = call('inspect', model)
    assert (inspected['kind'], inspected['backend']) == ('model', backend_name)
    assert inspected['provenance']['framework'].startswith(backend_name.removeprefix('py'))
    assert call('inspect', result / 'reconstruction.npz')['iterations'] == 3


def test_resume_is_as_if_never_stopped(tmp_path: Path, call: Call, scan_file: Path) -> None:
    options = (*QUICK, '--schedule', 'constant')
    whole, half, rest = tmp_path / 'whole', tmp_path / 'half', tmp_path / 'rest'
    call('train', scan_file, '-o', whole, '--epochs', 2, *options)
    call('train', scan_file, '-o', half, '--epochs', 1, *options)
    resume = ('--resume', half / 'wts.h5.zip', '--epochs', 2)
    call('train', scan_file, '-o', rest, *resume)
    losses = [
        [row['loss'] for row in csv.DictReader((folder / 'losses.csv').read_text().splitlines())]
        for folder in (whole, rest)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    expected, found = (read_model(folder / 'wts.h5.zip') for folder in (whole, rest))
    for name, weight in expected.weights.items():
        np.testing.assert_array_equal(weight, found.weights[name])
    assert 'epoch 2:' in (rest / 'train.log').read_text()


BREAKS_DOWN = """
import os, signal, sys
from ptychopinn_plugin.backends import checkpoints
from ptychopinn_plugin.cli import main

checkpoints.MIN_SECONDS = 0.0
checkpoints.MAX_WRITING_FRACTION = float('inf')
write = checkpoints.write_model

def write_and_die(path, model):
    write(path, model)
    # On a busy machine there are checkpoints amid an epoch, too.
    if model.provenance['epochs'] == 2:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints.write_model = write_and_die
main(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='There is no SIGKILL here.')
def test_a_killed_training_is_continued(tmp_path: Path, call: Call, scan_file: Path) -> None:
    options = ('--epochs', 3, *QUICK, '--schedule', 'constant')
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    call('train', scan_file, '-o', whole, *options)
    arguments = map(str, ('train', scan_file, '-o', killed, *options))
    run = subprocess.run([sys.executable, '-c', BREAKS_DOWN, *arguments], check=False)
    assert run.returncode == -signal.SIGKILL
    checkpoint = killed / 'checkpoint.h5.zip'
    assert call('inspect', checkpoint)['provenance']['epochs'] == 2
    call('train', scan_file, '-o', killed, '--resume', checkpoint)
    assert not checkpoint.exists()
    first, second = (read_model(folder / 'wts.h5.zip') for folder in (whole, killed))
    assert second.provenance['epochs'] == 3
    for name, weight in first.weights.items():
        np.testing.assert_array_equal(weight, second.weights[name])


def test_flat_start(tmp_path: Path, call: Call, scan_file: Path) -> None:
    values = call('refine', scan_file, '-o', tmp_path / 'flat', '--iterations', 2)
    assert values['timing']['patterns_per_second'] is None
    assert len(values['metrics']['likelihoods']) == 3
    assert (tmp_path / 'flat' / 'reconstruction.npz').is_file()


def test_a_probe_that_may_be_a_guess_is_noted(
    tmp_path: Path, call: Call, scan_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with np.load(scan_file) as archive:
        arrays = dict(archive)
    y, x = np.mgrid[-16:16, -16:16]
    arrays['probeGuess'] = arrays['probeGuess'] * np.exp(0.02j * (y**2 + x * y))
    wrong = tmp_path / 'wrong.npz'
    np.savez(wrong, **arrays)
    for command in (
        ('train', wrong, '-o', tmp_path / 'run', '--epochs', 1, *QUICK),
        ('refine', wrong, '-o', tmp_path / 'flat', '--iterations', 15),
    ):
        option = '--probe-trainable' if command[0] == 'train' else '--refine-probe'
        with pytest.raises(SystemExit):
            main([*map(str, command)])
        captured = capfd.readouterr()
        (note,) = (line for line in captured.err.splitlines() if 'shot noise' in line)
        assert note.startswith('note: ')
        assert option in note
        assert option not in captured.out
    assert '--probe-trainable' in (tmp_path / 'run' / 'train.log').read_text()


def test_the_misfit_is_in_the_figures(tmp_path: Path, call: Call, scan_file: Path) -> None:
    values = call('refine', scan_file, '-o', tmp_path / 'flat', '--iterations', 15)
    misfit = values['metrics']['misfit']
    assert misfit == json.loads((tmp_path / 'flat' / 'metrics.json').read_text())['misfit']
    assert 0.5 < misfit['times_shot_noise'] < 1.5
    assert 0 < misfit['share_of_counts'] < 0.1
    found = api.read_reconstruction(tmp_path / 'flat' / 'reconstruction.npz').misfit
    assert found is not None
    assert found.to_dict() == misfit


def test_what_a_probe_of_the_patterns_leaves_open_is_stated(
    tmp_path: Path, scan_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'flat'
    options = ('--probe-from-patterns', '--iterations', 2)
    with pytest.raises(SystemExit):
        main([*map(str, ('refine', scan_file, '-o', folder, *options))])
    captured = capfd.readouterr()
    assert 'the phase is determined up to a slope only' in captured.out
    assert "do not show whether the object's phase has a slope" in captured.err
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert metrics['probe_known'] is False
    (notes,) = metrics['notes'].values()
    assert any('A measured probe decides' in note for note in notes)
    assert not api.read_reconstruction(folder / 'reconstruction.npz').is_probe_known


def test_dark_patterns_are_noted(
    tmp_path: Path, call: Call, scan_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with np.load(scan_file) as archive:
        arrays = dict(archive)
    arrays['diff3d'][5] = 0
    np.savez(tmp_path / 'dark.npz', **arrays)
    arguments = ('refine', tmp_path / 'dark.npz', '-o', tmp_path / 'flat', '--iterations', 1)
    with pytest.raises(SystemExit):
        main([*map(str, arguments)])
    (note,) = (line for line in capfd.readouterr().err.splitlines() if 'left out' in line)
    assert note.startswith('note: ')
    assert 'left out 1 of 36 patterns' in note


def test_what_is_written_knows_its_patterns(tmp_path: Path, call: Call, scan_file: Path) -> None:
    with np.load(scan_file) as archive:
        patterns = archive['diff3d']
    write_product(tmp_path / 'product.h5', _flat_start(api.load_scan(scan_file)))
    patterns[[2, 5]] = 0
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as file:
        file['patterns'], file['indexes'] = patterns, np.arange(36) + 100
    values = call('refine', tmp_path, '-o', tmp_path / 'first', '--iterations', 5)
    assert (values['metrics']['patterns'], values['metrics']['patterns_left_out']) == (34, 2)
    expected = np.delete(np.arange(36) + 100, [2, 5])
    with h5py.File(tmp_path / 'first' / 'product.h5') as file:
        np.testing.assert_array_equal(file['probe_position_indexes'], expected)
    with np.load(tmp_path / 'first' / 'reconstruction.npz') as archive:
        np.testing.assert_array_equal(archive['pattern_indexes'], expected)
    again = call(
        *('refine', tmp_path / 'diffraction.h5', '--product', tmp_path / 'first' / 'product.h5'),
        *('-o', tmp_path / 'second', '--iterations', 5),
    )
    first, second = (each['metrics']['amplitude_residual'] for each in (values, again))
    assert second == pytest.approx(first, rel=0.05)


def _flat_start(scan: api.Scan) -> Reconstruction:
    """Return the scan's own positions, numbered from 100, and an object without structure."""
    assert scan.object_ is not None
    return Reconstruction(
        object_=np.ones_like(scan.object_),
        origin_px=np.zeros(2),
        coverage=np.ones(scan.object_.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
        backend='none',
        pattern_indexes=np.arange(len(scan)) + 100,
    )
