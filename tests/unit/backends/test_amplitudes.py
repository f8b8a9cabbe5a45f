"""Scans hold counts, and forward models the square roots of them (docs/decisions, 25)."""

import numpy as np

from ptychopinn_plugin.backends.common.amplitudes import detector_amplitudes


def test_a_forward_model_gets_the_roots_of_counts() -> None:
    rng = np.random.default_rng(0)
    for counts in (rng.poisson(50, (3, 8, 8)).astype(np.uint16), rng.random((3, 8, 8)) * 1e6):
        roots = detector_amplitudes(counts, np.zeros((8, 8), bool), None)
        assert roots.dtype == np.float32
        # Zero frequency, in the middle of a pattern, lies in the corner.
        np.testing.assert_allclose(roots[:, 0, 0] ** 2, counts[:, 4, 4], rtol=3e-7)
        np.testing.assert_allclose(
            np.fft.fftshift(roots, axes=(1, 2)).astype(np.float64) ** 2, counts, rtol=3e-7
        )


def test_bad_pixels_are_filled_as_counts() -> None:
    counts = np.full((2, 8, 8), 9.0)
    counts[:, 3, 5] = -1
    bad = counts[0] < 0
    np.testing.assert_allclose(detector_amplitudes(counts, bad, None), 3.0)


def test_images_of_the_near_field_stay_as_they_are() -> None:
    counts = np.random.default_rng(0).poisson(50, (3, 8, 8))
    free_space = np.ones((8, 8), complex)
    roots = detector_amplitudes(counts, np.zeros((8, 8), bool), free_space)
    np.testing.assert_allclose(roots.astype(np.float64) ** 2, counts, rtol=3e-7)
