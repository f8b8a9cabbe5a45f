"""The probe's scale and the size of what it lights."""

import numpy as np
import pytest

from ptychopinn_plugin.data.simulation import SimulationConfig, make_probe
from ptychopinn_plugin.physics import (
    diffract,
    illuminated_size,
    illumination_overlap,
    normalise_probe,
    place_patches,
)


@pytest.mark.parametrize('factor', [1e-9, 1.0, 3e4])
def test_the_scale_of_a_probe_is_set_by_the_counts(factor: float) -> None:
    modes = make_probe(SimulationConfig(size=32, n_modes=3, defocus=100.0))
    probe = normalise_probe(modes * factor, 12345.0)
    assert probe.dtype == np.complex64
    assert (np.abs(probe.astype(complex)) ** 2).sum() == pytest.approx(12345, rel=1e-5)
    assert diffract(probe[np.newaxis].astype(complex)).sum() == pytest.approx(12345, rel=1e-5)
    # The shares of the modes and their phases stay.
    np.testing.assert_allclose(probe / modes, np.full(modes.shape, np.sqrt(12345)), rtol=1e-3)


def test_single_precision_does_not_overflow() -> None:
    probe = np.full((1, 8, 8), 1e25 + 0j, np.complex64)
    scaled = normalise_probe(probe, 64.0)
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
