"""PtychoPINN's workflow: its one call, and its scripts under their own options."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('torch')

import ptychopinn_plugin as pinn
from ptychopinn_plugin.data import write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError, UnknownBackendError
from ptychopinn_plugin.legacy import from_legacy
from ptychopinn_plugin.ptychopinn_workflow import run_cdi_example

QUICK: dict[str, Any] = {
    'model': {'N': 64, 'gridsize': 1, 'n_filters_scale': 1},
    'nepochs': 1,
    'n_groups': 16,
    'backend': 'pytorch',
}


@pytest.fixture(scope='module')
def scan() -> pinn.Scan:
    return simulate(SimulationConfig(size=64, rows=4, columns=5, step_px=6.0, photons=1e4))


@pytest.fixture(autouse=True)
def short_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the target take as few iterations as it ever does."""
    monkeypatch.setattr('ptychopinn_plugin.backends.common.training_run.TARGET_PATTERNS', 1)


@pytest.fixture
def scan_file(scan: pinn.Scan, tmp_path: Path) -> Path:
    write_scan(tmp_path / 'scan.npz', scan)
    return tmp_path / 'scan.npz'


def test_run_cdi_example(scan: pinn.Scan) -> None:
    raw = SimpleNamespace(
        diff3d=np.sqrt(scan.patterns).astype(np.float32),
        xcoords=scan.positions_px[:, 1],
        ycoords=scan.positions_px[:, 0],
        probeGuess=scan.probe[0],
        objectGuess=scan.object_,
        scan_index=None,
    )
    seen: list[str] = []
    amplitude, phase, results = run_cdi_example(
        raw, scan, QUICK, iterations=2, observer=lambda progress: seen.append(progress.stage)
    )
    assert results['backend'] == 'pytorch'
    assert results['model'].network.architecture == 'cnn'
    assert len(results['history']) == 1
    assert amplitude is not None
    assert phase is not None
    assert amplitude.shape == phase.shape == results['object'].shape
    assert np.allclose(amplitude * np.exp(1j * phase), results['object'], atol=1e-5)
    assert results['amplitude_residual'] < 0.5
    assert {'target', 'train', 'predict', 'refine'} <= set(seen)


def test_data_from_the_settings(scan_file: Path) -> None:
    settings = {**QUICK, 'train_data_file': scan_file, 'test_data_file': str(scan_file)}
    amplitude, _, results = run_cdi_example(None, None, settings, iterations=0)
    assert amplitude is not None
    assert len(results['reconstruction'].likelihoods) == 1  # that of the network alone


def test_without_test_data(scan: pinn.Scan) -> None:
    config = from_legacy(QUICK).config
    amplitude, phase, results = run_cdi_example(scan, None, config)
    assert (amplitude, phase) == (None, None)
    assert results['backend'] == 'pytorch'
    assert 'object' not in results


@pytest.mark.parametrize(
    ('settings', 'error', 'message'),
    [
        ({'backend': 'tensorfloh'}, UnknownBackendError, 'not known'),
        ({'realspace_weight': 1.0}, ConfigError, 'realspace_weight = 1.0 is not honoured'),
    ],
)
def test_refused(scan: pinn.Scan, settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run_cdi_example(scan, scan, {**QUICK, **settings})


def test_a_backend_that_cannot_run_is_no_other(
    scan: pinn.Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptychopinn_plugin.backends.spec import BackendSpec

    monkeypatch.setattr(BackendSpec, 'problem', lambda self: 'is not installed')
    with pytest.raises(BackendUnavailableError, match=r'not installed.*pip install'):
        run_cdi_example(scan, scan, QUICK)


def test_nothing_to_train_on() -> None:
    with pytest.raises(ConfigError, match='train_data_file is not set'):
        run_cdi_example(None, None, QUICK)


def options(settings: dict[str, Any]) -> list[str]:
    return [part for name, value in settings.items() for part in (f'--{name}', str(value))]


SCRIPT: dict[str, Any] = {'n_filters_scale': 1, 'nepochs': 1, 'accelerator': 'cpu'}


def test_training_script(
    scan_file: Path, tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / 'out'
    more = {'train_data_file': scan_file, 'test_data_file': scan_file, 'output_dir': out}
    flags = options({**SCRIPT, **more, 'n_groups': 16, 'backend': 'pytorch'})
    text = run('ptycho-train', *flags, '--no-probe_big')
    assert 'Trained on 20 patterns' in text
    assert 'Reconstructed 20 patterns' in text
    model = pinn.open_model(out / 'wts.h5.zip')
    assert model.config.model.pattern_size == 64
    assert not model.config.model.border_decoder
    assert model.config.training.n_groups == 16
    assert json.loads((out / 'metrics.json').read_text())['backend'] == 'pytorch'
    # The folder is what PtychoPINN's script takes for the model.
    flags = options({'model_path': out, 'test_data_file': scan_file, 'output_dir': out})
    more = options({'gridsize': 3, 'n_filters_scale': 1, 'N': 64, 'amp_activation': 'relu'})
    text = run('ptycho-inference', *flags, *more, '--n_subsample', 12, '--subsample_seed', 1)
    assert 'Reconstructed 12 patterns' in text
    ignored = [line.split(' = ')[0] for line in caplog.messages if 'the model file decides' in line]
    assert ignored == ['gridsize', 'amp_activation']
    assert 'gridsize = 3 has no effect: the model file decides, and it holds 1' in caplog.text


def test_older_options(
    scan_file: Path, tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / 'settings.yaml'
    more = 'nepochs: 7\nn_groups: 30\nn_images: 20\nmodel:\n  n_filters_scale: 1\n'
    path.write_text(f'train_data_file: {scan_file}\n{more}')
    pytest.importorskip('yaml')
    out = tmp_path / 'out'
    flags = {'config': path, 'n_images': 8, 'max_epochs': 1, 'device': 'cpu', 'output_dir': out}
    run('ptycho-train', *options(flags))
    for old, new in (('n_images', 'n_groups'), ('max_epochs', 'nepochs')):
        assert f'{old} is deprecated; it is taken as {new}' in caplog.text
    training = pinn.open_model(out / 'wts.h5.zip').config.training
    assert (training.n_groups, training.epochs, training.device) == (8, 1, 'cpu')
    # One rule for the script and in Python.
    assert 'n_images is deprecated; n_groups, which is given too, wins: 30' in caplog.text
    assert from_legacy(path).config.training.n_groups == 30


def test_options_of_the_torch_side(
    scan_file: Path, tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level('INFO')
    out = tmp_path / 'out'
    flags = options({'train_data_file': scan_file, 'output_dir': out, 'nepochs': 1})
    flags += options({'n_filters_scale': 1, 'n_groups': 8, 'backend': 'pytorch'})
    torch = {'accelerator': 'cpu', 'learning-rate': 2e-3, 'scheduler': 'ReduceLROnPlateau'}
    torch |= {'accumulate-grad-batches': 2, 'num-workers': 3, 'logger': 'none'}
    flags += options({f'torch-{name}': value for name, value in torch.items()})
    run('ptycho-train', *flags, '--do_stitching', '--quiet', '--torch-deterministic')
    training = pinn.open_model(out / 'wts.h5.zip').config.training
    assert (training.device, training.learning_rate) == ('cpu', 2e-3)
    assert (training.schedule, training.gradient_accumulation_steps) == ('plateau', 2)
    note = 'without an effect here: --do_stitching, --quiet, --torch-deterministic, '
    assert f'{note}--torch-num-workers, --torch-logger' in caplog.text


def test_an_option_that_would_change_the_loss(scan_file: Path, tmp_path: Path, run: Any) -> None:
    flags = options({'train_data_file': scan_file, 'output_dir': tmp_path / 'out'})
    text = run('ptycho-train', *flags, '--torch-loss-mode', 'mae', code=2)
    assert 'for mae set mae_weight 1 and nll_weight 0' in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('ptycho-train',), '--train_data_file is needed'),
        (('ptycho-train', '--train_data_file', 'a.npz'), '--output_dir is needed'),
        (('ptycho-inference',), '--model_path is needed'),
        (('ptycho-train', '--nepoch', '3'), 'No such option'),
        (('ptycho-train', '--train_data_file', 'none.npz', '--output_dir', 'o'), 'no file none'),
    ],
)
def test_scripts_say_what_is_missing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in run(*arguments, code=2)


def test_an_imported_model_in_the_inference_script(
    legacy_data: Path, scan_file: Path, tmp_path: Path, run: Any
) -> None:
    more = {'test_data': scan_file, 'output_dir': tmp_path / 'out'}
    text = run('ptycho-inference', *options({'model_path': legacy_data / 'tf_gs1', **more}))
    assert 'Reconstructed 20 patterns' in text
    values = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert values['amplitude_residual'] < 0.1
