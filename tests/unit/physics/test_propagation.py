"""Free space: laws that any transfer function obeys, and a beam that is known in closed form."""

import numpy as np
import pytest

from ptychopinn_plugin.physics import diffract, predict_patterns, project_amplitudes
from ptychopinn_plugin.physics.propagation import (
    from_detector,
    in_file_order,
    in_transform_order,
    light_on_detector,
    to_detector,
    transfer_function,
)

WAVELENGTH_M, PIXEL_M = 1e-10, (1.5e-7, 1e-7)
SHAPE = (24, 31)
DISTANCE_M = 1e-3


def waves(n: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (n, 2, *SHAPE)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@pytest.fixture(params=['far', 'near'])
def transfer(request: pytest.FixtureRequest) -> np.ndarray | None:
    if request.param == 'far':
        return None
    return transfer_function(SHAPE, PIXEL_M, WAVELENGTH_M, DISTANCE_M)


def test_the_way_to_the_detector_is_unitary(transfer: np.ndarray | None) -> None:
    there = to_detector(waves(), transfer)
    np.testing.assert_allclose((abs(there) ** 2).sum(), (abs(waves()) ** 2).sum(), rtol=1e-12)
    np.testing.assert_allclose(from_detector(there, transfer), waves(), atol=1e-12)
    other = waves()[::-1]
    # What is undone is also the adjoint.
    np.testing.assert_allclose(
        np.vdot(other, there), np.vdot(from_detector(other, transfer), waves()), rtol=1e-12
    )


def test_orders_of_pixels_undo_each_other(transfer: np.ndarray | None) -> None:
    image = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    np.testing.assert_array_equal(
        in_file_order(in_transform_order(image, transfer), transfer), image
    )
    if transfer is not None:
        assert in_transform_order(image, transfer) is image


def test_nothing_happens_over_no_distance() -> None:
    np.testing.assert_array_equal(transfer_function(SHAPE, PIXEL_M, WAVELENGTH_M, 0.0), 1)


def test_a_beam_spreads_as_gaussian_beams_do() -> None:
    size, pixel_m, waist_m, distance_m = 256, 1e-7, 1e-6, 0.05
    there = transfer_function((size, size), (pixel_m, pixel_m), WAVELENGTH_M, distance_m)
    x = (np.arange(size) - size // 2) * pixel_m
    square = x[:, np.newaxis] ** 2 + x**2
    found = to_detector(np.exp(-square / waist_m**2).astype(complex), there)
    rayleigh_m = np.pi * waist_m**2 / WAVELENGTH_M
    width_m = waist_m * np.hypot(1, distance_m / rayleigh_m)
    expected = (waist_m / width_m) ** 2 * np.exp(-2 * square / width_m**2)
    np.testing.assert_allclose(abs(found) ** 2, expected, atol=1e-6)
    # Behind its waist the beam is as if from a point there: the sign of the phase is that of
    # exp(ikz), with which ray and wave go in the same direction.
    slope = np.angle(found[size // 2, size // 2 + 20] / found[size // 2, size // 2])
    curvature_m = distance_m * (1 + (rayleigh_m / distance_m) ** 2)
    assert slope == pytest.approx(np.pi * (20 * pixel_m) ** 2 / WAVELENGTH_M / curvature_m, 1e-2)


def test_what_does_not_leave_the_sample_is_lost() -> None:
    found = transfer_function((8, 8), (1e-10, 1e-10), 3e-10, 1e-6)
    assert found[0, 4] == 0
    assert abs(found[0, 1]) == pytest.approx(1)


def test_patterns_and_projection_of_the_near_field() -> None:
    near = transfer_function(SHAPE, PIXEL_M, WAVELENGTH_M, DISTANCE_M)
    # So many photons that the floor of the projection is nothing beside them.
    patches, probes = 1e4 * waves()[:, 0], waves()[:, :1]
    counts = diffract(probes * patches[:, np.newaxis], near)
    # An image is where the sample is, and not mirrored.
    np.testing.assert_allclose(counts, abs(to_detector(probes[:, 0] * patches, near)) ** 2)
    valid_mask = np.ones(SHAPE, bool)
    update = project_amplitudes(patches, probes, counts, valid_mask, near)
    np.testing.assert_allclose(update, 0, atol=1e-3)
    flat = np.ones_like(probes)
    projected = patches + project_amplitudes(patches, flat, counts, valid_mask, near)
    np.testing.assert_allclose(diffract(projected[:, np.newaxis], near), counts, rtol=1e-3)


def test_images_stay_where_the_detector_is() -> None:
    """A sample that moves by a part of a pixel is seen at the same place."""
    near = transfer_function(SHAPE, PIXEL_M, WAVELENGTH_M, DISTANCE_M)
    y, x = np.indices(SHAPE)
    probe = np.exp(-((y - 12) ** 2 + (x - 15) ** 2) / 20 + 0.3j * x)[np.newaxis]

    def sample(moved: tuple[float, float]) -> np.ndarray:
        v, u = np.indices((44, 51))
        return np.exp(0.7j * np.sin(0.4 * (v + moved[0]) + 0.3 * (u + moved[1])))

    origin, whole = np.zeros(2, np.int64), np.array([[22.0, 25.0]])
    at_part = predict_patterns(sample((0, 0)), origin, whole + np.array([0.4, -0.3]), probe, near)
    moved = predict_patterns(sample((0.4, -0.3)), origin, whole, probe, near)
    np.testing.assert_allclose(at_part, moved, atol=2e-4)
    # Half a pixel further is as far as the next one less half a pixel.
    sides = [whole + np.array([0.4999999, 0]), whole + np.array([0.5000001, 0])]
    near_each = [predict_patterns(sample((0, 0)), origin, side, probe, near) for side in sides]
    np.testing.assert_allclose(*near_each, atol=1e-3)


def test_light_without_a_sample() -> None:
    near = transfer_function(SHAPE, PIXEL_M, WAVELENGTH_M, DISTANCE_M)
    probe = waves()[0]
    np.testing.assert_allclose(light_on_detector(probe, near), diffract(probe[np.newaxis], near)[0])
    far = light_on_detector(probe, None)
    np.testing.assert_allclose(
        far / far.sum(), diffract(probe[np.newaxis])[0] / far.sum() * np.prod(SHAPE), rtol=1e-9
    )
