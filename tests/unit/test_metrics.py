"""Registration and measures, held to images whose differences are known."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from ptychopinn_plugin.data.simulation import SimulationConfig, make_object
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.metrics import (
    RingCorrelation,
    align,
    find_shift,
    frc,
    mae,
    psnr,
    shift_image,
    ssim,
    wrapped_phase,
)

Image = NDArray[np.complex128]


@pytest.fixture(scope='module')
def field() -> Image:
    """Return a field wide enough to cut shifted windows out of it."""
    return make_object(SimulationConfig(seed=4), (640, 640)).astype(np.complex128)


def windows(field: Image, y: int, x: int) -> tuple[Image, Image]:
    """Return two averaged-down windows, the second seen from (y, x) fourths of a pixel away."""

    def cut(top: int, left: int) -> Image:
        window = field[top : top + 512, left : left + 512]
        mean: Image = window.reshape(128, 4, 128, 4).mean(axis=(1, 3))
        return mean

    return cut(60, 60), cut(60 + y, 60 + x)


@pytest.fixture(scope='module')
def truth(field: Image) -> Image:
    return windows(field, 0, 0)[0]


def noise(shape: tuple[int, ...], seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@pytest.mark.parametrize('shift', [(0, 0), (1, -2), (-3, 5), (10, 7), (-22, 13)])
def test_known_shift_is_found(field: Image, shift: tuple[int, int]) -> None:
    # Cut from a finer picture: neither periodic nor made by the shift under test.
    truth, moved = windows(field, *shift)
    found = find_shift(moved * np.exp(2j), truth)
    np.testing.assert_allclose(found, np.array(shift) / 4, atol=0.05)


def test_shift_is_found_under_noise(field: Image) -> None:
    truth, moved = windows(field, 6, -9)
    found = find_shift(moved + 0.05 * noise(moved.shape), truth)
    np.testing.assert_allclose(found, [1.5, -2.25], atol=0.05)


def test_shift_of_nothing_is_zero(truth: Image) -> None:
    assert find_shift(np.ones_like(truth), truth) == (0.0, 0.0)
    assert find_shift(np.zeros_like(truth), truth) == (0.0, 0.0)


def test_chance_shift_is_refused(field: Image) -> None:
    truth, moved = windows(field, 40, 0)
    assert find_shift(moved, truth)[0] == pytest.approx(10, abs=0.1)
    assert find_shift(moved, truth, largest_px=8) == (0.0, 0.0)


def test_shifting_moves_down_and_right() -> None:
    image = np.zeros((40, 40), dtype=complex)
    image[10, 12] = 1
    moved = shift_image(image, (3, 5))
    assert np.unravel_index(np.abs(moved).argmax(), moved.shape) == (13, 17)
    np.testing.assert_allclose(shift_image(image, (0, 0)), image)


def test_phase_and_scale_are_removed(truth: Image) -> None:
    alignment = align(truth / (2.5 * np.exp(1.3j)), truth)
    np.testing.assert_allclose(alignment.image, truth, atol=1e-12)
    assert alignment.scale == pytest.approx(2.5 * np.exp(1.3j))
    assert alignment.shift_px == (0.0, 0.0)


def test_wrong_phases_do_not_darken(truth: Image) -> None:
    out_of_phase = truth * np.exp(0.8j * np.random.default_rng(0).normal(size=truth.shape))
    aligned = align(out_of_phase, truth, register=False).image
    np.testing.assert_allclose(np.abs(aligned), np.abs(truth), rtol=1e-12)


def test_ramp_counts_unless_removed(truth: Image) -> None:
    y, x = np.indices(truth.shape)
    tilted = truth * np.exp(1j * (0.031 * y - 0.047 * x + 0.5))
    kept = align(tilted, truth, register=False)
    assert kept.ramp_rad == (0.0, 0.0)
    assert ssim(*wrapped_phase(kept.image, truth)) < 0.5
    removed = align(tilted, truth, register=False, remove_ramp=True)
    np.testing.assert_allclose(removed.ramp_rad, [0.031, -0.047], atol=1e-5)
    assert ssim(*wrapped_phase(removed.image, truth)) > 0.999


def test_empty_image_stays_empty(truth: Image) -> None:
    assert not align(np.zeros_like(truth), truth).image.any()


def test_similarity_is_the_usual_one_where_signs_agree(truth: Image) -> None:
    amplitude = np.abs(truth)
    image = np.abs(truth + 0.05 * noise(truth.shape))
    usual = structural_similarity(amplitude, image, data_range=np.ptp(amplitude))
    assert ssim(image, amplitude) == pytest.approx(usual)


def test_two_wrong_signs_make_no_right_one(truth: Image) -> None:
    _, phase = wrapped_phase(truth, truth)
    assert structural_similarity(phase, -phase, data_range=np.ptp(phase)) > 0.4
    assert ssim(-phase, phase) < 0


def test_global_phase_of_the_truth_does_not_matter(truth: Image) -> None:
    image = truth * np.exp(0.3j * noise(truth.shape).real)
    expected = ssim(*wrapped_phase(image, truth))
    phase_factor = np.exp(2.9j)
    assert ssim(*wrapped_phase(image * phase_factor, truth * phase_factor)) == pytest.approx(
        expected
    )


def test_phases_compare_across_the_wrap() -> None:
    y, _ = np.indices((32, 32))
    truth = np.exp(1j * (np.pi + 0.5 * np.sin(y)))
    image = truth * np.exp(0.1j)
    image_phase, true_phase = wrapped_phase(image, truth)
    np.testing.assert_allclose(image_phase - true_phase, 0.1, atol=1e-12)
    assert np.ptp(true_phase) == pytest.approx(1, abs=0.01)


def test_identity_is_perfect(truth: Image) -> None:
    amplitude = np.abs(truth)
    assert ssim(amplitude, amplitude) == pytest.approx(1)
    assert psnr(amplitude, amplitude) == np.inf
    assert mae(amplitude, amplitude) == 0
    curve = frc(truth, truth)
    np.testing.assert_allclose(curve.correlation, 1)
    assert set(curve.crossings().values()) == {1.0}


def test_more_noise_scores_lower(truth: Image) -> None:
    scores = []
    for level in (0.0, 0.02, 0.06, 0.2):
        image = np.abs(truth + level * noise(truth.shape))
        curve = frc(truth + level * noise(truth.shape), truth)
        amplitude = np.abs(truth)
        scores.append(
            (
                ssim(image, amplitude),
                psnr(image, amplitude),
                -mae(image, amplitude),
                curve.crossing(0.5),
            )
        )
    for better, worse in itertools.pairwise(scores):
        assert all(b > w for b, w in zip(better[:3], worse[:3], strict=True))
        assert better[3] >= worse[3]
    assert scores[-1][3] < 0.6


def test_psnr_and_mae_are_what_they_say() -> None:
    truth = np.tile([0.0, 2.0], (8, 4))
    assert psnr(truth + 0.2, truth) == pytest.approx(20)
    assert mae(truth + 0.2, truth) == pytest.approx(0.2)


def test_constant_image_is_the_floor(truth: Image) -> None:
    flat = align(np.ones_like(truth), truth)
    assert ssim(np.abs(flat.image), np.abs(truth)) < 0.4
    assert abs(ssim(*wrapped_phase(flat.image, truth))) < 0.2
    assert frc(flat.image, truth).crossing(0.5) < 0.05


@pytest.mark.parametrize('change', ['mirrored', 'upside down', 'transposed', 'conjugate'])
def test_wrong_axes_and_signs_are_not_good(truth: Image, change: str) -> None:
    changed = {
        'mirrored': truth[:, ::-1],
        'upside down': truth[::-1],
        'transposed': truth.T,
        'conjugate': truth.conj(),
    }[change]
    aligned = align(changed, truth, largest_shift_px=8).image
    assert ssim(*wrapped_phase(aligned, truth)) < 0.4
    if change != 'conjugate':
        assert ssim(np.abs(aligned), np.abs(truth)) < 0.4
    assert frc(aligned, truth).crossing(0.5) < 0.15


@pytest.mark.parametrize('window', ['hann', 'tukey', 'none'])
def test_independent_noise_does_not_correlate(window: str) -> None:
    curve = frc(noise((128, 128), 1), noise((128, 128), 2), window=window)
    assert np.abs(curve.correlation[16:]).max() < 0.35
    assert curve.crossing(0.5) < 0.05


def test_ring_correlation_crosses_where_the_resolution_ends(truth: Image) -> None:
    frequency = np.fft.fftfreq(128) * 2
    low = np.hypot(frequency[:, None], frequency[None, :]) < 0.4
    white = noise(truth.shape, 3)
    blurred = np.fft.ifft2(np.fft.fft2(white) * low) + 0.0
    curve = frc(blurred + 1e-3 * noise(truth.shape, 4), white)
    for threshold in (0.5, 1 / 7):
        assert curve.crossing(threshold) == pytest.approx(0.4, abs=0.05)
    assert curve.crossings()['half-bit'] == pytest.approx(0.4, abs=0.05)


def test_the_jump_at_the_border_is_no_agreement() -> None:
    """A slope that two images share, cut off at the border, would agree at any fineness."""
    slope = 30 * np.linspace(-1, 1, 128)[:, None] * np.ones(128)
    first, second = slope + noise((128, 128), 1), slope + noise((128, 128), 2)
    cut_off = frc(first, second, window='none').correlation
    found = frc(first, second).correlation
    assert cut_off[16:40].min() > 0.5
    assert np.abs(found[16:40]).max() < 0.4
    np.testing.assert_array_equal(found, frc(first, second, window='hann').correlation)


def test_half_bit_curve_falls_towards_its_limit() -> None:
    curve = frc(noise((256, 256), 1), noise((256, 256), 2))
    assert np.all(np.diff(curve.half_bit[::16]) < 0)
    assert 0.2071 / 1.2071 < curve.half_bit[-1] < 0.4
    assert curve.frequencies[0] == 0
    assert curve.frequencies[-1] == 1


def test_a_ring_of_few_samples_does_not_decide() -> None:
    frequencies = np.linspace(0, 1, 5)
    correlation = np.array([1.0, 0.8, 0.6, 0.2, 0.0])
    curve = RingCorrelation(frequencies, correlation, np.array([1.0, 0.9, 0.4, 0.3, 0.25]))
    # Between the third ring, 0.2 above, and the fourth, 0.1 below.
    assert curve.crossings()['half-bit'] == pytest.approx(0.5 + 0.25 * 2 / 3)


def test_crossing_lies_between_rings() -> None:
    curve = frc(np.ones((8, 8), dtype=complex), np.ones((8, 8), dtype=complex), window='none')
    # A constant agrees at frequency 0 alone; one ring of four later nothing is left.
    assert curve.crossing(0.5) == pytest.approx(0.125)
    assert curve.crossing(2.0) == 0.0


def test_oblong_images_are_cropped(truth: Image) -> None:
    assert len(frc(truth[:, :100], truth[:, :100]).frequencies) == 51


def test_what_cannot_be_compared(truth: Image) -> None:
    with pytest.raises(DataError, match='of one shape'):
        align(truth[:50], truth)
    with pytest.raises(DataError, match='must be finite'):
        frc(np.full_like(truth, np.nan), truth)
    with pytest.raises(DataError, match='at least 7 pixels'):
        ssim(np.ones((5, 5)), np.ones((5, 5)))
    with pytest.raises(DataError, match='window must be one of hann, tukey, none'):
        frc(truth, truth, window='box')
