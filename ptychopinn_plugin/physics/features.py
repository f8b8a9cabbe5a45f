r"""The input of the network 'sweepnet' for a pattern, in NumPy: the oracle of the backends.

With the object's estimate :math:`O` in the window, the probe :math:`P` moved to the position and
the projected exit waves :math:`\psi'` of `project_amplitudes`, the back-projection's step is

.. math:: B = \frac{\sum_m P_m^* (\psi'_m - \psi_m)}{w + 0.05 \max w}, \qquad w = \sum_m |P_m|^2.

Both are multiplied by the conjugate phase of :math:`\sum w O`, so that the network need not learn
that a global phase means nothing. The network returns a correction :math:`c`, and the new patch is
:math:`O + B + c`.
"""

from collections.abc import Sequence

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray

BACK_PROJECTION_EPSILON = 0.05
"""This share of the peak is added to the intensity below: a step in the dark rim is noise alone."""

COVERAGE_SCALE = 5.0
"""It divides log(1 + coverage), so that some hundred photons per pixel become a number near 1."""


def sweepnet_features(
    patches: ComplexArray,
    updates: ComplexArray,
    intensities: FloatArray,
    coverage: FloatArray,
) -> tuple[FloatArray, ComplexArray, ComplexArray]:
    """Compute the network's input; the equations are those of this module's head.

    Parameters
    ----------
    patches, updates : ndarray of complex, shape (n_positions, window, window)
        The estimate and `project_amplitudes`'s result, both cut to the window.
    intensities : ndarray, shape (n_positions, window, window)
        :math:`w`: those of the probe at each position, in photons per pixel.
    coverage : ndarray, shape (n_positions, window, window)
        Photons per pixel on which the estimate rests; zero where it is flat.

    Returns
    -------
    features : ndarray of float, shape (n_positions, 6, window, window)
        Re Q - 1, Im Q, Re B, Im B, sqrt(intensity / its maximum), log(1 + coverage) / 5.
    start : ndarray of complex, shape (n_positions, window, window)
        Q + B, times `phases`: what the correction is added to.
    phases : ndarray of complex, shape (n_positions,)
        The factors of modulus 1 by which Q and B were multiplied. Their conjugates undo that.
    """
    brightest = intensities.max(axis=(-2, -1), keepdims=True)
    weights = intensities / brightest
    # The light is the weight: where there is hardly any, the estimate means nothing.
    phases = np.conj((patches * weights).sum(axis=(-2, -1)))  # (n,)
    phases = phases / (np.abs(phases) + 1e-9)
    steps = updates / (intensities + BACK_PROJECTION_EPSILON * brightest)
    patches, steps = patches * phases[:, None, None], steps * phases[:, None, None]
    features = np.stack(
        [
            # An empty object becomes zero, as the other images are in the dark.
            patches.real - 1,
            patches.imag,
            steps.real,
            steps.imag,
            # Intensities would leave all but the middle near zero.
            np.sqrt(weights),
            np.log1p(coverage) / COVERAGE_SCALE,
        ],
        axis=1,
    )
    return features, patches + steps, phases


def rotated_pixels(window: int, rotations: Sequence[int]) -> tuple[IntArray, IntArray]:
    """Return the pixels of an image, row by row, of which its rotated copies are made, and back.

    Parameters
    ----------
    window : int
        Side of the image.
    rotations : sequence of int
        Rotations by 90 degrees, one number for each copy.

    Returns
    -------
    there : ndarray of int64, shape (n_rotations, window**2)
        ``image.ravel()[there[k]]`` is the image, rotated ``rotations[k]`` times.
    back : ndarray of int64, shape (n_rotations, window**2)
        ``rotated.ravel()[back[k]]`` is the image again.
    """
    pixels = np.arange(window**2).reshape(window, window)
    # Tables, so that a graph of TensorFlow takes any rotation as data.
    there = [np.rot90(pixels, number).ravel() for number in rotations]
    back = [np.rot90(pixels, -number).ravel() for number in rotations]
    return np.stack(there), np.stack(back)
