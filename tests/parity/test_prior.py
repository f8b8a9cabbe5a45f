"""A learned prior between iterations: the same on both backends, on scans of any size."""

from functools import lru_cache

import numpy as np
import pytest

from ptychopinn_plugin.backends.common import prior
from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.pretraining.architecture import describe_prior
from ptychopinn_plugin.pretraining.state import to_model

CPU = InferenceConfig(device='cpu')


@lru_cache
def small_scan(size: int) -> Scan:
    return simulate(
        SimulationConfig(size=size, n_positions=16, step_px=5.0, pupil_radius=0.15, defocus=150.0)
    )


@lru_cache
def model() -> Model:
    """Return a network of small random weights, whose passes change an object by some percent."""
    rng = np.random.default_rng(0)
    network = describe_prior()
    weights = {
        name: 0.05 * rng.standard_normal(shape) for name, shape in network.weight_shapes().items()
    }
    return to_model(network, weights, {'made by': 'a test'})


def backend_of(name: str) -> NetworkBackend:
    pytest.importorskip('torch' if name == 'pytorch' else name)
    backend = create_backend(name)
    assert isinstance(backend, NetworkBackend)
    backend.model = model()
    return backend


@pytest.mark.parametrize('size', [32, 50])
def test_one_set_of_weights_takes_any_size_alike_on_both_backends(size: int) -> None:
    first, second = (
        backend_of(name).reconstruct(small_scan(size), CPU, RefinementConfig(iterations=0))
        for name in ('pytorch', 'tensorflow')
    )
    assert first.object_.shape == second.object_.shape
    lit = first.coverage > 0.1
    difference = np.abs(first.object_ - second.object_)[lit]
    assert np.median(difference) < 1e-3
    assert second.amplitude_residual == pytest.approx(first.amplitude_residual, rel=1e-2)


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_a_pass_follows_each_block_of_iterations(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prior changes what iterations alone give, and the data decide again after each pass."""
    backend = backend_of(name)
    seen: list[int] = []
    run = prior.run_prior

    def counting(description, flat, *, iterate, **rest):  # type: ignore[no-untyped-def]
        def counted(object_, count):  # type: ignore[no-untyped-def]
            seen.append(count)
            return iterate(object_, count)

        return run(description, flat, iterate=counted, **rest)

    module = f'ptychopinn_plugin.backends.{name}.prior.run_prior'
    monkeypatch.setattr(module, counting)
    found = backend.reconstruct(small_scan(32), CPU, RefinementConfig(iterations=0))
    network = model().network
    assert seen == [network.iterations_before, *[network.iterations_between] * 2]
    alone = create_backend(name).refine(
        small_scan(32), RefinementConfig(iterations=sum(seen)), device='cpu'
    )
    lit = found.coverage > 0.1
    assert np.abs(found.object_ - alone.object_)[lit].max() > 1e-3
    assert set(found.timing) == {'predict', 'refine'}


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_tiles_give_what_one_large_tile_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(name)
    no_iterations = RefinementConfig(iterations=0)
    whole = backend.reconstruct(small_scan(32), CPU, no_iterations)
    monkeypatch.setattr(prior, 'TILE_PX', 24)
    tiled = backend.reconstruct(small_scan(32), CPU, no_iterations)
    np.testing.assert_allclose(tiled.object_, whole.object_, atol=1e-4)


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_training_does_not_start_from_it(name: str) -> None:
    with pytest.raises(ConfigError, match=r'(?s)learned prior.*cannot be fine-tuned'):
        backend_of(name).train([small_scan(32)], Config(), base_model=model())
