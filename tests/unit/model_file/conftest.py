"""A model with everything in it, in memory and in a file."""

from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.config import Config, ModelConfig, TrainingConfig
from ptychopinn_plugin.model_file import Model, TrainingState, write_model
from ptychopinn_plugin.network import describe_network


@pytest.fixture
def model() -> Model:
    rng = np.random.default_rng(0)
    config = Config(
        model=ModelConfig(pattern_size=32, filters_scale=0.25, passes=2, gridsize=2),
        training=TrainingConfig(seed=7, max_minutes=3.5, probe_trainable=True),
    )
    network = describe_network(config.model, 16)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in network.weight_shapes().items()
    }
    state = TrainingState(
        arrays={
            'last/fine/1/weight': rng.normal(size=(8, 24, 3, 3)).astype(np.float32),
            'optimizer/0/step': np.float32(17),
        },
        values={'epoch': 3, 'history': [{'loss': 0.1}, {'loss': 1 / 3}], 'best_loss': 0.25},
    )
    return Model(
        backend='pytorch',
        network=network,
        config=config,
        photons=12345.678901234,
        weights=weights,
        probe=(rng.normal(size=(2, 32, 32)) + 1j * rng.normal(size=(2, 32, 32))).astype(
            np.complex64
        ),
        intensity_scale=1.1 / 3,
        data_summary={'scans': ['alpha', 'b'], 'patterns': 12},
        provenance={'created': 'today', 'seconds': 1.5},
        training_state=state,
    )


@pytest.fixture
def path(tmp_path: Path, model: Model) -> Path:
    target = tmp_path / 'wts.h5.zip'
    write_model(target, model)
    return target
