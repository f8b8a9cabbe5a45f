r"""The intensity of the beam at each pattern, the same in every backend.

A beam that drifts or flickers gives the patterns :math:`j` other numbers of photons than one probe
explains. With the object and the probe as they are, the likelihood of counts :math:`k_j` that
expect :math:`g_j I_j` is highest for :math:`g_j = \sum_q k_{jq} / \sum_q I_{jq}`, as in [1]_.
Counting alone makes the logarithm of this ratio vary by :math:`1 / \sum_q k_{jq}`; what it varies
beyond that is the beam's variance :math:`\sigma^2`, and the intensity becomes

.. math:: \log g_j = \frac{\sigma^2}{\sigma^2 + 1 / \sum_q k_{jq}}
    \log \frac{\sum_q k_{jq}}{\sum_q I_{jq}},

so that a steady beam stays steady. The mean of all is 1: the probe has the energy.

A slow drift of the beam looks almost like a slow change of the object's transmission, and
iterations tell them apart very slowly. Under one pattern they differ: the object would have a
slope there. So each pattern measures, by least squares of its amplitudes, the slopes of the
logarithm of the object's amplitude and of its phase that it misses, whatever its intensity is; one
smooth surface of each is fitted to all of them, and taken out of the object.

References
----------
.. [1] P. Thibault, M. Guizar-Sicairos, New J. Phys. 14 (2012) 063004,
   doi:10.1088/1367-2630/14/6/063004.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.backends.common.phase_drift import SmoothBasis
from ptychopinn_plugin.backends.common.positions import FLOOR_FRACTION
from ptychopinn_plugin.data.pattern_fit import NORMAL_QUARTILE
from ptychopinn_plugin.physics import illuminated_size

FIRST_FRACTION = 0.1
"""Intensities stay until this share of the iterations is done: an object that is still flat would
have all that it absorbs taken for the beam's."""

MIN_PATTERNS = 4
"""Fewer patterns have nothing to compare their beams with."""

NOISE_EXCESS = 2.0
"""The variance that noise gives to the ratios, in times of what counting alone gives."""

MAX_RATIO = 100.0
"""No beam is brighter or dimmer than the typical one by more than this."""


def intensities_move(forward: Any, fraction: float) -> bool:
    """Tell whether intensities are refined after a share of the iterations.

    A pattern that shares nothing with others does not tell its beam from its object.
    """
    enough = len(forward) >= MIN_PATTERNS and not forward.is_single_shot
    return enough and fraction >= FIRST_FRACTION


def refined_intensities(given: FloatArray, expected: FloatArray, counted: FloatArray) -> FloatArray:
    """Return the intensity of each pattern's beam, in times of their mean.

    Parameters
    ----------
    given : ndarray of float64, shape (n_positions,)
        What `expected` was computed with.
    expected, counted : ndarray of float64, shape (n_positions,)
        Photons in each pattern.
    """
    ratios = given * counted / np.maximum(expected, 1e-30)
    middle = float(np.median(ratios))
    if not middle > 0 or not np.isfinite(ratios).all():
        return given
    logs = np.log(np.clip(ratios / middle, 1 / MAX_RATIO, MAX_RATIO))
    # A pattern that holds nothing where much was expected tells as much as the others.
    noise = 1 / np.maximum(np.maximum(counted, expected), 1)
    spread = float(np.median(np.abs(logs)) / NORMAL_QUARTILE) ** 2
    variance = max(0.0, spread - NOISE_EXCESS * float(np.median(noise)))
    intensities = np.exp(logs * variance / (variance + noise))
    return np.asarray(intensities / intensities.mean())


def floor_photons(forward: Any) -> float:
    """Return the photons below which a pixel hardly counts: amplitudes are biased there."""
    return float(FLOOR_FRACTION * forward.photons / math.prod(forward.shape))


def middle_ramps(shape: tuple[int, int]) -> RealArray:
    """Return y and x of a patch's pixels from its middle, shape (2, height, width), float32."""
    y, x = (np.arange(side, dtype=np.float32) - side // 2 for side in shape)
    return np.stack(np.broadcast_arrays(y[:, np.newaxis], x[np.newaxis, :]))


@dataclass(frozen=True)
class BeamMoments:
    r"""The normal equations of each pattern, of the least squares of its amplitudes.

    Their five unknowns are the logarithm of the beam's intensity, the slopes (y, x) of the
    logarithm of the object's amplitude, and those of its phase. With the columns :math:`J` of
    :math:`\partial \sqrt{I}` and :math:`d = (k - I) / 2 \sqrt{I}` they are :math:`J^T J` and
    :math:`J^T d`.

    Attributes
    ----------
    normals : ndarray of float64, shape (n_positions, 5, 5)
    sides : ndarray of float64, shape (n_positions, 5)
    """

    normals: FloatArray
    sides: FloatArray

    def slopes_alone(self) -> tuple[FloatArray, FloatArray]:
        """Return the equations of the four slopes, whatever the intensity of each beam."""
        own = np.maximum(self.normals[:, 0, 0], 1e-30)[:, np.newaxis]
        shared = self.normals[:, 0, 1:]
        products = shared[:, :, np.newaxis] * shared[:, np.newaxis, :]
        normals = self.normals[:, 1:, 1:] - products / own[:, :, np.newaxis]
        return normals, self.sides[:, 1:] - shared * self.sides[:, :1] / own


@dataclass(frozen=True)
class SlowErrors:
    """The smooth amplitude and phase that an object misses.

    Attributes
    ----------
    basis : SmoothBasis
    log_amplitude, phase : ndarray of float64, shape (n_surfaces,)
        The amount of each surface.
    middles_px : ndarray of float64, shape (n_positions, 2)
        (y, x) of the middles of the patches on the canvas.
    noise : float
        Standard deviation that counting alone gives to `beam_drift`.
    """

    basis: SmoothBasis
    log_amplitude: FloatArray
    phase: FloatArray
    middles_px: FloatArray
    noise: float

    def factor(self, shape: tuple[int, int]) -> ComplexArray:
        """Return what the object is to be multiplied by, complex64 on the canvas."""
        log_amplitude = self.basis.surface(self.log_amplitude, shape)
        phase = self.basis.surface(self.phase, shape)
        return np.exp(log_amplitude + 1j * phase).astype(np.complex64)

    def beam_drift(self) -> float:
        """Return the standard deviation of the beam's log intensity that the object has taken."""
        heights = self.basis.heights(self.log_amplitude, self.middles_px)
        return float(2 * np.std(heights))


def fit_slow_errors(forward: Any, moments: BeamMoments, probe: ComplexArray) -> SlowErrors:
    """Fit a smooth amplitude and a smooth phase to what all patterns miss.

    Parameters
    ----------
    forward : ForwardModel
    moments : BeamMoments
        Of all its patterns.
    probe : ndarray of complex64, shape (n_modes, height, width)
    """
    normals, sides = moments.slopes_alone()
    middles = forward.patch_origins_px + np.array([side // 2 for side in forward.shape])
    width = float(illuminated_size(probe, share=0.98, multiple=2))
    basis = SmoothBasis(middles, width)
    n = len(basis.slopes)
    parts = (slice(0, 2), slice(2, 4))
    # (2, n_surfaces, 2, n_surfaces)
    whole = np.stack(
        [np.stack([_project(basis.slopes, normals[:, a, b]) for b in parts], axis=1) for a in parts]
    )
    for part in range(2):
        whole[part, :, part] = basis.held_back(whole[part, :, part])
    right = np.stack([np.einsum('kni,ni->k', basis.slopes, sides[:, a]) for a in parts])
    matrix = whole.reshape(2 * n, 2 * n)
    log_amplitude, phase = np.linalg.solve(matrix, right.ravel()).reshape(2, n)
    # Amplitudes of counts have a variance of a quarter.
    covariance = np.linalg.inv(matrix)[:n, :n] / 4
    shapes = np.stack([basis.heights(one, middles) for one in np.eye(n)])  # (n_surfaces, n)
    shapes -= shapes.mean(axis=1, keepdims=True)
    noise = 2 * math.sqrt(np.einsum('kn,kl,ln->', shapes, covariance, shapes) / len(middles))
    return SlowErrors(basis, log_amplitude, phase, middles, noise)


def _project(slopes: FloatArray, normals: FloatArray) -> FloatArray:
    """Sum over all patterns the products of each two surfaces' slopes, weighted by `normals`."""
    weighted = np.einsum('nij,lnj->lni', normals, slopes)
    n_surfaces = len(slopes)
    return np.asarray(slopes.reshape(n_surfaces, -1) @ weighted.reshape(n_surfaces, -1).T)
