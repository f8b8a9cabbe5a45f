"""Beams of different intensities in the forward model, and what patterns show of them."""

import dataclasses
from typing import Any

import numpy as np
from parity.frameworks import Framework
from parity.helpers import Forward, canvas_object

from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.phase_drift import floor_photons, middle_ramps
from ptychopinn_plugin.backends.common.refinement import IterationState
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.physics import normalize_probe


def beams(n: int) -> np.ndarray:
    return np.exp(0.3 * np.random.default_rng(5).standard_normal(n))


def test_a_pattern_is_as_bright_as_its_beam(fw: Framework, forward: Forward) -> None:
    object_ = fw.tensor(canvas_object(forward))
    everyone = np.arange(len(forward))
    before, counts = forward.expected_and_counted(object_, everyone)
    coverage = fw.array(forward.coverage).sum()
    given = beams(len(forward))
    forward.set_intensities(given)
    after, again = forward.expected_and_counted(object_, everyone)
    np.testing.assert_allclose(after, before * given[:, None, None], rtol=2e-5, atol=1e-3)
    np.testing.assert_array_equal(again, counts)
    some = np.array([3, 1, 4])
    part, _ = forward.subset(some).expected_and_counted(
        forward.subset(some).flat_object(), np.arange(3)
    )
    whole, _ = forward.expected_and_counted(forward.flat_object(), some)
    np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-2)
    forward.set_probe(forward.probe)
    np.testing.assert_allclose(fw.array(forward.coverage).sum(), coverage * given.mean(), rtol=1e-4)


def test_photons_are_those_of_the_good_pixels(fw: Framework, forward: Forward) -> None:
    object_ = fw.tensor(canvas_object(forward))
    forward.set_intensities(beams(len(forward)))
    expected, counts = forward.expected_and_counted(object_, np.arange(len(forward)))
    valid = 1.0 if forward.valid_mask is None else fw.array(forward.valid_mask)
    found = fw.intensities.pattern_photons(forward, object_)
    np.testing.assert_allclose(found[0], (expected * valid).sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[1], (counts * valid).sum(axis=(1, 2)), rtol=1e-5)


def test_the_moments_are_those_of_the_derivatives(fw: Framework, forward: Forward) -> None:
    """Amplitudes change with the beam, and with the slopes of log amplitude and of phase."""
    forward.set_intensities(beams(len(forward)))
    object_ = canvas_object(forward)
    everywhere = fw.indices(np.arange(len(forward)))
    patches = fw.array(forward.extract_patches(fw.tensor(object_), everywhere)).astype(complex)
    probes = fw.array(forward.probes(everywhere)).astype(complex)
    valid = 1.0 if forward.valid_mask is None else fw.array(forward.valid_mask)
    floor, step = floor_photons(forward), 1e-6
    y, x = middle_ramps(forward.shape).astype(float)

    def amplitudes(unknowns: np.ndarray) -> np.ndarray:
        beam, ay, ax, py, px = unknowns
        ramp = np.exp((ay + 1j * py) * y + (ax + 1j * px) * x)
        waves = np.fft.fft2(probes * (patches * ramp)[:, None], norm='ortho')
        return np.asarray(np.sqrt(np.exp(beam) * (np.abs(waves) ** 2).sum(axis=1) + floor))

    jacobian = np.stack(
        [(amplitudes(step * one) - amplitudes(-step * one)) / (2 * step) for one in np.eye(5)], 1
    )
    jacobian = (jacobian * valid).reshape(len(forward), 5, -1)
    expected = amplitudes(np.zeros(5)) ** 2 - floor
    counts = fw.array(forward.measured(everywhere)).astype(float) ** 2
    missing = valid * (counts - expected) / (2 * np.sqrt(expected + floor))
    found = fw.phase_drift.measure_moments(forward, fw.tensor(object_))
    normals = jacobian @ jacobian.transpose(0, 2, 1)
    sides = (jacobian * missing.reshape(len(forward), 1, -1)).sum(axis=2)
    largest = np.abs(normals).max(axis=0)
    np.testing.assert_array_less(np.abs(found.normals - normals).max(axis=0), 1e-3 * largest)
    most = np.abs(sides).max(axis=0)
    np.testing.assert_array_less(np.abs(found.sides - sides).max(axis=0), 1e-3 * most)


def test_a_probe_learns_from_each_pattern_by_its_beam(fw: Framework, scan: Scan) -> None:
    """Under a flat object it moves by a tenth of the mean of all updates, scaled by their beams."""
    given, n = beams(len(scan)), len(scan)

    def probe_after(forward: Any, batch: np.ndarray) -> np.ndarray:
        flat = forward.flat_object()
        variation = ProbeVariation(forward.eigenmodes, forward.opr_weights)
        state = IterationState(
            *(flat, 0 * flat, forward.probe, forward.moves_px, forward.intensities, variation)
        )
        fw.refinement.iterate_once(forward, state, [batch], 0.0, True)
        return fw.array(state.probe)

    forward = fw.build_forward(scan)
    forward.set_intensities(given)
    found = probe_after(forward, np.arange(n)) - scan.probe
    expected = np.zeros(scan.probe.shape, complex)
    for number, beam in enumerate(given):
        plain = fw.build_forward(scan)
        bright = (scan.probe * np.sqrt(beam)).astype(np.complex64)
        plain.set_probe(fw.tensor(bright))
        expected += np.sqrt(beam) * (probe_after(plain, np.array([number])) - bright) / n
    np.testing.assert_allclose(found, expected, atol=5e-4 * np.abs(expected).max())


def test_both_backends_find_the_same_beams(both: tuple[Framework, Framework], scan: Scan) -> None:
    given = beams(len(scan))
    patterns = np.round(scan.patterns * given[:, None, None]).astype(np.uint32)
    probe = normalize_probe(scan.probe, float(patterns.sum(axis=(1, 2)).mean()))
    flickering = dataclasses.replace(scan, patterns=patterns, probe=probe)
    found = []
    for fw in both:
        forward = fw.build_forward(flickering)
        object_, losses = fw.iterate(
            forward, forward.flat_object(), IterationSchedule(12), refine_intensities=True
        )
        assert losses == sorted(losses, reverse=True)
        found.append((forward.intensities, fw.array(object_)))
    assert np.corrcoef(np.log(found[0][0]), np.log(given))[0, 1] > 0.8
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=0.01)
    distance = np.linalg.norm(found[0][1] - found[1][1]) / np.linalg.norm(found[0][1])
    assert distance < 0.02
