"""The probe's scale and the size of what it lights."""

import numpy as np
import pytest

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data.simulation import SimulationConfig, make_probe
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import (
    cover,
    diffract,
    illuminated_size,
    illumination_overlap,
    is_same_probe,
    make_modes,
    normalize_probe,
    orthogonal_modes,
    twin_similarity,
    with_modes,
)
from ptychopinn_plugin.physics.probe import _scaled_coordinates
from ptychopinn_plugin.pretraining.probes import curved_probe


@pytest.mark.parametrize('factor', [1e-9, 1.0, 3e4])
def test_the_scale_of_a_probe_is_set_by_the_counts(factor: float) -> None:
    modes = make_probe(SimulationConfig(size=32, n_modes=3, defocus=100.0))
    probe = normalize_probe(modes * factor, 12345.0)
    assert probe.dtype == np.complex64
    assert (np.abs(probe.astype(complex)) ** 2).sum() == pytest.approx(12345, rel=1e-5)
    assert diffract(probe[np.newaxis].astype(complex)).sum() == pytest.approx(12345, rel=1e-5)
    # The shares of the modes and their phases stay.
    np.testing.assert_allclose(probe / modes, np.full(modes.shape, np.sqrt(12345)), rtol=1e-3)


def test_single_precision_does_not_overflow() -> None:
    probe = np.full((1, 8, 8), 1e25 + 0j, np.complex64)
    scaled = normalize_probe(probe, 64.0)
    np.testing.assert_allclose(scaled, 1.0, rtol=1e-5)


def _square(side: int, size: int = 64) -> np.ndarray:
    probe = np.zeros((1, size, size), complex)
    low = size // 2 - side // 2
    probe[:, low : low + side, low : low + side] = 1
    return probe


@pytest.mark.parametrize(
    ('side', 'multiple', 'expected'),
    [(16, 8, 16), (17, 8, 24), (16, 2, 16), (17, 2, 18), (5, 8, 8), (64, 8, 64), (62, 8, 64)],
)
def test_illuminated_size(side: int, multiple: int, expected: int) -> None:
    assert illuminated_size(_square(side), share=1.0, multiple=multiple) == expected


def test_a_smaller_share_needs_a_smaller_window() -> None:
    probe = make_probe(SimulationConfig(size=64))
    sizes = [illuminated_size(probe, share, multiple=2) for share in (0.5, 0.9, 0.98, 0.9999)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    for size, share in zip(sizes[:3], (0.5, 0.9, 0.98), strict=True):
        low = 32 - size // 2
        inside = (np.abs(probe[:, low : low + size, low : low + size]) ** 2).sum()
        assert inside >= share * (np.abs(probe) ** 2).sum()
        # The next smaller one holds too little.
        smaller = probe[:, low + 1 : low + size - 1, low + 1 : low + size - 1]
        assert (np.abs(smaller) ** 2).sum() < share * (np.abs(probe) ** 2).sum()


def test_a_window_is_never_larger_than_the_probe() -> None:
    assert illuminated_size(np.ones((1, 20, 30), complex), share=1.0) == 16
    assert illuminated_size(np.ones((1, 64, 64), complex), share=1.0) == 64


def test_light_beside_the_middle_counts() -> None:
    probe = _square(4)
    probe = np.roll(probe, 10, axis=2)
    # Its far edge lies 12 px from the middle.
    assert illuminated_size(probe, share=1.0, multiple=2) == 24


@pytest.mark.parametrize('n_modes', [1, 2])
@pytest.mark.parametrize(('step', 'expected'), [(24, 1.0), (4, 4.0), (2, 16.0)])
def test_overlap_counts_illuminations(n_modes: int, step: int, expected: float) -> None:
    """Bright squares of 8 px a side, 24 px apart or filling the canvas."""
    probe = np.zeros((n_modes, 16, 16), dtype=np.complex64)
    probe[:, 4:12, 4:12] = 3e3 + 1e3j
    patch_origins = np.stack(np.meshgrid(*[np.arange(0, 480, step)] * 2), axis=-1).reshape(-1, 2)
    coverage = cover(probe, patch_origins, (496, 496))
    assert illumination_overlap(coverage, probe) == pytest.approx(expected, rel=0.05)


def test_a_probe_is_as_like_its_twin_as_their_patterns_are() -> None:
    flat, curved, steep = (curved_probe(32, 12.0, 0.15, slope) for slope in (0.0, 0.3, 1.0))
    assert twin_similarity(flat[None]) == pytest.approx(1, abs=1e-6)
    assert twin_similarity(steep[None]) < twin_similarity(curved[None]) < 0.8
    # Neither a factor nor a tilt, which moves patterns, nor the place matters.
    tilt = np.exp(2j * np.pi * 3 / 32 * np.arange(32))
    moved = np.roll(3j * flat, (2, -3), (0, 1)) * tilt
    assert twin_similarity(moved[None]) == pytest.approx(1, abs=1e-6)
    # The brightest mode counts.
    modes = np.stack([0.3 * flat, 2 * steep])
    assert twin_similarity(modes) == pytest.approx(twin_similarity(steep[None]))


def test_under_a_flat_beam_a_pattern_is_that_of_the_twin_too() -> None:
    rng = np.random.default_rng(1)
    object_ = 1 + 0.3 * (rng.normal(size=(33, 33)) + 1j * rng.normal(size=(33, 33)))
    twin = object_[::-1, ::-1].conj()

    def pattern(curvature: float, patch: ComplexArray) -> FloatArray:
        # An odd side has a middle pixel, about which half a turn goes.
        probe = curved_probe(34, 12.0, 0.15, curvature)[1:, 1:]
        return np.asarray(np.abs(np.fft.fft2(probe * patch)) ** 2)

    np.testing.assert_allclose(pattern(0.0, object_), pattern(0.0, twin), rtol=1e-6, atol=1e-6)
    assert not np.allclose(pattern(0.6, object_), pattern(0.6, twin), rtol=0.1)


def _gaussian(size: int, width: float, centre: tuple[float, float]) -> ComplexArray:
    y, x = np.indices((size, size))
    y, x = y - centre[0], x - centre[1]
    return np.asarray(np.exp(-(y**2 + x**2) / (4 * width**2) + 0.7j))


def test_the_modes_of_a_gaussian_are_those_of_a_laser() -> None:
    """They are Hermite's polynomials times the probe, in the order of their degree."""
    probe = _gaussian(48, 4.0, (22.5, 25.0))
    modes = make_modes(probe, 6, 0.5)
    assert modes.shape == (6, 48, 48)
    y, x = np.indices((48, 48))
    y, x = (y - 22.5) / 4, (x - 25.0) / 4
    polynomials = (1, y, x, y**2 - 1, x * y, x**2 - 1)
    powers = 0.5 ** np.arange(6)
    for mode, polynomial, power in zip(modes, polynomials, powers / powers.sum(), strict=True):
        expected = polynomial * probe
        expected = expected * np.sqrt(power) / np.linalg.norm(expected)
        np.testing.assert_allclose(mode, expected, atol=2e-5)


@pytest.mark.parametrize(
    'probe', [np.ones((1, 8, 8)), np.ones(8), np.zeros((8, 8)), np.full((8, 8), np.nan)]
)
def test_modes_are_made_of_one_image_with_some_light(probe: np.ndarray) -> None:
    with pytest.raises(DataError, match='probe must be one image, finite and not zero'):
        make_modes(probe, 2, 0.5)


def test_coordinates_have_the_middle_and_the_width_of_the_light() -> None:
    """They keep powers of them near 1, with which the decomposition loses no digits."""
    y, x = _scaled_coordinates(_gaussian(48, 4.0, (22.5, 25.0)))
    np.testing.assert_allclose(y[:, 0], (np.arange(48) - 22.5) / 4, atol=1e-4)
    np.testing.assert_allclose(x[0], (np.arange(48) - 25.0) / 4, atol=1e-4)
    one = np.zeros((5, 5))
    one[1, 3] = 2.0
    y, x = _scaled_coordinates(one)
    assert (y[1, 3], y[2, 3], x[1, 3], x[1, 2]) == (0, 2, 0, -2)


def test_more_modes_than_asked_for_go_by_their_energy() -> None:
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.normal(size=(64, 3)) + 1j * rng.normal(size=(64, 3)))[0].T
    probe = (np.array([1.0, 3.0, 2.0])[:, None] * rows).reshape(3, 8, 8)
    for n_modes, strengths in ((3, [3, 2, 1]), (2, [3, 2])):
        found = with_modes(probe, n_modes)
        energies = (np.abs(found) ** 2).sum(axis=(1, 2))
        # The energy of those that go is given to the others.
        shares = np.square(strengths) / np.square(strengths).sum()
        np.testing.assert_allclose(energies, 14 * shares, rtol=1e-5)
        assert np.abs(np.vdot(found[0], rows[1].reshape(8, 8))) == pytest.approx(
            np.sqrt(energies[0]), rel=1e-5
        )
    # Those that are there stay, and a new one is weak.
    added = with_modes(probe[1:2], 2)
    assert np.abs(np.vdot(added[0], rows[1])) == pytest.approx(3 * np.sqrt(1 / 1.05), rel=1e-4)


def test_a_mode_keeps_its_phase() -> None:
    probe = np.stack([3 * _gaussian(16, 2.0, (8, 8)), 1j * _gaussian(16, 2.0, (3, 12))])
    found = orthogonal_modes(probe)
    for mode, given in zip(found, probe, strict=True):
        product = np.vdot(given, mode)
        assert product.real > 0.9 * np.linalg.norm(given) ** 2
        assert abs(product.imag) < 1e-3 * product.real


def test_each_mode_keeps_its_phase_in_another_order() -> None:
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.normal(size=(64, 3)) + 1j * rng.normal(size=(64, 3)))[0].T
    probe = (np.array([1.0, 3.0, 2.0])[:, None] * rows).reshape(3, 8, 8)
    np.testing.assert_allclose(orthogonal_modes(probe), probe[[1, 2, 0]], atol=1e-5)
    np.testing.assert_array_equal(orthogonal_modes(probe[:1]), probe[:1].astype(np.complex64))
    # Two that are alike are parted.
    first, second = orthogonal_modes(np.stack([probe[1], probe[1] + probe[2]]))
    assert abs(np.vdot(first, second)) < 1e-4
    assert np.linalg.norm(first) > np.linalg.norm(second)


def test_the_same_probe_with_another_factor() -> None:
    rng = np.random.default_rng(0)
    probe = rng.normal(size=(2, 8, 8)) + 1j * rng.normal(size=(2, 8, 8))
    other = rng.normal(size=(2, 8, 8)) + 1j * rng.normal(size=(2, 8, 8))
    other -= probe * np.vdot(probe, other) / np.vdot(probe, probe)
    other *= np.linalg.norm(probe) / np.linalg.norm(other)
    assert is_same_probe(probe, -3j * probe)
    assert not is_same_probe(probe, other)
    assert not is_same_probe(probe, probe[:1])
    # The cosine of the angle between both decides.
    for angle, is_same in ((0.04, True), (0.05, False)):
        assert is_same_probe(probe, np.cos(angle) * probe + np.sin(angle) * other) is is_same


def test_coverage_is_the_light_of_all_patterns_at_whole_pixels() -> None:
    probe = np.array([[[1, 2j], [0, 3]], [[1j, 0], [2, 0]]], np.complex64)
    light = np.array([[2, 4], [4, 9]])
    found = cover(probe, np.array([[0.0, 0.0], [1.9, 1.2], [0.0, 0.5]]), (3, 4))
    expected = np.zeros((3, 4))
    expected[:2, :2] += 2 * light
    expected[1:, 1:3] += light
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
