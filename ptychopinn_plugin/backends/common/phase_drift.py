r"""The smooth amplitude and phase that an object misses, the same in every backend.

Iterations and patches compare neighbours, so that small errors of slope add up to a drift over the
field. Every pattern measures the slopes on its own, like a lenslet of a Shack-Hartmann sensor [1]_:
where the object under it is :math:`e^{(a + i p) \cdot r}` times what it should be, and the beam
:math:`e^b` times as bright, its amplitudes :math:`\sqrt I` change by

.. math:: \partial_b \sqrt I = \tfrac12 \sqrt I, \quad
    \partial_a \sqrt I = \mathrm{Re} \sum_m \Psi_m^* \mathcal{F}[r P_m O] / \sqrt I, \quad
    \partial_p \sqrt I = -\mathrm{Im} \sum_m \Psi_m^* \mathcal{F}[r P_m O] / \sqrt I .

Least squares give the normal equations of each pattern. The beam is eliminated, and one smooth
surface of log amplitude and one of phase are fitted to all patterns at once. A slow drift of the
beam looks almost like a slow change of the object's transmission, but only the latter has a slope
under a pattern: what the amplitude misses is what the object has taken from the beam.

References
----------
.. [1] R. Shack, B. Platt, J. Opt. Soc. Am. 61 (1971) 656.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, RealArray
from ptychopinn_plugin.backends.common.judged_patterns import judged_stride
from ptychopinn_plugin.backends.common.positions import FLOOR_FRACTION
from ptychopinn_plugin.physics import illuminated_size

Tensor = TypeVar('Tensor')

RIDGE = 2.0
"""The surface is held back as if this number of patterns measured no slope.

Finer waves meet more resistance.
"""

MAX_ORDER = 8
"""A surface has at most this number of half waves along each side."""

MIN_PATTERNS = 4
"""Slow errors cannot be measured with fewer patterns."""

SURE_OF_DRIFT = 2.5
"""A drift of the beam is believed from this number of standard deviations of its noise on."""


_PART = 8192
"""Slopes of this number of patterns are held at a time."""


def has_slow_errors(forward: Any) -> bool:
    """Return whether slow errors can be found: patterns are enough, and share the object."""
    return len(forward) >= MIN_PATTERNS and not forward.is_single_shot


def better_of(forward: Any, object_: Tensor, corrected: Tensor) -> Tensor:
    """Return a corrected object where that raises the likelihood, and else the object as it is.

    Where the positions or the probe are wrong, a correction may be worse than none.
    """
    stride = judged_stride(len(forward))
    before = forward.evaluate_loss(object_, stride=stride)
    return corrected if forward.evaluate_loss(corrected, stride=stride) < before else object_


def floor_photons(forward: Any) -> float:
    """Return the photons below which a pixel hardly counts: amplitudes are biased there."""
    return float(FLOOR_FRACTION * forward.photons / math.prod(forward.shape))


def middle_ramps(shape: tuple[int, int]) -> RealArray:
    """Return y and x of a patch's pixels from its middle, shape (2, height, width), float32."""
    y, x = (np.arange(side, dtype=np.float32) - side // 2 for side in shape)
    return np.stack(np.broadcast_arrays(y[:, np.newaxis], x[np.newaxis, :]))


@dataclass(frozen=True)
class PatternMoments:
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
        # The beam is solved for and put into the other equations (a Schur complement), so that four
        # unknowns are left. A pattern without light has none of it, hence the floor.
        own = np.maximum(self.normals[:, 0, 0], 1e-30)[:, np.newaxis]
        shared = self.normals[:, 0, 1:]
        products = shared[:, :, np.newaxis] * shared[:, np.newaxis, :]
        normals = self.normals[:, 1:, 1:] - products / own[:, :, np.newaxis]
        return normals, self.sides[:, 1:] - shared * self.sides[:, :1] / own


class SmoothBasis:
    """Smooth surfaces over the box of the positions: cosines no finer than the probe, and a plane.

    Parameters
    ----------
    patch_centres_px : ndarray, shape (n_positions, 2)
        (y, x) of the patches' centres on the canvas.
    width_px : float
        Of the illumination.

    Attributes
    ----------
    n_surfaces : int
    """

    def __init__(self, patch_centres_px: FloatArray, width_px: float) -> None:
        self._first = patch_centres_px.min(axis=0)
        self._extent = extent = np.maximum(np.ptp(patch_centres_px, axis=0), 1.0)
        # A finer wave than the illumination bends under each pattern, which the iterations see by
        # themselves.
        orders = np.minimum(extent // width_px, MAX_ORDER).astype(int)
        # Without (0, 0): slopes leave the constant open, a global phase and the brightness of the
        # beam.
        self._waves = [
            (a, b) for a in range(orders[0] + 1) for b in range(orders[1] + 1) if (a, b) != (0, 0)
        ]
        # Cosines are level at the edges of the box, where a drift may rise; a plane does that.
        self.n_surfaces = len(self._waves) + 2
        self._n_patterns = len(patch_centres_px)

    def slopes(self, points_px: FloatArray) -> FloatArray:
        """Return the gradient (y, x) of each surface a pixel, shape (n_surfaces, n, 2)."""
        scaled = (points_px - self._first) / self._extent
        columns = [_slopes_of(wave, scaled, self._extent) for wave in self._waves]
        columns += [np.tile(axis / self._extent, (len(scaled), 1)) for axis in np.eye(2)]
        return np.stack(columns)

    def held_back(self, normal: FloatArray) -> FloatArray:
        """Return a normal matrix with a resistance; more patterns must agree on a finer wave."""
        penalty = np.array([a * a + b * b for a, b in self._waves] + [0.0, 0.0])
        one_pattern = np.trace(normal) / len(normal) / self._n_patterns
        return np.asarray(normal + np.diag(RIDGE * one_pattern * (1 + penalty)))

    def surface(self, amounts: FloatArray, shape: tuple[int, int]) -> FloatArray:
        """Return the sum of all surfaces on a canvas, without its mean."""
        # Outside of the outermost centres nothing was measured, and the surface goes on level.
        y, x = (
            np.clip((np.arange(side) - start) / length, 0, 1)
            for side, start, length in zip(shape, self._first, self._extent, strict=True)
        )
        amount_of = np.zeros((MAX_ORDER + 1, MAX_ORDER + 1))
        for (a, b), amount in zip(self._waves, amounts, strict=False):
            amount_of[a, b] = amount
        surface = _cosines(y).T @ amount_of @ _cosines(x)
        surface += amounts[-2] * y[:, np.newaxis] + amounts[-1] * x[np.newaxis, :]
        return np.asarray(surface - surface.mean())

    def heights(self, points_px: FloatArray) -> FloatArray:
        """Return the height of each surface, up to a constant, shape (n_surfaces, n)."""
        scaled = ((points_px - self._first) / self._extent).T
        y, x = map(_cosines, scaled)
        return np.stack([*(y[a] * x[b] for a, b in self._waves), *scaled])


def _cosines(along: FloatArray) -> FloatArray:
    """Return 0 to `MAX_ORDER` half waves at shares (n,) of a side, shape (MAX_ORDER + 1, n)."""
    return np.asarray(np.cos(np.pi * np.arange(MAX_ORDER + 1)[:, np.newaxis] * along))


def _slopes_of(wave: tuple[int, int], scaled: FloatArray, extent: FloatArray) -> FloatArray:
    """Return the gradient of cos(pi a u) cos(pi b v) in (y, x), radians a pixel."""
    a, b = np.pi * wave[0], np.pi * wave[1]
    u, v = scaled[:, 0], scaled[:, 1]
    along_y = -a * np.sin(a * u) * np.cos(b * v) / extent[0]
    along_x = -b * np.cos(a * u) * np.sin(b * v) / extent[1]
    return np.stack([along_y, along_x], axis=1)


@dataclass(frozen=True)
class SlowErrors:
    """The smooth amplitude and phase that an object misses.

    Attributes
    ----------
    basis : SmoothBasis
    log_amplitude, phase : ndarray of float64, shape (n_surfaces,)
        The amount of each surface, of both at once.
    phase_alone : ndarray of float64, shape (n_surfaces,)
        The same of the phase where the amplitude misses nothing.
    patch_centres_px : ndarray of float64, shape (n_positions, 2)
        (y, x) of the patches' centres on the canvas.
    noise : float
        Standard deviation that counting alone gives to `beam_drift`.
    """

    basis: SmoothBasis
    log_amplitude: FloatArray
    phase: FloatArray
    phase_alone: FloatArray
    patch_centres_px: FloatArray
    noise: float

    def factor(self, shape: tuple[int, int]) -> ComplexArray:
        """Return what mends amplitude and phase of an object, complex64 on the canvas."""
        log_amplitude = self.basis.surface(self.log_amplitude, shape)
        phase = self.basis.surface(self.phase, shape)
        return np.exp(log_amplitude + 1j * phase).astype(np.complex64)

    def phase_factor(self, shape: tuple[int, int]) -> ComplexArray:
        """Return what mends the phase of an object, complex64 on the canvas.

        The phase is more certain where it is fitted alone. Where the beam drifts, it is fitted
        together with the amplitude, whose slope it would take up otherwise.
        """
        phase = self.phase if self.is_sure_of_drift else self.phase_alone
        return np.asarray(np.exp(1j * self.basis.surface(phase, shape)), dtype=np.complex64)

    @property
    def is_sure_of_drift(self) -> bool:
        """Whether the beam drifts by more than noise explains."""
        return self.beam_drift() > SURE_OF_DRIFT * self.noise

    def beam_drift(self) -> float:
        """Return the standard deviation of the beam's log intensity that the object has taken."""
        heights = [
            self.log_amplitude @ self.basis.heights(self.patch_centres_px[start : start + _PART])
            for start in range(0, len(self.patch_centres_px), _PART)
        ]
        # An intensity is the square of an amplitude, so its logarithm is twice as large.
        return float(2 * np.std(np.concatenate(heights)))


def fit_slow_errors(forward: Any, moments: PatternMoments, probe: ComplexArray) -> SlowErrors:
    """Fit a smooth amplitude and a smooth phase to what all patterns miss.

    Parameters
    ----------
    forward : ForwardModel
    moments : PatternMoments
        Of all its patterns.
    probe : ndarray of complex64, shape (n_modes, height, width)
    """
    normals, sides = moments.slopes_alone()
    patch_centres_px = forward.patch_origins_px + np.array([side // 2 for side in forward.shape])
    width = float(illuminated_size(probe, share=0.98, multiple=2))
    basis = SmoothBasis(patch_centres_px, width)
    n, parts = basis.n_surfaces, (slice(0, 2), slice(2, 4))
    whole, right = np.zeros((2, n, 2, n)), np.zeros((2, n))
    totals, products = np.zeros(n), np.zeros((n, n))
    # All slopes of a large scan at once would take more memory than its patterns.
    for start in range(0, len(patch_centres_px), _PART):
        some = slice(start, start + _PART)
        slopes = basis.slopes(patch_centres_px[some])
        for a, of_a in enumerate(parts):
            right[a] += np.einsum('kni,ni->k', slopes, sides[some, of_a])
            for b, of_b in enumerate(parts):
                whole[a, :, b] += _sum_slope_products(slopes, normals[some, of_a, of_b])
        heights = basis.heights(patch_centres_px[some])
        totals += heights.sum(axis=1)
        products += heights @ heights.T
    # Amplitude and phase are held back each by itself; what couples them is measured and stays.
    for part in range(2):
        whole[part, :, part] = basis.held_back(whole[part, :, part])
    matrix = whole.reshape(2 * n, 2 * n)
    log_amplitude, phase = np.linalg.solve(matrix, right.ravel()).reshape(2, n)
    # Amplitudes of counts have a variance of a quarter.
    covariance = np.linalg.inv(matrix)[:n, :n] / 4
    spread = (
        products / len(patch_centres_px) - np.outer(totals, totals) / len(patch_centres_px) ** 2
    )
    variance = float((covariance * spread).sum())
    return SlowErrors(
        basis=basis,
        log_amplitude=log_amplitude,
        phase=phase,
        # The block of the phase: as if the amplitude were right.
        phase_alone=np.linalg.solve(whole[1, :, 1], right[1]),
        patch_centres_px=patch_centres_px,
        noise=2 * math.sqrt(max(variance, 0.0)),
    )


def measure_slow_errors(
    forward: Any,
    object_: Tensor,
    measure_moments: Callable[[Any, Tensor], PatternMoments],
    to_numpy: Callable[[Tensor], ComplexArray],
) -> SlowErrors:
    """Fit the slow errors of an object by the moments of all patterns; see `fit_slow_errors`."""
    return fit_slow_errors(forward, measure_moments(forward, object_), to_numpy(forward.probe))


def _sum_slope_products(slopes: FloatArray, normals: FloatArray) -> FloatArray:
    """Sum over all patterns the products of each two surfaces' slopes, weighted by `normals`."""
    weighted = np.einsum('nij,lnj->lni', normals, slopes)
    n_surfaces = len(slopes)
    return np.asarray(slopes.reshape(n_surfaces, -1) @ weighted.reshape(n_surfaces, -1).T)


def correct_drift_with(
    forward: Any,
    object_: Tensor,
    *,
    measure_moments: Callable[[Any, Tensor], PatternMoments],
    to_numpy: Callable[[Tensor], ComplexArray],
    times: Callable[[Tensor, ComplexArray], Tensor],
) -> Tensor:
    """Return an object times the smooth phase that its patterns miss.

    Where that would not raise the likelihood (the positions or the probe may be wrong), the object
    is returned as it is, and so it is with fewer than four patterns, and with patterns that share
    nothing, as no slow phase goes from one to the next.

    Parameters
    ----------
    forward : ForwardModel
    object_ : tensor of complex64, shape `forward.canvas_shape`
    measure_moments, to_numpy, times : callable
        Of a framework; see `IterationKernels`.

    Returns
    -------
    tensor of complex64, shape `forward.canvas_shape`
    """
    if not has_slow_errors(forward):
        return object_
    errors = measure_slow_errors(forward, object_, measure_moments, to_numpy)
    return better_of(forward, object_, times(object_, errors.phase_factor(forward.canvas_shape)))
