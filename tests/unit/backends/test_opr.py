"""Eigenmodes and weights of a probe that varies, without a framework."""

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.opr import (
    MAX_VARIED_FRACTION,
    VariationRefiner,
    level_tilt,
    part_way,
    principal_components,
    refined_weights,
    usual_changes,
)
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.simulation import SimulationConfig, make_probe, wobbling_probe
from ptychopinn_plugin.physics import predict_patterns

PROBE = (300 * make_probe(SimulationConfig(size=32, pupil_radius=0.12, defocus=100.0))).astype(
    np.complex64
)
RNG = np.random.default_rng(1)


class Given:
    """A forward model of some patterns, as far as a refiner looks at it when it is made."""

    eigenmodes = np.zeros((0, 32, 32), np.complex64)

    def __init__(self, weights: np.ndarray) -> None:
        self.opr_weights = weights

    def __len__(self) -> int:
        return len(self.opr_weights)


def refiner(n: int, n_eigenmodes: int = 2) -> VariationRefiner:
    return VariationRefiner(Given(np.ones((n, 1))), n_eigenmodes, PROBE, 0.2)


def some_variation(n: int = 40) -> ProbeVariation:
    images = RNG.standard_normal((2, 32, 32, 2)) @ [1, 1j] * np.abs(PROBE).max()
    return ProbeVariation(images, np.column_stack([np.ones(n), RNG.normal(0, 0.1, (n, 2))]))


def test_the_usual_changes_are_those_of_tilt_shift_and_defocus() -> None:
    changes = usual_changes(PROBE[0])
    energy = (np.abs(PROBE) ** 2).sum()
    np.testing.assert_allclose((np.abs(changes) ** 2).sum(axis=(1, 2)), energy, rtol=1e-4)
    step = 1e-3
    moved = [wobbling_probe(PROBE, step * np.sqrt(2), one[None])[0, 0] for one in np.eye(2)]
    for image, change in zip(moved, (changes[1], changes[4]), strict=True):
        difference = (image - PROBE[0]) / step
        assert np.vdot(change, difference).real / energy == pytest.approx(1, abs=0.01)


def test_a_variation_is_normalized_to_the_same_probes() -> None:
    variation = some_variation()
    found = refiner(40).normalized(variation, PROBE[0])
    energy = (np.abs(PROBE) ** 2).sum()
    inner = [abs(np.vdot(PROBE[0], mode)) for mode in found.eigenmodes]
    np.testing.assert_allclose(inner, 0, atol=1e-3 * energy)
    np.testing.assert_allclose((np.abs(found.eigenmodes) ** 2).sum((1, 2)), energy, rtol=1e-3)
    np.testing.assert_allclose(found.energies(PROBE), energy, rtol=1e-3)
    again = refiner(40).orthogonal(found, PROBE[0])
    np.testing.assert_allclose(
        again.probes(PROBE), found.probes(PROBE), atol=1e-3 * np.abs(PROBE).max()
    )
    first, second = again.eigenmodes
    assert abs(np.vdot(first, second).real) < 1e-3 * energy
    assert again.weights[:, 1].std() > again.weights[:, 2].std()


def test_no_pattern_is_left_without_its_probe() -> None:
    variation = some_variation()
    variation.weights[3, 1:] *= 1000
    found = refiner(40).normalized(variation, PROBE[0])
    energy = (np.abs(PROBE) ** 2).sum()
    assert found.weights[3, 0] == pytest.approx(np.sqrt(1 - MAX_VARIED_FRACTION), rel=1e-3)
    np.testing.assert_allclose(found.energies(PROBE), energy, rtol=1e-3)


def test_weights_follow_the_counts_and_noise_is_held_back() -> None:
    n, true = 500, np.zeros((500, 2))
    true[:, 0] = RNG.normal(0, 0.1, n)
    stiffnesses = np.tile(np.array([[400.0, 100.0], [100.0, 300.0]]), (n, 1, 1))
    # Least squares of amplitudes, whose variance is a quarter, miss the truth by this.
    noise = RNG.multivariate_normal([0, 0], np.linalg.inv(stiffnesses[0]) / 4, n)
    forces = (stiffnesses @ (true + noise)[..., None])[..., 0]
    found = refined_weights(np.zeros((n, 2)), forces, stiffnesses)
    assert np.std(found[:, 0] - true[:, 0]) < 0.5 * np.std(true[:, 0])
    assert np.std(found[:, 1]) < 0.4 * np.std(noise[:, 1])
    # The same from other weights, as the equations are of changes.
    start = RNG.normal(0, 0.1, (n, 2))
    again = refined_weights(start, forces - (stiffnesses @ start[..., None])[..., 0], stiffnesses)
    np.testing.assert_allclose(again, found, atol=1e-6)


def test_components_are_those_of_the_scatter() -> None:
    images = usual_changes(PROBE[0])[[0, 4]]
    weights = RNG.normal(0, [0.3, 0.1], (60, 2))
    residuals = np.tensordot(weights, images, axes=1) + PROBE[0]
    found = principal_components(residuals.astype(np.complex64), PROBE[0], 2)
    basis = np.linalg.qr(np.concatenate([found.real, found.imag], axis=2).reshape(2, -1).T)[0]
    flat = np.concatenate([images.real, images.imag], axis=2).reshape(2, -1).T
    np.testing.assert_allclose(basis @ (basis.T @ flat), flat, atol=1e-3 * np.abs(flat).max())


def test_a_rising_tilt_is_a_phase_of_the_object() -> None:
    y, x = np.meshgrid(np.arange(0, 60, 4.0), np.arange(0, 60, 4.0), indexing='ij')
    origins = np.stack([y.ravel(), x.ravel()], axis=1)
    from_middle = origins - origins.mean(axis=0)
    rising = 1e-3 * from_middle[:, 1] + 0.02
    weights = np.column_stack([np.ones(len(origins)), RNG.normal(0, 0.03, len(origins)) + rising])
    variation = ProbeVariation(usual_changes(PROBE[0])[1:2], weights)
    object_ = np.exp(0.3j * RNG.standard_normal((90, 90))).astype(np.complex64)
    levelled, factor = level_tilt(variation, PROBE[0], origins, object_.shape)
    slope = np.polyfit(from_middle[:, 1], levelled.weights[:, 1], 1)[0]
    assert abs(slope) < 1e-6
    assert abs(levelled.weights[:, 1].mean()) < 1e-4

    def amplitudes(image: np.ndarray, found: ProbeVariation) -> np.ndarray:
        probes = found.probes(PROBE)
        positions = origins + 16
        return np.sqrt(predict_patterns(image, np.zeros(2, np.int64), positions, probes))

    before = amplitudes(object_, variation)
    miss = np.linalg.norm(amplitudes(object_, levelled) - before)
    assert np.linalg.norm(amplitudes(object_ * factor, levelled) - before) < 0.5 * miss
    assert np.linalg.norm(amplitudes(object_ / factor, levelled) - before) > 1.5 * miss


def test_what_holds_no_tilt_stays() -> None:
    origins = RNG.uniform(0, 60, (40, 2))
    variation = ProbeVariation(usual_changes(PROBE[0])[4:], RNG.normal(1, 0.1, (40, 2)))
    levelled, factor = level_tilt(variation, PROBE[0], origins, (90, 90))
    assert levelled is variation
    assert (factor == 1).all()


def test_part_of_the_way_from_a_steady_probe() -> None:
    variation = some_variation()
    steady = ProbeVariation(variation.eigenmodes[:0], np.ones((40, 1)))
    half = part_way(steady, variation, 0.5)
    expected = (variation.probes(PROBE) + steady.probes(PROBE)) / 2
    np.testing.assert_allclose(half.probes(PROBE), expected, rtol=1e-4, atol=1e-3)
