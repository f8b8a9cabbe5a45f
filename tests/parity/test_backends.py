"""Backend against backend: the same numbers from the same weights, patterns and seeds."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parity.frameworks import Array, Framework
from parity.helpers import canvas_object

from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.iteration_steps import REGULARIZATION
from ptychopinn_plugin.backends.common.training_loop import TrainingLoop
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model_file import Model

NAMES = ('pytorch', 'tensorflow')
CPU = InferenceConfig(device='cpu')
CASES = [
    (architecture, size, gridsize)
    for architecture in ('sweepnet', 'cnn')
    for size in (64, 128)
    for gridsize in (1, 2)
]


def settings(model: dict[str, Any], **training: Any) -> Config:
    values = {'epochs': 1, 'device': 'cpu', 'target': 'none', 'batch_size': 8, **training}
    return Config.from_dict({'training': values, 'model': {'filters_scale': 0.5, **model}})


def distance(found: Array, expected: Array) -> float:
    """Return the norm of the difference over the norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope='module')
def scans() -> Callable[[int], Scan]:
    """Return a function that simulates 5 x 6 patterns of a size."""
    made: dict[int, Scan] = {}

    def make(size: int) -> Scan:
        if size not in made:
            made[size] = simulate(SimulationConfig(size=size, rows=5, columns=6, dead_pixels=2))
        return made[size]

    return make


@pytest.fixture(scope='module', params=CASES, ids=str)
def trained(
    request: pytest.FixtureRequest, both: Any, scans: Callable[[int], Scan]
) -> tuple[Scan, Model]:
    """Return a scan and a model of two epochs, by one backend or the other."""
    architecture, size, gridsize = request.param
    name = NAMES[gridsize - 1]
    config = settings({'architecture': architecture, 'gridsize': gridsize}, epochs=2)
    return scans(size), create_backend(name).train([scans(size)], config).model


def networks(fw: Framework, model: Model) -> list[Any]:
    """Return a network with random weights and one with the trained ones."""
    network = fw.network.Network(model.network)
    network.load_weights(model.weights)
    return [fw.build(model.network), network]


def test_networks(both: tuple[Framework, Framework], trained: tuple[Scan, Model]) -> None:
    description = trained[1].network
    channels, side = description.layers[0].out_channels, description.window_px
    images = np.random.default_rng(0).random((3, channels, side, side))
    for network in zip(*(networks(fw, trained[1]) for fw in both), strict=True):
        if network[0].description.zero_layers:
            assert np.abs(both[0].images(network[0], images)[0]).max() > 0
        # Each starts from weights of its own; here from the same.
        network[1].load_weights(network[0].numpy_weights())
        outputs = [fw.images(net, images) for fw, net in zip(both, network, strict=True)]
        for expected, found in zip(*outputs, strict=True):
            assert distance(found, expected) < 1e-5


@pytest.mark.parametrize('rotations', [(0,), (0, 1, 2, 3)])
def test_patterns_and_stitched_objects(
    both: tuple[Framework, Framework], trained: tuple[Scan, Model], rotations: tuple[int, ...]
) -> None:
    """Predicted pass by pass, by random weights and by trained ones."""
    scan, held = trained
    if len(rotations) > 1 and held.network.architecture == 'cnn':
        pytest.skip('Only sweepnet looks more than once.')
    weights = [network.numpy_weights() for network in networks(both[0], held)]
    for values in weights:
        objects, patterns = [], []
        for fw in both:
            network = fw.network.Network(held.network)
            network.load_weights(values)
            forward = fw.build_forward(scan)
            predicted = fw.stitch(network, forward, rotations=rotations)
            objects.append([fw.array(object_) for object_ in predicted])
            everyone = fw.indices(np.arange(len(forward)))
            patches = forward.extract_patches(fw.tensor(objects[0][-1]), everyone)
            patterns.append(fw.array(forward.predict_intensity(patches, everyone)))
        assert distance(patterns[1], patterns[0]) < 1e-5
        assert len(objects[0]) == held.network.passes + 1
        assert np.abs(objects[0][-1] - 1).max() > 0.1
        for expected, found in zip(*objects, strict=True):
            assert distance(found, expected) < 1e-4


@pytest.mark.parametrize('refine_probe', [False, True])
def test_iterations(
    both: tuple[Framework, Framework], scans: Callable[[int], Scan], refine_probe: bool
) -> None:
    """In the same order; momentum doubles what rounding leaves with each iteration."""
    found = []
    for fw in both:
        forward = fw.build_forward(scans(64))
        start = fw.tensor(canvas_object(forward) * 0.1 + 0.9)
        object_, losses = fw.iterate(
            forward,
            start,
            IterationSchedule(2),
            batch_size=8,
            seed=3,
            refine_probe=refine_probe,
        )
        found.append((fw.array(object_), np.array(losses), fw.array(forward.probe)))
    assert distance(found[1][0], found[0][0]) < 1e-3
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-4)
    assert distance(found[1][2], found[0][2]) < 1e-4


def test_the_step_of_all_patterns(
    both: tuple[Framework, Framework], scans: Callable[[int], Scan]
) -> None:
    """It is the step of all patterns on the average, weighted by the probe's intensity."""
    found = []
    for fw in both:
        forward = fw.build_forward(scans(64))
        object_ = canvas_object(forward) * 0.1 + 0.9
        update = fw.array(fw.refinement.mean_update(forward, fw.tensor(object_)))
        found.append(update)
        everyone = fw.indices(np.arange(len(scans(64))))
        changes = forward.project_amplitudes(
            forward.extract_patches(fw.tensor(object_), everyone), everyone
        )
        coverage = fw.array(forward.coverage)
        weight = (1 - REGULARIZATION) * coverage + REGULARIZATION * coverage.max()
        assert distance(update * weight, fw.array(forward.place_patches(changes, everyone))) < 1e-5
    assert distance(*found) < 1e-4


LOSSES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {'amplitude_mae_weight': 0.3, 'total_variation_weight': 0.1}),
    ({'gridsize': 2}, {'probe_trainable': True, 'intensity_scale_trainable': True}),
    ({'gridsize': 2, 'model_type': 'supervised'}, {'total_variation_weight': 0.1}),
    ({'architecture': 'cnn'}, {'amplitude_mae_weight': 0.3}),
    ({'architecture': 'cnn', 'gridsize': 2}, {'probe_trainable': True}),
    ({'architecture': 'cnn', 'gridsize': 2, 'overlap_constraint': False}, {}),
]


def starting_model(scan: Scan, config: Config) -> Model:
    """Return a model with random weights, none of them zero, so that gradients reach all."""
    training = config.training.replace(learning_rate=0.0, epochs=1)
    base = create_backend('pytorch').train([scan], config.replace(training=training)).model
    weights = dict(base.weights)
    for layer in base.network.zero_layers:
        shape = weights[f'{layer}/weight'].shape
        drawn = np.random.default_rng(0).normal(scale=0.03, size=shape)
        weights[f'{layer}/weight'] = drawn.astype(np.float32)
    return dataclasses.replace(base, weights=weights)


def take_steps(loop: TrainingLoop, count: int) -> list[dict[str, float]]:
    """Take steps, a batch each, and return their terms."""
    rows: list[dict[str, float]] = []
    for epoch in itertools.count():
        for batch in itertools.chain.from_iterable(loop.data.parts([0, epoch])):
            rows.append(loop.step.accumulate_gradients(batch))
            loop.step.step(loop.learning_rate)
            if len(rows) == count:
                break
        if len(rows) == count:
            break
    return rows


@pytest.mark.parametrize(('model', 'training'), LOSSES, ids=str)
def test_losses_and_gradients(
    both: tuple[Framework, Framework],
    scans: Callable[[int], Scan],
    model: dict[str, Any],
    training: dict[str, Any],
) -> None:
    """After one step Adam's first mean is a tenth of the gradient."""
    config = settings(model, batch_size=32, gradient_clip=0.0, **training)
    base = starting_model(scans(64), config)
    loops = [fw.training_loop(scans(64), config, base) for fw in both]
    (expected,), (found,) = (take_steps(loop, 1) for loop in loops)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    slopes, others = (_means(loop) for loop in loops)
    assert set(others) == set(slopes)
    assert len(slopes) >= len(base.weights)
    for name, array in slopes.items():
        # Each of its own, where it is more than what rounding leaves of larger ones.
        assert np.linalg.norm(others[name] - array) < 1e-2 * np.linalg.norm(array) + 1e-9, name
    assert distance(_joined(others), _joined(slopes)) < 1e-3


@pytest.mark.parametrize(('model', 'training'), LOSSES, ids=str)
def test_twenty_steps(
    both: tuple[Framework, Framework],
    scans: Callable[[int], Scan],
    model: dict[str, Any],
    training: dict[str, Any],
) -> None:
    """Small ones, as Adam's first steps multiply what rounding leaves.

    At ten times this learning rate, weights that differ by rounding alone part by 0.004 of the
    loss within one framework.
    """
    config = settings(model, batch_size=16, learning_rate=1e-4, **training)
    base = starting_model(scans(64), config)
    loops = [fw.training_loop(scans(64), config, base) for fw in both]
    start = _joined(loops[0].step.state_dict())
    rows = [take_steps(loop, 20) for loop in loops]
    for expected, found in zip(*rows, strict=True):
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-3), name
    ends = [_joined(loop.step.state_dict()) for loop in loops]
    moved = distance(ends[0], start)
    assert moved > 2e-4
    assert distance(ends[1], ends[0]) < 0.1 * moved


def _means(loop: TrainingLoop) -> dict[str, Array]:
    arrays = loop.step.optimizer_state()
    return {name: array for name, array in arrays.items() if name.endswith('/exp_avg')}


def _joined(arrays: dict[str, Array]) -> Array:
    return np.concatenate([array.ravel() for _, array in sorted(arrays.items())])


@pytest.mark.parametrize('direction', [NAMES, NAMES[::-1]], ids='-'.join)
@pytest.mark.parametrize('model', [{}, {'architecture': 'cnn', 'gridsize': 2}], ids=str)
def test_a_model_of_one_opens_in_the_other_and_is_fine_tuned(
    both: Any,
    scans: Callable[[int], Scan],
    tmp_path: Any,
    direction: tuple[str, str],
    model: dict[str, Any],
) -> None:
    writer, reader = (create_backend(name) for name in direction)
    scan = scans(64)
    config = settings(model, epochs=2, learning_rate=2e-3)
    writer.train([scan], config)
    writer.save_model(tmp_path / 'wts.h5.zip')
    opened = reader.open_model(tmp_path / 'wts.h5.zip')
    assert opened.backend == direction[0]
    first, second = (
        backend.reconstruct(scan, CPU, RefinementConfig(iterations=0))
        for backend in (writer, reader)
    )
    assert distance(second.object_, first.object_) < 1e-4
    assert (first.backend, second.backend) == direction
    # An epoch that moves no weight shows where each begins.
    still = config.replace(training=config.training.replace(learning_rate=0.0, epochs=1))
    begun = [backend.train([scan], still, base_model=opened) for backend in (writer, reader)]
    assert begun[1].model.backend == direction[1]
    losses = [result.history[0]['loss'] for result in begun]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    fresh = create_backend(reader.name).train([scan], still).history[0]['loss']
    assert abs(losses[1] / fresh - 1) > 5e-3
    tuned = reader.train([scan], config, base_model=opened)
    assert tuned.history[0]['loss'] != losses[1]
