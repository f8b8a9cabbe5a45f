"""A network without a pattern size: the same on both backends, on scans of any size."""

from functools import lru_cache

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.common.prediction import fitted_model
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.pretraining.architecture import describe_general_network
from ptychopinn_plugin.pretraining.state import to_model


@lru_cache
def small_scan(size: int) -> Scan:
    return simulate(
        SimulationConfig(size=size, n_positions=16, step_px=5.0, pupil_radius=0.15, defocus=150.0)
    )


@lru_cache
def model() -> Model:
    """Return a network of small random weights, which changes what passes do by some percent."""
    rng = np.random.default_rng(0)
    network = describe_general_network(40)
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
    scan, inference = small_scan(size), InferenceConfig(device='cpu')
    first, second = (
        backend_of(name).reconstruct(scan, inference, RefinementConfig(iterations=0))
        for name in ('pytorch', 'tensorflow')
    )
    assert first.object_.shape == second.object_.shape
    lit = first.coverage > 0.1
    difference = np.abs(first.object_ - second.object_)[lit]
    assert np.median(difference) < 1e-3
    assert second.amplitude_residual == pytest.approx(first.amplitude_residual, rel=1e-2)


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_the_engine_iterates_between_passes(name: str) -> None:
    """Iterations after the first two passes leave less of the flat object's misfit."""
    scan, inference = small_scan(32), InferenceConfig(device='cpu')
    network = backend_of(name).reconstruct(scan, inference, RefinementConfig(iterations=0))
    flat = create_backend(name).refine(scan, RefinementConfig(iterations=0), device='cpu')
    assert network.amplitude_residual < 0.5 * flat.amplitude_residual


def test_it_becomes_a_model_for_a_scan() -> None:
    scan = small_scan(32)
    fitted = fitted_model(model(), scan)
    assert fitted.config.model.pattern_size == 32
    assert fitted.network.window_px % 8 == 0
    assert 16 <= fitted.network.window_px <= 32
    assert fitted.photons == pytest.approx(scan.mean_photons())
    assert fitted_model(fitted, small_scan(50)) is fitted


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_training_on_a_scan_starts_from_it(name: str) -> None:
    config = Config()
    config = config.replace(
        training=config.training.replace(epochs=1, target_iterations=10, device='cpu')
    )
    trained = backend_of(name).train([small_scan(32)], config, base_model=model()).model
    assert trained.config.model.pattern_size == 32
    assert trained.network.in_channels == model().network.in_channels
    before, after = model().weights, trained.weights
    moved = max(np.abs(after[name] - before[name]).max() for name in before)
    assert 0 < moved < 0.2
