"""Names that scripts of users hold on to: a release may add to them, and takes none away."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from unit.cli.conftest import BlankBackend, blank_model

import ptychopinn_plugin as pinn
from ptychopinn_plugin import api
from ptychopinn_plugin.backends.common.losses import term_weights
from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.backends.selection import Choice
from ptychopinn_plugin.cli import app, main
from ptychopinn_plugin.config import Config, TrainingConfig
from ptychopinn_plugin.model_file import write_model

TRAINING = '--output --max-minutes --epochs --batch-size --backend --device --seed --json'
OPTIONS = {
    'train': f'{TRAINING} --validation --config --set --resume --base-model --inference-only',
    'reconstruct': '--output --refine --batch-size --backend --device --json',
    'refine': '--output --iterations --batch-size --backend --device --seed --json',
    'stream': '--output --source --patterns --wait-seconds --max-waiting --start-timeout '
    '--idle-timeout --update-patterns --update-seconds --no-final --queue --when-full --product '
    '--probe-from --backend --json',
    'replay': '--to --rate --batch --unit --separate --shuffle --lose --delay --json',
    'demo': '--output --refine --max-minutes --backend --seed --json',
    'reproduce': '--scan --model --tolerance --output --json',
    'check': '--output --backend --device --json',
    'bench': '--sizes --batch-sizes --backend --against --compare --quick --json',
    'evaluate': '--output --remove-ramp --json',
    'inspect': '--json',
    'convert': '--probe-from --json',
    'export': '--format --output --template --json',
    'group': '--gridsize --n-groups --seed --no-cache --json',
    'doctor': '--json',
    'ptycho-train': '--train_data_file --test_data_file --output_dir --nepochs --backend',
    'ptycho-inference': '--model_path --test_data_file --output_dir --backend',
}
READING = (
    '--domain --reader --product --positions --probe-from --photon-energy --mask-hot --transpose '
    '--flip --swap-positions --invert-positions --rotate-scan --scale-positions'
)

ARRAYS = {
    'object',
    'origin_px',
    'coverage',
    'probe',
    'positions_px',
    'pattern_indexes',
    'likelihoods',
    '_metadata',
}
TIMING = {'load', 'predict', 'stitch', 'refine', 'total', 'patterns_per_second'}
METRICS = {
    'scan',
    'backend',
    'patterns',
    'patterns_left_out',
    'misfit',
    'object_shape_px',
    'amplitude_residual',
    'likelihoods',
    'evaluation',
}
EVALUATION = {'amplitude', 'phase', 'frc', 'shift_px', 'scale', 'region_px'}
LOSS_TERMS = {'poisson', 'amplitude_mae', 'teacher', 'total_variation'}


@pytest.mark.parametrize('command', OPTIONS)
def test_options(command: str) -> None:
    known: Any = typer.main.get_command(app)
    options = {
        name
        for item in known.commands[command].params
        for name in (*item.opts, *item.secondary_opts)
    }
    expected = OPTIONS[command].split()
    if command in ('train', 'reconstruct', 'refine', 'check', 'evaluate', 'inspect', 'group'):
        expected += READING.split()
    assert set(expected) - options == set()


def test_simulate_is_a_command() -> None:
    known: Any = typer.main.get_command(app)
    assert set(known.commands) == {*OPTIONS, 'simulate'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `reconstruct` leaves, with a backend that returns the truth."""
    path = tmp_path_factory.mktemp('stable')
    config = pinn.SimulationConfig(size=32, rows=6, columns=6, step_px=4.0, photons=1e4)
    pinn.write_scan(path / 'scan.npz', pinn.simulate(config))
    write_model(path / 'model.zip', blank_model(Config()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, 'create_backend', lambda name: BlankBackend())
        patch.setattr(
            'ptychopinn_plugin.backends.selection.choose', lambda *_, **__: Choice('blank', 'auto')
        )
        given = ['reconstruct', path / 'model.zip', path / 'scan.npz', '--output', path / 'result']
        with pytest.raises(SystemExit, match='0'):
            main([str(part) for part in given])
    return path / 'result'


def test_files_of_a_reconstruction(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        'reconstruction.npz',
        'product.h5',
        'reconstruction.png',
        'timing.json',
        'metrics.json',
    }
    with np.load(folder / 'reconstruction.npz') as arrays:
        assert set(arrays) >= ARRAYS
    timing = json.loads((folder / 'timing.json').read_text())
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert set(timing) >= TIMING
    assert set(metrics) >= METRICS
    assert set(metrics['evaluation']) >= EVALUATION
    assert set(metrics['evaluation']['frc']['crossings']) == {'0.5', '1/7', 'half-bit'}


def test_loss_terms_are_columns_of_losses_csv() -> None:
    assert set(term_weights(TrainingConfig())) == LOSS_TERMS


def test_methods_of_the_protocol() -> None:
    methods = {name for name, _ in inspect.getmembers(Backend, inspect.isfunction)}
    assert methods >= {'train', 'reconstruct', 'open_model', 'save_model'}
