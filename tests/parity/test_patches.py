"""Networks, patches, overlaps and stitching of each backend, against NumPy or by hand."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.frameworks import Framework, Tensor
from parity.helpers import Forward, canvas_object, make_groups, make_patches, noise

from ptychopinn_plugin import physics
from ptychopinn_plugin.backends.common.phase_drift import (
    PatternMoments,
    SlowErrors,
    fit_slow_errors,
)
from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.network import Layer, NetworkDescription, describe_network


@pytest.mark.parametrize(
    'subpixel_shifts', [(0.0, 0.0), (0.3, -0.4), (-0.5, 0.5), (0.25, 0.0), (1.0, -1.0)]
)
def test_bilinear_shift_as_in_numpy(fw: Framework, subpixel_shifts: tuple[float, float]) -> None:
    image = noise((20, 24)).astype(np.complex64)
    moved = fw.prediction.shift_bilinear(
        fw.tensor(image[None]), fw.tensor(np.array([subpixel_shifts]))
    )
    # Moving the image down is looking up in it.
    centre = np.array([[10.0, 12.0]]) - np.array(subpixel_shifts)
    expected = physics.extract_patches(image.astype(complex), centre, (16, 20))[0]
    np.testing.assert_allclose(fw.array(moved)[0, 2:18, 2:22], expected, atol=1e-6)


def test_cut_middle(fw: Framework) -> None:
    image = np.zeros((1, 32, 37))
    image[0, 16, 18] = 1
    for size in (16, 13):
        cut = fw.array(fw.prediction.cut_middle(fw.tensor(image), size))
        assert cut.shape == (1, size, size)
        assert cut[0, size // 2, size // 2] == 1


@pytest.mark.parametrize(('n_groups', 'group_size'), [(1, 4), (3, 9), (16, 4), (40, 4), (9, 9)])
def test_overlaps_are_averaged_group_by_group(
    fw: Framework, forward: Forward, n_groups: int, group_size: int
) -> None:
    """Together or one at a time is the same; 64 patches and more in a batch included."""
    patches = make_patches(fw, forward, make_groups(forward, n_groups, group_size))
    together = fw.array(fw.prediction.average_overlap(patches, forward, group_size))
    for number in range(n_groups):
        part = slice(number * group_size, (number + 1) * group_size)
        alone = fw.prediction.Patches(
            patches.indices[part], patches.values[part], patches.weights[part]
        )
        found = fw.array(fw.prediction.average_overlap(alone, forward, group_size))
        np.testing.assert_allclose(together[part], found, rtol=1e-5, atol=1e-5)


def test_overlap_average_as_in_numpy(fw: Framework, scan: Scan, forward: Forward) -> None:
    groups = make_groups(forward, 5, 4)
    patches = make_patches(fw, forward, groups)
    found = fw.array(fw.prediction.average_overlap(patches, forward, 4)).reshape(5, 4, 16, 16)
    whole, _ = physics.split_positions(scan.positions_px)
    centres = whole - forward.origin_px
    values = fw.array(patches.values).astype(complex).reshape(found.shape)
    weights = fw.array(patches.weights).astype(float).reshape(found.shape)
    weights = weights + 1e-3 * weights.max(axis=(2, 3), keepdims=True)
    for group, value, weight, result in zip(groups, values, weights, found, strict=True):
        total = physics.place_patches(weight, centres[group], forward.canvas_shape)
        summed = physics.place_patches(weight * value, centres[group], forward.canvas_shape)
        mean = summed / np.maximum(total, 1e-9)
        expected = physics.extract_patches(mean, centres[group], (16, 16))
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_equal_patches_stay_as_they_are(fw: Framework, forward: Forward) -> None:
    patches = make_patches(fw, forward, make_groups(forward, 6, 4))
    object_ = fw.tensor(noise(forward.canvas_shape))
    agreeing = dataclasses.replace(
        patches, values=forward.extract_patches(object_, patches.indices, 16)
    )
    update_ema = fw.array(fw.prediction.average_overlap(agreeing, forward, 4))
    np.testing.assert_allclose(update_ema, fw.array(agreeing.values), rtol=1e-4, atol=1e-4)
    # Others do change, and alone nothing does.
    changed = fw.array(fw.prediction.average_overlap(patches, forward, 4)) - fw.array(
        patches.values
    )
    assert np.abs(changed).max() > 0.1
    assert fw.prediction.average_overlap(patches, forward, 1) is patches.values


def test_averaging_is_a_projection(fw: Framework, forward: Forward) -> None:
    patches = make_patches(fw, forward, make_groups(forward, 6, 4))
    once = fw.prediction.average_overlap(patches, forward, 4)
    again = dataclasses.replace(patches, values=once)
    twice = fw.array(fw.prediction.average_overlap(again, forward, 4))
    np.testing.assert_allclose(twice, fw.array(once), rtol=1e-4, atol=1e-4)


def test_gradients_flow_through_the_average(fw: Framework, forward: Forward) -> None:
    patches = make_patches(fw, forward, make_groups(forward, 3, 4))

    def first_patch(values: Tensor) -> Tensor:
        # The loss sees the first group alone, and only its first patch.
        some = dataclasses.replace(patches, values=values)
        update_ema = fw.prediction.average_overlap(some, forward, 4)
        return fw.real_sum(update_ema[:1] * fw.conjugate(update_ema[:1]))

    slope = np.abs(fw.gradient(first_patch, patches.values))
    assert (slope[:4].max(axis=(1, 2)) > 0).all()
    assert (slope[4:] == 0).all()


@pytest.mark.parametrize(('architecture', 'size'), [('sweepnet', 24), ('cnn', 64)])
def test_the_network_of_a_description_has_its_shapes(
    fw: Framework, architecture: str, size: int
) -> None:
    values = {'architecture': architecture, 'gridsize': 2, 'filters_scale': 0.25}
    description = describe_network(ModelConfig.from_dict({**values, 'pattern_size': 64}), size)
    network = fw.network.Network(description)
    channels = description.layers[0].out_channels
    outputs = fw.images(network, np.zeros((3, channels, size, size)))
    assert len(outputs) == len(description.outputs)
    for output in outputs:
        assert output.shape[0] == 3
        assert output.shape[-2:] == (size, size)
    weights = network.numpy_weights()
    assert {name: w.shape for name, w in weights.items()} == description.weight_shapes()


def test_a_new_sweepnet_corrects_nothing_and_a_cnn_stays_in_its_range(fw: Framework) -> None:
    network = fw.network.Network(describe_network(ModelConfig(), 16))
    (correction,) = fw.images(network, noise((2, 6, 16, 16)).real)
    assert (correction == 0).all()
    config = ModelConfig(
        architecture='cnn', pattern_size=64, filters_scale=0.25, border_decoder=False
    )
    network = fw.network.Network(describe_network(config, 64))
    amplitude, phase = fw.images(network, np.random.default_rng(0).random((2, 1, 64, 64)))
    assert (amplitude[..., 16:48, 16:48] > 0).all()
    assert (amplitude[..., :16, :] == 0).all()
    assert np.abs(phase).max() <= np.pi
    assert amplitude.max() < 1


def test_blocks_of_pixels_become_channels_and_pixels_again(fw: Framework) -> None:
    net = NetworkDescription(
        'sweepnet',
        (
            Layer('input', 'input', out_channels=3),
            Layer('folded', 'space-to-depth', ('input',), 3, 12, size=2),
            Layer('again', 'depth-to-space', ('folded',), 12, 3, size=2),
        ),
        ('folded', 'again'),
        window_px=8,
    )
    images = np.random.default_rng(0).random((2, 3, 6, 8)).astype(np.float32)
    folded, again = fw.images(fw.network.Network(net), images)
    expected = [images[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    np.testing.assert_array_equal(folded, np.concatenate(expected, axis=1))
    np.testing.assert_array_equal(again, images)


def test_first_weights_are_drawn_evenly_and_by_the_size_of_a_kernel(fw: Framework) -> None:
    network = fw.network.Network(describe_network(ModelConfig(filters_scale=2), 16))
    weights = network.numpy_weights()
    for name in ('fine/2', 'coarse/1'):
        limit = np.prod(weights[f'{name}/weight'].shape[1:]) ** -0.5
        for part in ('weight', 'bias'):
            drawn = weights[f'{name}/{part}'].ravel()
            assert np.abs(drawn).max() <= limit
            assert drawn.std() == pytest.approx(limit / 3**0.5, rel=0.25)


def test_the_border_has_its_own_branch(fw: Framework) -> None:
    config = ModelConfig(architecture='cnn', pattern_size=64, filters_scale=0.25)
    network = fw.network.Network(describe_network(config, 64))
    images = np.random.default_rng(0).random((1, 1, 64, 64))
    before = fw.images(network, images)[0]
    weights = network.numpy_weights()
    weights['amplitude/border/3/bias'] = weights['amplitude/border/3/bias'] + 1
    network.load_weights(weights)
    change = np.abs(fw.images(network, images)[0] - before)[0, 0] > 0
    assert not change[16:48, 16:48].any()
    change[16:48, 16:48] = True
    assert change.all()


def test_target_distance_is_blind_to_a_global_phase(fw: Framework, forward: Forward) -> None:
    patches = make_patches(fw, forward, np.arange(15)[:, None])
    values = fw.array(patches.values)
    labels = values * np.exp(1.3j)
    coverage = fw.tensor(np.ones(values.shape))

    def distance(patches: Any, labels: Any) -> float:
        return float(fw.target_distance(patches, fw.tensor(labels), coverage))

    assert distance(patches, labels) == pytest.approx(0, abs=1e-6)
    far = distance(patches, labels * 2)
    assert far > 0.5
    # With an estimate, its phase is the one to keep.
    opposite = dataclasses.replace(patches, reference=-patches.values)
    assert distance(opposite, labels) > 2 * far


def test_total_variation(fw: Framework, forward: Forward) -> None:
    patches = make_patches(fw, forward, np.arange(3)[:, None])
    even = fw.tensor(np.full(patches.values.shape, 1 + 2j))
    flat = dataclasses.replace(patches, values=even)
    assert float(fw.total_variation(flat)) == 0
    assert float(fw.total_variation(patches)) > 0.5
    slope = fw.gradient(
        lambda values: fw.total_variation(dataclasses.replace(patches, values=values)), even
    )
    assert (slope == 0).all()


def test_a_slow_phase_is_found_and_taken_out(fw: Framework) -> None:
    scan = simulate(
        SimulationConfig(size=32, pupil_radius=0.12, defocus=100.0, rows=7, columns=7, step_px=5.0)
    )
    forward = fw.build_forward(scan)
    assert scan.object_ is not None
    top, left = forward.origin_px.tolist()
    height, width = forward.canvas_shape
    truth = scan.object_[top : top + height, left : left + width]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    wrong = truth * np.exp(1j * (0.5 * np.cos(2 * y) * (1 + x) + 0.3 * x))
    corrected = fw.array(fw.phase_drift.correct_phase_drift(forward, fw.tensor(wrong)))
    before, after, best = (
        forward.evaluate_fit(fw.tensor(image))[0] for image in (wrong, corrected, truth)
    )
    assert after - best < 0.4 * (before - best)
    for image, low, high in ((wrong, 0.1, 1.0), (corrected, 0.0, 0.06)):
        phase = np.angle((image * truth.conj())[16:-16, 16:-16])
        assert low <= phase.std() < high
    # The truth has nothing to correct, and is not made worse.
    assert (
        forward.evaluate_fit(fw.phase_drift.correct_phase_drift(forward, fw.tensor(truth)))[0]
        <= best
    )


def test_slopes_are_measured_with_the_right_sign(fw: Framework) -> None:
    """An object with a ramp too little needs that ramp."""
    scan = simulate(SimulationConfig(rows=4, columns=6, poisson_noise=False))
    assert scan.object_ is not None
    forward = fw.build_forward(scan)
    top, left = forward.origin_px.tolist()
    height, width = forward.canvas_shape
    assert min(top, left) >= 0
    truth = scan.object_[top : top + height, left : left + width]
    ramp = np.array([0.01, -0.02])
    y, x = np.indices(forward.canvas_shape)
    tilted = truth * np.exp(-1j * (ramp[0] * y + ramp[1] * x))
    moments = fw.phase_drift.measure_moments(forward, fw.tensor(tilted))
    normals, sides = moments.slopes_alone()
    slopes = np.linalg.solve(normals, sides[..., None])[..., 0]
    np.testing.assert_allclose(slopes[:, 2:].mean(axis=0), ramp, rtol=0.1)
    assert np.abs(slopes[:, :2].mean(axis=0)).max() < 1e-3


def test_a_surface_is_recovered_from_its_slopes() -> None:
    rng = np.random.default_rng(0)
    middles = rng.uniform(10, 110, (400, 2))
    middles[:2] = [[10, 10], [110, 110]]
    u, v = (middles[:, 0] - 10) / 100, (middles[:, 1] - 10) / 100
    slopes = np.zeros((400, 4))
    slopes[:, 2] = -np.pi / 100 * np.sin(np.pi * u) * np.cos(2 * np.pi * v)
    slopes[:, 3] = -2 * np.pi / 100 * np.cos(np.pi * u) * np.sin(2 * np.pi * v) + 0.02
    normals = np.tile(np.eye(5), (400, 1, 1))
    probe = np.ones((1, 20, 20), np.complex64)
    forward = SimpleNamespace(patch_origins_px=middles - 10, shape=(20, 20))

    def fitted(unknowns: np.ndarray) -> SlowErrors:
        sides = np.concatenate([np.zeros((400, 1)), unknowns], axis=1)
        return fit_slow_errors(forward, PatternMoments(normals, sides), probe)

    factor = fitted(slopes / 2).phase_factor((120, 120))
    grid = np.arange(10, 111) / 100 - 0.1
    truth = np.outer(np.cos(np.pi * grid), np.cos(2 * np.pi * grid)) + 2 * grid[None]
    found = 2 * np.angle(factor[10:111, 10:111])
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.995
    assert np.ptp(found) == pytest.approx(np.ptp(truth), rel=0.1)
    np.testing.assert_array_equal(fitted(0 * slopes).factor((120, 120)), 1)


def test_blocks_are_stitched_in_phase(fw: Framework, forward: Forward) -> None:
    """True patches with a random phase each, in blocks with another one, give the object back."""
    object_ = canvas_object(forward)
    rng = np.random.default_rng(0)
    stitcher = fw.stitching.Stitcher(forward, forward.flat_object())
    for indices in (np.arange(7), np.arange(7, 15)):
        patches = make_patches(fw, forward, indices[:, None])
        cut = fw.array(forward.extract_patches(fw.tensor(object_), patches.indices, 16))
        rotations = np.exp(1j * rng.uniform(0, 6, len(indices)))[:, None, None]
        values = fw.tensor(cut * rotations)
        stitcher.add([dataclasses.replace(patches, values=values)], phase_synchronization=True)
    found, coverage = fw.array(stitcher.object_()), fw.array(forward.coverage)
    lit = coverage > 0.1 * coverage.max()
    phase_factor = np.vdot(found[lit], object_[lit])
    assert np.abs(found * phase_factor / abs(phase_factor) - object_)[lit].max() < 0.25


def test_prediction_does_not_depend_on_the_batch(fw: Framework, forward: Forward) -> None:
    network = fw.build(describe_network(ModelConfig(filters_scale=0.25, passes=2), 16))
    results = [fw.stitch(network, forward, batch_size=size) for size in (1, 4, 100)]
    for other in results[1:]:
        assert len(other) == 3
        found, expected = fw.array(other[-1]), fw.array(results[0][-1])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
