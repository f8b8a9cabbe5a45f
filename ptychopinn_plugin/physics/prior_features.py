r"""The input of the network 'prior' for an object between iterations, in NumPy for every backend.

With the object's estimate :math:`O`, the step :math:`B` that all patterns give together, the
coverage :math:`W` in photons per pixel and a smooth average :math:`\langle\cdot\rangle` over what
is lit, the local phase and level are those of
:math:`\langle O \rangle = \chi e^{i \theta}`. The network gets

.. math:: \frac{e^{-i \theta} O - \chi}{f_O}, \quad \frac{e^{-i \theta} B}{f_B}, \qquad
    f_O^2 = \langle |e^{-i \theta} O - \chi|^2 \rangle + \langle |B|^2 \rangle, \quad
    f_B^2 = \langle |B|^2 \rangle + 0.04 \langle |e^{-i \theta} O - \chi|^2 \rangle,

and seven real images of how reliable they are. It returns a correction :math:`c`, and the
new object is :math:`O + f_B e^{i \theta} c`. So a global phase, a slow one, and the object's
contrast mean nothing to it, and its correction is small where data and estimate agree.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.physics.probe import sum_at_positions

PRIOR_FEATURES = 11
"""The network gets this number of images."""

NEIGHBOURHOOD_PX = 6.0
"""The Gaussian that averages over a neighbourhood has this standard deviation."""

HALF_LIT_FRACTION = 0.02
"""At this share of the brightest coverage a pixel counts half."""

CONTRAST_FRACTION = 0.04
"""This share of the local variance is what a correction may have where the data need no step."""

DOSE_SCALE = 5.0
"""It divides logarithms of photons per pixel, so that they become numbers near 1."""

FLOOR = 1e-6
"""It is added to squares and averages that may be zero."""

LEVEL_FLOOR = 1e-3
"""It is added to the local level, of which a logarithm is taken."""

EXPOSURES_FLOOR = 1e-3
"""This share of the largest sum of squared intensities is added to each: where no light falls there
are no exposures."""


@dataclass(frozen=True)
class PriorFeatures:
    """What goes into the network, and what puts its answer back.

    Attributes
    ----------
    images : ndarray of float32, shape (11, height, width)
        Real and imaginary part of the estimate and of the step; logarithms of the coverage, of the
        signal to noise, of the number of exposures, of f_B, f_B / f_O and the level; the relative
        coverage.
    phases : ndarray of complex64, shape (height, width)
        The factor of the local phase, of modulus 1, and zero in the dark.
    scale : ndarray of float32, shape (height, width)
        The scale f_B, and zero in the dark.
    """

    images: FloatArray
    phases: ComplexArray
    scale: FloatArray

    def apply(self, object_: ComplexArray, correction: FloatArray) -> ComplexArray:
        """Return the corrected object.

        Parameters
        ----------
        object_ : ndarray of complex64, shape (height, width)
        correction : ndarray of float32, shape (2, height, width)
            What the network returned: real and imaginary part.
        """
        change = (correction[0] + 1j * correction[1]) * self.scale * self.phases
        return np.asarray(object_ + change, dtype=np.complex64)


def prior_features(
    object_: ComplexArray, step: ComplexArray, coverage: FloatArray, exposures: FloatArray
) -> PriorFeatures:
    """Compute the network's input; the equations are those of this module's head.

    Parameters
    ----------
    object_, step : ndarray of complex64, shape (height, width)
        The estimate O and the mean update of all patterns B.
    coverage : ndarray of float32, shape (height, width)
        Photons per pixel.
    exposures : ndarray of float32, shape (height, width)
        See `count_exposures`.
    """
    relative = coverage / coverage.max()
    # A soft edge, as a mask would draw its own border into the averages.
    lit = relative / (relative + HALF_LIT_FRACTION)
    # Averages are divided by it, so that the dark around them does not count.
    light = smooth(lit) + FLOOR
    low = smooth(lit * object_) / light
    level = np.abs(low)
    # In the dark the factor becomes 0: there the phase would be that of rounding errors.
    phases = low / (level + FLOOR)
    centred = object_ * phases.conj() - level
    in_phase = step * phases.conj()
    contrast = smooth(lit * _squared(centred)) / light
    change = smooth(lit * _squared(in_phase)) / light
    # An estimate that is still flat has no contrast of its own; the step has what it lacks.
    total = np.sqrt(contrast + change + FLOOR)
    scale = np.sqrt(change + CONTRAST_FRACTION * contrast + FLOOR)
    centred, in_phase = centred * (lit / total), in_phase * (lit / scale)
    # Each becomes float32 by itself; a stack would be made in float64 first.
    images = np.empty((PRIOR_FEATURES, *coverage.shape), np.float32)
    values = (
        centred.real,
        centred.imag,
        in_phase.real,
        in_phase.imag,
        np.log1p(coverage) / DOSE_SCALE,
        relative,
        # Photons times variance: the signal in units of shot noise.
        np.log1p(coverage * total**2) / DOSE_SCALE,
        np.log1p(exposures),
        np.log(scale) / DOSE_SCALE,
        np.log(scale / total),
        np.log(level + LEVEL_FLOOR),
    )
    for image, value in zip(images, values, strict=True):
        image[:] = value
    return PriorFeatures(
        images,
        phases.astype(np.complex64),
        (scale * lit).astype(np.float32),
    )


def count_exposures(
    probe: ComplexArray, patch_origins_px: FloatArray, canvas_shape: tuple[int, int]
) -> FloatArray:
    r"""Return how many patterns light each pixel, weighted: :math:`(\sum w)^2 / \sum w^2`.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    patch_origins_px : ndarray, shape (n_positions, 2)
        (y, x) of the first pixels of the patches on the canvas.
    canvas_shape : (int, int)

    Returns
    -------
    ndarray of float32, shape `canvas_shape`
    """
    intensity = _squared(probe).sum(axis=0).astype(np.float32)
    first, second = (
        sum_at_positions(image, patch_origins_px, canvas_shape)
        for image in (intensity, intensity**2)
    )
    return np.asarray(first**2 / (second + EXPOSURES_FLOOR * second.max()), dtype=np.float32)


def smooth(image: FloatArray | ComplexArray, width_px: float = NEIGHBOURHOOD_PX) -> FloatArray:
    """Average an image over a Gaussian neighbourhood; nothing lies outside."""
    return np.asarray(gaussian_filter(image, width_px, mode='constant', truncate=3.0))


def _squared(values: ComplexArray) -> FloatArray:
    return np.asarray(values.real**2 + values.imag**2)
