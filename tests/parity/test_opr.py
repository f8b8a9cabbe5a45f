"""A probe that varies from pattern to pattern: against NumPy, and backend against backend."""

import dataclasses

import numpy as np
import pytest
from parity.frameworks import Framework
from parity.helpers import Forward, canvas_object

from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.phase_drift import floor_photons
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.physics import diffract, shift_probe, split_positions


def variation_of(scan: Scan, n_eigenmodes: int = 2) -> ProbeVariation:
    rng = np.random.default_rng(7)
    shape = (n_eigenmodes, *scan.pattern_shape)
    eigenmodes = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    weights = rng.normal(0, 0.2, (len(scan), 1 + n_eigenmodes))
    return ProbeVariation(0.1 * np.abs(scan.probe).max() * eigenmodes, weights + np.eye(3)[0])


def test_patterns_are_those_of_each_own_probe(fw: Framework, scan: Scan) -> None:
    variation = variation_of(scan)
    forward = fw.build_forward(dataclasses.replace(scan, probe_variation=variation))
    everyone = np.arange(len(scan))
    found, _ = forward.expected_and_counted(forward.flat_object(), everyone)
    _, shifts = split_positions(scan.positions_px)
    probes = variation.probes(scan.probe)
    own = np.concatenate([shift_probe(p, s[None]) for p, s in zip(probes, shifts, strict=True)])
    expected = np.fft.ifftshift(diffract(own), axes=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())
    light = np.abs(own.astype(complex)) ** 2
    np.testing.assert_allclose(fw.array(forward.coverage).sum(), light.sum(), rtol=1e-4)
    # A part of the scan keeps its own, and so does one without the copies that are kept.
    some = np.array([3, 1, 4])
    part = forward.subset(some)
    again, _ = part.expected_and_counted(part.flat_object(), np.arange(3))
    np.testing.assert_allclose(again, found[some], rtol=1e-4, atol=1e-2)
    forward.set_probe_only(forward.probe)
    part = forward.subset(some, exposure=0.25)
    again, _ = part.expected_and_counted(part.flat_object(), np.arange(3))
    np.testing.assert_allclose(again, found[some] / 4, rtol=1e-4, atol=1e-2)


def test_the_moments_are_those_of_the_derivatives(fw: Framework, scan: Scan) -> None:
    """Amplitudes change with the weight of each eigenmode, in the beam of the pattern."""
    variation = variation_of(scan)
    forward = fw.build_forward(dataclasses.replace(scan, probe_variation=variation))
    forward.set_intensities(np.linspace(0.5, 1.5, len(scan)))
    object_, floor = fw.tensor(canvas_object(forward)), floor_photons(forward)
    everyone = np.arange(len(scan))
    valid = 1.0 if forward.valid_mask is None else fw.array(forward.valid_mask)

    def amplitudes(eigenmode: int, step: float) -> np.ndarray:
        weights = variation.weights.copy()
        weights[:, 1 + eigenmode] += step
        forward.set_variation(variation.eigenmodes, weights)
        expected, _ = forward.expected_and_counted(object_, everyone)
        return np.asarray(np.sqrt(expected.astype(float) + floor))

    step = 0.02
    jacobian = np.stack([(amplitudes(k, step) - amplitudes(k, -step)) / (2 * step) for k in (0, 1)])
    jacobian = (jacobian * valid).reshape(2, len(scan), -1).transpose(1, 0, 2)
    forward.set_variation(variation.eigenmodes, variation.weights)
    expected, counts = forward.expected_and_counted(object_, everyone)
    missing = valid * (counts - expected) / (2 * np.sqrt(expected + floor))
    found = fw.opr.measure_variation(forward, object_, floor)
    products = jacobian @ jacobian.transpose(0, 2, 1)
    sides = (jacobian * missing.reshape(len(scan), 1, -1)).sum(axis=2)
    assert np.abs(found.stiffnesses - products).max() < 0.01 * np.abs(products).max()
    assert np.abs(found.forces - sides).max() < 0.01 * np.abs(sides).max()


def test_a_common_probe_learns_by_its_weight(fw: Framework, forward: Forward) -> None:
    weights = np.linspace(0.5, 1.5, len(forward))[:, np.newaxis]
    forward.set_variation(forward.eigenmodes, weights)
    waves = fw.tensor(np.ones((3, *fw.array(forward.probe).shape), np.complex64))
    indices = fw.indices(np.array([0, 4, 7]))
    found = fw.array(forward.into_common(waves, indices))
    np.testing.assert_allclose(found[:, 0, 0, 0], weights[[0, 4, 7], 0], rtol=1e-6)
    np.testing.assert_array_equal(found[:, 1:], 1)


def test_both_backends_find_the_same_variation(both: tuple[Framework, Framework]) -> None:
    scan = simulate(
        SimulationConfig(
            size=32,
            pupil_radius=0.12,
            defocus=100.0,
            rows=7,
            columns=7,
            step_px=3.0,
            probe_wobble=0.2,
        )
    )
    found = []
    for fw in both:
        forward = fw.build_forward(scan)
        object_, losses = fw.iterate(
            forward, forward.flat_object(), IterationSchedule(15), opr_modes=2
        )
        assert losses == sorted(losses, reverse=True)
        variation = ProbeVariation(forward.eigenmodes, forward.opr_weights)
        found.append((fw.array(object_), variation.probes(scan.probe)))
        assert forward.evaluate_loss(object_) == pytest.approx(losses[-1], rel=1e-3)
    for one, other in zip(*found, strict=True):
        assert np.linalg.norm(one - other) < 0.01 * np.linalg.norm(one)
