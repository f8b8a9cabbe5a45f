"""Each backend's free space against the oracle, and against finite differences."""

from typing import Any

import numpy as np
import pytest
from parity.frameworks import Framework
from parity.helpers import canvas_object, noise

from ptychopinn_plugin import physics
from ptychopinn_plugin.backends.common.phase_drift import floor_photons
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.physics.propagation import at_subpixel_shifts


@pytest.fixture(scope='module')
def scan() -> Scan:
    """Return a scan of the near field with modes and dead pixels."""
    return simulate(
        SimulationConfig(
            size=24,
            rows=3,
            columns=4,
            step_px=4.0,
            n_modes=2,
            dead_pixels=9,
            fresnel_number=0.08,
            probe_kind='diffuser',
        )
    )


def oracle(forward: Any, scan: Scan, object_: Any) -> Any:
    return physics.predict_patterns(
        *(object_, forward.origin_px, scan.positions_px, scan.probe.astype(complex)),
        scan.transfer_function(),
    )


def intensities(fw: Framework, forward: Any, object_: Any) -> Any:
    everyone = fw.indices(np.arange(len(forward)))
    patches = forward.extract_patches(fw.tensor(object_), everyone)
    return fw.array(forward.predict_intensity(patches, everyone))


def test_patterns_are_those_of_the_oracle(fw: Framework, forward: Any, scan: Scan) -> None:
    object_ = canvas_object(forward)
    expected = oracle(forward, scan, object_)
    np.testing.assert_allclose(
        intensities(fw, forward, object_), expected, rtol=2e-4, atol=1e-4 * expected.mean()
    )
    assert scan.bad_pixels is not None
    valid_mask = ~scan.bad_pixels
    everyone = fw.indices(np.arange(len(forward)))
    measured = fw.array(forward.measured(everyone)) ** 2
    np.testing.assert_allclose(measured[:, valid_mask], scan.patterns[:, valid_mask], rtol=1e-5)
    np.testing.assert_array_equal(fw.array(forward.valid_mask) > 0, valid_mask)
    part = forward.subset(np.array([1, 2, 7]))
    np.testing.assert_allclose(fw.array(part.transfer), scan.transfer_function(), atol=1e-6)


def test_the_projection_is_that_of_the_oracle(
    fw: Framework, forward: Any, scan: Scan, everyone: Any
) -> None:
    patches = noise((len(scan), *scan.pattern_shape))
    assert scan.bad_pixels is not None
    _, shifts = physics.split_positions(scan.positions_px)
    expected = physics.project_amplitudes(
        patches,
        physics.shift_probe(scan.probe.astype(complex), shifts),
        scan.patterns,
        ~scan.bad_pixels,
        at_subpixel_shifts(scan.transfer_function(), shifts),
    )
    found = fw.array(forward.project_amplitudes(fw.tensor(patches), everyone))
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_forces_on_positions_are_slopes_of_the_amplitudes(
    fw: Framework, forward: Any, scan: Scan
) -> None:
    """A pixel's move changes images by half the difference of both neighbours."""
    object_ = canvas_object(forward)
    # The slope of a product with a fixed probe is that of the object.
    slopes = (np.roll(object_, -1, 0) - np.roll(object_, 1, 0)) / 2
    step = 1e-3
    rises = [intensities(fw, forward, object_ + s * step * slopes) for s in (1, -1)]
    change = (rises[0] - rises[1]) / (2 * step)
    assert scan.bad_pixels is not None
    valid_mask = ~scan.bad_pixels
    expected = intensities(fw, forward, object_)
    floor = 0.5
    weights = valid_mask / np.sqrt(expected + floor)
    jacobian = change / 2 * weights
    everyone = fw.indices(np.arange(len(forward)))
    measured = fw.array(forward.measured(everyone)) ** 2
    missing = (measured - expected) * weights / 2
    force = (jacobian * missing).sum(axis=(1, 2))
    forces, stiffnesses = fw.positions.position_forces(forward, fw.tensor(object_), floor)
    np.testing.assert_allclose(forces[:, 0], force, rtol=2e-2, atol=2e-2 * np.abs(force).max())
    np.testing.assert_allclose(stiffnesses[:, 0, 0], (jacobian**2).sum(axis=(1, 2)), rtol=2e-2)


def test_moments_are_those_of_a_ramp(fw: Framework, forward: Any, scan: Scan) -> None:
    object_ = canvas_object(forward)
    ramp = np.zeros(forward.canvas_shape)
    # All patches see the same slope, whose constants change no image.
    ramp += np.arange(forward.canvas_shape[0])[:, np.newaxis]
    step = 1e-4
    rises = [intensities(fw, forward, object_ * np.exp(1j * s * step * ramp)) for s in (1, -1)]
    expected = intensities(fw, forward, object_)
    assert scan.bad_pixels is not None
    weights = ~scan.bad_pixels / np.sqrt(expected + floor_photons(forward))
    change = (rises[0] - rises[1]) / (2 * step) * weights / 2
    moments = fw.phase_drift.measure_moments(forward, fw.tensor(object_))
    np.testing.assert_allclose(moments.normals[:, 3, 3], (change**2).sum(axis=(1, 2)), rtol=0.02)


def test_both_backends_agree(both: tuple[Framework, Framework], scan: Scan) -> None:
    found = []
    for fw in both:
        forward = fw.build_forward(scan)
        found.append(intensities(fw, forward, canvas_object(forward)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)
