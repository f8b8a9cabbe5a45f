"""The forward model, losses and features of each backend against the NumPy float64 oracle."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from parity.frameworks import Array, Framework, Tensor
from parity.helpers import Model, canvas_object, noise

from ptychopinn_plugin import physics
from ptychopinn_plugin.backends.common.losses import DARK_COUNTS
from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.network import describe_network
from ptychopinn_plugin.physics.projection import RATIO_EPSILON


def oracle(scan: Scan, model: Model, object_: Array) -> NDArray[np.float64]:
    """Return expected patterns with zero frequency in the middle."""
    return physics.predict_patterns(
        object_, model.origin_px, scan.positions_px, scan.probe.astype(complex)
    )


def predict_intensity(fw: Framework, model: Model, object_: Array, indices: Any) -> Tensor:
    return model.predict_intensity(model.extract_patches(fw.tensor(object_), indices), indices)


def test_expected_patterns(fw: Framework, scan: Scan, model: Model, everyone: Any) -> None:
    object_ = canvas_object(model)
    expected = oracle(scan, model, object_)
    found = np.fft.fftshift(
        fw.array(predict_intensity(fw, model, object_, everyone)), axes=(-2, -1)
    )
    error = np.abs(found - expected).sum(axis=(1, 2)) / expected.sum(axis=(1, 2))
    assert error.max() < 1e-5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_the_truth_on_the_canvas_explains_the_counts(
    fw: Framework, scan: Scan, model: Model
) -> None:
    """Positions, origin and orientation together, with an object that has no symmetry."""
    assert scan.object_ is not None
    top, left = (-model.origin_px).tolist()
    height, width = scan.object_.shape
    canvas = fw.array(model.flat_object()).copy()
    rows = slice(max(0, top), min(model.canvas_shape[0], top + height))
    columns = slice(max(0, left), min(model.canvas_shape[1], left + width))
    canvas[rows, columns] = scan.object_[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    truth = model.evaluate_fit(fw.tensor(canvas))[1]
    assert truth < 0.005
    flat = np.ones_like(canvas)
    for wrong in (canvas[::-1], canvas[:, ::-1], np.roll(canvas, 1, axis=1), flat):
        assert model.evaluate_fit(fw.tensor(wrong))[1] > 1.3 * truth


def test_without_the_cache_of_probes(fw: Framework, everyone: Any, model: Model) -> None:
    cached = fw.array(model.probes(everyone))
    model.set_probe(model.probe, cache=False)
    np.testing.assert_array_equal(fw.array(model.probes(everyone)), cached)


def test_a_part_of_a_scan_has_the_same_physics(fw: Framework, scan: Scan, model: Model) -> None:
    object_ = canvas_object(model)
    chosen = np.array([7, 2, 11])
    indices, here = fw.indices(chosen), fw.indices(range(3))
    part = model.subset(chosen)
    top, left = (part.origin_px - model.origin_px).tolist()
    height, width = part.canvas_shape
    box = object_[top : top + height, left : left + width]
    assert box.shape == part.canvas_shape
    whole = predict_intensity(fw, model, object_, indices)

    def same(found: Tensor, expected: Tensor) -> None:
        found, expected = fw.array(found), fw.array(expected)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-5)

    same(predict_intensity(fw, part, box, here), whole)
    same(part.measured(here), model.measured(indices))
    same(part.sum_of_losses(whole, here), model.sum_of_losses(whole, indices))
    assert part.n_valid_pixels() * len(scan) == model.n_valid_pixels() * len(chosen)
    same(part.coverage, part.place_patches(fw.operators.intensity(part.probes(here)), here))
    dimmed = model.subset(chosen, exposure=0.25)
    np.testing.assert_allclose(
        fw.array(predict_intensity(fw, dimmed, box, here)),
        0.25 * fw.array(whole),
        rtol=1e-5,
        atol=1e-5,
    )
    assert dimmed.photons == pytest.approx(0.25 * model.photons)


@pytest.mark.parametrize('cache', [True, False])
def test_shifted_probes(
    fw: Framework, scan: Scan, model: Model, everyone: Any, cache: bool
) -> None:
    model.set_probe(model.probe, cache=cache)
    _, subpixel_shifts = physics.split_positions(scan.positions_px)
    assert np.abs(subpixel_shifts).max() > 0.3
    expected = physics.shift_probe(scan.probe.astype(complex), subpixel_shifts)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(fw.array(model.probes(everyone)), expected, atol=atol)


def test_shifting_back_is_the_adjoint(fw: Framework, model: Model) -> None:
    modes, side = model.probe.shape[0], model.shape[0]
    probe, other = noise((modes, side, side)), noise((15, modes, side, side), 1)
    shifted = fw.array(fw.operators.shift_probe(fw.tensor(probe), model.subpixel_shifts))
    back = fw.array(fw.operators.shift_probe_back(fw.tensor(other), model.subpixel_shifts)).sum(
        axis=0
    )
    left, right = np.vdot(other, shifted), np.vdot(back, probe)
    assert left == pytest.approx(right, rel=1e-3, abs=1e-2)


@pytest.mark.parametrize('size', [None, 16, 13])
def test_placement_is_the_adjoint_of_extraction(
    fw: Framework, model: Model, everyone: Any, size: int | None
) -> None:
    object_ = noise(model.canvas_shape)
    canvas = fw.tensor(object_, double=True)
    extracted = fw.array(model.extract_patches(canvas, everyone, size))
    patches = noise(extracted.shape, 1)
    placed = fw.array(model.place_patches(fw.tensor(patches, double=True), everyone))
    left, right = np.vdot(patches, extracted), np.vdot(placed, object_)
    assert left == pytest.approx(right, rel=1e-12, abs=1e-9)

    # So it is what automatic differentiation finds.
    weights = fw.tensor(patches.conj(), double=True)
    slope = fw.gradient(
        lambda canvas: fw.real_sum(model.extract_patches(canvas, everyone, size) * weights), canvas
    )
    np.testing.assert_allclose(slope, placed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('size', [None, 16, 13])
def test_extraction_and_placement_as_in_numpy(
    fw: Framework, scan: Scan, model: Model, everyone: Any, size: int | None
) -> None:
    object_ = noise(model.canvas_shape).astype(np.complex64)
    whole, _ = physics.split_positions(scan.positions_px)
    centres, shape = whole - model.origin_px, (size, size) if size else model.shape
    expected = physics.extract_patches(object_, centres, shape)
    found = model.extract_patches(fw.tensor(object_), everyone, size)
    np.testing.assert_array_equal(fw.array(found), expected)
    for part in (expected.astype(complex), expected.real.astype(float)):
        placed = physics.place_patches(part, centres, model.canvas_shape)
        result = fw.array(model.place_patches(fw.tensor(part), everyone))
        np.testing.assert_allclose(result, placed, atol=1e-4)


def test_poisson_loss_and_residual(fw: Framework, scan: Scan, model: Model, everyone: Any) -> None:
    object_ = canvas_object(model)
    valid_mask = ~scan.bad_pixels
    expected = oracle(scan, model, object_)
    loss = physics.poisson_loss(expected, scan.patterns, valid_mask)
    found = model.sum_of_losses(predict_intensity(fw, model, object_, everyone), everyone)
    assert float(found) / model.n_valid_pixels() == pytest.approx(loss, rel=1e-4)
    assessed = model.evaluate_fit(fw.tensor(object_), batch_size=4)
    assert assessed[0] == pytest.approx(loss, rel=1e-4)
    residual = physics.amplitude_residual(expected, scan.patterns, valid_mask)
    assert assessed[1] == pytest.approx(residual, rel=1e-4)
    some = physics.poisson_loss(expected[::4], scan.patterns[::4], valid_mask)
    assert abs(some / loss - 1) > 1e-3
    found = model.evaluate_loss(fw.tensor(object_), batch_size=3, stride=4)
    assert found == pytest.approx(some, rel=1e-4)


@pytest.mark.parametrize('level', [0.0, 30.0])
def test_the_gradient_of_the_poisson_loss_in_the_dark(
    fw: Framework, model: Model, everyone: Any, level: float
) -> None:
    """Nothing counted, nothing expected, or both: it says which way, and how much."""
    counts = fw.array(model.measured(everyone)) ** 2
    assert (counts == 0).any()
    assert (counts > 0).any()
    slope = fw.gradient(
        lambda expected: model.sum_of_losses(expected, everyone),
        fw.tensor(np.full_like(counts, level)),
    )
    assert np.isfinite(slope).all()
    valid_mask = np.ones_like(counts) * (
        1.0 if model.valid_mask is None else fw.array(model.valid_mask)
    )
    if level == 0:
        assert (slope[(counts > 0) & (valid_mask > 0)] < 0).all()
        assert np.abs(slope[(counts == 0) & (valid_mask > 0)]).max() < 1e-6
        return
    by_hand = valid_mask * (1 - counts / level)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-4, atol=1e-5)


def test_project(fw: Framework, scan: Scan, model: Model, everyone: Any) -> None:
    patches = 1 + 0.3 * noise((15, *model.shape))
    _, subpixel_shifts = physics.split_positions(scan.positions_px)
    probes = physics.shift_probe(scan.probe.astype(complex), subpixel_shifts)
    expected = physics.project_amplitudes(
        patches, probes, scan.patterns.astype(float), ~scan.bad_pixels
    )
    found = fw.array(model.project_amplitudes(fw.tensor(patches), everyone))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_phase_of_rounding_errors_has_no_say(
    fw: Framework, scan: Scan, model: Model, everyone: Any
) -> None:
    """Where a flat object sends no photons, single precision finds phases of its own."""
    flat = np.ones((15, *model.shape))
    _, subpixel_shifts = physics.split_positions(scan.positions_px)
    probes = physics.shift_probe(scan.probe.astype(complex), subpixel_shifts)
    expected = physics.project_amplitudes(
        flat, probes, scan.patterns.astype(float), ~scan.bad_pixels
    )
    found = fw.array(model.project_amplitudes(fw.tensor(flat.astype(complex)), everyone))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-4


def test_the_probe_update_points_downhill(fw: Framework, model: Model, everyone: Any) -> None:
    """It is the negative gradient of the squared amplitude error with respect to the probe."""
    patches = fw.tensor(1 + 0.3 * noise((15, *model.shape)))
    update = fw.array(fw.probe_update(model, patches, everyone))
    measured, valid_mask = (
        model.measured(everyone),
        1.0 if model.valid_mask is None else model.valid_mask,
    )

    def misfit(probe: Tensor) -> Tensor:
        shifted = fw.operators.shift_probe(probe, model.subpixel_shifts)
        expected = model.predict_intensity(patches, everyone, shifted)
        amplitudes = (measured**2 + RATIO_EPSILON) ** 0.5
        return fw.real_sum(valid_mask * ((expected + RATIO_EPSILON) ** 0.5 - amplitudes) ** 2)

    slope = fw.gradient(misfit, model.probe)
    np.testing.assert_allclose(update, -slope / 2, rtol=1e-3, atol=1e-4 * np.abs(update).max())


@pytest.mark.parametrize('rotations', [(0,), (3,), (0, 1, 2, 3)])
@pytest.mark.parametrize('flat', [True, False])
def test_sweepnet_features(
    fw: Framework, scan: Scan, model: Model, everyone: Any, flat: bool, rotations: tuple[int, ...]
) -> None:
    """What reaches the network, and what becomes of its answer."""
    window = 16
    network = fw.build(describe_network(ModelConfig(filters_scale=0.25), window))
    object_ = canvas_object(model)
    groups = np.arange(15)[:, None]
    seen = fw.features(network, model, groups, object_, flat)
    sides = (2, 3)
    answers = [fw.images(network, np.rot90(seen, number, sides))[0] for number in rotations]
    answer = np.mean(
        [np.rot90(one, -number, sides) for one, number in zip(answers, rotations, strict=True)],
        axis=0,
    )
    found = fw.prediction.predict_patches(
        network, model, fw.indices(groups), fw.tensor(object_), is_flat=flat, rotations=rotations
    )

    whole, subpixel_shifts = physics.split_positions(scan.positions_px)
    centres = whole - model.origin_px
    patches = physics.extract_patches(object_, centres, model.shape)
    probes = physics.shift_probe(scan.probe.astype(complex), subpixel_shifts)
    updates = physics.project_amplitudes(
        patches, probes, scan.patterns.astype(float), ~scan.bad_pixels
    )
    light = (np.abs(probes) ** 2).sum(axis=1)
    coverage = physics.place_patches(light, centres, model.canvas_shape)
    low = model.shape[0] // 2 - window // 2
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
def test_gradients_by_finite_differences(fw: Framework, model: Model, name: str) -> None:
    model, indices, loss = fw.in_double(model), fw.indices(range(4)), getattr(fw, name)
    patches = fw.tensor(1 + 0.3 * noise((4, *model.shape)), double=True)

    def value(of: Tensor) -> Tensor:
        return loss(model.predict_intensity(of, indices), model, indices)

    slopes = fw.gradient(value, patches)
    assert slopes.dtype == np.complex128
    for seed in range(3):
        direction = noise((4, *model.shape), 20 + seed)
        step = 1e-6 * fw.tensor(direction, double=True)
        slope = (float(value(patches + step)) - float(value(patches - step))) / 2e-6
        assert slope == pytest.approx(np.vdot(slopes, direction).real, rel=1e-4)


def test_the_gradient_of_the_deviance_in_single_precision(
    fw: Framework, model: Model, everyone: Any
) -> None:
    """Where the network trains, it is that of float64."""
    patches = 1 + 0.3 * noise((15, *model.shape))
    slopes = []
    for double in (False, True):
        model = fw.in_double(model) if double else model
        slopes.append(
            fw.gradient(
                lambda values, model=model: fw.deviance(
                    model.predict_intensity(values, everyone), model, everyone
                ),
                fw.tensor(patches, double=double),
            )
        )
    scale = np.abs(slopes[1]).max()
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-3, atol=1e-4 * scale)


def test_the_deviance_is_zero_for_a_perfect_fit_and_finite_in_the_dark(
    fw: Framework, model: Model, everyone: Any
) -> None:
    counts = model.measured(everyone) ** 2
    assert float(fw.deviance(counts, model, everyone)) == pytest.approx(0, abs=1e-6)
    for factor in (0.9, 1.1):
        assert float(fw.deviance(factor * counts, model, everyone)) > 1e-3
    dark = fw.tensor(np.zeros(fw.array(counts).shape))
    assert np.isfinite(float(fw.deviance(dark, model, everyone)))
    slope = fw.gradient(lambda expected: fw.deviance(expected, model, everyone), dark)
    assert np.isfinite(slope).all()
    assert float(fw.amplitude_error(dark, model, everyone)) == pytest.approx(1, rel=1e-2)
    slope = fw.gradient(lambda expected: fw.amplitude_error(expected, model, everyone), dark)
    assert np.isfinite(slope).all()


def test_the_deviance_by_hand(fw: Framework, scan: Scan, model: Model, everyone: Any) -> None:
    object_ = canvas_object(model)
    valid_mask = ~scan.bad_pixels
    expected = oracle(scan, model, object_)[:, valid_mask]
    counts = scan.patterns[:, valid_mask].astype(float)
    ratio = (counts + DARK_COUNTS) / (expected + DARK_COUNTS)
    terms = expected - counts + (counts + DARK_COUNTS) * np.log(ratio)
    found = fw.deviance(predict_intensity(fw, model, object_, everyone), model, everyone)
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
        model = fw.model(dataclasses.replace(scan, patterns=patterns))
        patches = fw.tensor(1 + 0.3 * noise((15, *model.shape)))
        expected = model.predict_intensity(patches, everyone)
        found.append(
            [
                model.photons,
                float(model.sum_of_losses(expected, everyone)),
                float(fw.deviance(expected, model, everyone)),
                float(fw.amplitude_error(expected, model, everyone)),
                float(np.abs(fw.array(model.project_amplitudes(patches, everyone))).sum()),
                float(fw.array(model.measured(everyone)).sum()),
            ]
        )
    assert all(row == found[0] for row in found)
    assert np.isfinite(found[0]).all()
