"""A backend of each framework, and a tiny model that the tests share."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

MakeBackend = Callable[[], Backend]

BACKENDS = {
    'pytorch': ('torch', 'ptychopinn_plugin.backends.pytorch.adapter:PyTorchBackend'),
    'tensorflow': (
        'tensorflow',
        'ptychopinn_plugin.backends.tensorflow.adapter:TensorFlowBackend',
    ),
}
"""Each backend has a framework and a loader; a further one is a further row."""

TINY = {
    'size': 32,
    'rows': 8,
    'columns': 10,
    'step_px': 4.0,
    'jitter_px': 1.0,
    # Narrow enough for patterns of 32 px: 98 % of the probe lies within 16.
    'pupil_radius': 0.12,
    'defocus': 100.0,
}


@pytest.fixture(scope='session')
def tiny() -> Callable[..., Scan]:
    """Return a function that simulates 80 patterns of 32 px in a field that is not square."""

    def make(**changes: Any) -> Scan:
        return simulate(SimulationConfig.from_dict({**TINY, **changes}))

    return make


@pytest.fixture(scope='session')
def brief() -> Callable[..., Config]:
    """Return a function that makes settings for a second of training."""

    def make(*, model: dict[str, Any] | None = None, **training: Any) -> Config:
        values = {'epochs': 2, 'target_iterations': 10, 'device': 'cpu', **training}
        small = {'filters_scale': 0.25, 'passes': 2, **(model or {})}
        return Config.from_dict({'training': values, 'model': small})

    return make


@pytest.fixture(scope='session', params=BACKENDS)
def backend_name(request: pytest.FixtureRequest) -> str:
    """Return the name of a backend whose framework is here."""
    framework, _ = BACKENDS[request.param]
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f'The {request.param} backend needs {framework}, which is not installed.')
    return str(request.param)


@pytest.fixture(scope='session')
def make_backend(backend_name: str) -> MakeBackend:
    """Return what makes a fresh backend."""
    module, _, name = BACKENDS[backend_name][1].partition(':')
    found: MakeBackend = getattr(importlib.import_module(module), name)
    return found


@pytest.fixture(scope='session')
def tiny_scan(tiny: Callable[..., Scan]) -> Scan:
    return tiny()


@pytest.fixture(scope='session')
def trained() -> dict[str, Backend]:
    """Return the backends that `tiny_model` has trained, by name.

    A fixture with parameters is made anew whenever the backend changes, as it does in each file.
    """
    return {}


@pytest.fixture(scope='session')
def tiny_model(
    backend_name: str,
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: Callable[..., Config],
    trained: dict[str, Backend],
) -> Backend:
    """Return a backend that holds a model of some epochs; do not train it further."""
    if backend_name not in trained:
        backend = make_backend()
        backend.train([tiny_scan], brief(epochs=12))
        trained[backend_name] = backend
    return trained[backend_name]
