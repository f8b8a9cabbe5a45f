"""The demo, small: what it leaves can be had again by hand."""

import importlib
import json
import time
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.config import Config, ModelConfig, RefinementConfig, TrainingConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

demo = importlib.import_module('ptychopinn_plugin.cli.demo')

CONFIG = Config(
    model=ModelConfig(passes=2, filters_scale=0.25),
    training=TrainingConfig(epochs=1, target_iterations=10, batch_size=16, device='cpu'),
    refinement=RefinementConfig(iterations=4),
)


def small_scan(seed: int) -> Scan:
    return simulate(SimulationConfig(size=32, rows=8, columns=8, step_px=4.0, seed=seed))


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory, backend_name: str) -> Path:
    """Return what the demo leaves after one epoch."""
    output = tmp_path_factory.mktemp('demo')
    started = time.perf_counter()
    training, test = small_scan(1), small_scan(2)
    result = api.train(training, CONFIG, backend=backend_name)
    demo._write_training(output, result)
    demo._write_scans(output, training, test)
    alone = demo.show_single_shots(output, backend_name, seed=3, n_patterns=4)
    demo.show(output, result, test, backend_name, alone, started=started)
    return output


def test_every_file_is_there(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.DEMO_FILES)


def test_metrics(folder: Path) -> None:
    values = json.loads((folder / 'metrics.json').read_text())
    results = values['results']
    iterations = {'network': 0, 'network_and_iterations': 4, 'iterations_from_flat': 4}
    for name, number in iterations.items():
        row = results[name]
        assert len(row['likelihoods']) == number + 1
        assert row['likelihoods'] == sorted(row['likelihoods'], reverse=True)
        assert 0 < row['amplitude_residual'] < 1
        assert row['seconds'] == pytest.approx(sum(row['timing'].values()))
    assert results['built_in']['phase_ssim'] > 0.5
    # In so much light the plan has no pass, and the model is not praised for what it has not done.
    assert results['built_in']['title'] == 'built-in model, iterations alone'
    assert 'its plan is iterations alone' in (folder / 'report.html').read_text()
    alone = values['single_shots']
    for way in ('planned', 'built_in'):
        gain = alone[way]['amplitude_ssim'] - alone['iterations_from_flat']['amplitude_ssim']
        assert gain > 0.03
    network, hybrid = results['network'], results['network_and_iterations']
    assert hybrid['amplitude_residual'] < network['amplitude_residual']
    assert values['total_seconds'] > values['training']['seconds'] > 0


def test_reconstruction_can_be_had_again_by_hand(folder: Path, backend_name: str) -> None:
    test = folder / 'test-simulated.npz'
    again = api.reconstruct(folder / 'wts.h5.zip', test, backend=backend_name)
    kept = api.read_reconstruction(folder / 'reconstruction.npz')
    np.testing.assert_allclose(again.object_, kept.object_, atol=1e-5)
    evaluation = api.evaluate(again, api.load_scan(test))
    results = json.loads((folder / 'metrics.json').read_text())['results']
    expected = results['network_and_iterations']['phase_ssim']
    assert evaluation.phase.ssim == pytest.approx(expected, abs=1e-4)
