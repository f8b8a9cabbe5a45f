"""PyTorch against the NumPy oracle: values, gradients, adjoints."""

from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='PyTorch is not installed.')

from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.losses import poisson_deviance
from ptychopinn_plugin.backends.pytorch.prediction import (
    Patches,
    average_overlap,
    cut_middle,
    shift_bilinear,
)
from ptychopinn_plugin.backends.pytorch.tilts import fit_surface, measure_slopes
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.physics import (
    extract_patches,
    place_patches,
    poisson_loss,
    predict_patterns,
    project,
    shift_probe,
)

SIZE = 32


@dataclass
class Case:
    scan: Scan
    model: ForwardModel
    object_: np.ndarray
    probe: np.ndarray

    @property
    def everyone(self) -> 'torch.Tensor':
        return torch.arange(len(self.model))

    @property
    def tensor(self) -> 'torch.Tensor':
        return torch.from_numpy(self.object_.astype(np.complex64))


@pytest.fixture(scope='module')
def case() -> Case:
    """Return a scan of two modes with dead pixels at fractional positions, not square."""
    scan = simulate(
        SimulationConfig(size=SIZE, rows=4, columns=6, n_modes=2, dead_pixels=5, photons=2e4)
    )
    rng = np.random.default_rng(0)
    probe = scan.probe.astype(np.complex128)
    model = ForwardModel(scan, torch.from_numpy(scan.probe), torch.device('cpu'))
    object_ = rng.uniform(0.5, 1, model.canvas_shape) * np.exp(
        1j * rng.uniform(-1, 1, model.canvas_shape)
    )
    return Case(scan, model, object_, probe)


def largest_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_expected_patterns(case: Case) -> None:
    expected = predict_patterns(
        case.object_, case.model.origin_px, case.scan.positions_px, case.probe
    )
    patches = case.model.extract(case.tensor, case.everyone)
    found = torch.fft.fftshift(case.model.expect(patches, case.everyone), dim=(1, 2)).numpy()
    assert largest_error(found, expected) < 1e-5


def test_loss_and_masks(case: Case) -> None:
    assert case.scan.bad_pixels is not None
    expected = predict_patterns(
        case.object_, case.model.origin_px, case.scan.positions_px, case.probe
    )
    oracle = poisson_loss(expected, case.scan.patterns, ~case.scan.bad_pixels)
    assert case.model.assess(case.tensor)[0] == pytest.approx(oracle, rel=1e-4)


def test_projection(case: Case) -> None:
    whole = np.floor(case.scan.positions_px + 0.5).astype(int)
    patches = extract_patches(case.object_, whole - case.model.origin_px, (SIZE, SIZE))
    probes = shift_probe(case.probe, case.scan.positions_px - whole)
    assert case.scan.bad_pixels is not None
    oracle = project(patches, probes, case.scan.patterns, ~case.scan.bad_pixels)
    found = case.model.correct(torch.from_numpy(patches.astype(np.complex64)), case.everyone)
    assert largest_error(found.numpy(), oracle) < 1e-4


@pytest.mark.parametrize('size', [SIZE, 20])
def test_place_is_the_adjoint_of_extract(case: Case, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (len(case.model), size, size)
    patches = torch.randn(*shape, dtype=torch.complex64, generator=generator)
    forward = torch.vdot(
        patches.flatten(), case.model.extract(case.tensor, case.everyone, size).flatten()
    )
    backward = torch.vdot(case.model.place(patches, case.everyone).flatten(), case.tensor.flatten())
    torch.testing.assert_close(forward, backward, rtol=1e-4, atol=1e-3)


def test_gradient_of_the_deviance(case: Case) -> None:
    indices = case.everyone[:2]
    patches = case.model.extract(case.tensor, indices).clone().requires_grad_(True)

    def deviance(values: 'torch.Tensor') -> 'torch.Tensor':
        return poisson_deviance(case.model.expect(values, indices), case.model, indices)

    deviance(patches).backward()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            direction = torch.randn(patches.shape, dtype=torch.complex64, generator=generator)
            step = 1e-2
            slope = (
                deviance(patches + step * direction) - deviance(patches - step * direction)
            ) / (2 * step)
            along = (patches.grad.conj() * direction).real.sum()
            torch.testing.assert_close(along, slope, rtol=2e-2, atol=1e-4)


def test_subset_is_the_same_physics(case: Case) -> None:
    some = torch.tensor([3, 4, 9])
    part = case.model.subset(some)
    top, left = (part.origin_px - case.model.origin_px).tolist()
    height, width = part.canvas_shape
    cut = case.tensor[top : top + height, left : left + width]
    torch.testing.assert_close(
        part.expect(part.extract(cut, torch.arange(3)), torch.arange(3)),
        case.model.expect(case.model.extract(case.tensor, some), some),
    )


def test_bilinear_shift_against_the_oracle() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 20, 18))
    rests = rng.uniform(-0.5, 0.5, (4, 2))
    found = shift_bilinear(torch.from_numpy(images), torch.from_numpy(rests)).numpy()
    for image, rest, moved in zip(images, rests, found, strict=True):
        oracle = extract_patches(image, np.array([[9, 8]]) - rest, (14, 12))[0]
        np.testing.assert_allclose(moved[2:16, 2:14], oracle, atol=1e-9)


def group_patches(case: Case, values: 'torch.Tensor', indices: 'torch.Tensor') -> Patches:
    weights = cut_middle((case.model.probes(indices).abs() ** 2).sum(dim=1), values.shape[-1])
    return Patches(indices, values, weights)


def test_overlap_average_is_exact_for_any_batch(case: Case) -> None:
    generator = torch.Generator().manual_seed(0)
    # 20 groups of 4: more patches than 64.
    groups = torch.stack([torch.randperm(24, generator=generator)[:4] for _ in range(20)])
    values = torch.randn(80, 20, 20, dtype=torch.complex64, generator=generator)
    together = average_overlap(group_patches(case, values, groups.flatten()), case.model, 4)
    for number, group in enumerate(groups):
        some = values[4 * number : 4 * number + 4]
        alone = average_overlap(group_patches(case, some, group), case.model, 4)
        torch.testing.assert_close(together[4 * number : 4 * number + 4], alone)


def test_overlap_average_leaves_agreeing_patches(case: Case) -> None:
    indices = torch.tensor([0, 1, 6, 7])
    values = case.model.extract(case.tensor, indices, 20).clone().requires_grad_(True)
    averaged = average_overlap(group_patches(case, values, indices), case.model, 4)
    torch.testing.assert_close(averaged, values, rtol=1e-4, atol=1e-5)
    averaged.abs().sum().backward()
    assert torch.isfinite(torch.view_as_real(values.grad)).all()


def test_slopes_are_measured_with_the_right_sign(case: Case) -> None:
    """An object with a ramp too little asks for that ramp."""
    truth = simulate(SimulationConfig(rows=4, columns=6, poisson_noise=False))
    assert truth.object_ is not None
    model = ForwardModel(truth, torch.from_numpy(truth.probe), torch.device('cpu'))
    top, left = model.origin_px.tolist()
    height, width = model.canvas_shape
    ramp = np.array([0.01, -0.02])
    y, x = np.mgrid[:height, :width]
    cut = truth.object_[max(top, 0) :, max(left, 0) :][:height, :width]
    canvas = np.ones((height, width), dtype=np.complex64)
    canvas[max(-top, 0) :, max(-left, 0) :][: cut.shape[0], : cut.shape[1]] = cut
    tilted = canvas * np.exp(-1j * (ramp[0] * y + ramp[1] * x))
    slopes, _ = measure_slopes(model, torch.from_numpy(tilted.astype(np.complex64)))
    np.testing.assert_allclose(slopes.mean(axis=0), ramp, rtol=0.1)


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


def test_placement_against_the_oracle(case: Case) -> None:
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(len(case.model), SIZE, SIZE))
    whole = np.floor(case.scan.positions_px + 0.5).astype(int) - case.model.origin_px
    oracle = place_patches(patches, whole, case.model.canvas_shape)
    found = case.model.place(torch.from_numpy(patches.astype(np.float32)), case.everyone)
    assert largest_error(found.numpy(), oracle) < 1e-5
