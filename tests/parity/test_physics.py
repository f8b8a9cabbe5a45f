"""The forward model, losses and features of each backend against the NumPy float64 oracle."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from parity.frameworks import Array, Framework, Tensor
from parity.helpers import Forward, canvas_object, noise

from ptychopinn_plugin import physics
from ptychopinn_plugin.backends.common.losses import DARK_COUNTS
from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.network import describe_network
from ptychopinn_plugin.physics.projection import RATIO_EPSILON


def oracle(scan: Scan, forward: Forward, object_: Array) -> NDArray[np.float64]:
    """Return expected patterns with zero frequency in the middle."""
    return physics.predict_patterns(
        object_, forward.origin_px, scan.positions_px, scan.probe.astype(complex)
    )


def predict_intensity(fw: Framework, forward: Forward, object_: Array, indices: Any) -> Tensor:
    return forward.predict_intensity(forward.extract_patches(fw.tensor(object_), indices), indices)


def test_expected_patterns(fw: Framework, scan: Scan, forward: Forward, everyone: Any) -> None:
    object_ = canvas_object(forward)
    expected = oracle(scan, forward, object_)
    found = np.fft.fftshift(
        fw.array(predict_intensity(fw, forward, object_, everyone)), axes=(-2, -1)
    )
    error = np.abs(found - expected).sum(axis=(1, 2)) / expected.sum(axis=(1, 2))
    assert error.max() < 1e-5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_the_truth_on_the_canvas_explains_the_counts(
    fw: Framework, scan: Scan, forward: Forward
) -> None:
    """Positions, origin and orientation together, with an object that has no symmetry."""
    assert scan.object_ is not None
    top, left = (-forward.origin_px).tolist()
    height, width = scan.object_.shape
    canvas = fw.array(forward.flat_object()).copy()
    rows = slice(max(0, top), min(forward.canvas_shape[0], top + height))
    columns = slice(max(0, left), min(forward.canvas_shape[1], left + width))
    canvas[rows, columns] = scan.object_[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    truth = forward.evaluate_fit(fw.tensor(canvas))[1]
    assert truth < 0.005
    flat = np.ones_like(canvas)
    for wrong in (canvas[::-1], canvas[:, ::-1], np.roll(canvas, 1, axis=1), flat):
        assert forward.evaluate_fit(fw.tensor(wrong))[1] > 1.3 * truth


def test_without_the_cache_of_probes(fw: Framework, everyone: Any, forward: Forward) -> None:
    cached = fw.array(forward.probes(everyone))
    forward.set_probe(forward.probe, cache=False)
    np.testing.assert_array_equal(fw.array(forward.probes(everyone)), cached)


def test_a_part_of_a_scan_has_the_same_physics(fw: Framework, scan: Scan, forward: Forward) -> None:
    object_ = canvas_object(forward)
    chosen = np.array([7, 2, 11])
    indices, here = fw.indices(chosen), fw.indices(range(3))
    part = forward.subset(chosen)
    top, left = (part.origin_px - forward.origin_px).tolist()
    height, width = part.canvas_shape
    box = object_[top : top + height, left : left + width]
    assert box.shape == part.canvas_shape
    whole = predict_intensity(fw, forward, object_, indices)

    def same(found: Tensor, expected: Tensor) -> None:
        found, expected = fw.array(found), fw.array(expected)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-5)

    same(predict_intensity(fw, part, box, here), whole)
    same(part.measured(here), forward.measured(indices))
    same(part.sum_of_losses(whole, here), forward.sum_of_losses(whole, indices))
    assert part.n_valid_pixels() * len(scan) == forward.n_valid_pixels() * len(chosen)
    same(part.coverage, part.place_patches(fw.operators.intensity(part.probes(here)), here))
    dimmed = forward.subset(chosen, exposure=0.25)
    np.testing.assert_allclose(
        fw.array(predict_intensity(fw, dimmed, box, here)),
        0.25 * fw.array(whole),
        rtol=1e-5,
        atol=1e-5,
    )
    assert dimmed.photons == pytest.approx(0.25 * forward.photons)


@pytest.mark.parametrize('cache', [True, False])
def test_shifted_probes(
    fw: Framework, scan: Scan, forward: Forward, everyone: Any, cache: bool
) -> None:
    forward.set_probe(forward.probe, cache=cache)
    _, subpixel_shifts = physics.split_positions(scan.positions_px)
    assert np.abs(subpixel_shifts).max() > 0.3
    expected = physics.shift_probe(scan.probe.astype(complex), subpixel_shifts)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(fw.array(forward.probes(everyone)), expected, atol=atol)


def test_shifting_back_is_the_adjoint(fw: Framework, forward: Forward) -> None:
    modes, side = forward.probe.shape[0], forward.shape[0]
    probe, other = noise((modes, side, side)), noise((15, modes, side, side), 1)
    shifted = fw.array(fw.operators.shift_probe(fw.tensor(probe), forward.subpixel_shifts))
    back = fw.array(fw.operators.shift_probe_back(fw.tensor(other), forward.subpixel_shifts)).sum(
        axis=0
    )
    left, right = np.vdot(other, shifted), np.vdot(back, probe)
    assert left == pytest.approx(right, rel=1e-3, abs=1e-2)


@pytest.mark.parametrize('size', [None, 16, 13])
def test_placement_is_the_adjoint_of_extraction(
    fw: Framework, forward: Forward, everyone: Any, size: int | None
) -> None:
    object_ = noise(forward.canvas_shape)
    canvas = fw.tensor(object_, double=True)
    extracted = fw.array(forward.extract_patches(canvas, everyone, size))
    patches = noise(extracted.shape, 1)
    placed = fw.array(forward.place_patches(fw.tensor(patches, double=True), everyone))
    left, right = np.vdot(patches, extracted), np.vdot(placed, object_)
    assert left == pytest.approx(right, rel=1e-12, abs=1e-9)

    # So it is what automatic differentiation finds.
    weights = fw.tensor(patches.conj(), double=True)
    slope = fw.gradient(
        lambda canvas: fw.real_sum(forward.extract_patches(canvas, everyone, size) * weights),
        canvas,
    )
    np.testing.assert_allclose(slope, placed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('size', [None, 16, 13])
def test_extraction_and_placement_as_in_numpy(
    fw: Framework, scan: Scan, forward: Forward, everyone: Any, size: int | None
) -> None:
    object_ = noise(forward.canvas_shape).astype(np.complex64)
    whole, _ = physics.split_positions(scan.positions_px)
    centres, shape = whole - forward.origin_px, (size, size) if size else forward.shape
    expected = physics.extract_patches(object_, centres, shape)
    found = forward.extract_patches(fw.tensor(object_), everyone, size)
    np.testing.assert_array_equal(fw.array(found), expected)
    for part in (expected.astype(complex), expected.real.astype(float)):
        placed = physics.place_patches(part, centres, forward.canvas_shape)
        result = fw.array(forward.place_patches(fw.tensor(part), everyone))
        np.testing.assert_allclose(result, placed, atol=1e-4)


def test_poisson_loss_and_residual(
    fw: Framework, scan: Scan, forward: Forward, everyone: Any
) -> None:
    object_ = canvas_object(forward)
    valid_mask = ~scan.bad_pixels
    expected = oracle(scan, forward, object_)
    loss = physics.poisson_loss(expected, scan.patterns, valid_mask)
    found = forward.sum_of_losses(predict_intensity(fw, forward, object_, everyone), everyone)
    assert float(found) / forward.n_valid_pixels() == pytest.approx(loss, rel=1e-4)
    assessed = forward.evaluate_fit(fw.tensor(object_), batch_size=4)
    assert assessed[0] == pytest.approx(loss, rel=1e-4)
    residual = physics.amplitude_residual(expected, scan.patterns, valid_mask)
    assert assessed[1] == pytest.approx(residual, rel=1e-4)
    some = physics.poisson_loss(expected[::4], scan.patterns[::4], valid_mask)
    assert abs(some / loss - 1) > 1e-3
    found = forward.evaluate_loss(fw.tensor(object_), batch_size=3, stride=4)
    assert found == pytest.approx(some, rel=1e-4)


@pytest.mark.parametrize('level', [0.0, 30.0])
def test_the_gradient_of_the_poisson_loss_in_the_dark(
    fw: Framework, forward: Forward, everyone: Any, level: float
) -> None:
    """Nothing counted, nothing expected, or both: it names the direction, and how much."""
    counts = fw.array(forward.measured(everyone)) ** 2
    assert (counts == 0).any()
    assert (counts > 0).any()
    slope = fw.gradient(
        lambda expected: forward.sum_of_losses(expected, everyone),
        fw.tensor(np.full_like(counts, level)),
    )
    assert np.isfinite(slope).all()
    valid_mask = np.ones_like(counts) * (
        1.0 if forward.valid_mask is None else fw.array(forward.valid_mask)
    )
    if level == 0:
        assert (slope[(counts > 0) & (valid_mask > 0)] < 0).all()
        assert np.abs(slope[(counts == 0) & (valid_mask > 0)]).max() < 1e-6
        return
    by_hand = valid_mask * (1 - counts / level)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-4, atol=1e-5)


def test_project(fw: Framework, scan: Scan, forward: Forward, everyone: Any) -> None:
    patches = 1 + 0.3 * noise((15, *forward.shape))
    _, subpixel_shifts = physics.split_positions(scan.positions_px)
    probes = physics.shift_probe(scan.probe.astype(complex), subpixel_shifts)
    expected = physics.project_amplitudes(
        patches, probes, scan.patterns.astype(float), ~scan.bad_pixels
    )
    found = fw.array(forward.project_amplitudes(fw.tensor(patches), everyone))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_phase_of_rounding_errors_has_no_say(
    fw: Framework, scan: Scan, forward: Forward, everyone: Any
) -> None:
    """Where a flat object sends no photons, single precision finds phases of its own."""
    flat = np.ones((15, *forward.shape))
    _, subpixel_shifts = physics.split_positions(scan.positions_px)
    probes = physics.shift_probe(scan.probe.astype(complex), subpixel_shifts)
    expected = physics.project_amplitudes(
        flat, probes, scan.patterns.astype(float), ~scan.bad_pixels
    )
    found = fw.array(forward.project_amplitudes(fw.tensor(flat.astype(complex)), everyone))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-4


def test_the_probe_update_points_downhill(fw: Framework, forward: Forward, everyone: Any) -> None:
    """It is the negative gradient of the squared amplitude error with respect to the probe."""
    patches = fw.tensor(1 + 0.3 * noise((15, *forward.shape)))
    update = fw.array(fw.probe_update(forward, patches, everyone))
    measured, valid_mask = (
        forward.measured(everyone),
        1.0 if forward.valid_mask is None else forward.valid_mask,
    )

    def misfit(probe: Tensor) -> Tensor:
        shifted = fw.operators.shift_probe(probe, forward.subpixel_shifts)
        expected = forward.predict_intensity(patches, everyone, shifted)
        amplitudes = (measured**2 + RATIO_EPSILON) ** 0.5
        return fw.real_sum(valid_mask * ((expected + RATIO_EPSILON) ** 0.5 - amplitudes) ** 2)

    slope = fw.gradient(misfit, forward.probe)
    np.testing.assert_allclose(update, -slope / 2, rtol=1e-3, atol=1e-4 * np.abs(update).max())


@pytest.mark.parametrize('rotations', [(0,), (3,), (0, 1, 2, 3)])
@pytest.mark.parametrize('flat', [True, False])
def test_sweepnet_features(
    fw: Framework,
    scan: Scan,
    forward: Forward,
    everyone: Any,
    flat: bool,
    rotations: tuple[int, ...],
) -> None:
    """What reaches the network, and what becomes of its answer."""
    window = 16
    network = fw.build(describe_network(ModelConfig(filters_scale=0.25), window))
    object_ = canvas_object(forward)
    groups = np.arange(15)[:, None]
    seen = fw.features(network, forward, groups, object_, flat)
    sides = (2, 3)
    answers = [fw.images(network, np.rot90(seen, number, sides))[0] for number in rotations]
    answer = np.mean(
        [np.rot90(one, -number, sides) for one, number in zip(answers, rotations, strict=True)],
        axis=0,
    )
    found = fw.prediction.predict_patches(
        network, forward, fw.indices(groups), fw.tensor(object_), is_flat=flat, rotations=rotations
    )

    whole, subpixel_shifts = physics.split_positions(scan.positions_px)
    centres = whole - forward.origin_px
    patches = physics.extract_patches(object_, centres, forward.shape)
    probes = physics.shift_probe(scan.probe.astype(complex), subpixel_shifts)
    updates = physics.project_amplitudes(
        patches, probes, scan.patterns.astype(float), ~scan.bad_pixels
    )
    light = (np.abs(probes) ** 2).sum(axis=1)
    coverage = physics.place_patches(light, centres, forward.canvas_shape)
    low = forward.shape[0] // 2 - window // 2
    middle = np.s_[:, low : low + window, low : low + window]
    lit = physics.extract_patches(coverage, centres, (window, window))
    features, start, phases = physics.sweepnet_features(
        patches[middle], updates[middle], light[middle], np.zeros_like(lit) if flat else lit
    )
    np.testing.assert_allclose(seen, features, atol=2e-4 * np.abs(features).max())
    assert np.abs(answer).max() > 1e-3
    expected = (start + answer[:, 0] + 1j * answer[:, 1]) * phases.conj()[:, None, None]
    atol = 2e-4 * np.abs(expected).max()
    np.testing.assert_allclose(fw.array(found.values), expected, atol=atol)
    np.testing.assert_allclose(fw.array(found.weights), light[middle], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fw.array(found.reference), patches[middle], atol=1e-5)
    assert found.indices.tolist() == everyone.tolist()


@pytest.mark.parametrize('name', ['deviance', 'amplitude_error'])
def test_gradients_by_finite_differences(fw: Framework, forward: Forward, name: str) -> None:
    forward, indices, loss = fw.in_double(forward), fw.indices(range(4)), getattr(fw, name)
    patches = fw.tensor(1 + 0.3 * noise((4, *forward.shape)), double=True)

    def value(of: Tensor) -> Tensor:
        return loss(forward.predict_intensity(of, indices), forward, indices)

    slopes = fw.gradient(value, patches)
    assert slopes.dtype == np.complex128
    for seed in range(3):
        direction = noise((4, *forward.shape), 20 + seed)
        step = 1e-6 * fw.tensor(direction, double=True)
        slope = (float(value(patches + step)) - float(value(patches - step))) / 2e-6
        assert slope == pytest.approx(np.vdot(slopes, direction).real, rel=1e-4)


def test_the_gradient_of_the_deviance_in_single_precision(
    fw: Framework, forward: Forward, everyone: Any
) -> None:
    """Where the network trains, it is that of float64."""
    patches = 1 + 0.3 * noise((15, *forward.shape))
    slopes = []
    for double in (False, True):
        forward = fw.in_double(forward) if double else forward
        slopes.append(
            fw.gradient(
                lambda values, forward=forward: fw.deviance(
                    forward.predict_intensity(values, everyone), forward, everyone
                ),
                fw.tensor(patches, double=double),
            )
        )
    scale = np.abs(slopes[1]).max()
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-3, atol=1e-4 * scale)


def test_the_deviance_is_zero_for_a_perfect_fit_and_finite_in_the_dark(
    fw: Framework, forward: Forward, everyone: Any
) -> None:
    counts = forward.measured(everyone) ** 2
    assert float(fw.deviance(counts, forward, everyone)) == pytest.approx(0, abs=1e-6)
    for factor in (0.9, 1.1):
        assert float(fw.deviance(factor * counts, forward, everyone)) > 1e-3
    dark = fw.tensor(np.zeros(fw.array(counts).shape))
    assert np.isfinite(float(fw.deviance(dark, forward, everyone)))
    slope = fw.gradient(lambda expected: fw.deviance(expected, forward, everyone), dark)
    assert np.isfinite(slope).all()
    assert float(fw.amplitude_error(dark, forward, everyone)) == pytest.approx(1, rel=1e-2)
    slope = fw.gradient(lambda expected: fw.amplitude_error(expected, forward, everyone), dark)
    assert np.isfinite(slope).all()


def test_the_deviance_by_hand(fw: Framework, scan: Scan, forward: Forward, everyone: Any) -> None:
    object_ = canvas_object(forward)
    valid_mask = ~scan.bad_pixels
    expected = oracle(scan, forward, object_)[:, valid_mask]
    counts = scan.patterns[:, valid_mask].astype(float)
    ratio = (counts + DARK_COUNTS) / (expected + DARK_COUNTS)
    terms = expected - counts + (counts + DARK_COUNTS) * np.log(ratio)
    found = fw.deviance(predict_intensity(fw, forward, object_, everyone), forward, everyone)
    assert float(found) == pytest.approx(2 * terms.sum() / counts.sum(), rel=1e-4)


def test_a_dead_pixel_has_no_say(fw: Framework, scan: Scan, everyone: Any) -> None:
    if not scan.bad_pixels.any():
        pytest.skip('This scan has no dead pixels.')
    values = [0.0, 7e5]
    if scan.patterns.dtype.kind == 'f':
        values.append(np.nan)
    found = []
    for value in values:
        patterns = scan.patterns.astype(np.float32)
        patterns[:, scan.bad_pixels] = value
        forward = fw.build_forward(dataclasses.replace(scan, patterns=patterns))
        patches = fw.tensor(1 + 0.3 * noise((15, *forward.shape)))
        expected = forward.predict_intensity(patches, everyone)
        found.append(
            [
                forward.photons,
                float(forward.sum_of_losses(expected, everyone)),
                float(fw.deviance(expected, forward, everyone)),
                float(fw.amplitude_error(expected, forward, everyone)),
                float(np.abs(fw.array(forward.project_amplitudes(patches, everyone))).sum()),
                float(fw.array(forward.measured(everyone)).sum()),
            ]
        )
    assert all(row == found[0] for row in found)
    assert np.isfinite(found[0]).all()
