"""Imported networks reconstruct, and go on learning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from unit.legacy.published import torch_state

import ptychopinn_plugin as pinn
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import ConfigError


@pytest.fixture(scope='module')
def scan() -> pinn.Scan:
    return simulate(SimulationConfig(size=64, rows=5, columns=6, step_px=6.0, photons=1e4))


def quick(**training: Any) -> pinn.Config:
    return pinn.Config(
        training=pinn.TrainingConfig(
            epochs=1, target_iterations=10, device='cpu', n_groups=16, **training
        )
    )


def test_real_model_reconstructs_and_goes_on_learning(
    legacy_data: Path, scan: pinn.Scan, tmp_path: Path
) -> None:
    model = pinn.open_model(legacy_data / 'tf_gs1' / 'wts.h5.zip')
    alone = pinn.RefinementConfig(iterations=0)
    result = pinn.reconstruct(model, scan, refinement=alone)
    assert result.backend == 'pytorch'
    assert np.isfinite(result.object_).all()
    # The right energy: the residual of an object of the wrong scale is near 1 or beyond it.
    assert result.amplitude_residual < 0.3
    tuned = pinn.train(scan, quick(), base_model=model).model
    assert tuned.network == model.network
    assert tuned.backend == 'pytorch'
    moved = {
        name
        for name in model.weights
        if not np.array_equal(tuned.weights[name], model.weights[name])
    }
    assert moved == set(model.weights)
    pinn.save_model(tmp_path / 'tuned.zip', tuned)
    assert pinn.open_model(tmp_path / 'tuned.zip').network == model.network


def test_gates_are_trained(checkpoint: Any, scan: pinn.Scan) -> None:
    model = pinn.open_model(checkpoint(torch_state(4, attention=True, border=4), gridsize=2))
    tuned = pinn.train(scan, quick(), base_model=model).model
    gates = [name for name in model.weights if '-gate' in name]
    assert len(gates) == 15
    for name in gates:
        assert not np.array_equal(tuned.weights[name], model.weights[name]), name
    assert pinn.reconstruct(tuned, scan, refinement=pinn.RefinementConfig(iterations=0))


def test_resuming_an_imported_model_is_refused(checkpoint: Any, scan: pinn.Scan) -> None:
    path = checkpoint(torch_state(1, attention=True, border=1))
    with pytest.raises(ConfigError, match='holds no training state'):
        pinn.train(scan, resume=path)
