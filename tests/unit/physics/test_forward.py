"""The forward model that every backend is held to: energies, modes, shifts, adjoints, losses."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import (
    amplitude_residual,
    diffract,
    extract_patches,
    place_patches,
    poisson_loss,
    predict_patterns,
    shift_probe,
    split_positions,
)

ORIGIN = np.zeros(2, np.int64)


def noise(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.complex128]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@pytest.mark.parametrize('shape', [(8, 8), (7, 10), (9, 9)])
def test_a_pattern_holds_the_energy_of_its_exit_waves(shape: tuple[int, int]) -> None:
    waves = noise((3, 2, *shape))
    np.testing.assert_allclose(
        diffract(waves).sum(axis=(1, 2)), (np.abs(waves) ** 2).sum(axis=(1, 2, 3)), rtol=1e-12
    )


@pytest.mark.parametrize('shape', [(8, 8), (7, 10), (9, 9)])
def test_a_plane_wave_lands_at_its_frequency(shape: tuple[int, int]) -> None:
    y, x = np.indices(shape)
    wave = np.exp(2j * np.pi * (2 * y / shape[0] - 3 * x / shape[1]))
    pattern = diffract(wave[np.newaxis, np.newaxis])[0]
    peak = np.unravel_index(pattern.argmax(), shape)
    assert peak == (shape[0] // 2 + 2, shape[1] // 2 - 3)
    assert pattern.max() == pytest.approx(np.prod(shape))


def test_modes_add_incoherently() -> None:
    waves = noise((2, 3, 8, 8))
    apart = sum(diffract(waves[:, m : m + 1]) for m in range(3))
    np.testing.assert_allclose(diffract(waves), apart, rtol=1e-12)
    # Coherently they would interfere.
    coherent = diffract(waves.sum(axis=1, keepdims=True))
    assert np.abs(coherent - apart).max() > 0.1 * apart.max()


def test_the_phase_of_one_mode_is_free_and_of_an_object_too() -> None:
    waves = noise((1, 2, 8, 8))
    out_of_phase = waves * np.exp(1j * np.array([0.7, -2.0]))[:, None, None]
    np.testing.assert_allclose(diffract(out_of_phase), diffract(waves), rtol=1e-12)


@pytest.mark.parametrize('shape', [(8, 8), (2, 8, 8), (1, 1, 2, 8, 8)])
def test_exit_waves_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r'n_positions, n_modes, height, width'):
        diffract(np.ones(shape, complex))


@pytest.mark.parametrize('shape', [(8, 8), (7, 10)])
@pytest.mark.parametrize('shift', [(1, 0), (0, 1), (-2, 3)])
def test_a_shift_by_whole_pixels_rolls(shape: tuple[int, int], shift: tuple[int, int]) -> None:
    probe = noise((2, *shape))
    shifted = shift_probe(probe, np.array([shift], float))
    np.testing.assert_allclose(shifted[0], np.roll(probe, shift, axis=(1, 2)), atol=1e-12)


@pytest.mark.parametrize('shape', [(8, 8), (7, 10)])
def test_half_shifts_add_up(shape: tuple[int, int]) -> None:
    probe = noise((2, *shape))
    half = np.array([[0.5, -0.5]])
    twice = shift_probe(shift_probe(probe, half)[0], half)
    np.testing.assert_allclose(twice[0], np.roll(probe, (1, -1), axis=(1, 2)), atol=1e-12)


def test_each_position_has_its_own_shift() -> None:
    probe = noise((1, 8, 8))
    subpixel_shifts = np.array([[0.0, 0.0], [0.25, -0.4], [-0.5, 0.1]])
    together = shift_probe(probe, subpixel_shifts)
    assert together.shape == (3, 1, 8, 8)
    for index in range(3):
        alone = shift_probe(probe, subpixel_shifts[index : index + 1])
        np.testing.assert_allclose(together[index], alone[0], atol=1e-12)
    np.testing.assert_allclose(together[0], probe, atol=1e-12)


def test_a_band_limited_probe_moves_down_and_right() -> None:
    y, x = np.indices((32, 32)) - 16.0

    def beam(down: float, right: float) -> NDArray[np.complex128]:
        return np.exp(-((y - down) ** 2 + (x - right) ** 2) / 18 + 0.3j * (x - right)).astype(
            complex
        )

    moved = shift_probe(beam(0, 0)[np.newaxis], np.array([[0.3, -0.45]]))
    np.testing.assert_allclose(moved[0, 0], beam(0.3, -0.45), atol=1e-6)


def test_split_positions() -> None:
    positions = np.array([[0.0, 0.49], [0.5, -0.5], [-1.2, 7.75], [2.5, 3.5]])
    whole, rest = split_positions(positions)
    assert whole.dtype == np.int64
    assert whole.tolist() == [[0, 0], [1, 0], [-1, 8], [3, 4]]
    np.testing.assert_allclose(whole + rest, positions, rtol=0, atol=1e-15)
    assert np.abs(rest).max() <= 0.5


def test_whole_positions_cut_pixels() -> None:
    object_ = noise((20, 26))
    patches = extract_patches(object_, np.array([[4, 5], [15, 20]]), (8, 9))
    np.testing.assert_array_equal(patches[0], object_[0:8, 1:10])
    np.testing.assert_array_equal(patches[1], object_[11:19, 16:25])


def test_between_pixels_interpolation_is_linear() -> None:
    y, x = np.indices((20, 26)).astype(float)
    ramp = 2 * y - 3 * x + 0.5 * x * y
    centre = np.array([[9.25, 12.6]])
    patch = extract_patches(ramp, centre, (5, 6))[0]
    rows = centre[0, 0] + np.arange(5)[:, None] - 2
    columns = centre[0, 1] + np.arange(6)[None, :] - 3
    np.testing.assert_allclose(patch, 2 * rows - 3 * columns + 0.5 * rows * columns, rtol=1e-12)


@pytest.mark.parametrize('fraction', [(0.0, 0.0), (0.3, 0.0), (0.0, 0.8), (0.6, 0.25)])
@pytest.mark.parametrize('shape', [(8, 8), (7, 10)])
def test_placement_is_the_adjoint_of_extraction(
    shape: tuple[int, int], fraction: tuple[float, float]
) -> None:
    rng = np.random.default_rng(3)
    # Many overlap, and one comes twice.
    centres = rng.integers([4, 5], [15, 19], size=(12, 2)) + np.array(fraction)
    centres[1] = centres[0]
    object_, patches = noise((20, 26), 1), noise((12, *shape), 2)
    left = np.vdot(patches, extract_patches(object_, centres, shape))
    right = np.vdot(place_patches(patches, centres, object_.shape), object_)
    assert left == pytest.approx(right, rel=1e-12)


def test_adjoint_with_another_fraction_for_each_patch() -> None:
    centres = np.random.default_rng(4).uniform([4, 5], [14, 19], size=(9, 2))
    object_, patches = noise((20, 26), 1), noise((9, 8, 9), 2)
    left = np.vdot(patches, extract_patches(object_, centres, (8, 9)))
    right = np.vdot(place_patches(patches, centres, object_.shape), object_)
    assert left == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize(
    ('centre', 'inside'),
    [
        ((4, 4), True),
        ((3, 4), False),
        ((4, 3.9), False),
        ((16, 22), True),
        ((16.1, 22), False),
        ((16, 23), False),
    ],
)
def test_a_patch_beyond_the_object_is_an_error(centre: tuple[float, float], inside: bool) -> None:
    object_ = noise((20, 26))
    if inside:
        assert extract_patches(object_, np.array([centre]), (8, 8)).shape == (1, 8, 8)
        return
    with pytest.raises(DataError, match='reaches beyond the object of shape') as raised:
        extract_patches(object_, np.array([centre]), (8, 8))
    assert '(20, 26)' in str(raised.value)
    with pytest.raises(DataError, match='reaches beyond'):
        place_patches(np.ones((1, 8, 8)), np.array([centre]), (20, 26))


@pytest.fixture(scope='module')
def lopsided() -> tuple[NDArray[np.complex128], NDArray[np.float64], NDArray[np.complex128]]:
    """Return an object, positions in a box that is not square, and a probe without symmetry."""
    rng = np.random.default_rng(5)
    object_ = noise((40, 40), 6)
    positions = rng.uniform([9, 11], [17, 31], size=(10, 2))
    y, x = np.indices((16, 16)) - 8.0
    beam = np.exp(-(y**2 + 2 * x**2 + x * y) / 7) * np.exp(0.2j * y - 0.05j * x**2)
    return object_, positions, 100 * np.stack([beam, 0.3 * beam * y])


def test_positions_transposed_or_mirrored_do_not_fit(lopsided) -> None:
    object_, positions, probe = lopsided
    patterns = predict_patterns(object_, ORIGIN, positions, probe)
    valid_mask = np.ones((16, 16), bool)

    def residual(other: NDArray[np.float64]) -> float:
        return amplitude_residual(
            predict_patterns(object_, ORIGIN, other, probe), patterns, valid_mask
        )

    assert residual(positions) == 0
    assert residual(positions[:, ::-1]) > 0.05
    assert residual(39 - positions) > 0.05
    assert residual(np.array([39, 0]) + positions * [-1, 1]) > 0.05
    assert residual(positions + np.array([0.2, 0])) > 1e-4


def test_a_pattern_is_that_of_the_probe_times_what_it_lights(lopsided) -> None:
    object_, _, probe = lopsided
    positions = np.array([[20.0, 21.0], [12.0, 25.0]])
    patterns = predict_patterns(object_, np.array([3, 5]), positions, probe)
    for pattern, (y, x) in zip(patterns, ((9, 8), (1, 12)), strict=True):
        waves = np.fft.fft2(probe * object_[y : y + 16, x : x + 16]) / 16
        expected = np.fft.fftshift((np.abs(waves) ** 2).sum(axis=0))
        np.testing.assert_allclose(pattern, expected, rtol=1e-9, atol=1e-9 * expected.max())


def test_an_object_moved_with_its_positions_gives_the_same_patterns(lopsided) -> None:
    object_, positions, probe = lopsided
    patterns = predict_patterns(object_, ORIGIN, positions, probe)
    origin = np.array([-7, 12])
    moved = predict_patterns(object_, origin, positions + origin, probe)
    np.testing.assert_allclose(moved, patterns, rtol=1e-9, atol=1e-9 * patterns.max())


def test_a_position_between_pixels_equals_the_moved_object(lopsided) -> None:
    """For waves that the grid holds, moving the probe is moving the object the other way."""
    _, _, probe = lopsided
    y, x = np.indices((40, 40)).astype(float)

    def object_(down: float, right: float) -> NDArray[np.complex128]:
        phase = np.sin(2 * np.pi * (y + down) / 40) + np.cos(2 * np.pi * (x + right) / 20)
        return np.exp(0.3j * phase)

    whole = np.array([[20.0, 21.0]])
    between = predict_patterns(object_(0, 0), ORIGIN, whole + np.array([0.4, -0.3]), probe)
    moved = predict_patterns(object_(0.4, -0.3), ORIGIN, whole, probe)
    np.testing.assert_allclose(between, moved, atol=2e-3 * moved.max())


def test_poisson_loss() -> None:
    expected = np.array([[[2.0, 5.0], [0.5, 3.0]]])
    counts = np.array([[[1, 5], [0, 7]]])
    valid_mask = np.ones((2, 2), bool)
    terms = [2 - 1 + np.log(1 / 2), 0.0, 0.5, 3 - 7 + 7 * np.log(7 / 3)]
    assert poisson_loss(expected, counts, valid_mask) == pytest.approx(np.mean(terms), abs=1e-5)
    valid_mask[1, 1] = False
    assert poisson_loss(expected, counts, valid_mask) == pytest.approx(np.mean(terms[:3]), abs=1e-5)


def test_poisson_loss_is_least_for_the_truth_and_finite_in_the_dark() -> None:
    counts = np.random.default_rng(0).poisson(20.0, size=(4, 8, 8)).astype(float)
    valid_mask = np.ones((8, 8), bool)
    assert poisson_loss(counts, counts, valid_mask) == pytest.approx(0, abs=1e-6)
    assert poisson_loss(1.01 * counts, counts, valid_mask) > 0
    assert poisson_loss(0.99 * counts, counts, valid_mask) > 0
    dark = poisson_loss(np.zeros((1, 8, 8)), np.ones((1, 8, 8)), valid_mask)
    assert np.isfinite(dark)
    assert poisson_loss(np.zeros((1, 8, 8)), np.zeros((1, 8, 8)), valid_mask) == 0


def test_poisson_loss_takes_the_integers_of_a_detector() -> None:
    expected = np.full((1, 2, 2), 60000.0)
    counts = np.full((1, 2, 2), 65535, np.uint16)
    value = poisson_loss(expected, counts, np.ones((2, 2), bool))
    assert value == pytest.approx(60000 - 65535 + 65535 * np.log(65535 / 60000), rel=1e-6)


def test_amplitude_residual() -> None:
    counts = np.array([[[4, 9], [16, 100]]], np.uint8)
    expected = np.array([[[9.0, 9.0], [16.0, 0.0]]])
    valid_mask = np.array([[True, True], [True, False]])
    assert amplitude_residual(expected, counts, valid_mask) == pytest.approx(1 / 29)


def test_poisson_loss_to_the_last_digit() -> None:
    """In the dark the photons that are added to both sides are all that there is."""
    expected = np.array([[[0.0, 2e-6, 3.0]], [[1e-6, 0.0, 8.0]]])
    counts = np.array([[[0, 0, 5]], [[1, 2, 0]]])
    k, i = counts + 1e-6, expected + 1e-6
    terms = expected - counts + k * np.log(k / i)
    found = poisson_loss(expected, counts, np.ones((1, 3), bool))
    assert found == pytest.approx(terms.mean(), rel=1e-12)


def test_the_error_of_a_patch_beyond_says_where_the_centres_lie() -> None:
    centres = np.array([[9, 6], [4, 30], [7, 5]])
    with pytest.raises(DataError) as raised:
        extract_patches(np.ones((20, 26)), centres, (8, 9))
    assert 'A patch of 8 x 9 pixels' in str(raised.value)
    assert 'centres run from [4, 5] to [9, 30]' in str(raised.value)
