"""How a training ends before its time, and what is kept then."""

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest
from contract.training import ALONE, CPU, MakeBackend, MakeConfig, flat, losses

from ptychopinn_plugin.backends.protocol import Backend
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

    def exceed(*_: object, **__: object) -> None:
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

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError('shapes do not match')

    monkeypatch.setattr(backend, 'build_forward', fail)
    with pytest.raises(RuntimeError, match='do not match'):
        backend.refine(tiny_scan, RefinementConfig(iterations=1), device='cpu')


def _full_memory(name: str) -> Exception:
    """Return the error of a framework's own type that its allocator raises."""
    if name == 'pytorch':
        error: Exception = importlib.import_module('torch').cuda.OutOfMemoryError(
            'CUDA out of memory. Tried to allocate 2.00 GiB.'
        )
        return error
    tensorflow = importlib.import_module('tensorflow')
    exhausted: Exception = tensorflow.errors.ResourceExhaustedError(
        None, None, 'OOM when allocating tensor with shape[64,1,32,32]'
    )
    return exhausted


def _exceed_above(
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    function: str,
    limit: int,
    error: Exception,
    *,
    works_first: bool = True,
) -> list[int]:
    """Let a function of a backend run out of memory for more patterns; return what it was given."""
    sizes: list[int] = []
    owner = importlib.import_module(module)
    real = getattr(owner, function)

    def run(*arguments: Any, **options: Any) -> Any:
        given = arguments[2]
        # Iterations get a list of batches, and predictions one batch of groups.
        size = max(map(len, given)) if isinstance(given, list) else int(given.shape[0])
        sizes.append(size)
        if size > limit and not works_first:
            raise error
        result = real(*arguments, **options)
        if size > limit:
            # After its work: what it has begun to change must not count.
            raise error
        return result

    monkeypatch.setattr(owner, function, run)
    return sizes


def test_iterations_go_on_with_half_the_batch(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = make_backend()
    module = f'ptychopinn_plugin.backends.{backend.name}.refinement'
    owner = importlib.import_module(module)
    settings = RefinementConfig(iterations=3, probe=True)
    small = settings.replace(batch_size=2)
    expected = backend.refine(tiny_scan, small, device='cpu')
    sizes = _exceed_above(monkeypatch, module, 'iterate_once', 2, _full_memory(backend.name))
    kernels = dataclasses.replace(owner.ITERATION_KERNELS, iterate_once=owner.iterate_once)
    monkeypatch.setattr(backend, 'iteration_kernels', kernels)
    found = backend.refine(tiny_scan, settings, device='cpu')
    assert sizes == [5, 2, 2, 2]
    assert 'the iteration goes on with batches of 2 patterns' in caplog.text
    # Batches of 5 are cut into 2, 2 and 1.
    assert found.likelihoods[-1] == pytest.approx(expected.likelihoods[-1], rel=0.2)
    # What the iteration had begun counts for nothing.
    monkeypatch.undo()
    _exceed_above(
        *(monkeypatch, module, 'iterate_once', 2, _full_memory(backend.name)), works_first=False
    )
    kernels = dataclasses.replace(kernels, iterate_once=owner.iterate_once)
    monkeypatch.setattr(backend, 'iteration_kernels', kernels)
    untouched = backend.refine(tiny_scan, settings, device='cpu')
    assert found.likelihoods == untouched.likelihoods
    np.testing.assert_array_equal(found.object_, untouched.object_)
    _exceed_above(monkeypatch, module, 'iterate_once', 0, _full_memory(backend.name))
    kernels = dataclasses.replace(kernels, iterate_once=owner.iterate_once)
    monkeypatch.setattr(backend, 'iteration_kernels', kernels)
    with pytest.raises(DeviceMemoryError, match='smaller batch size'):
        backend.refine(tiny_scan, settings, device='cpu')


def test_a_prediction_goes_on_with_half_the_batch(
    tiny_model: Backend,
    tiny_scan: Scan,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # TensorFlow puts all rotations of a pattern into a batch.
    settings = CPU.replace(test_time_rotations='one')
    expected = tiny_model.reconstruct(tiny_scan, settings, ALONE)
    module = f'ptychopinn_plugin.backends.{tiny_model.name}.stitching'
    error = _full_memory(tiny_model.name)
    sizes = _exceed_above(monkeypatch, module, 'predict_patches', 10, error)
    found = tiny_model.reconstruct(tiny_scan, settings, ALONE)
    assert sizes[:3] == [32, 16, 8]
    assert 'inference goes on with batches of 8 patterns' in caplog.text
    np.testing.assert_allclose(found.object_, expected.object_, atol=1e-5)
