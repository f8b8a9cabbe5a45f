"""Beams of different intensities in the forward model, and what patterns tell of them."""

import dataclasses
from typing import Any

import numpy as np
from parity.frameworks import Framework
from parity.helpers import Model, canvas_object

from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.phase_drift import floor_photons, middle_ramps
from ptychopinn_plugin.backends.common.refinement import IterationState
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.physics import normalise_probe


def beams(n: int) -> np.ndarray:
    return np.exp(0.3 * np.random.default_rng(5).standard_normal(n))


def test_a_pattern_is_as_bright_as_its_beam(fw: Framework, model: Model) -> None:
    object_ = fw.tensor(canvas_object(model))
    everyone = np.arange(len(model))
    before, counts = model.expected_and_counted(object_, everyone)
    coverage = fw.array(model.coverage).sum()
    given = beams(len(model))
    model.set_intensities(given)
    after, again = model.expected_and_counted(object_, everyone)
    np.testing.assert_allclose(after, before * given[:, None, None], rtol=2e-5, atol=1e-3)
    np.testing.assert_array_equal(again, counts)
    some = np.array([3, 1, 4])
    part, _ = model.subset(some).expected_and_counted(
        model.subset(some).flat_object(), np.arange(3)
    )
    whole, _ = model.expected_and_counted(model.flat_object(), some)
    np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-2)
    model.set_probe(model.probe)
    np.testing.assert_allclose(fw.array(model.coverage).sum(), coverage * given.mean(), rtol=1e-4)


def test_photons_are_those_of_the_good_pixels(fw: Framework, model: Model) -> None:
    object_ = fw.tensor(canvas_object(model))
    model.set_intensities(beams(len(model)))
    expected, counts = model.expected_and_counted(object_, np.arange(len(model)))
    valid = 1.0 if model.valid_mask is None else fw.array(model.valid_mask)
    found = fw.intensities.pattern_photons(model, object_)
    np.testing.assert_allclose(found[0], (expected * valid).sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[1], (counts * valid).sum(axis=(1, 2)), rtol=1e-5)


def test_the_moments_are_those_of_the_derivatives(fw: Framework, model: Model) -> None:
    """Amplitudes change with the beam, and with the slopes of log amplitude and of phase."""
    model.set_intensities(beams(len(model)))
    object_ = canvas_object(model)
    everywhere = fw.indices(np.arange(len(model)))
    patches = fw.array(model.extract_patches(fw.tensor(object_), everywhere)).astype(complex)
    probes = fw.array(model.probes(everywhere)).astype(complex)
    valid = 1.0 if model.valid_mask is None else fw.array(model.valid_mask)
    floor, step = floor_photons(model), 1e-6
    y, x = middle_ramps(model.shape).astype(float)

    def amplitudes(unknowns: np.ndarray) -> np.ndarray:
        beam, ay, ax, py, px = unknowns
        ramp = np.exp((ay + 1j * py) * y + (ax + 1j * px) * x)
        waves = np.fft.fft2(probes * (patches * ramp)[:, None], norm='ortho')
        return np.asarray(np.sqrt(np.exp(beam) * (np.abs(waves) ** 2).sum(axis=1) + floor))

    jacobian = np.stack(
        [(amplitudes(step * one) - amplitudes(-step * one)) / (2 * step) for one in np.eye(5)], 1
    )
    jacobian = (jacobian * valid).reshape(len(model), 5, -1)
    expected = amplitudes(np.zeros(5)) ** 2 - floor
    counts = fw.array(model.measured(everywhere)).astype(float) ** 2
    missing = valid * (counts - expected) / (2 * np.sqrt(expected + floor))
    found = fw.phase_drift.measure_moments(model, fw.tensor(object_))
    normals = jacobian @ jacobian.transpose(0, 2, 1)
    sides = (jacobian * missing.reshape(len(model), 1, -1)).sum(axis=2)
    largest = np.abs(normals).max(axis=0)
    np.testing.assert_array_less(np.abs(found.normals - normals).max(axis=0), 1e-3 * largest)
    most = np.abs(sides).max(axis=0)
    np.testing.assert_array_less(np.abs(found.sides - sides).max(axis=0), 1e-3 * most)


def test_a_probe_learns_from_each_pattern_by_its_beam(fw: Framework, scan: Scan) -> None:
    """Under a flat object it moves by a tenth of the mean of all updates, scaled by their beams."""
    given, n = beams(len(scan)), len(scan)

    def probe_after(model: Any, batch: np.ndarray) -> np.ndarray:
        flat = model.flat_object()
        state = IterationState(flat, 0 * flat, model.probe, model.moves_px, model.intensities)
        fw.refinement.iterate_once(model, state, [batch], 0.0, True)
        return fw.array(state.probe)

    model = fw.model(scan)
    model.set_intensities(given)
    found = probe_after(model, np.arange(n)) - scan.probe
    expected = np.zeros(scan.probe.shape, complex)
    for number, beam in enumerate(given):
        plain = fw.model(scan)
        bright = (scan.probe * np.sqrt(beam)).astype(np.complex64)
        plain.set_probe(fw.tensor(bright))
        expected += np.sqrt(beam) * (probe_after(plain, np.array([number])) - bright) / n
    np.testing.assert_allclose(found, expected, atol=5e-4 * np.abs(expected).max())


def test_both_backends_find_the_same_beams(both: tuple[Framework, Framework], scan: Scan) -> None:
    given = beams(len(scan))
    patterns = np.round(scan.patterns * given[:, None, None]).astype(np.uint32)
    probe = normalise_probe(scan.probe, float(patterns.sum(axis=(1, 2)).mean()))
    flickering = dataclasses.replace(scan, patterns=patterns, probe=probe)
    found = []
    for fw in both:
        model = fw.model(flickering)
        object_, losses = fw.iterate(
            model, model.flat_object(), IterationSchedule(12), refine_intensities=True
        )
        assert losses == sorted(losses, reverse=True)
        found.append((model.intensities, fw.array(object_)))
    assert np.corrcoef(np.log(found[0][0]), np.log(given))[0, 1] > 0.8
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=0.01)
    distance = np.linalg.norm(found[0][1] - found[1][1]) / np.linalg.norm(found[0][1])
    assert distance < 0.02
