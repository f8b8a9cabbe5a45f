"""PyTorch's forward model, losses and features against the NumPy float64 oracle."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip('torch', reason='The PyTorch backend needs PyTorch.')

from ptychopinn_plugin import physics
from ptychopinn_plugin.backends.pytorch.forward import (
    ForwardModel,
    intensity,
    shift_probe,
    shift_probe_back,
)
from ptychopinn_plugin.backends.pytorch.inference import Stitcher, predict_object
from ptychopinn_plugin.backends.pytorch.losses import (
    DARK_COUNTS,
    amplitude_error,
    poisson_deviance,
    teacher_distance,
    total_variation,
)
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.prediction import (
    Patches,
    average_overlap,
    cut_middle,
    predict_patches,
    shift_bilinear,
)
from ptychopinn_plugin.backends.pytorch.tilts import correct_slow_phase, measure_slopes
from ptychopinn_plugin.backends.surfaces import fit_surface
from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.data import Scan, fit_to_size
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.network import describe_network

Tensor = torch.Tensor
Complex = NDArray[np.complex128]
Loss = Callable[[Tensor, ForwardModel, Tensor], Tensor]
CPU = torch.device('cpu')


def noise(shape: tuple[int, ...], seed: int = 0) -> Complex:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def tensor(array: np.ndarray) -> Tensor:
    kind = np.complex64 if np.iscomplexobj(array) else np.float32
    return torch.from_numpy(np.ascontiguousarray(array, dtype=kind))


def make_model(scan: Scan) -> ForwardModel:
    return ForwardModel(scan, torch.from_numpy(scan.probe), CPU)


@pytest.fixture(scope='module', params=['one mode', 'modes and mask', 'padded'])
def scan(request: pytest.FixtureRequest) -> Scan:
    """Return a scan between pixels; with modes and dead pixels, and one with an odd side."""
    plain = request.param == 'one mode'
    scan = simulate(
        SimulationConfig(
            size=32,
            pupil_radius=0.12,
            defocus=100.0,
            rows=3,
            columns=5,
            step_px=4.0,
            n_modes=1 if plain else 3,
            dead_pixels=0 if plain else 12,
        )
    )
    return fit_to_size(scan, 37) if request.param == 'padded' else scan


@pytest.fixture
def model(scan: Scan) -> ForwardModel:
    return make_model(scan)


@pytest.fixture
def everyone(model: ForwardModel) -> Tensor:
    return torch.arange(len(model))


def canvas_object(model: ForwardModel, seed: int = 0) -> Complex:
    return 1 + 0.3 * noise(model.canvas_shape, seed)


def oracle(scan: Scan, model: ForwardModel, object_: Complex) -> NDArray[np.float64]:
    """Return expected patterns with zero frequency in the middle."""
    return physics.predict_patterns(
        object_, model.origin_px, scan.positions_px, scan.probe.astype(complex)
    )


def centred(patterns: Tensor) -> NDArray[np.float64]:
    return np.fft.fftshift(patterns.detach().double().numpy(), axes=(-2, -1))


def test_expected_patterns(scan: Scan, model: ForwardModel, everyone: Tensor) -> None:
    object_ = canvas_object(model)
    expected = oracle(scan, model, object_)
    patches = model.extract(tensor(object_), everyone)
    found = centred(model.expect(patches, everyone))
    error = np.abs(found - expected).sum(axis=(1, 2)) / expected.sum(axis=(1, 2))
    assert error.max() < 1e-5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_the_truth_on_the_canvas_explains_the_counts(scan: Scan, model: ForwardModel) -> None:
    """Positions, origin and orientation together, with an object that has no symmetry."""
    assert scan.object_ is not None
    top, left = (-model.origin_px).tolist()
    height, width = scan.object_.shape
    canvas = model.flat_object()
    rows = slice(max(0, top), min(model.canvas_shape[0], top + height))
    columns = slice(max(0, left), min(model.canvas_shape[1], left + width))
    inside = scan.object_[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    canvas[rows, columns] = torch.from_numpy(inside)
    truth = model.assess(canvas)[1]
    assert truth < 0.005
    for wrong in (canvas.flip(0), canvas.flip(1), canvas.roll(1, dims=0), model.flat_object()):
        assert model.assess(wrong)[1] > 1.3 * truth


def test_without_the_cache_of_probes(scan: Scan, everyone: Tensor, model: ForwardModel) -> None:
    cached = model.probes(everyone)
    model.set_probe(model.probe, cache=False)
    np.testing.assert_array_equal(model.probes(everyone).numpy(), cached.numpy())


def test_a_part_of_a_scan_has_the_same_physics(scan: Scan, model: ForwardModel) -> None:
    object_ = tensor(canvas_object(model))
    indices = torch.tensor([7, 2, 11])
    part = model.subset(indices)
    top, left = (part.origin_px - model.origin_px).tolist()
    height, width = part.canvas_shape
    box = object_[top : top + height, left : left + width]
    assert box.shape == part.canvas_shape
    here = torch.arange(3)
    whole = model.expect(model.extract(object_, indices), indices)
    torch.testing.assert_close(part.expect(part.extract(box, here), here), whole)
    torch.testing.assert_close(part.measured(here), model.measured(indices))
    loss = part.poisson_loss(whole, here)
    torch.testing.assert_close(loss, model.poisson_loss(whole, indices))
    alone = part.place(intensity(part.probes(here)), here)
    torch.testing.assert_close(part.coverage, alone)
    dimmed = model.subset(indices, exposure=0.25)
    dim = dimmed.expect(part.extract(box, here), here)
    torch.testing.assert_close(dim, 0.25 * whole)
    assert dimmed.photons == pytest.approx(0.25 * model.photons)


@pytest.mark.parametrize('cache', [True, False])
def test_shifted_probes(scan: Scan, model: ForwardModel, everyone: Tensor, cache: bool) -> None:
    model.set_probe(model.probe, cache=cache)
    _, rests = physics.split_positions(scan.positions_px)
    assert np.abs(rests).max() > 0.3
    expected = physics.shift_probe(scan.probe.astype(complex), rests)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model.probes(everyone).numpy(), expected, atol=atol)


def test_shifting_back_is_the_adjoint(model: ForwardModel) -> None:
    modes, side = model.probe.shape[0], model.shape[0]
    probe, other = tensor(noise((modes, side, side))), tensor(noise((15, modes, side, side), 1))
    left = torch.vdot(other.ravel(), shift_probe(probe, model.rests).ravel())
    back = shift_probe_back(other, model.rests).sum(dim=0)
    right = torch.vdot(back.ravel(), probe.ravel())
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('size', [None, 16, 13])
def test_placement_is_the_adjoint_of_extraction(
    model: ForwardModel, everyone: Tensor, size: int | None
) -> None:
    object_ = torch.from_numpy(noise(model.canvas_shape))
    extracted = model.extract(object_, everyone, size)
    patches = torch.from_numpy(noise(tuple(extracted.shape), 1))
    left = torch.vdot(patches.ravel(), extracted.ravel())
    right = torch.vdot(model.place(patches, everyone).ravel(), object_.ravel())
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-9)
    # So it is what automatic differentiation finds.
    object_.requires_grad_()
    model.extract(object_, everyone, size).backward(patches)
    torch.testing.assert_close(object_.grad, model.place(patches, everyone))


@pytest.mark.parametrize('size', [None, 16, 13])
def test_extraction_and_placement_as_in_numpy(
    scan: Scan, model: ForwardModel, everyone: Tensor, size: int | None
) -> None:
    object_ = noise(model.canvas_shape).astype(np.complex64)
    whole, _ = physics.split_positions(scan.positions_px)
    centres, shape = whole - model.origin_px, (size, size) if size else model.shape
    expected = physics.extract_patches(object_, centres, shape)
    found = model.extract(torch.from_numpy(object_), everyone, size)
    np.testing.assert_array_equal(found.numpy(), expected)
    placed = physics.place_patches(expected.astype(complex), centres, model.canvas_shape)
    np.testing.assert_allclose(model.place(found, everyone).numpy(), placed, atol=1e-4)
    real = physics.place_patches(expected.real.astype(float), centres, model.canvas_shape)
    np.testing.assert_allclose(model.place(found.real, everyone).numpy(), real, atol=1e-4)


def test_poisson_loss_and_residual(scan: Scan, model: ForwardModel, everyone: Tensor) -> None:
    object_ = canvas_object(model)
    good = ~scan.bad_pixels
    expected = oracle(scan, model, object_)
    loss = physics.poisson_loss(expected, scan.patterns, good)
    found = model.poisson_loss(
        model.expect(model.extract(tensor(object_), everyone), everyone), everyone
    )
    assert float(found) == pytest.approx(loss, rel=1e-4)
    assessed = model.assess(tensor(object_), batch_size=4)
    assert assessed[0] == pytest.approx(loss, rel=1e-4)
    residual = physics.amplitude_residual(expected, scan.patterns, good)
    assert assessed[1] == pytest.approx(residual, rel=1e-4)


@pytest.mark.parametrize('level', [0.0, 30.0])
def test_the_gradient_of_the_poisson_loss_in_the_dark(
    scan: Scan, model: ForwardModel, everyone: Tensor, level: float
) -> None:
    """Nothing counted, nothing expected, or both: it says which way, and how much."""
    counts = model.measured(everyone) ** 2
    assert (counts == 0).any()
    assert (counts > 0).any()
    expected = torch.full_like(counts, level).requires_grad_()
    model.poisson_loss(expected, everyone).backward()
    assert expected.grad is not None
    assert torch.isfinite(expected.grad).all()
    good = torch.ones_like(counts) if model.good is None else model.good.expand_as(counts)
    lit, dark = (counts > 0) & (good > 0), (counts == 0) & (good > 0)
    if level == 0:
        assert (expected.grad[lit] < 0).all()
        assert (expected.grad[dark] == 0).all()
        return
    slope = good * (1 - counts / level) / good.sum()
    torch.testing.assert_close(expected.grad, slope, rtol=1e-4, atol=1e-9)


def test_project(scan: Scan, model: ForwardModel, everyone: Tensor) -> None:
    patches = 1 + 0.3 * noise((15, *model.shape))
    _, rests = physics.split_positions(scan.positions_px)
    probes = physics.shift_probe(scan.probe.astype(complex), rests)
    expected = physics.project(patches, probes, scan.patterns.astype(float), ~scan.bad_pixels)
    found = model.correct(tensor(patches), everyone).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_probe_update_points_downhill(model: ForwardModel, everyone: Tensor) -> None:
    """It is the negative gradient of the squared amplitude error with respect to the probe."""
    patches = tensor(1 + 0.3 * noise((15, *model.shape)))
    _, update = model.correct_with_probe(patches, everyone)
    probe = model.probe.clone().requires_grad_()
    expected = model.expect(patches, everyone, shift_probe(probe, model.rests))
    misfit = (torch.sqrt(expected + 1e-8) - model.measured(everyone)) ** 2
    good = 1.0 if model.good is None else model.good
    (good * misfit).sum().backward()
    assert probe.grad is not None
    torch.testing.assert_close(
        update, -probe.grad / 2, rtol=1e-3, atol=1e-4 * float(update.abs().max())
    )


@pytest.mark.parametrize('flat', [True, False])
def test_sweepnet_features(
    scan: Scan, model: ForwardModel, everyone: Tensor, flat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the network, and what becomes of its answer."""
    window = 16
    network = Network(describe_network(ModelConfig(filters_scale=0.25), window))
    seen: list[Tensor] = []
    answer = tensor(noise((15, 2, window, window), 3).real)
    monkeypatch.setattr(network, 'forward', lambda images: (seen.append(images), (answer,))[1])
    object_ = canvas_object(model)
    found = predict_patches(network, model, everyone[:, None], tensor(object_), is_flat=flat)

    whole, rests = physics.split_positions(scan.positions_px)
    centres = whole - model.origin_px
    patches = physics.extract_patches(object_, centres, model.shape)
    probes = physics.shift_probe(scan.probe.astype(complex), rests)
    updates = physics.project(patches, probes, scan.patterns.astype(float), ~scan.bad_pixels)
    light = (np.abs(probes) ** 2).sum(axis=1)
    coverage = physics.place_patches(light, centres, model.canvas_shape)
    low = model.shape[0] // 2 - window // 2
    middle = np.s_[:, low : low + window, low : low + window]
    lit = physics.extract_patches(coverage, centres, (window, window))
    features, start, turns = physics.sweepnet_features(
        patches[middle], updates[middle], light[middle], np.zeros_like(lit) if flat else lit
    )
    np.testing.assert_allclose(seen[0].numpy(), features, atol=2e-4 * np.abs(features).max())
    corrected = start + answer[:, 0].numpy() + 1j * answer[:, 1].numpy()
    expected = corrected * turns.conj()[:, None, None]
    np.testing.assert_allclose(found.values.numpy(), expected, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_allclose(found.weights.numpy(), light[middle], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.reference.numpy(), patches[middle], atol=1e-5)
    assert found.indices.tolist() == everyone.tolist()


def in_double(model: ForwardModel) -> ForwardModel:
    """Turn a model's numbers to float64, so that finite differences have digits to lose."""
    model.amplitudes = model.amplitudes.double()
    model.rests = model.rests.double()
    model.probe = model.probe.to(torch.complex128)
    model._shifted = shift_probe(model.probe, model.rests)
    if model.good is not None:
        model.good = model.good.double()
    return model


@pytest.mark.parametrize('loss', [poisson_deviance, amplitude_error])
def test_gradients_by_finite_differences(model: ForwardModel, loss: Loss) -> None:
    model = in_double(model)
    indices = torch.arange(4)
    patches = torch.from_numpy(1 + 0.3 * noise((4, *model.shape))).requires_grad_()

    def value(of: Tensor) -> Tensor:
        return loss(model.expect(of, indices), model, indices)

    value(patches).backward()
    assert patches.grad is not None
    assert patches.grad.dtype == torch.complex128
    with torch.no_grad():
        for seed in range(3):
            direction = torch.from_numpy(noise((4, *model.shape), 20 + seed))
            step = 1e-6
            slope = (value(patches + step * direction) - value(patches - step * direction)) / (
                2 * step
            )
            expected = float(torch.vdot(patches.grad.ravel(), direction.ravel()).real)
            assert float(slope) == pytest.approx(expected, rel=1e-4)


def test_the_gradient_of_the_deviance_in_single_precision(
    model: ForwardModel, everyone: Tensor
) -> None:
    """Where the network trains, it is that of float64."""
    patches = 1 + 0.3 * noise((15, *model.shape))
    gradients = []
    for kind in (torch.complex64, torch.complex128):
        values = torch.from_numpy(patches).to(kind).requires_grad_()
        poisson_deviance(model.expect(values, everyone), model, everyone).backward()
        assert values.grad is not None
        gradients.append(values.grad.to(torch.complex128))
        model = in_double(model)
    scale = float(gradients[1].abs().max())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4 * scale)


def test_the_deviance_is_zero_for_a_perfect_fit_and_finite_in_the_dark(
    scan: Scan, model: ForwardModel, everyone: Tensor
) -> None:
    counts = model.measured(everyone) ** 2
    assert float(poisson_deviance(counts, model, everyone)) == pytest.approx(0, abs=1e-6)
    for factor in (0.9, 1.1):
        assert float(poisson_deviance(factor * counts, model, everyone)) > 1e-3
    dark = torch.zeros_like(counts).requires_grad_()
    value = poisson_deviance(dark, model, everyone)
    value.backward()
    assert torch.isfinite(value)
    assert dark.grad is not None
    assert torch.isfinite(dark.grad).all()
    zeros = amplitude_error(torch.zeros_like(counts).requires_grad_(), model, everyone)
    assert float(zeros.detach()) == pytest.approx(1, rel=1e-2)


def test_the_deviance_by_hand(scan: Scan, model: ForwardModel, everyone: Tensor) -> None:
    object_ = canvas_object(model)
    good = ~scan.bad_pixels
    expected = oracle(scan, model, object_)[:, good]
    counts = scan.patterns[:, good].astype(float)
    ratio = (counts + DARK_COUNTS) / (expected + DARK_COUNTS)
    terms = expected - counts + (counts + DARK_COUNTS) * np.log(ratio)
    patches = model.extract(tensor(object_), everyone)
    found = poisson_deviance(model.expect(patches, everyone), model, everyone)
    assert float(found) == pytest.approx(2 * terms.sum() / counts.sum(), rel=1e-4)


def test_a_dead_pixel_has_no_say(scan: Scan, everyone: Tensor) -> None:
    if not scan.bad_pixels.any():
        pytest.skip('This scan has no dead pixels.')
    values = [0.0, 7e5]
    if scan.patterns.dtype.kind == 'f':
        values.append(np.nan)
    found = []
    for value in values:
        patterns = scan.patterns.astype(np.float32)
        patterns[:, scan.bad_pixels] = value
        model = make_model(dataclasses.replace(scan, patterns=patterns))
        patches = tensor(1 + 0.3 * noise((15, *model.shape)))
        expected = model.expect(patches, everyone)
        found.append(
            [
                model.photons,
                float(model.poisson_loss(expected, everyone)),
                float(poisson_deviance(expected, model, everyone)),
                float(amplitude_error(expected, model, everyone)),
                float(model.correct(patches, everyone).abs().sum()),
                float(model.measured(everyone).sum()),
            ]
        )
    assert all(row == found[0] for row in found)
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize('rests', [(0.0, 0.0), (0.3, -0.4), (-0.5, 0.5), (0.25, 0.0), (1.0, -1.0)])
def test_bilinear_shift_as_in_numpy(rests: tuple[float, float]) -> None:
    image = noise((20, 24)).astype(np.complex64)
    shifted = shift_bilinear(
        torch.from_numpy(image)[None], torch.tensor([rests], dtype=torch.float32)
    )[0]
    # Moving the image down is looking up in it.
    centre = np.array([[10.0, 12.0]]) - np.array(rests)
    expected = physics.extract_patches(image.astype(complex), centre, (16, 20))[0]
    np.testing.assert_allclose(shifted[2:18, 2:22].numpy(), expected, atol=1e-6)


def test_cut_middle() -> None:
    image = torch.zeros(1, 32, 37)
    image[0, 16, 18] = 1
    for size in (16, 13):
        cut = cut_middle(image, size)
        assert cut.shape == (1, size, size)
        assert cut[0, size // 2, size // 2] == 1


def make_groups(model: ForwardModel, n_groups: int, group_size: int, seed: int = 0) -> Tensor:
    """Return groups of neighbours, so that their patches overlap."""
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(len(model), (n_groups,), generator=generator)
    distance = torch.cdist(model.corners.double(), model.corners.double())
    return distance.argsort(dim=1)[seeds, :group_size]


def make_patches(model: ForwardModel, groups: Tensor, window: int = 16, seed: int = 0) -> Patches:
    indices = groups.reshape(-1)
    values = tensor(noise((len(indices), window, window), seed))
    weights = cut_middle(intensity(model.probes(indices)), window)
    return Patches(indices, values, weights)


@pytest.mark.parametrize(('n_groups', 'group_size'), [(1, 4), (3, 9), (16, 4), (40, 4), (9, 9)])
def test_overlaps_are_averaged_group_by_group(
    model: ForwardModel, n_groups: int, group_size: int
) -> None:
    """Together or one at a time is the same; 64 patches and more in a batch included."""
    groups = make_groups(model, n_groups, group_size)
    patches = make_patches(model, groups)
    together = average_overlap(patches, model, group_size)
    for number in range(n_groups):
        part = slice(number * group_size, (number + 1) * group_size)
        alone = Patches(patches.indices[part], patches.values[part], patches.weights[part])
        torch.testing.assert_close(together[part], average_overlap(alone, model, group_size))


def test_overlap_average_as_in_numpy(scan: Scan, model: ForwardModel) -> None:
    groups = make_groups(model, 5, 4)
    patches = make_patches(model, groups)
    found = average_overlap(patches, model, 4).numpy().reshape(5, 4, 16, 16)
    whole, _ = physics.split_positions(scan.positions_px)
    centres = whole - model.origin_px
    values = patches.values.numpy().astype(complex).reshape(found.shape)
    weights = patches.weights.numpy().astype(float).reshape(found.shape)
    weights = weights + 1e-3 * weights.max(axis=(2, 3), keepdims=True)
    for group, value, weight, result in zip(groups.numpy(), values, weights, found, strict=True):
        total = physics.place_patches(weight, centres[group], model.canvas_shape)
        summed = physics.place_patches(weight * value, centres[group], model.canvas_shape)
        mean = summed / np.maximum(total, 1e-9)
        expected = physics.extract_patches(mean, centres[group], (16, 16))
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_equal_patches_stay_as_they_are(model: ForwardModel) -> None:
    groups = make_groups(model, 6, 4)
    object_ = tensor(noise(model.canvas_shape))
    patches = make_patches(model, groups)
    agreeing = dataclasses.replace(patches, values=model.extract(object_, patches.indices, 16))
    averaged = average_overlap(agreeing, model, 4)
    torch.testing.assert_close(averaged, agreeing.values, rtol=1e-4, atol=1e-4)
    # Others do change, and alone nothing does.
    assert (average_overlap(patches, model, 4) - patches.values).abs().max() > 0.1
    assert average_overlap(patches, model, 1) is patches.values


def test_averaging_is_a_projection(model: ForwardModel) -> None:
    patches = make_patches(model, make_groups(model, 6, 4))
    once = average_overlap(patches, model, 4)
    twice = average_overlap(dataclasses.replace(patches, values=once), model, 4)
    torch.testing.assert_close(twice, once, rtol=1e-4, atol=1e-4)


def test_gradients_flow_through_the_average(model: ForwardModel) -> None:
    groups = make_groups(model, 3, 4)
    patches = make_patches(model, groups)
    values = patches.values.clone().requires_grad_()
    averaged = average_overlap(dataclasses.replace(patches, values=values), model, 4)
    # The loss sees the first group alone, and only its first patch.
    averaged[0].abs().square().sum().backward()
    assert values.grad is not None
    assert (values.grad[:4].abs().amax(dim=(1, 2)) > 0).all()
    assert (values.grad[4:] == 0).all()


def test_the_network_of_a_description_has_its_shapes() -> None:
    for architecture, size in (('sweepnet', 24), ('cnn', 64)):
        config = ModelConfig(
            architecture=architecture, pattern_size=64, gridsize=2, filters_scale=0.25
        )
        description = describe_network(config, size)
        network = Network(description)
        channels = description.layers[0].out_channels
        outputs = network(torch.zeros(3, channels, size, size))
        assert len(outputs) == len(description.outputs)
        for output in outputs:
            assert output.shape[0] == 3
            assert output.shape[-2:] == (size, size)
        weights = network.numpy_weights()
        assert {name: w.shape for name, w in weights.items()} == description.weight_shapes()


def test_a_new_sweepnet_corrects_nothing_and_a_cnn_stays_in_its_range() -> None:
    network = Network(describe_network(ModelConfig(), 16))
    (correction,) = network(tensor(noise((2, 6, 16, 16)).real))
    assert (correction == 0).all()
    config = ModelConfig(
        architecture='cnn', pattern_size=64, filters_scale=0.25, border_decoder=False
    )
    amplitude, phase = Network(describe_network(config, 64))(torch.rand(2, 1, 64, 64))
    assert (amplitude[..., 16:48, 16:48] > 0).all()
    assert (amplitude[..., :16, :] == 0).all()
    assert float(phase.abs().max().detach()) <= np.pi
    assert float(amplitude.max().detach()) < 1


def test_the_border_has_its_own_branch() -> None:
    config = ModelConfig(architecture='cnn', pattern_size=64, filters_scale=0.25)
    description = describe_network(config, 64)
    network, images = Network(description), torch.rand(1, 1, 64, 64)
    before = network(images)[0]
    weights = network.numpy_weights()
    weights['amplitude/border/3/bias'] = weights['amplitude/border/3/bias'] + 1
    network.load_weights(weights)
    change = (network(images)[0] - before)[0, 0].abs() > 0
    assert not change[16:48, 16:48].any()
    change[16:48, 16:48] = True
    assert change.all()


def test_teacher_distance_is_blind_to_a_global_phase(model: ForwardModel) -> None:
    patches = make_patches(model, torch.arange(15)[:, None])
    labels = patches.values * torch.polar(torch.tensor(1.0), torch.tensor(1.3))
    coverage = torch.ones_like(patches.weights)
    assert float(teacher_distance(patches, labels, coverage)) == pytest.approx(0, abs=1e-6)
    far = float(teacher_distance(patches, labels * 2, coverage))
    assert far > 0.5
    # With an estimate, its phase is the one to keep.
    turned = dataclasses.replace(patches, reference=-patches.values)
    assert float(teacher_distance(turned, labels, coverage)) > 2 * far


def test_total_variation(model: ForwardModel) -> None:
    patches = make_patches(model, torch.arange(3)[:, None])
    flat = dataclasses.replace(patches, values=torch.full_like(patches.values, 1 + 2j))
    assert float(total_variation(flat)) == 0
    assert float(total_variation(patches)) > 0.5


def test_a_slow_phase_is_found_and_taken_out() -> None:
    scan = simulate(
        SimulationConfig(size=32, pupil_radius=0.12, defocus=100.0, rows=7, columns=7, step_px=5.0)
    )
    model = make_model(scan)
    truth = model.flat_object()
    assert scan.object_ is not None
    top, left = model.origin_px.tolist()
    height, width = model.canvas_shape
    truth = torch.from_numpy(scan.object_[top : top + height, left : left + width])
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    drift = 0.5 * torch.cos(2 * y) * (1 + x) + 0.3 * x
    wrong = truth * torch.polar(torch.ones_like(drift), drift)
    corrected = correct_slow_phase(model, wrong)
    before, after = model.assess(wrong)[0], model.assess(corrected)[0]
    best = model.assess(truth)[0]
    assert after - best < 0.4 * (before - best)
    inside = np.s_[16:-16, 16:-16]
    for image, low, high in ((wrong, 0.1, 1.0), (corrected, 0.0, 0.06)):
        phase = torch.angle((image * truth.conj())[inside])
        assert low <= float(phase.std()) < high
    # The truth has nothing to correct, and is not made worse.
    assert model.assess(correct_slow_phase(model, truth))[0] <= best


def test_slopes_are_measured_with_the_right_sign() -> None:
    """An object with a ramp too little asks for that ramp."""
    scan = simulate(SimulationConfig(rows=4, columns=6, poisson_noise=False))
    assert scan.object_ is not None
    model = make_model(scan)
    top, left = model.origin_px.tolist()
    height, width = model.canvas_shape
    assert min(top, left) >= 0
    truth = scan.object_[top : top + height, left : left + width]
    ramp = np.array([0.01, -0.02])
    y, x = np.indices(model.canvas_shape)
    tilted = truth * np.exp(-1j * (ramp[0] * y + ramp[1] * x))
    slopes, weights = measure_slopes(model, tensor(tilted))
    np.testing.assert_allclose(slopes.mean(axis=0), ramp, rtol=0.1)
    assert (weights > 0).all()


def test_a_surface_is_recovered_from_its_slopes() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(10, 110, (400, 2))
    places[:2] = [[10, 10], [110, 110]]
    u, v = (places[:, 0] - 10) / 100, (places[:, 1] - 10) / 100
    slopes = np.stack([-np.pi / 100 * np.sin(np.pi * u) * np.cos(2 * np.pi * v), 0 * v], axis=1)
    slopes[:, 1] = -2 * np.pi / 100 * np.cos(np.pi * u) * np.sin(2 * np.pi * v) + 0.02
    surface = fit_surface(places, slopes, np.ones_like(slopes), 20.0, (120, 120))
    grid = np.arange(10, 111) / 100 - 0.1
    truth = np.outer(np.cos(np.pi * grid), np.cos(2 * np.pi * grid)) + 2 * grid[None]
    found = surface[10:111, 10:111]
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.995
    assert np.ptp(found) == pytest.approx(np.ptp(truth), rel=0.1)
    flat = fit_surface(places, 0 * slopes, np.ones_like(slopes), 20.0, (120, 120))
    assert np.abs(flat).max() == 0


def test_blocks_are_stitched_in_phase(model: ForwardModel, everyone: Tensor) -> None:
    """True patches with a random phase each, in blocks with another one, give the object back."""
    object_ = tensor(canvas_object(model))
    generator = torch.Generator().manual_seed(0)
    stitcher = Stitcher(model, model.flat_object())
    for indices in (everyone[:7], everyone[7:]):
        turns = torch.polar(
            torch.ones(len(indices)), 6 * torch.rand(len(indices), generator=generator)
        )
        patches = make_patches(model, indices[:, None])
        values = model.extract(object_, indices, 16) * turns[:, None, None]
        stitcher.add([dataclasses.replace(patches, values=values)], phase_agreement=True)
    found = stitcher.object_()
    weight = torch.where(model.coverage > 0.1 * model.coverage.max(), 1.0, 0.0)
    turn = (object_ * found.conj() * weight).sum()
    error = (weight * (found * turn / turn.abs() - object_).abs()).max()
    assert float(error) < 0.25


def test_prediction_does_not_depend_on_the_batch(model: ForwardModel) -> None:
    torch.manual_seed(0)
    network = Network(describe_network(ModelConfig(filters_scale=0.25, passes=2), 16))
    weights = network.numpy_weights()
    rng = np.random.default_rng(0)
    weights['correction/weight'] = rng.normal(
        scale=0.01, size=weights['correction/weight'].shape
    ).astype(np.float32)
    network.load_weights(weights)
    results = [predict_object(network, model, batch_size=size) for size in (1, 4, 100)]
    for other in results[1:]:
        assert len(other) == 3
        torch.testing.assert_close(other[-1], results[0][-1], rtol=1e-3, atol=1e-3)
