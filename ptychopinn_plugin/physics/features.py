r"""What the network 'sweepnet' sees of a pattern, in NumPy: the oracle of the backends.

With the object's estimate :math:`Q` in the window, the probe :math:`P` moved to the position and
the projected exit waves :math:`\psi'` of `project_amplitudes`, the back-projection's step is

.. math:: B = \frac{\sum_m P_m^* (\psi'_m - \psi_m)}{\sum_m |P_m|^2 + \epsilon \max \sum_m |P_m|^2}.

Both are turned by the phase of :math:`\sum |P|^2 Q`, so that the network need not learn that a
global phase means nothing. The network adds a correction: the new patch is :math:`Q + B + \delta`.
"""

from collections.abc import Sequence

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray

BACK_PROJECTION_EPSILON = 0.05

RATIO_EPSILON = 2e-4
"""Photons. Where an estimate expects none, a float32 transform leaves up to 1e-8 of them with the
phases of rounding errors; counts there must not be given those phases."""

COVERAGE_SCALE = 5.0

PHASE_EPSILON = 1e-9
"""Beside the modulus of what a phase is taken of."""


def project_amplitudes(
    patches: ComplexArray, probes: ComplexArray, counts: FloatArray, valid_mask: BoolArray
) -> ComplexArray:
    """Return the sum over modes of conj(P) (psi' - psi) for each pattern.

    Parameters
    ----------
    patches : ndarray of complex, shape (n_positions, height, width)
    probes : ndarray of complex, shape (n_positions, n_modes, height, width)
    counts : ndarray, shape (n_positions, height, width)
        Zero frequency at ``[height // 2, width // 2]``.
    good : ndarray of bool, shape (height, width)
    """
    spectra = np.fft.fft2(probes * patches[:, np.newaxis], norm='ortho')
    expected = (np.abs(spectra) ** 2).sum(axis=1)
    counts = np.fft.ifftshift(counts, axes=(-2, -1))
    ratio = np.sqrt((counts + RATIO_EPSILON) / (expected + RATIO_EPSILON))
    factor = (ratio - 1) * np.fft.ifftshift(valid_mask)
    changes = np.fft.ifft2(spectra * factor[:, np.newaxis], norm='ortho')
    return np.asarray((probes.conj() * changes).sum(axis=1))


def sweepnet_features(
    patches: ComplexArray,
    updates: ComplexArray,
    intensities: FloatArray,
    coverage: FloatArray,
    probes: ComplexArray | None = None,
) -> tuple[FloatArray, ComplexArray, ComplexArray]:
    """Compute the network's input.

    Parameters
    ----------
    patches, updates : ndarray of complex, shape (n_positions, window, window)
        The estimate and `project_amplitudes`'s result, both cut to the window.
    intensities : ndarray, shape (n_positions, window, window)
        Of the probe at each position, in photons per pixel.
    coverage : ndarray, shape (n_positions, window, window)
        Photons per pixel that the estimate rests on; zero where it is flat.
    probes : ndarray of complex, shape (n_positions, n_modes, window, window), optional
        For a network that works with any probe.

    Returns
    -------
    features : ndarray of float, shape (n_positions, 6 or 9, window, window)
        Re Q - 1, Im Q, Re B, Im B, sqrt(intensity / its maximum), log(1 + coverage) / 5; with
        `probes` also Re p, Im p, log(1 + intensity) / 5, where p is the first mode over the root
        of the largest intensity, turned so that the sum of :math:`|p| p` is real.
    start : ndarray of complex, shape (n_positions, window, window)
        Q + B, turned: what the correction is added to.
    phases : ndarray of complex, shape (n_positions,)
        Of modulus 1; what Q and B were multiplied by. Multiply by the conjugate to turn back.
    """
    brightest = intensities.max(axis=(-2, -1), keepdims=True)
    weights = intensities / brightest
    phases = np.conj((patches * weights).sum(axis=(-2, -1)))
    phases = phases / (np.abs(phases) + 1e-9)
    steps = updates / (intensities + BACK_PROJECTION_EPSILON * brightest)
    patches, steps = patches * phases[:, None, None], steps * phases[:, None, None]
    images = [
        patches.real - 1,
        patches.imag,
        steps.real,
        steps.imag,
        np.sqrt(weights),
        np.log1p(coverage) / COVERAGE_SCALE,
    ]
    if probes is not None:
        first = probes[:, 0] / np.sqrt(brightest)
        mean = (first * np.abs(first)).sum(axis=(-2, -1), keepdims=True)
        first = first * np.conj(mean) / (np.abs(mean) + PHASE_EPSILON)
        images += [first.real, first.imag, np.log1p(intensities) / COVERAGE_SCALE]
    features = np.stack(images, axis=1)
    return features, patches + steps, phases


def rotated_pixels(window: int, rotations: Sequence[int]) -> tuple[IntArray, IntArray]:
    """Return which pixels of an image, row by row, its turned copies are made of, and back.

    Parameters
    ----------
    window : int
        Side of the image.
    rotations : sequence of int
        Quarter turns, one for each copy.

    Returns
    -------
    there : ndarray of int64, shape (n_turns, window**2)
        ``image.ravel()[there[k]]`` is the image turned by ``turns[k]``.
    back : ndarray of int64, shape (n_turns, window**2)
        ``turned.ravel()[back[k]]`` is the image again.
    """
    pixels = np.arange(window**2).reshape(window, window)
    there = [np.rot90(pixels, number).ravel() for number in rotations]
    back = [np.rot90(pixels, -number).ravel() for number in rotations]
    return np.stack(there), np.stack(back)
