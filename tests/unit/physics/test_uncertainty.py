"""Standard deviations of pixels: they follow light, overlap, misfit and what the object is like."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychopinn_plugin.physics import illumination_overlap
from ptychopinn_plugin.physics.uncertainty import (
    PHASE_NOISE,
    _left_open,
    estimate_uncertainty,
    uncertainty_in_words,
)

SIDE = 128


def edges(seed: int, contrast: float = 0.3) -> np.ndarray:
    """Return an image whose power falls with the third power of the frequency."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.fft2(rng.standard_normal((SIDE, SIDE)))
    image = np.fft.ifft2(noise * frequency**-1.5).real
    return contrast * image / image.std()


@pytest.fixture(scope='module')
def probe() -> np.ndarray:
    y, x = np.indices((32, 32)) - 16
    return np.exp(-(y**2 + x**2) / 64.0).astype(np.complex64)[None]


def estimate(
    light: np.ndarray | float, probe: np.ndarray, over: float | None = 1.0, contrast: float = 0.3
) -> tuple[np.ndarray, np.ndarray] | None:
    object_ = (1 + 0.3 * edges(0, contrast)) * np.exp(1j * edges(1, contrast))
    coverage = np.broadcast_to(np.asarray(light, dtype=np.float64), (SIDE, SIDE))
    overlap = illumination_overlap(coverage, probe)
    return estimate_uncertainty(object_, coverage, overlap, over)


@pytest.mark.parametrize('photons', [3.0, 100.0, 1e4])
def test_it_is_the_error_of_the_best_filter(photons: float, probe: np.ndarray) -> None:
    """An image with white noise, filtered as well as can be, misses the truth by that much."""
    found = estimate(photons, probe / 1e3)
    assert found is not None
    true = edges(1)
    noise_power = PHASE_NOISE / (2 * photons)
    noise = np.sqrt(noise_power) * np.random.default_rng(5).standard_normal(true.shape)
    power = np.abs(np.fft.fft2(true)) ** 2 / true.size
    rows = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    rows[0, 0] = 0.25 / SIDE
    band = (rows > 0.03) & (rows < 0.12)
    model = power[band].mean() / (rows[band] ** -3).mean() * rows**-3
    kept = np.fft.ifft2(np.fft.fft2(true + noise) * model / (model + noise_power)).real
    missed = float((kept - true).std())
    assert np.sqrt((found[1] ** 2).mean()) == pytest.approx(missed, rel=0.35)


def test_more_light_is_surer_and_darkness_knows_what_objects_are_like(probe: np.ndarray) -> None:
    light = np.ones((SIDE, SIDE))
    light[:, 64:] = 100.0
    light[100:] = 1e-9
    found = estimate(light, probe / 1e3)
    assert found is not None
    for std, contrast in zip(found, (0.09, 0.3), strict=True):
        assert std.shape == (SIDE, SIDE)
        assert std.dtype == np.float32
        assert np.median(std[:90, 70:]) < 0.6 * np.median(std[:90, :60])
        assert np.isfinite(std).all()
        # Unseen pixels are as uncertain as the object varies.
        assert 0.3 * contrast < np.median(std[110:]) < 3 * contrast


def test_a_misfit_and_little_overlap_are_less_sure(probe: np.ndarray) -> None:
    usual, misfit = estimate(100.0, probe / 1e3), estimate(100.0, probe / 1e3, over=20.0)
    better = estimate(100.0, probe / 1e3, over=0.9)
    # A probe as bright as the coverage overlaps with nothing.
    sparse = estimate(100.0, probe * 10)
    assert usual is not None
    assert misfit is not None
    assert better is not None
    assert sparse is not None
    for part in (0, 1):
        assert np.median(misfit[part]) > 1.5 * np.median(usual[part])
        assert np.median(sparse[part]) > 1.05 * np.median(usual[part])
        np.testing.assert_array_equal(better[part], usual[part])


def test_a_flat_object_is_surer(probe: np.ndarray) -> None:
    rich, flat = estimate(30.0, probe / 1e3), estimate(30.0, probe / 1e3, contrast=0.03)
    assert rich is not None
    assert flat is not None
    assert np.median(flat[1]) < 0.5 * np.median(rich[1])


def test_nothing_is_stated_where_nothing_is_known(probe: np.ndarray) -> None:
    assert estimate(100.0, probe, over=None) is None
    assert estimate(100.0, probe, over=float('nan')) is None
    small = np.zeros((SIDE, SIDE))
    small[:20] = 100.0
    assert estimate(small, probe) is None


def test_noise_can_take_no_more_than_there_is() -> None:
    variances = _left_open(1e-4, np.geomspace(1e-9, 1e9, 40))
    assert (np.diff(variances) >= 0).all()
    assert variances[-1] == pytest.approx(_left_open(1e-4, np.array([1e4]))[0])
    assert uncertainty_in_words(None) == ''
    assert 'amplitude 0.012, phase 0.03 rad' in uncertainty_in_words((0.012, 0.03))
    wrong = uncertainty_in_words((0.012, 0.03), points_to_a_fault=True)
    assert 'cannot be estimated' in wrong
    assert '0.012' not in wrong


def test_smoothing_leaves_the_local_amplitude(probe: np.ndarray) -> None:
    amplitude = np.ones((SIDE, SIDE))
    amplitude[:, :64] = 0.2
    object_ = amplitude * np.exp(1j * edges(1))
    coverage = np.full((SIDE, SIDE), 100.0)
    overlap = illumination_overlap(coverage, probe / 1e3)
    found = estimate_uncertainty(object_, coverage, overlap, 1.0)
    assert found is not None
    # A dark pixel has the same noise, and a phase that is less sure for it.
    assert np.median(found[1][:, :50]) > 1.5 * np.median(found[1][:, 78:])
    assert gaussian_filter(amplitude, 2.0).min() > 0.1
