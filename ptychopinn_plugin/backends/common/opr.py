r"""Eigenmodes of a probe that varies from pattern to pattern, the same in every backend.

Orthogonal probe relaxation [1]_ describes the first mode of the probe at pattern :math:`j` as
:math:`P_{j0} = \omega_{j0} P_0 + \sum_\nu \omega_{j\nu} E_\nu` with real weights. Each
:math:`E_\nu` is orthogonal to :math:`P_0` and has its energy, so that :math:`\omega_{j\nu}` is a
share of the amplitude.

Each iteration ends with a search in a few directions. They are the eigenmodes as they are, and what
the patterns would change of them, as in the least squares of [2]_,

.. math:: \Gamma_\nu = \frac{\sum_j \omega_{j\nu} O_j^* (\psi'_j - \psi_j)}
    {(1 - \alpha) \Upsilon_\nu + \alpha \max \Upsilon_\nu}, \qquad
    \Upsilon_\nu = \sum_j \omega_{j\nu}^2 |O_j|^2 .

The first time they are the changes that a tilt, a shift and a defocus of the probe make, and the
principal components of what single patterns would change of it; where positions are refined, a
shift is left to them. The weights of all directions
follow for each pattern from a step of Gauss and Newton with the change
:math:`J_\nu = \mathrm{Re}\, \Psi_0^* \mathcal{F}[E_\nu O_j] / a` of its expected amplitude
:math:`a = \sqrt{I + \epsilon}`; a normal distribution of the weights, whose covariance is
estimated from all patterns by expectation and maximization, holds back what is noise, so that
a steady probe stays steady. The strongest principal components of the probes that this gives are
the new eigenmodes.

The weight of :math:`P_0` follows from the energy of the pattern's probe, which stays as it was: a
beam that drifts or flickers is described by `common.intensities`.

References
----------
.. [1] M. Odstrčil et al., Opt. Express 24 (2016) 8360, doi:10.1364/OE.24.008360.
.. [2] M. Odstrčil, A. Menzel, M. Guizar-Sicairos, Opt. Express 26 (2018) 3108,
   doi:10.1364/OE.26.003108.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.backends.common.constraints import probe_support
from ptychopinn_plugin.backends.common.phase_drift import (
    floor_photons,
    middle_ramps,
)
from ptychopinn_plugin.backends.common.requests import IterationRequest
from ptychopinn_plugin.data.probe_variation import ProbeVariation

OPR_START_FRACTION = 0.3
"""The probe is the same at every pattern until this share of the iterations is done: the object
must be there first, or the eigenmodes would describe it."""

MAX_SAMPLE_PATTERNS = 512
MAX_SAMPLE_BYTES = 1 << 27
"""Eigenmodes begin as principal components of what this number of patterns from all over the scan
would change of the probe, at most; their sum has all patterns of a small scan."""

OPR_NOISE_EXCESS = 2.0
"""This is the variance of the weights by noise, in times of what counting alone gives."""

MAX_VARIED_FRACTION = 0.5
"""At most this share of the energy of a pattern's probe is in its eigenmodes."""

MIN_OWN_FRACTION = 1e-6
"""A direction with less of its energy apart from the others is left out."""

MIN_TILT_FRACTION = 0.5
"""Eigenmodes hold a tilt of the probe where this share of the energy of its image lies in them."""

MIN_WEIGHT = 1e-5
"""Where all weights are smaller, the probe does not vary."""

EM_ITERATIONS = 30
"""The covariance of the weights is estimated in this number of steps."""

MIN_OPR_PATTERNS = 16
"""Fewer patterns decide no eigenmodes."""

SHIFTS = (2, 3)
"""These of the usual changes of a probe are shifts in y and in x."""


class VariationMoments:
    """What the patterns show of a probe's variation.

    Parameters
    ----------
    forces : ndarray of float64, shape (n_positions, n_eigenmodes)
        :math:`\\sum_q J_\\nu (k - I) / 2a`.
    stiffnesses : ndarray of float64, shape (n_positions, n_eigenmodes, n_eigenmodes)
        :math:`\\sum_q J_\\nu J_{\\nu'}`.
    updates : ndarray of complex64, shape (n_eigenmodes, height, width)
        :math:`\\sum_j \\omega_{j\\nu} O_j^* (\\psi'_j - \\psi_j)`.
    brightness : ndarray of float32, shape (n_eigenmodes, height, width)
        :math:`\\Upsilon_\\nu`.
    """

    def __init__(
        self,
        forces: FloatArray,
        stiffnesses: FloatArray,
        updates: ComplexArray,
        brightness: FloatArray,
    ) -> None:
        self.forces, self.stiffnesses = forces, stiffnesses
        self.updates, self.brightness = updates, brightness


MeasureVariation = Callable[[Any, Any, float], VariationMoments]
"""It gets a forward model, an object, and the photons below which a pixel hardly counts."""

ProbeResiduals = Callable[[Any, Any, IntArray], ComplexArray]
"""It gets a forward model, an object and the numbers of some patterns, and returns what each would
change of the probe, (n, height, width)."""


class VariationRefiner:
    """Refines eigenmodes and weights of a forward model, iteration by iteration.

    Parameters
    ----------
    forward : ForwardModel
    n_eigenmodes : int
        Eigenmodes that the forward model has not are found from the patterns.
    probe : ndarray of complex64, shape (n_modes, height, width)
    regularization : float
        :math:`\\alpha`.
    positions_move : bool
        Positions are refined too: a probe that moves is left to them, as both make the same
        patterns.
    support : ndarray of float32, shape (height, width), optional
        Eigenmodes are dark where it is 0, as the probe is.
    """

    def __init__(
        self,
        forward: Any,
        n_eigenmodes: int,
        probe: ComplexArray,
        regularization: float,
        *,
        positions_move: bool = False,
        support: RealArray | None = None,
    ) -> None:
        self._positions_move = positions_move
        self._support = np.ones(probe.shape[1:], np.float32) if support is None else support
        self._n_positions, self._n_eigenmodes = len(forward), n_eigenmodes
        self._regularization = regularization
        self._directions: ComplexArray | None = None
        given = ProbeVariation(forward.eigenmodes, forward.opr_weights)
        # In times of the probe's energy, whose scale may change.
        self._energies = given.first_mode_energies(probe[:1]) / _energy(probe[0])

    def moves_at(self, fraction: float) -> bool:
        """Return whether the variation is refined after a share of the iterations."""
        return fraction >= OPR_START_FRACTION and self._n_positions >= MIN_OPR_PATTERNS

    def step(
        self,
        forward: Any,
        object_: Any,
        probe: ComplexArray,
        measure_variation: MeasureVariation,
        probe_residuals: ProbeResiduals,
    ) -> ProbeVariation:
        """Return the variation after another step; the forward model has that at its beginning.

        Parameters
        ----------
        forward : ForwardModel
        object_ : tensor of complex64, shape `forward.canvas_shape`
        probe : ndarray of complex64, shape (height, width)
            The first mode of the forward model's.
        measure_variation, probe_residuals : callable
            What the framework computes.
        """
        given = ProbeVariation(forward.eigenmodes * self._support, forward.opr_weights)
        variation, directions = self.normalized(given, probe), self._directions
        if directions is None:
            indices = _sample(self._n_positions, probe.shape)
            residuals = probe_residuals(forward, object_, indices)
            scatter = principal_components(residuals, probe, self._n_eigenmodes)
            usual = usual_changes(probe)
            if self._positions_move:
                usual = np.delete(usual, SHIFTS, axis=0)
            directions = np.concatenate([usual, scatter])
        candidates = _with_directions(variation, directions * self._support, probe)
        forward.set_variation(candidates.eigenmodes, candidates.weights)
        moments = measure_variation(forward, object_, floor_photons(forward))
        weights = candidates.weights.copy()
        weights[:, 1:] = refined_weights(weights[:, 1:], moments.forces, moments.stiffnesses)
        if variation.n_eigenmodes:
            self._directions = self._moves(moments)[: variation.n_eigenmodes]
        found = self.orthogonal(ProbeVariation(candidates.eigenmodes, weights), probe)
        return self.normalized(found.strongest(self._n_eigenmodes), probe)

    def _moves(self, moments: VariationMoments) -> ComplexArray:
        """Return where the patterns draw each eigenmode."""
        light = moments.brightness
        brightest = light.max(axis=(1, 2), keepdims=True)
        share = (1 - self._regularization) * light + self._regularization * brightest
        return np.asarray(moments.updates / np.maximum(share, 1e-30))

    def normalized(self, variation: ProbeVariation, probe: ComplexArray) -> ProbeVariation:
        """Return it with eigenmodes orthogonal to the probe, and weights of the given energies.

        Parameters
        ----------
        variation : ProbeVariation
        probe : ndarray of complex64, shape (height, width)
            Its first mode.
        """
        energy = _energy(probe)
        # A probe that is refined moves, and eigenmodes have to be made orthogonal to it again. What
        # lay along it is dropped: the real part is the beam's intensity, and an imaginary one would
        # be a phase of the whole pattern, which none shows.
        modes = _orthogonal_to(variation.eigenmodes.astype(np.complex128), probe)
        norms = np.sqrt((np.abs(modes) ** 2).sum(axis=(1, 2)) / energy)
        modes = modes / np.maximum(norms, 1e-12)[:, np.newaxis, np.newaxis]
        weights = variation.weights.copy()
        weights[:, 1:] *= norms
        flat = modes.reshape(len(modes), probe.size)
        products = (flat @ flat.conj().T).real / energy
        varied = np.einsum('jk,kl,jl->j', weights[:, 1:], products, weights[:, 1:])
        most = MAX_VARIED_FRACTION * self._energies
        weights[:, 1:] *= np.sqrt(np.minimum(1, most / np.maximum(varied, 1e-30)))[:, np.newaxis]
        # The energy of each pattern's probe stays as it was: the weight of P_0 takes the rest.
        weights[:, 0] = np.sqrt(self._energies - np.minimum(varied, most))
        return ProbeVariation(modes.astype(np.complex64), weights)

    def orthogonal(self, variation: ProbeVariation, probe: ComplexArray) -> ProbeVariation:
        """Return the same probes with eigenmodes orthogonal to each other, the strongest first.

        Parameters
        ----------
        variation : ProbeVariation
        probe : ndarray of complex64, shape (height, width)
            Its first mode.
        """
        if not variation.n_eigenmodes:
            return variation
        variation, scale = self.normalized(variation, probe), np.sqrt(_energy(probe))
        flat = variation.eigenmodes.reshape(variation.n_eigenmodes, -1).astype(np.complex128)
        # Weights are real, so that real and imaginary parts are numbers of their own.
        basis, mixing = np.linalg.qr(np.concatenate([flat.real, flat.imag], axis=1).T)
        left, sizes, right = np.linalg.svd(variation.weights[:, 1:] @ mixing.T, full_matrices=False)
        real, imaginary = np.split(right @ basis.T * scale, 2, axis=1)
        modes = (real + 1j * imaginary).reshape(-1, *probe.shape)
        weights = np.column_stack([variation.weights[:, 0], left * sizes / scale])
        return ProbeVariation(modes.astype(np.complex64), weights)

    def centred(
        self, variation: ProbeVariation, probe: ComplexArray
    ) -> tuple[ProbeVariation, ComplexArray]:
        """Give the mean of the variation to a probe that is refined too.

        Parameters
        ----------
        variation : ProbeVariation
        probe : ndarray of complex64, shape (height, width)

        Returns
        -------
        variation : ProbeVariation
        change : ndarray of complex64, shape (height, width)
            What the probe is to get.
        """
        # Probe + weights times eigenmodes leaves the mean of the weights open: a shift of the mean
        # is a change of the probe, which would wander without end.
        weights = variation.weights.copy()
        mean = weights[:, 1:].mean(axis=0)
        weights[:, 1:] -= mean
        change = np.tensordot(mean, variation.eigenmodes, axes=1).astype(np.complex64)
        centred = ProbeVariation(variation.eigenmodes, weights)
        return self.normalized(centred, probe + change), change


def refined_weights(given: FloatArray, forces: FloatArray, stiffnesses: FloatArray) -> FloatArray:
    """Return the weights of the eigenmodes after a step of Gauss and Newton, shrunk by noise.

    Parameters
    ----------
    given : ndarray of float64, shape (n_positions, n_eigenmodes)
    forces, stiffnesses : ndarrays of float64
        As in `VariationMoments`.
    """
    # Amplitudes have a variance of a quarter.
    certainty = 4 / OPR_NOISE_EXCESS
    # Gauss and Newton's step is linear around the given weights, and the normal distribution is
    # around 0: J^T J w = J^T d + J^T J w_given has both in one equation.
    sides = certainty * (forces + (stiffnesses @ given[..., np.newaxis])[..., 0])
    # A weight of 1 is as large as the probe: the distribution begins wide.
    weights, covariance = given, np.eye(given.shape[1])
    floor = MIN_WEIGHT**2 * np.eye(given.shape[1])
    for _ in range(EM_ITERATIONS):
        # Expectation: mean and covariance of each pattern's weights, given those of all patterns.
        posterior = np.linalg.inv(certainty * stiffnesses + np.linalg.inv(covariance + floor))
        weights = (posterior @ sides[..., np.newaxis])[..., 0]
        # Maximization: their scatter, and what is uncertain in each of them.
        covariance = weights.T @ weights / len(weights) + posterior.mean(axis=0)
    return np.asarray(weights)


def usual_changes(probe: ComplexArray) -> ComplexArray:
    """Return how a probe changes with tilt, position and defocus.

    Parameters
    ----------
    probe : ndarray of complex64, shape (height, width)

    Returns
    -------
    ndarray of complex64, shape (5, height, width)
        Each with the probe's energy.
    """
    cycles = np.meshgrid(*map(np.fft.fftfreq, probe.shape), indexing='ij')
    spectrum = np.fft.fft2(probe.astype(np.complex128))
    changes = [1j * ramp * probe for ramp in middle_ramps(probe.shape)]
    phases = (*cycles, cycles[0] ** 2 + cycles[1] ** 2)
    changes += [np.fft.ifft2(1j * phase * spectrum) for phase in phases]
    around = _orthogonal_to(np.stack(changes), probe)
    norms = np.sqrt((np.abs(around) ** 2).sum(axis=(1, 2), keepdims=True) / _energy(probe))
    return np.asarray(around / np.maximum(norms, 1e-30), dtype=np.complex64)


def principal_components(residuals: ComplexArray, probe: ComplexArray, count: int) -> ComplexArray:
    """Return the images that describe the scatter of some images best, with real weights.

    Parameters
    ----------
    residuals : ndarray of complex64, shape (n, height, width)
    probe : ndarray of complex64, shape (height, width)
        Nothing along it counts.
    count : int

    Returns
    -------
    ndarray of complex64, shape (count or fewer, height, width)
    """
    around = _orthogonal_to(residuals - residuals.mean(axis=0), probe)
    flat = around.reshape(len(around), -1)
    # Of the real part, as weights are real; products of a few images with each other are a small
    # matrix, and give the same components as their many pixels.
    _, vectors = np.linalg.eigh((flat @ flat.conj().T).real)
    strongest = vectors[:, ::-1][:, : min(count, len(flat))].T
    found = strongest @ flat
    return np.asarray(found.reshape(-1, *probe.shape), dtype=np.complex64)


def level_tilt(
    variation: ProbeVariation,
    probe: ComplexArray,
    patch_origins_px: FloatArray,
    canvas_shape: tuple[int, int],
) -> tuple[ProbeVariation, ComplexArray]:
    r"""Give a tilt of the probe that rises with the position to the object, as its phase.

    A probe that is tilted by :math:`b + A r_j` at :math:`r_j`, and an object with the phase
    :math:`b \cdot r + \frac12 r^T A r`, make almost the same patterns.

    Parameters
    ----------
    variation : ProbeVariation
    probe : ndarray of complex64, shape (height, width)
        Its first mode.
    patch_origins_px : ndarray of float, shape (n_positions, 2)
        (y, x) on the canvas.
    canvas_shape : (int, int)

    Returns
    -------
    variation : ProbeVariation
        Without that tilt, where its eigenmodes hold one.
    factor : ndarray of complex64, shape `canvas_shape`
        What the object is to be multiplied by.
    """
    factor = np.ones(canvas_shape, dtype=np.complex64)
    tilts = usual_changes(probe)[:2].astype(np.complex128).reshape(2, -1)
    ramps = middle_ramps((probe.shape[0], probe.shape[1])).astype(np.float64)
    light = np.abs(probe.astype(np.complex128)) ** 2
    middle = (ramps * light).sum(axis=(1, 2)) / light.sum()
    # A tilt of one radian a pixel changes the probe by this share of its amplitude.
    widths = np.sqrt(((ramps - middle[:, None, None]) ** 2 * light).sum(axis=(1, 2)) / light.sum())
    flat = variation.eigenmodes.reshape(variation.n_eigenmodes, probe.size).astype(np.complex128)
    along = (flat.conj() @ tilts.T).real / _energy(probe)  # (n_eigenmodes, 2)
    products = (flat @ flat.conj().T).real / _energy(probe)
    # The combination of eigenmodes that is nearest to a tilt in y, and in x, and how near it comes.
    shares = np.linalg.lstsq(products, along, rcond=None)[0]
    held = (along * shares).sum(axis=0) > MIN_TILT_FRACTION
    from_middle = patch_origins_px - patch_origins_px.mean(axis=0)
    if not held.any() or not np.ptp(from_middle, axis=0).all():
        return variation, factor
    slopes = variation.weights[:, 1:] @ along / widths
    design = np.column_stack([np.ones(len(slopes)), from_middle])
    fitted = np.linalg.lstsq(design, slopes, rcond=None)[0]
    # Of a phase the second derivatives are symmetric; an axis without a tilt has none.
    rise = (fitted[1:] + fitted[1:].T) / 2 * np.outer(held, held)
    start = fitted[0] * held
    weights = variation.weights.copy()
    weights[:, 1:] -= (start + from_middle @ rise) * widths @ shares.T
    # The middle of a patch is where its probe is: both have one zero.
    centre = patch_origins_px.mean(axis=0) + np.array(probe.shape) // 2 + middle
    y, x = (np.arange(side) - zero for side, zero in zip(canvas_shape, centre, strict=True))
    phase = (start[0] * y + rise[0, 0] * y**2 / 2)[:, np.newaxis]
    phase = phase + (start[1] * x + rise[1, 1] * x**2 / 2)
    phase += rise[0, 1] * np.outer(y, x)
    levelled = ProbeVariation(variation.eigenmodes, weights)
    return levelled, np.exp(1j * phase).astype(np.complex64)


def part_way(first: ProbeVariation, second: ProbeVariation, share: float) -> ProbeVariation:
    """Return what lies at a share of the way between two variations."""
    if second is first:
        return first
    before = first.with_eigenmodes_like(second)
    return ProbeVariation(
        before.eigenmodes + np.float32(share) * (second.eigenmodes - before.eigenmodes),
        before.weights + share * (second.weights - before.weights),
    )


def variation_refiner(
    forward: Any, request: IterationRequest, probe: ComplexArray, regularization: float
) -> VariationRefiner | None:
    """Return what refines the probe's variation; None where it is to stay as it is."""
    if request.opr_modes == 0 or forward.is_single_shot:
        return None
    n_eigenmodes = max(request.opr_modes, len(forward.eigenmodes))
    support = None
    if request.refine_probe and request.probe_radius_px is not None:
        support = probe_support(forward.shape, request.probe_radius_px).real
    return VariationRefiner(
        forward,
        n_eigenmodes,
        probe,
        regularization,
        positions_move=request.refine_positions,
        support=support,
    )


def _with_directions(
    variation: ProbeVariation, directions: ComplexArray, probe: ComplexArray
) -> ProbeVariation:
    """Return a variation with more eigenmodes, of weight 0, in directions that it lacks."""
    images = [*variation.eigenmodes.astype(np.complex128)]
    for direction in _orthogonal_to(directions.astype(np.complex128), probe):
        rest = direction
        # Twice, as rounding leaves a part the first time.
        for other in images * 2:
            # The real part alone: with real weights, i times an image is another direction.
            rest = rest - other * (np.vdot(other, rest).real / max(_energy(other), 1e-30))
        if _energy(rest) > MIN_OWN_FRACTION * _energy(direction):
            images.append(rest * np.sqrt(_energy(probe) / _energy(rest)))
    missing = len(images) - variation.n_eigenmodes
    weights = np.pad(variation.weights, ((0, 0), (0, missing)))
    modes = np.stack(images) if images else np.zeros((0, *probe.shape))
    return ProbeVariation(modes.astype(np.complex64), weights)


def _sample(n_positions: int, shape: tuple[int, int]) -> IntArray:
    """Return patterns from all over a scan."""
    most = max(MIN_OPR_PATTERNS, MAX_SAMPLE_BYTES // (8 * shape[0] * shape[1]))
    number = min(n_positions, MAX_SAMPLE_PATTERNS, most)
    return np.linspace(0, n_positions - 1, number).astype(np.int64)


def _orthogonal_to(images: ComplexArray, probe: ComplexArray) -> ComplexArray:
    """Take out of images what lies along a probe."""
    shares = np.tensordot(images, probe.conj(), axes=([1, 2], [0, 1])) / _energy(probe)
    return np.asarray(images - shares[:, np.newaxis, np.newaxis] * probe)


def _energy(image: ComplexArray) -> float:
    return float((np.abs(image.astype(np.complex128)) ** 2).sum())
