"""How a training ends before its time, and what is kept then."""

import importlib

import numpy as np
import pytest
from contract.training import MakeBackend, MakeConfig, flat, losses

from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import DataError, DeviceMemoryError


def test_a_loss_that_is_no_number_ends_training(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    """With an epoch before it, that one is kept; a first one is an error."""
    wild = brief(epochs=3, poisson_weight=1e39)
    with pytest.raises(DataError, match=r'became (nan|inf) in epoch 1\. Lower the learning'):
        make_backend().train([tiny_scan], wild)
    begun = make_backend().train([tiny_scan], brief(epochs=1))
    with pytest.warns(UserWarning, match=r'became (nan|inf) in epoch 2.*epochs before is kept'):
        result = make_backend().train([tiny_scan], wild, base_model=begun.model, resume=True)
    assert result.stopped == 'diverged'
    assert losses(result) == losses(begun)
    np.testing.assert_array_equal(flat(result), flat(begun))
    # Nor is the ruined network what a training would continue from.
    state = result.model.training_state
    assert state is not None
    assert all(np.isfinite(array).all() for array in state.arrays.values())


def test_memory_that_runs_out_is_explained(
    make_backend: MakeBackend, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()

    def exceed(*_: object) -> None:
        if backend.name == 'pytorch':
            importlib.import_module('torch').empty(1 << 50)
        importlib.import_module('tensorflow').zeros((1 << 20, 1 << 30))

    monkeypatch.setattr(backend, 'build_forward', exceed)
    with pytest.raises(DeviceMemoryError, match=r'(?i)memory of cpu.* smaller batch size'):
        backend.refine(tiny_scan, RefinementConfig(iterations=1), device='cpu')


def test_other_errors_of_a_framework_stay(
    make_backend: MakeBackend, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()

    def fail(*_: object) -> None:
        raise RuntimeError('shapes do not match')

    monkeypatch.setattr(backend, 'build_forward', fail)
    with pytest.raises(RuntimeError, match='do not match'):
        backend.refine(tiny_scan, RefinementConfig(iterations=1), device='cpu')
