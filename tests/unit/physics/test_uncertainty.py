"""Standard deviations of pixels: they follow light, overlap, misfit and what the object is like."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychopinn_plugin.physics import illumination_overlap
from ptychopinn_plugin.physics.uncertainty import (
    PHASE_NOISE,
    _left_open,
    _level,
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


@pytest.mark.parametrize('over', [0.5, 3.0])
def test_in_bright_light_the_curvature_of_the_likelihood_is_all(over: float) -> None:
    """There the filter has nothing to add, and the variance is Q of the module's head."""
    photons, overlap = 1e9, 1.2
    object_ = (2 + edges(0)) * np.exp(1j * edges(1))
    found = estimate_uncertainty(object_, np.full((SIDE, SIDE), photons), overlap, over)
    assert found is not None
    q = (1 + (1.5 / overlap) ** 2) * max(1.0, over) / (2 * photons)
    np.testing.assert_allclose(found[0] ** 2, 2.0 * q, rtol=0.02)
    local = gaussian_filter(np.abs(object_), 2.0)
    np.testing.assert_allclose(found[1] ** 2, 8.0 * q / local**2, rtol=0.02)


def test_the_phase_of_a_dark_pixel_is_not_endlessly_unsure() -> None:
    """It is taken as if there were a tenth of the object's usual amplitude."""
    object_ = (4 + edges(0)) * np.exp(1j * edges(1))
    object_[40:80, 40:80] = 0
    found = estimate_uncertainty(object_, np.full((SIDE, SIDE), 1e9), 1.5, 1.0)
    assert found is not None
    usual = np.median(np.abs(object_))
    assert found[1][60, 60] ** 2 == pytest.approx(8.0 / 1e9 / (0.1 * usual) ** 2, rel=0.02)


def test_the_overlap_of_a_pixel_is_as_its_light() -> None:
    """Twice as much light is twice the overlap there; light meets the mean of them."""
    light = np.full((SIDE, SIDE), 2e9)
    light[:, SIDE // 2 :] = 1e9
    object_ = (2 + edges(0)) * np.exp(1j * edges(1))
    found = estimate_uncertainty(object_, light, 1.0, 1.0)
    assert found is not None
    mean = (2e9**2 + 1e9**2) / 3e9
    for column, photons in ((10, 2e9), (-10, 1e9)):
        q = (1 + (1.5 * mean / photons) ** 2) / (2 * photons)
        np.testing.assert_allclose(found[0][:, column] ** 2, 2.0 * q, rtol=0.02)


def test_a_part_of_a_photon_shows_less_than_a_photon() -> None:
    object_ = (1 + edges(0)) * np.exp(1j * edges(1))
    medians = []
    for photons in (1.0, 0.2):
        light = np.full((SIDE, SIDE), 3.0)
        light[:, SIDE // 2 :] = photons
        found = estimate_uncertainty(object_, light, 8.0, 1.0)
        assert found is not None
        medians.append(np.median(found[0][:, SIDE // 2 + 20 :]))
    assert medians[1] > 1.1 * medians[0]


def test_what_a_filter_leaves_open() -> None:
    """Of the power S and the noise Q at each frequency, SQ / (S + Q); the mean has a part too."""
    side = 64
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = 0.5 / side
    power = 3e-4 * frequency**-3.0
    for noise in (1e-6, 1e-3, 1.0, 50.0):
        expected = (power * noise / (power + noise)).mean()
        assert _left_open(3e-4, np.array([noise]))[0] == pytest.approx(expected, rel=0.01)


def test_the_level_of_the_power_of_an_image() -> None:
    """It is found in a part of the image, whose border is no edge of the object."""
    rng = np.random.default_rng(2)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    frequency[0, 0] = np.inf
    lit = np.zeros((SIDE, SIDE), bool)
    lit[10:110, 20:125] = True
    lit[10:30, 20:45] = False
    found = []
    for _ in range(20):
        noise = np.fft.fft2(rng.standard_normal((SIDE, SIDE)))
        image = 5 + np.fft.ifft2(noise * np.sqrt(3e-4 * frequency**-3.0)).real
        found.append(_level(np.where(lit, image, 1e3), lit))
    assert np.mean(found) == pytest.approx(3e-4, rel=0.2)


@pytest.mark.parametrize(
    ('shape', 'is_known'), [((32, 33), True), ((31, 60), False), ((60, 31), False)]
)
def test_an_object_must_be_large_enough(shape: tuple[int, int], is_known: bool) -> None:
    light = np.zeros((SIDE, SIDE))
    light[: shape[0], : shape[1]] = 100.0
    object_ = np.ones((SIDE, SIDE)) * np.exp(1j * edges(1))
    assert (estimate_uncertainty(object_, light, 4.0, 1.0) is not None) == is_known


def test_a_pixel_is_lit_above_a_twentieth_of_the_brightest_light() -> None:
    light = np.full((SIDE, SIDE), 100.0)
    light[:, 30:] = 5.0
    object_ = np.ones((SIDE, SIDE)) * np.exp(1j * edges(1))
    assert estimate_uncertainty(object_, light, 4.0, 1.0) is None
    light[:, 30:] = 5.1
    assert estimate_uncertainty(object_, light, 4.0, 1.0) is not None


def test_an_object_before_its_first_iteration_is_not_called_sure() -> None:
    flat = np.ones((SIDE, SIDE), np.complex64)
    light = np.full((SIDE, SIDE), 100.0)
    assert estimate_uncertainty(flat, light, 4.0, 20.0) is None
    flat[3, 5] *= 1.01
    assert estimate_uncertainty(flat, light, 4.0, 20.0) is not None


def test_a_constant_phase_is_no_uncertainty() -> None:
    """Around pi the phase of pixels wraps, which must not pass for edges."""
    coverage = np.full((SIDE, SIDE), 1.0)
    object_ = np.exp(1j * edges(1, 0.6))
    found = [estimate_uncertainty(object_ * factor, coverage, 4.0, 1.0) for factor in (1, -1, 1j)]
    assert all(part is not None for part in found)
    for part in found[1:]:
        np.testing.assert_allclose(part[1], found[0][1], rtol=1e-3)
