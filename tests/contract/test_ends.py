"""How a training ends before its time, and what is kept then."""

import importlib
import math
from typing import Any

import numpy as np
import pytest
from contract.training import MakeBackend, MakeConfig, losses

from ptychopinn_plugin.backends.common import training_loop
from ptychopinn_plugin.backends.common.training_loop import TrainingLoop
from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import DataError, DeviceMemoryError


def test_a_loss_that_is_no_number_leaves_the_epochs_before(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = brief(epochs=4)
    usual = make_backend().train([tiny_scan], config)
    train_epoch = TrainingLoop._train_epoch

    def diverge(self: TrainingLoop, rng: np.random.Generator) -> Any:
        result = train_epoch(self, rng)
        if self.state.epoch == 2:
            self._diverge(math.nan)
        return result

    monkeypatch.setattr(TrainingLoop, '_train_epoch', diverge)
    with pytest.warns(UserWarning, match='became nan in epoch 3.*epochs before is kept'):
        result = make_backend().train([tiny_scan], config)
    assert result.stopped == 'diverged'
    assert losses(result) == losses(usual)[:2]
    assert result.model.provenance['best_loss'] == min(losses(result))


@pytest.mark.parametrize('first', [1, 3])
def test_a_validation_that_is_no_number_leaves_the_epochs_before(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    first: int,
) -> None:
    seen: list[float | None] = []
    validate = TrainingLoop.validate

    def fail(self: TrainingLoop) -> float | None:
        seen.append(validate(self))
        return math.nan if len(seen) >= first else seen[-1]

    monkeypatch.setattr(TrainingLoop, 'validate', fail)
    backend = make_backend()
    if first == 1:
        with pytest.raises(DataError, match=r'became nan in epoch 1\. Lower the learning'):
            backend.train([tiny_scan], brief(epochs=4))
        return
    with pytest.warns(UserWarning, match='became nan in epoch 3.*epochs before is kept'):
        result = backend.train([tiny_scan], brief(epochs=4))
    assert result.stopped == 'diverged'
    assert losses(result) == seen[:2]


def test_memory_that_runs_out_is_explained(
    make_backend: MakeBackend, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()

    def exceed(*_: object) -> None:
        if backend.name == 'pytorch':
            importlib.import_module('torch').empty(1 << 50)
        importlib.import_module('tensorflow').zeros((1 << 20, 1 << 30))

    monkeypatch.setattr(backend, '_forward', exceed)
    with pytest.raises(DeviceMemoryError, match=r'(?i)memory of cpu.* smaller batch size'):
        backend.refine(tiny_scan, RefinementConfig(iterations=1), device='cpu')


def test_other_errors_of_a_framework_stay(
    make_backend: MakeBackend, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()

    def fail(*_: object) -> None:
        raise RuntimeError('shapes do not match')

    monkeypatch.setattr(backend, '_forward', fail)
    with pytest.raises(RuntimeError, match='do not match'):
        backend.refine(tiny_scan, RefinementConfig(iterations=1), device='cpu')


def test_stop_is_heard_while_an_epoch_is_validated(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_loop, 'REPORT_SECONDS', -1.0)
    in_validation: list[bool] = []
    validate = TrainingLoop.validate

    def watch(self: TrainingLoop) -> float | None:
        in_validation.append(True)
        try:
            return validate(self)
        finally:
            in_validation.pop()

    monkeypatch.setattr(TrainingLoop, 'validate', watch)

    def stop(progress: Progress) -> bool:
        return bool(in_validation) and progress.step == 1

    result = make_backend().train([tiny_scan], brief(epochs=3), observer=stop)
    assert result.stopped == 'request'
    assert len(result.history) == 1
