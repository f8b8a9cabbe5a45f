"""Every command from its arguments to its files, with a backend that needs no framework."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.archive import read_model
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import read_reconstruction

TRAINED = ['config.toml', 'losses.csv', 'train.log', 'training.png', 'wts.h5.zip']
RECONSTRUCTED = [
    'metrics.json',
    'product.h5',
    'reconstruction.npz',
    'reconstruction.png',
    'timing.json',
]

Run = Callable[..., Any]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_train_leaves_its_files(run: Run, scan_file: Path, tmp_path: Path) -> None:
    output = tmp_path / 'deep' / 'run'
    outcome = run('train', scan_file, scan_file, '--epochs', 3, '-o', output)
    assert outcome.code == 0
    assert outcome.err == ''
    assert 'Trained on 84 patterns of 2 scans with fake on cpu: 3 epochs' in outcome.out
    assert names_in(output) == TRAINED
    with (output / 'losses.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [float(row['loss']) for row in rows] == pytest.approx([1, 1 / 2, 1 / 3])
    log = (output / 'train.log').read_text()
    assert 'backend fake (auto)' in log
    assert 'epoch 3: loss 0.3333' in log
    config = Config.from_toml(output / 'config.toml')
    assert config.model.pattern_size == 32
    assert config.training.epochs == 3


def test_json_is_all_that_train_prints(run: Run, scan_file: Path, tmp_path: Path) -> None:
    outcome = run('train', scan_file, '--epochs', 1, '-o', tmp_path / 'run', '--json')
    values = json.loads(outcome.out)
    assert values['backend'] == 'fake'
    assert values['patterns'] == 42
    assert values['stopped'] == 'epochs'
    assert Path(values['model']).is_file()


def test_a_named_option_beats_set_which_beats_the_file(
    run: Run, scan_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / 'given.toml'
    file.write_text('[training]\nepochs = 5\nbatch_size = 7\nseed = 3\n')
    run(
        *('train', scan_file, '-o', tmp_path / 'run', '--config', file),
        *('--set', 'training.epochs=4', '--set', 'training.batch-size=8', '--epochs', 2),
    )
    training = Config.from_toml(tmp_path / 'run' / 'config.toml').training
    assert (training.epochs, training.batch_size, training.seed) == (2, 8, 3)


def test_resume_continues_and_keeps_settings(run: Run, model_file: Path, scan_file: Path) -> None:
    output = model_file.parent.parent / 'longer'
    outcome = run('train', scan_file, '--resume', model_file, '--epochs', 5, '-o', output)
    assert outcome.code == 0
    assert len((output / 'losses.csv').read_text().splitlines()) == 6
    assert 'epoch 3: loss' in (output / 'train.log').read_text()
    assert 'epoch 2: loss' not in (output / 'train.log').read_text()


def test_inference_only_model_cannot_resume(
    run: Run, fails: Callable[..., str], scan_file: Path, tmp_path: Path
) -> None:
    run('train', scan_file, '--epochs', 1, '--inference-only', '-o', tmp_path / 'a')
    model = tmp_path / 'a' / 'wts.h5.zip'
    assert read_model(model).training_state is None
    error = fails('train', scan_file, '--resume', model, '--epochs', 3, '-o', tmp_path / 'b')
    assert '--base-model' in error
    outcome = run('train', scan_file, '--base-model', model, '--epochs', 1, '-o', tmp_path / 'c')
    assert outcome.code == 0


def test_interrupt_keeps_what_was_trained(
    run: Run, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptychopinn_plugin.cli.progress import RunProgress

    shown = RunProgress.__call__

    def interrupt(self: RunProgress, progress: Any) -> bool:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return shown(self, progress)

    monkeypatch.setattr(RunProgress, '__call__', interrupt)
    outcome = run('train', scan_file, '--epochs', 50, '-o', tmp_path / 'run', '--json')
    assert outcome.code == 0
    assert json.loads(outcome.out)['stopped'] == 'request'
    assert 'Stopping; the best so far is kept.' in outcome.err
    assert names_in(tmp_path / 'run') == TRAINED


def test_interrupt_before_the_run_leaves_nothing(
    run: Run, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('ptychopinn_plugin.data.load_scan', interrupt)
    assert run('train', scan_file, '-o', tmp_path / 'run').code == 130
    assert not (tmp_path / 'run').exists()


def test_reconstruct_leaves_its_files(run: Run, model_file: Path, scan_file: Path) -> None:
    output = model_file.parent.parent / 'result'
    outcome = run('reconstruct', model_file, scan_file, '--refine', 4, '-o', output)
    assert outcome.code == 0
    assert 'amplitude: SSIM 1.000' in outcome.out
    assert names_in(output) == RECONSTRUCTED
    timing = json.loads((output / 'timing.json').read_text())
    assert set(timing) == {'load', 'predict', 'stitch', 'refine', 'total', 'patterns_per_second'}
    assert timing['patterns_per_second'] == 42
    metrics = json.loads((output / 'metrics.json').read_text())
    assert metrics['amplitude_residual'] == 0.01
    assert metrics['evaluation']['amplitude']['ssim'] == pytest.approx(1)
    found = read_reconstruction(output / 'reconstruction.npz')
    assert len(found.likelihoods) == 5
    with np.load(output / 'reconstruction.npz') as arrays:
        assert arrays['object'].dtype == np.complex64
        assert arrays['origin_px'].shape == (2,)
        assert arrays['coverage'].shape == arrays['object'].shape


def test_reconstruct_without_a_true_object(run: Run, model_file: Path, blind_file: Path) -> None:
    output = model_file.parent.parent / 'result'
    outcome = run('reconstruct', model_file, blind_file, '-o', output, '--json')
    metrics = json.loads(outcome.out)['metrics']
    assert metrics['evaluation'] is None
    # What was in force in training.
    assert len(metrics['likelihoods']) == Config().refinement.sweeps + 1


def test_refine_needs_no_model(run: Run, scan_file: Path, tmp_path: Path) -> None:
    outcome = run('refine', scan_file, '--sweeps', 3, '-o', tmp_path / 'flat', '--json')
    assert len(json.loads(outcome.out)['metrics']['likelihoods']) == 4
    assert names_in(tmp_path / 'flat') == RECONSTRUCTED


def test_evaluate_prints_and_writes(run: Run, scan_file: Path, tmp_path: Path) -> None:
    run('refine', scan_file, '--sweeps', 1, '-o', tmp_path / 'flat')
    found = tmp_path / 'flat' / 'reconstruction.npz'
    outcome = run('evaluate', found, scan_file)
    assert 'phase: SSIM 1.000' in outcome.out
    outcome = run('evaluate', found, found, '-o', tmp_path / 'compared', '--json')
    assert json.loads(outcome.out)['frc']['crossings']['0.5'] == 1
    assert names_in(tmp_path / 'compared') == ['evaluation.json', 'evaluation.png']


def test_inspect_tells_what_a_file_is(run: Run, model_file: Path, scan_file: Path) -> None:
    assert 'a scan of 42 patterns, 32 x 32 px' in run('inspect', scan_file).out
    assert 'trained with fake' in run('inspect', model_file).out
    assert json.loads(run('inspect', model_file, '--json').out)['can_resume'] is True
    folder = model_file.parent.parent / 'flat'
    run('refine', scan_file, '--sweeps', 2, '-o', folder)
    outcome = run('inspect', folder / 'reconstruction.npz')
    assert 'a reconstruction of' in outcome.out
    assert '2 sweeps of refinement' in outcome.out


def test_simulate_writes_a_scan_with_its_object(run: Run, tmp_path: Path) -> None:
    path = tmp_path / 'new.npz'
    outcome = run(
        *('simulate', path, '--size', 32, '--positions', 30, '--object', 'siemens'),
        *('--path', 'fermat', '--modes', 2, '--json'),
    )
    values = json.loads(outcome.out)
    assert (values['patterns'], values['probe_modes']) == (30, 2)
    assert values['settings']['object_kind'] == 'siemens'
    assert 'object' in run('inspect', path).out


def test_demo_leaves_a_report(run: Run, tmp_path: Path) -> None:
    output = tmp_path / 'demo'
    outcome = run(
        *('demo', '-o', output, '--training-patterns', 60, '--test-patterns', 60, '--refine', 2),
        '--json',
    )
    assert outcome.code == 0
    values = json.loads(outcome.out)
    assert sorted(values['files']) == names_in(output)
    metrics = json.loads((output / 'metrics.json').read_text())
    results = metrics['results']
    assert list(results) == ['network', 'network_and_sweeps', 'sweeps_from_flat']
    for row in results.values():
        assert row['seconds'] == 2
        assert row['patterns_per_second'] == 30
        assert row['evaluation']['frc']['correlation']
    page = (output / 'report.html').read_text()
    for title in ('network alone', 'network + 2 sweeps', 'flat start + 2 sweeps'):
        assert title in page
    assert page.count('data:image/png;base64,') == 4
    assert 'http' not in page.replace('http-equiv', '')


@pytest.mark.parametrize(
    'command',
    [
        *('demo', 'simulate', 'train', 'reconstruct', 'refine', 'evaluate', 'inspect', 'doctor'),
    ],
)
def test_help_teaches(run: Run, command: str) -> None:
    outcome = run(command, '--help')
    assert outcome.code == 0
    assert f'Usage: ptychopinn {command}' in outcome.out
    assert command == 'doctor' or 'Examples' in outcome.out


def test_version(run: Run) -> None:
    from ptychopinn_plugin import __version__

    assert run('--version').out.split() == ['ptychopinn-plugin', __version__]
