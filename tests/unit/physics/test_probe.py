"""The probe's scale and the size of what it lights."""

import numpy as np
import pytest

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data.simulation import SimulationConfig, make_probe
from ptychopinn_plugin.physics import (
    diffract,
    illuminated_size,
    illumination_overlap,
    normalize_probe,
    place_patches,
    twin_similarity,
)
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
    light = np.repeat((np.abs(probe) ** 2).sum(axis=0)[np.newaxis], len(patch_origins), axis=0)
    coverage = place_patches(light, patch_origins + 8, (496, 496)).astype(np.float32)
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
