"""A learned prior between iterations: the same on both backends, on scans of any size."""

import dataclasses
import itertools
from functools import lru_cache

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.backends.common import prior
from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate, thin_scan
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
def sparse_scan() -> Scan:
    """Return a scan whose illuminations hardly touch."""
    return thin_scan(
        simulate(SimulationConfig(size=32, n_positions=36, pupil_radius=0.15, defocus=150.0)), 3, 6
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
def test_a_pass_follows_each_block_of_iterations(name: str) -> None:
    """They change the result, and the data decide again after each."""
    seen: list[tuple[str, int, int]] = []
    found = backend_of(name).reconstruct(
        sparse_scan(),
        CPU.replace(prior_passes=3),
        RefinementConfig(iterations=4),
        observer=lambda step: seen.append((step.stage, step.step, step.total)),
    )
    before, between = model().network.iterations_before, model().network.iterations_between
    ends = [before, before + between, before + 2 * between]
    passes = [index for index, (stage, _, _) in enumerate(seen) if stage == 'pass']
    assert [seen[index][1:] for index in passes] == [(1, 3), (2, 3), (3, 3)]
    total = ends[-1] + 4
    assert [seen[index - 1][1:] for index in passes] == [(end, total) for end in ends]
    assert seen[-1] == ('refine', total, total)
    assert set(found.timing) == {'predict', 'refine', 'judge'}
    # Between the same blocks of iterations, a network that returns nothing changes nothing.
    idle = backend_of(name)
    nothing = {weight: np.zeros_like(values) for weight, values in model().weights.items()}
    idle.model = dataclasses.replace(model(), weights=nothing)
    alone = idle.reconstruct(
        sparse_scan(), CPU.replace(prior_passes=3), RefinementConfig(iterations=4)
    )
    assert np.abs(found.object_ - alone.object_)[found.coverage > 0.1].max() > 1e-3


def test_a_plan_goes_by_the_overlap_of_the_scan() -> None:
    passes: list[int] = []

    def count(step: Progress) -> bool:
        passes.extend([step.total] if step.stage == 'pass' else [])
        return len(passes) > 0

    for scan in (small_scan(32), sparse_scan()):
        passes.clear()
        backend_of('pytorch').reconstruct(scan, CPU, RefinementConfig(iterations=1), observer=count)
        # The dense scan is bright.
        assert passes == ([] if scan is small_scan(32) else [model().network.passes])


def test_passes_that_lead_away_from_the_data_are_taken_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend, taken_back = backend_of('pytorch'), 'above that of an earlier block, whose object is'
    wild = {weight: 30 * values for weight, values in model().weights.items()}
    backend.model = dataclasses.replace(model(), weights=wild)
    one_pass, before = CPU.replace(prior_passes=1), model().network.iterations_before
    found = backend.reconstruct(sparse_scan(), one_pass, RefinementConfig())
    assert taken_back in caplog.text
    first_block = RefinementConfig(iterations=before)
    alone = backend.refine(sparse_scan(), first_block, device='cpu')
    np.testing.assert_allclose(found.object_, alone.object_, atol=1e-5)
    caplog.clear()
    kept = backend.reconstruct(sparse_scan(), one_pass, RefinementConfig(iterations=2))
    assert taken_back not in caplog.text
    assert np.abs(kept.object_ - alone.object_).max() > 1e-2


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_a_limit_of_time_ends_the_passes_too(name: str) -> None:
    """With a clock on which an iteration takes long, ten passes would take ten times the limit."""
    backend = backend_of(name)
    backend.clock = itertools.count(0.0, 5.0).__next__
    found = backend.reconstruct(sparse_scan(), CPU, RefinementConfig(max_seconds=30.0))
    course = found.provenance['course']
    assert course['ended'] == 'time'
    assert 1 <= len(course['done']) <= 3
    assert sum(course['done']) <= 4


@pytest.mark.parametrize(('stage', 'at'), [('refine', 3), ('pass', 1)])
def test_a_run_stops_within_its_iterations_and_after_a_pass(stage: str, at: int) -> None:
    def stop(step: Progress) -> bool:
        seen.append(step.stage)
        return step.stage == stage and step.step == at

    seen: list[str] = []
    found = backend_of('pytorch').reconstruct(
        sparse_scan(), CPU, RefinementConfig(iterations=4), observer=stop
    )
    assert seen[-1] == stage
    assert found.provenance['course']['ended'] == 'stopped'
    assert len(seen) == (3 if stage == 'refine' else model().network.iterations_before + 1)


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_tiles_give_what_one_large_tile_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(name)
    no_iterations = RefinementConfig(iterations=0)
    whole = backend.reconstruct(small_scan(32), CPU, no_iterations)
    monkeypatch.setattr(prior, 'TILE_PX', 24)
    tiled = backend.reconstruct(small_scan(32), CPU, no_iterations)
    np.testing.assert_allclose(tiled.object_, whole.object_, atol=1e-4)


@lru_cache
def trained(name: str) -> NetworkBackend:
    """Return a backend that holds a network of one short epoch."""
    backend = backend_of(name)
    training = {'epochs': 1, 'target': 'none', 'device': 'cpu', 'validation_fraction': 0.0}
    sizes = {'pattern_size': 32, 'passes': 2}
    backend.train([small_scan(32)], Config.from_dict({'training': training, 'model': sizes}))
    return backend


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
@pytest.mark.parametrize(
    ('passes', 'iterations', 'expected'), [(None, None, 10), (0, None, 0), (None, 4, 0), (2, 4, 2)]
)
def test_the_built_in_model_goes_on_where_a_trained_network_ends(
    name: str, passes: int | None, iterations: int | None, expected: int
) -> None:
    """Unless there is a number of iterations, which stands for the network and them alone."""
    seen: list[str] = []
    found = trained(name).reconstruct(
        sparse_scan(),
        CPU.replace(prior_passes=passes),
        RefinementConfig(iterations=iterations),
        observer=lambda step: seen.append(step.stage),
    )
    stages = [stage for stage, _ in itertools.groupby(seen)]
    assert stages == ['predict', *['refine', 'pass'] * expected, 'refine']
    assert set(found.timing) == {'predict', 'stitch', 'refine', 'judge'}
    course = found.provenance['course']
    assert (course['network_passes'], len(course['done'])) == (2, expected + 1)
    of_prior = Model.built_in().fingerprint()
    assert found.provenance.get('prior_fingerprint') == (of_prior if expected else None)


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_the_first_block_begins_with_the_object_of_the_network(name: str) -> None:
    alone = trained(name).reconstruct(sparse_scan(), CPU, RefinementConfig(iterations=0))
    one_pass = CPU.replace(prior_passes=1)
    settings = RefinementConfig(iterations=0, total_variation=0)
    found = trained(name).reconstruct(sparse_scan(), one_pass, settings)
    assert found.likelihoods[0] == pytest.approx(alone.likelihoods[0], rel=1e-5)
    assert found.likelihoods[-1] < alone.likelihoods[0]


@pytest.mark.parametrize('name', ['pytorch', 'tensorflow'])
def test_training_does_not_start_from_it(name: str) -> None:
    with pytest.raises(ConfigError, match=r'(?s)learned prior.*cannot be fine-tuned'):
        api.train(small_scan(32), Config(), base_model=model(), backend=name)
    with pytest.raises(AssertionError):
        backend_of(name).train([small_scan(32)], Config(), base_model=model())
