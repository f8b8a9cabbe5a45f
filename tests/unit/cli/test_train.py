"""`train`: what it requests of the backend, and what it leaves. The backend here is a blank."""

import csv
import json
import math
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin import plots
from ptychopinn_plugin.backends import checkpoints, selection
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.model_file import read_model, write_model

FILES = ['config.toml', 'losses.csv', 'train.log', 'training.png', 'wts.h5.zip']


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_leaves_every_file(run: Any, backend: Any, scan_file: Path, tmp_path: Path) -> None:
    done = run('train', scan_file, '-o', tmp_path / 'run', '--epochs', 2, '--seed', 3)
    assert done.code == 0, done.err
    assert 'Trained on 36 patterns of 1 scan with blank on cpu: 2 epochs' in done.out
    assert '; it ended, as all epochs are done' in done.out
    assert len(done.out.splitlines()) == 4
    folder = tmp_path / 'run'
    assert _names(folder) == FILES
    assert read_model(folder / 'wts.h5.zip').backend == 'blank'
    rows = list(csv.DictReader((folder / 'losses.csv').read_text().splitlines()))
    assert [float(row['loss']) for row in rows] == [1, 0.5]
    settings = tomllib.loads((folder / 'config.toml').read_text())
    assert settings['training']['seed'] == 3
    assert settings['model']['pattern_size'] == 32
    log = (folder / 'train.log').read_text()
    for text in ('ptychopinn-plugin', 'Python', 'backend blank (auto)', '36 patterns', 'epochs=2'):
        assert text in log
    assert 'epoch 2: loss 0.5, validation_loss 1' in log
    assert (folder / 'training.png').stat().st_size > 0


def test_summary_says_what_was_used(
    run: Any, backend: Any, tmp_path: Path, scan_file: Path
) -> None:
    # The backend's model states that it was trained on 36 patterns.
    done = run('train', scan_file, scan_file, '-o', tmp_path / 'run')
    assert 'Trained on 36 of 72 patterns of 2 scans' in done.out
    assert 'best validation loss: 0.5' in done.out
    backend.holds_out = False
    done = run('train', scan_file, '-o', tmp_path / 'run')
    assert 'best training loss (nothing was held out): 0.5' in done.out


def test_json_is_all_of_stdout(run: Any, backend: Any, scan_file: Path, tmp_path: Path) -> None:
    done = run('train', scan_file, '-o', tmp_path / 'run', '--json')
    values = json.loads(done.out)
    assert sorted(values['files']) == FILES
    assert values['epochs'] == 2
    assert values['stopped'] == 'epochs'
    assert values['model'] == str(tmp_path / 'run' / 'wts.h5.zip')


def test_options_reach_the_backend(run: Any, backend: Any, scan_file: Path, tmp_path: Path) -> None:
    file = tmp_path / 'mine.toml'
    file.write_text('[training]\nepochs = 5\nseed = 5\n[refinement]\niterations = 5\n')
    run(
        *('train', scan_file, scan_file, '--validation', scan_file, '-o', tmp_path / 'run'),
        *('--config', file, '--set', 'training.seed=6', '--epochs', 7, '--gridsize', 2),
        *('--max-minutes', 0.5, '--model-type', 'supervised', '--probe-trainable'),
    )
    requested = backend.requested
    assert len(requested['scans']) == 2
    assert len(requested['validation']) == 1
    training, model = requested['config'].training, requested['config'].model
    assert (training.epochs, training.seed, training.max_minutes) == (7, 6, 0.5)
    assert training.probe_trainable
    assert (model.gridsize, model.model_type) == (2, 'supervised')
    assert requested['config'].refinement.iterations == 5


def test_patterns_of_another_size_are_fitted_and_said_so(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path
) -> None:
    done = run('train', scan_file, '-o', tmp_path / 'run', '--pattern-size', 24)
    assert backend.requested['scans'][0].pattern_shape == (24, 24)
    assert any(line.startswith('note: ') and '24 x 24' in line for line in done.err.splitlines())
    assert '24 x 24' in (tmp_path / 'run' / 'train.log').read_text()


def test_resume_keeps_the_settings_of_the_model(
    run: Any, backend: Any, scan_file: Path, model_file: Path, tmp_path: Path
) -> None:
    done = run('train', scan_file, '-o', tmp_path / 'run', '--resume', model_file, '--epochs', 150)
    assert done.code == 0, done.err
    assert backend.requested['resume']
    assert backend.requested['config'].training.epochs == 150
    assert 'epoch 2:' in (tmp_path / 'run' / 'train.log').read_text()


def test_resume_refuses_other_settings(
    run: Any, backend: Any, scan_file: Path, model_file: Path, tmp_path: Path
) -> None:
    arguments = ('train', scan_file, '-o', tmp_path / 'run', '--resume', model_file)
    message = run(*arguments, '--learning-rate', 0.5).error()
    assert 'training.learning_rate' in message
    assert '--base-model' in message
    assert backend.requested == {}
    assert not (tmp_path / 'run').exists()


def test_resume_needs_a_training_state(
    run: Any, backend: Any, scan_file: Path, model_file: Path, tmp_path: Path
) -> None:
    lean = tmp_path / 'lean.zip'
    write_model(lean, read_model(model_file), inference_only=True)
    message = run('train', scan_file, '-o', tmp_path / 'run', '--resume', lean).error()
    assert 'no training state' in message


def test_fine_tuning_keeps_the_network_alone(
    run: Any, backend: Any, scan_file: Path, model_file: Path, tmp_path: Path
) -> None:
    arguments = ('train', scan_file, '-o', tmp_path / 'run', '--base-model', model_file)
    assert run(*arguments, '--learning-rate', 1e-4).code == 0
    assert backend.requested['base_model'] is not None
    assert not backend.requested['resume']
    assert backend.requested['config'].training.learning_rate == 1e-4
    assert 'model.gridsize' in run(*arguments, '--gridsize', 3).error()
    assert 'Give one of them' in run(*arguments, '--resume', model_file).error()


def test_only_resuming_reads_the_training_state(
    run: Any,
    backend: Any,
    scan_file: Path,
    model_file: Path,
    tmp_path: Path,
    damage_training_state: Callable[[Path], None],
) -> None:
    damage_training_state(model_file)
    for number, command in enumerate(
        [
            ('train', scan_file, '--base-model', model_file),
            ('reconstruct', model_file, scan_file),
            ('ptycho-inference', '--model_path', model_file, '--test_data_file', scan_file),
        ]
    ):
        option = '--output_dir' if command[0] == 'ptycho-inference' else '-o'
        done = run(*command, option, tmp_path / str(number))
        assert done.code == 0, done.err
    resumed = run('train', scan_file, '-o', tmp_path / 'run', '--resume', model_file)
    assert 'training_state.h5 is damaged' in resumed.error()


def test_inference_only(run: Any, backend: Any, scan_file: Path, tmp_path: Path) -> None:
    run('train', scan_file, '-o', tmp_path / 'run', '--inference-only')
    assert read_model(tmp_path / 'run' / 'wts.h5.zip').training_state is None


def test_a_plot_that_fails_costs_no_model(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OutputError('Cannot write training.png: the disk is full.')

    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'wts.h5.zip').write_bytes(b'of a former run')
    monkeypatch.setattr(plots, 'plot_training', fail)
    assert 'the disk is full' in run('train', scan_file, '-o', folder).error()
    assert _names(folder) == ['rescued-wts.h5.zip', 'wts.h5.zip']
    assert (folder / 'wts.h5.zip').read_bytes() == b'of a former run'
    assert read_model(folder / 'rescued-wts.h5.zip').config.model == Config().model.replace(
        pattern_size=32
    )


def test_one_product_for_several_scans_is_refused(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path
) -> None:
    arguments = ('train', scan_file, scan_file, '-o', tmp_path / 'run')
    assert '--product belongs to one scan' in run(*arguments, '--product', 'p.h5').error()


def test_domain_is_passed_on(
    run: Any, backend: Any, tmp_path: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = simulate(SimulationConfig(size=32, rows=4, columns=4, poisson_noise=False))
    write_scan(tmp_path / 'scan.npz', exact)
    run('train', tmp_path / 'scan.npz', '-o', tmp_path / 'run', '--domain', 'amplitudes')
    assert backend.requested['scans'][0].mean_counts() > 10 * exact.mean_counts()


def test_a_run_is_repeated_from_its_config(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = simulate(SimulationConfig(size=32, rows=6, columns=6, defocus=0))
    write_scan(tmp_path / 'other.npz', other)
    reading = ('--probe-from', 'other.npz', '--photons', 5e4, '--domain', 'counts', '--mask-hot')
    assert run('train', scan_file, '-o', 'run', *reading).code == 0
    (first,) = backend.requested['scans']
    written = tomllib.loads((tmp_path / 'run' / 'config.toml').read_text())
    assert written['backend'] == 'blank'
    assert written['reading'] == {
        'probe_from': str(tmp_path / 'other.npz'),
        'photons': 5e4,
        'domain': 'counts',
        'mask_hot': True,
    }
    assert '[reading] domain=counts' in (tmp_path / 'run' / 'train.log').read_text()

    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    again = ('train', scan_file, '--config', tmp_path / 'run' / 'config.toml')
    assert run(*again, '-o', 'again').code == 0
    (second,) = backend.requested['scans']
    np.testing.assert_array_equal(second.patterns, first.patterns)
    np.testing.assert_array_equal(second.probe, first.probe)
    assert second.mean_counts() == pytest.approx(5e4, rel=1e-5)
    repeated = tomllib.loads((tmp_path / 'elsewhere' / 'again' / 'config.toml').read_text())
    assert repeated == written

    assert run(*again, '-o', 'louder', '--photons', 1e6, '--no-mask-hot').code == 0
    (third,) = backend.requested['scans']
    assert third.mean_counts() == pytest.approx(1e6, rel=1e-5)
    np.testing.assert_array_equal(third.probe, first.probe)


def test_the_backend_of_a_config_is_a_setting(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`choose` ranks it below the option and the environment, and above the model's."""
    requested: list[tuple[str | None, str | None]] = []

    def choose(name: str | None, *, setting: str | None, **_: object) -> selection.Choice:
        requested.append((name, setting))
        return selection.Choice('blank', 'setting')

    monkeypatch.setattr(selection, 'choose', choose)
    (tmp_path / 'mine.toml').write_text('backend = "tensorflow"\n[training]\nepochs = 5\n')
    arguments = ('train', scan_file, '-o', tmp_path / 'run', '--config', tmp_path / 'mine.toml')
    assert run(*arguments, '--backend', 'pytorch').code == 0
    assert requested == [('pytorch', 'tensorflow')]
    assert backend.requested['config'].training.epochs == 5


@pytest.fixture
def checkpoint_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, 'MIN_SECONDS', 0.0)
    monkeypatch.setattr(checkpoints, 'MAX_WRITING_FRACTION', math.inf)


@pytest.mark.usefixtures('checkpoint_each_epoch')
def test_a_training_that_fails_leaves_its_checkpoint(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = backend.train

    def fail(*arguments: Any, **options: Any) -> None:
        train(*arguments, **options)
        raise MemoryError

    monkeypatch.setattr(backend, 'train', fail)
    folder = tmp_path / 'run'
    failed = run('train', scan_file, '-o', folder)
    assert failed.code == 2
    assert f'--resume {folder / "checkpoint.h5.zip"}' in failed.err
    assert _names(folder) == ['checkpoint.h5.predecessor.zip', 'checkpoint.h5.zip']
    assert read_model(folder / 'checkpoint.h5.zip').training_state is not None


@pytest.mark.usefixtures('checkpoint_each_epoch', 'backend')
def test_every_warning_is_a_note_and_logged(
    run: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OutputError('The disk is full.')

    monkeypatch.setattr(checkpoints, 'write_model', fail)
    done = run('train', scan_file, '-o', tmp_path / 'run')
    assert done.code == 0, done.err
    expected = 'No checkpoint: The disk is full. Training goes on.'
    # One an epoch: Python alone would show the second no more.
    assert done.err.splitlines().count(f'note: {expected}') == 2
    assert 'UserWarning' not in done.err
    assert (tmp_path / 'run' / 'train.log').read_text().count(f'WARNING {expected}') == 2


@pytest.mark.usefixtures('checkpoint_each_epoch')
def test_a_training_that_ends_leaves_none(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path
) -> None:
    run('train', scan_file, '-o', tmp_path / 'run')
    assert _names(tmp_path / 'run') == FILES


@pytest.mark.usefixtures('checkpoint_each_epoch', 'backend')
def test_a_checkpoint_that_is_resumed_has_done_its_duty(
    run: Any, scan_file: Path, model_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'run'
    folder.mkdir()
    checkpoint = folder / 'checkpoint.h5.zip'
    shutil.copy(model_file, checkpoint)
    done = run('train', scan_file, '-o', folder, '--resume', checkpoint, '--epochs', 9)
    assert done.code == 0, done.err
    assert 'cut off' not in done.err
    assert _names(folder) == FILES


@pytest.mark.usefixtures('checkpoint_each_epoch', 'backend')
def test_a_checkpoint_of_another_training_is_kept(
    run: Any, scan_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'run'
    folder.mkdir()
    checkpoint = folder / 'checkpoint.h5.zip'
    checkpoint.write_bytes(b'hours of work')
    done = run('train', scan_file, '-o', folder)
    assert f'To continue that one, use --resume {checkpoint}' in done.err
    assert _names(folder) == ['checkpoint.h5.previous.zip', *FILES]
    assert (folder / 'checkpoint.h5.previous.zip').read_bytes() == b'hours of work'
