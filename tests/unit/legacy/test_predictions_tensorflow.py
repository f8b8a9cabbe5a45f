"""Imported networks on TensorFlow: the same patches, and they go on learning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('ptychopinn_plugin.backends.tensorflow.framework')

import ptychopinn_plugin as pinn
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

TOLERANCE = 1e-4


def predict(model: pinn.Model, images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return amplitude and phase of images (n, h, w, channels)."""
    network = Network(model.network)
    network.load_weights(model.weights)
    amplitude, phase = network(np.ascontiguousarray(images))
    return amplitude.numpy(), phase.numpy()


def worst(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_tensorflow_patches(legacy_data: Path) -> None:
    model = pinn.open_model(legacy_data / 'tf_gs1' / 'wts.h5.zip')
    with np.load(legacy_data / 'tf_gs1' / 'expected.npz') as expected:
        amplitude, phase = predict(model, expected['X'])
        assert worst(amplitude, expected['amp']) < TOLERANCE
        assert worst(phase, expected['phase']) < TOLERANCE
        assert worst(amplitude * np.exp(1j * phase), expected['obj']) < TOLERANCE


@pytest.mark.parametrize('name', ['wts.h5.zip', 'last.ckpt'])
def test_torch_patches(legacy_data: Path, name: str) -> None:
    model = pinn.open_model(legacy_data / 'torch_gs1' / name)
    with np.load(legacy_data / 'torch_gs1' / 'expected.npz') as expected:
        amplitude, phase = predict(model, expected['x'].transpose(0, 2, 3, 1))
        patches = (amplitude * np.exp(1j * phase)).transpose(0, 3, 1, 2)
        assert worst(patches, expected['patches']) < TOLERANCE


@pytest.mark.parametrize('name', ['tf_gs1/wts.h5.zip', 'torch_gs1/last.ckpt'])
def test_a_real_model_reconstructs_and_goes_on_learning(legacy_data: Path, name: str) -> None:
    scan = simulate(SimulationConfig(size=64, rows=4, columns=5, step_px=6.0, photons=1e4))
    model = pinn.open_model(legacy_data / name)
    alone = pinn.RefinementConfig(iterations=0)
    result = pinn.reconstruct(model, scan, refinement=alone, backend='tensorflow')
    assert result.backend == 'tensorflow'
    assert result.amplitude_residual < 0.3
    training = pinn.TrainingConfig(epochs=1, target_iterations=10, device='cpu', n_groups=16)
    config = pinn.Config(training=training)
    tuned = pinn.train(scan, config, base_model=model, backend='tensorflow').model
    assert tuned.network == model.network
    for weight, values in model.weights.items():
        # The one channel that the torch model's border is made from may be dark everywhere.
        if 'border' not in weight:
            assert not np.array_equal(tuned.weights[weight], values), weight
