"""``ptychodus -b``: the unmodified command on real files, and the same from our own command."""

import dataclasses
import datetime
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin.data import Scan, read_reconstruction, write_scan
from ptychopinn_plugin.model_file import read_model

from .conftest import needs, write_batch_folder
from .hosts import WITHOUT_PTYCHI, python_path

pytestmark = needs('torch')

WriteFolder = Callable[..., Path]

OUR_COMMAND = 'from ptychopinn_plugin.cli import main; main()'


def ptychodus(
    action: str, source: Path, target: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Ptychodus as a user would who has no Pty-Chi; `test_geometry` runs it with both."""
    return subprocess.run(
        _command(action, source, target),
        env={**_variables(), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _command(action: str, source: Path, target: Path) -> list[str]:
    words = ['-m', 'ptychodus', '-b', action, '-i', str(source), '-o', str(target)]
    return [sys.executable, *words]


def _variables() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != 'PTYCHOPINN_BACKEND'}
    return {**kept, 'PYTHONPATH': python_path(WITHOUT_PTYCHI)}


def _lines(run: subprocess.CompletedProcess[str], level: str) -> list[str]:
    """Return what our logger writes at a level."""
    start = f'[{level}] ptychopinn_plugin: '
    return [line.partition(start)[2] for line in run.stdout.splitlines() if start in line]


@pytest.fixture(scope='module')
def model_file(tmp_path_factory: pytest.TempPathFactory, small_scan: Scan) -> Path:
    """Return a model that batch mode trained on an exported scan."""
    folder = tmp_path_factory.mktemp('batch')
    write_batch_folder(folder / 'in', small_scan, epochs=8)
    write_scan(folder / 'in' / 'train_data.npz', small_scan)
    run = ptychodus('train', folder / 'in', folder / 'out')
    assert run.returncode == 0, run.stdout + run.stderr
    assert any('train_data.npz); 8 epochs' in line for line in _lines(run, 'INFO'))
    assert sum(re.match(r'Epoch \d+: ', line) is not None for line in _lines(run, 'INFO')) == 8
    return folder / 'out' / 'model.zip'


def test_training_on_an_export_leaves_a_model(model_file: Path) -> None:
    model = read_model(model_file)
    assert model.config.training.epochs == 8
    assert model.config.model.pattern_size == 32
    assert model.training_state is not None


def test_training_without_an_export_takes_the_pair(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / 'in', epochs=1, more='KeepTrainingState = False')
    run = ptychodus('train', source, tmp_path / 'out')
    assert run.returncode == 0, run.stdout + run.stderr
    model = read_model(tmp_path / 'out' / 'model.zip')
    assert model.data_summary['patterns'] == 80
    assert model.training_state is None


def _seconds_of_lines(text: str) -> list[float]:
    """Return when each of our lines was written, in seconds."""
    times = re.findall(r'^(\S+ \S+),(\d+) \[[A-Z]+\] ptychopinn_plugin: ', text, re.MULTILINE)
    return [
        datetime.datetime.fromisoformat(whole).timestamp() + int(thousandths) / 1000
        for whole, thousandths in times
    ]


def test_a_long_run_writes_a_line_every_ten_seconds(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    """Both actions at a time, as the test waits for the second line of each."""
    source = write_folder(tmp_path / 'in', iterations=100_000)
    settings = source / 'settings.ini'
    text = settings.read_text()
    settings.write_text(text.replace('TargetIterations = 10', 'TargetIterations = 100000'))
    stages = {'reconstruct': 'Refinement, iteration', 'train': 'Target reconstruction, '}
    logs = {action: tmp_path / f'{action}.txt' for action in stages}
    runs = {}
    try:
        for action, log in logs.items():
            with log.open('w') as output:
                runs[action] = subprocess.Popen(
                    _command(action, source, tmp_path / action),
                    env={**_variables(), 'PYTHONUNBUFFERED': '1'},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        begun = time.monotonic()
        while any(logs[action].read_text().count(stages[action]) < 2 for action in stages):
            for action, run in runs.items():
                assert run.poll() is None, logs[action].read_text()
                assert time.monotonic() - begun < 300, logs[action].read_text()
            time.sleep(0.2)
    finally:
        for run in runs.values():
            run.kill()
            run.wait()
    for log in logs.values():
        assert np.diff(_seconds_of_lines(log.read_text())).max() < 11, log.read_text()


FAR = (
    'neighbouring illuminations must overlap',
    'alone with "Single shot" in the box Run',
)


@pytest.mark.parametrize(
    ('action', 'is_far', 'words'),
    [
        ('reconstruct', True, FAR),
        ('train', True, FAR),
        ('train', False, ('A group holds 4 patterns, but there are only 3.',)),
    ],
)
def test_a_scan_that_cannot_be_fails_before_a_framework_is_imported(
    small_scan: Scan,
    write_folder: WriteFolder,
    tmp_path: Path,
    action: str,
    is_far: bool,
    words: tuple[str, ...],
) -> None:
    scan = small_scan.subset(np.arange(3))
    if is_far:
        scan = dataclasses.replace(small_scan, positions_px=60 * small_scan.positions_px)
    package, sign = tmp_path / 'first' / 'torch', tmp_path / 'imported'
    package.mkdir(parents=True)
    code = f'import pathlib\npathlib.Path({str(sign)!r}).touch()\nraise ImportError("not now")\n'
    (package / '__init__.py').write_text(code)
    paths = python_path(package.parent, WITHOUT_PTYCHI)
    source = write_folder(tmp_path / 'in', scan=scan, more='ModelGridsize = 2')
    run = ptychodus(action, source, tmp_path / 'out', PYTHONPATH=paths)
    assert run.returncode != 0
    (line,) = _lines(run, 'ERROR')
    for part in words:
        assert part in line
    assert '--' not in line
    assert not sign.exists()


@pytest.mark.skipif(not hasattr(os, 'killpg'), reason='There are no process groups here.')
def test_ctrl_c_ends_a_training_with_its_model(write_folder: WriteFolder, tmp_path: Path) -> None:
    source = write_folder(tmp_path / 'in', epochs=100_000)
    log = tmp_path / 'log.txt'
    with log.open('w') as output:
        run = subprocess.Popen(
            _command('train', source, tmp_path / 'out'),
            env={**_variables(), 'PYTHONUNBUFFERED': '1'},
            stdout=output,
            stderr=subprocess.STDOUT,
            # As in a terminal, whose Ctrl-C reaches the worker too.
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120.0
        while 'Epoch 2: ' not in log.read_text():
            assert run.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(60.0) != 0, 'an interrupted command has not succeeded'
    finally:
        run.kill()
        run.wait()
    assert 'until it was stopped' in log.read_text()
    assert read_model(tmp_path / 'out' / 'model.zip').config.training.epochs == 100_000


def test_fine_tuning_starts_from_the_model_of_the_folder(
    model_file: Path, write_folder: WriteFolder, tmp_path: Path
) -> None:
    source = write_folder(
        tmp_path / 'in', epochs=1, more='FineTune = True\nTrainingLearningRate = 0'
    )
    run = ptychodus('train', source, tmp_path / 'out')
    assert run.returncode != 0
    (line,) = _lines(run, 'ERROR')
    assert 'Fine-tuning needs a trained model' in line
    (source / 'model.zip').write_bytes(model_file.read_bytes())
    run = ptychodus('train', source, tmp_path / 'out')
    assert run.returncode == 0, run.stdout + run.stderr
    before, after = read_model(model_file), read_model(tmp_path / 'out' / 'model.zip')
    # Nothing was learned in steps of no length, so what is there is where it began.
    for name, weights in before.weights.items():
        np.testing.assert_array_equal(after.weights[name], weights)


def test_reconstruction_equals_that_of_our_command(
    model_file: Path, write_folder: WriteFolder, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / 'in', iterations=3)
    (source / 'model.zip').write_bytes(model_file.read_bytes())
    run = ptychodus('reconstruct', source, tmp_path / 'out')
    assert run.returncode == 0, run.stdout + run.stderr
    products = sorted((tmp_path / 'out').glob('product.*.h5'))
    reported = _lines(run, 'INFO')
    assert any(line.startswith('Prediction, pass 2 of 2, ') for line in reported), reported
    assert any(line.startswith('3 iterations, on 80 patterns (predict ') for line in reported), (
        reported
    )
    # Two passes and three iterations: the number is the progress.
    assert products[-1].name == 'product.000005.h5'
    arguments = [str(model_file), str(source), '--output', str(tmp_path / 'ours'), '--refine', '3']
    subprocess.run(
        [sys.executable, '-c', OUR_COMMAND, 'reconstruct', *arguments],
        check=True,
        capture_output=True,
        timeout=300,
    )
    ours = read_reconstruction(tmp_path / 'ours' / 'reconstruction.npz')
    with h5py.File(products[-1]) as file:
        np.testing.assert_allclose(file['object'][0], ours.object_, atol=1e-4)
        losses = file['loss_values'][()]
        np.testing.assert_array_equal(file['loss_epochs'], np.arange(4))
    np.testing.assert_allclose(losses, ours.likelihoods, rtol=1e-4)
    assert losses[-1] < losses[0]


def test_patterns_of_another_unit_become_photons(
    small_scan: Scan, model_file: Path, write_folder: WriteFolder, tmp_path: Path
) -> None:
    """Normalized patterns with *Photons* train and infer as the counts themselves do."""
    counts = small_scan.patterns.astype(np.float32)
    scan = dataclasses.replace(small_scan, patterns=counts / counts.max())
    photons = small_scan.mean_counts()
    source = write_folder(tmp_path / 'in', scan=scan, epochs=1, more=f'Photons = {photons!r}')
    run = ptychodus('train', source, tmp_path / 'trained')
    assert run.returncode == 0, run.stdout + run.stderr
    assert read_model(tmp_path / 'trained' / 'model.zip').photons == pytest.approx(photons)
    (source / 'model.zip').write_bytes(model_file.read_bytes())
    run = ptychodus('reconstruct', source, tmp_path / 'out')
    assert run.returncode == 0, run.stdout + run.stderr
    # What was normalized is no whole numbers, and nothing is smoothed.
    settings = pp.RefinementConfig(iterations=3, total_variation=0)
    wanted = pp.reconstruct(model_file, small_scan, refinement=settings)
    with h5py.File(max((tmp_path / 'out').glob('product.*.h5'))) as file:
        np.testing.assert_allclose(file['object'][0], wanted.object_, atol=5e-3)


def test_without_a_model_the_built_in_one_reconstructs(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    run = ptychodus('reconstruct', write_folder(tmp_path / 'in'), tmp_path / 'out')
    assert run.returncode == 0, run.stdout + run.stderr
    assert any(line.endswith('Model: built-in model.') for line in _lines(run, 'INFO'))
    assert list((tmp_path / 'out').glob('product*'))


def test_a_missing_backend_is_an_error_and_no_other_steps_in(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / 'in', epochs=1)
    run = ptychodus('train', source, tmp_path / 'out', PTYCHOPINN_BACKEND='jax')
    assert run.returncode != 0
    (line,) = _lines(run, 'ERROR')
    assert "'jax'" in line
    assert 'pytorch' in line
    assert not (tmp_path / 'out' / 'model.zip').exists()


def test_settings_that_cannot_be_keep_their_defaults(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / 'in', epochs=1, more='TrainingBatchSize = many')
    run = ptychodus('train', source, tmp_path / 'out')
    assert run.returncode == 0, run.stdout + run.stderr
    (line,) = _lines(run, 'WARNING')
    assert 'TrainingBatchSize' in line
    assert "'many'" in line
    assert read_model(tmp_path / 'out' / 'model.zip').config.training.batch_size == 32


def test_a_model_of_ptychopinn_itself(
    real_data: Path, write_folder: WriteFolder, tmp_path: Path
) -> None:
    old = real_data / 'legacy' / 'tf_gs1' / 'wts.h5.zip'
    if not old.is_file():
        pytest.skip('No model files of PtychoPINN here.')
    source = write_folder(tmp_path / 'in', iterations=3)
    (source / 'model.zip').write_bytes(old.read_bytes())
    run = ptychodus('reconstruct', source, tmp_path / 'out')
    assert run.returncode == 0, run.stdout + run.stderr
    products = sorted((tmp_path / 'out').glob('product.*.h5'))
    with h5py.File(products[-1]) as file:
        losses = file['loss_values'][()]
    assert losses[-1] < losses[0]
