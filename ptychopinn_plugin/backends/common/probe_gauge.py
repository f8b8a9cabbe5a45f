r"""What a refined probe and its object exchange without a trace in the patterns.

With a probe :math:`P' = P e^{-(s + i q) \cdot r}` and an object :math:`O' = O e^{(s + i q) \cdot
r}` the exit wave at :math:`r_j` is the same but for the constant :math:`e^{(s + i q) \cdot r_j}`.
Its phase is not measured, so that :math:`q`, a ramp of phase, is free; its amplitude is the beam's
intensity, so that :math:`s` is free as well where intensities are refined, with
:math:`g_j' = g_j e^{-2 s \cdot r_j}`. Iterations wander along both, and end with an object on a
ramp that nobody measured.

What came with the scan decides. The light of the probe keeps its mean direction,
:math:`\arg \sum_{m, r} P_m^*(r)\, P_m(r + 1)` along each axis, which no mixture of its modes
changes. And :math:`s` is that of the least squares

.. math:: \min \sum_m \left\| P_m - P^0_m - \left( (s + i q) \cdot r - d \cdot \nabla \right)
    P^0_m - \sum_n G_{mn} P^0_n \right\|^2,

which leaves the probe free to move by :math:`d`, to grow and to mix its modes (:math:`G`), after
they have been mapped onto those of :math:`P^0` by a unitary matrix [1]_.

A probe that ends far from where it began was a guess, which fixes neither. Then the
object is levelled: its light has no mean slope of phase, and the amplitude stays as it is.

References
----------
.. [1] P. H. Schönemann, Psychometrika 31 (1966) 1, doi:10.1007/BF02289451.
"""

from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.common.phase_drift import middle_ramps

MAX_MODES = 4
"""The least squares look at this number of the strongest modes at most."""


NEAR = 0.5
"""A start whose distance from the refined probe is a larger share of its norm was a guess."""


@dataclass(frozen=True)
class ProbeGauge:
    """By what a probe has wandered, in the sense of this module.

    Attributes
    ----------
    phase_slope, log_amplitude_slope : ndarray of float64, shape (2,)
        (y, x) of :math:`q` in radians a pixel, and of :math:`s` a pixel.
    """

    phase_slope: FloatArray
    log_amplitude_slope: FloatArray

    def ramp(self, shape: tuple[int, int]) -> ComplexArray:
        """Return what multiplies a probe (n_modes, height, width) that is to go back.

        Parameters
        ----------
        shape : (height, width)
            Of the probe, or of an object's canvas, which is to be divided by it.
        """
        y, x = middle_ramps(shape)
        rate = self.log_amplitude_slope + 1j * self.phase_slope
        return np.asarray(np.exp(-(rate[0] * y + rate[1] * x)), dtype=np.complex64)

    def intensities(self, given: FloatArray, patch_origins_px: FloatArray) -> FloatArray:
        """Return the intensities (n_positions,) of the beam with the probe that has gone back."""
        # Only differences matter, so that origins of patches do as well as their centres.
        from_middle = patch_origins_px - patch_origins_px.mean(axis=0)
        intensities = given * np.exp(-2 * from_middle @ self.log_amplitude_slope)
        return np.asarray(intensities / intensities.mean())


def fit_probe_gauge(
    probe: ComplexArray, start: ComplexArray, *, has_slope: bool = False
) -> ProbeGauge:
    """Return by what a probe has wandered from where the iterations began.

    Parameters
    ----------
    probe, start : ndarray of complex64, shape (n_modes, height, width)
        Their scales do not matter.
    has_slope : bool
        Whether intensities are refined, so that the slope of the amplitude is free.
    """
    probe, start = probe.astype(np.complex128), start.astype(np.complex128)
    nothing: FloatArray = np.zeros(2)
    slope = nothing
    if has_slope:
        # The ramp of phase comes off first, as the least squares are linear in small changes; it is
        # measured again at the end, because the slope of the amplitude weighs light differently.
        ramp = ProbeGauge(_mean_direction(probe) - _mean_direction(start), nothing)
        slope = _amplitude_slope(probe * ramp.ramp(probe.shape[-2:]), start)
        probe = probe * ProbeGauge(nothing, slope).ramp(probe.shape[-2:])
    return ProbeGauge(_mean_direction(probe) - _mean_direction(start), slope)


def is_near(probe: ComplexArray, start: ComplexArray) -> bool:
    """Return whether a refined probe ends near its start, whatever its modes are mixed of."""
    energy, of_start = float(np.linalg.norm(probe)), float(np.linalg.norm(start))
    if not (energy > 0 and of_start > 0):
        return False
    mixed = _mixed_like(probe * (of_start / energy), start)
    return float(np.linalg.norm(mixed - start)) <= NEAR * of_start


def level_object(object_: ComplexArray, coverage: FloatArray) -> ProbeGauge:
    """Return the gauge in which an object has no mean slope of phase where light falls.

    Parameters
    ----------
    object_ : ndarray of complex64, shape (height, width)
    coverage : ndarray of float32, shape (height, width)
    """
    # Products of neighbours weigh by the light; dark parts of an object have any phase.
    lit = np.sqrt(coverage) * object_
    slopes = [(lit[1:] * lit[:-1].conj()).sum(), (lit[:, 1:] * lit[:, :-1].conj()).sum()]
    return ProbeGauge(-np.asarray(np.angle(slopes), dtype=np.float64), np.zeros(2))


def _mean_direction(probe: ComplexArray) -> FloatArray:
    """Return the mean slope of a probe's phase, (y, x) in radians a pixel."""
    # The argument of a sum, and not a mean of arguments: dark pixels have a phase of noise, and
    # those of bright ones may wrap.
    steps = [(probe * np.roll(probe, 1, axis).conj()).sum() for axis in (-2, -1)]
    return np.asarray(np.angle(steps))


def _amplitude_slope(probe: ComplexArray, start: ComplexArray) -> FloatArray:
    """Return (y, x) of s, for a probe whose light has the direction of that of `start`."""
    energy, of_start = float(np.linalg.norm(probe)), float(np.linalg.norm(start))
    if not (energy > 0 and of_start > 0):
        return np.zeros(2)
    mixed = _mixed_like(probe * (of_start / energy), start)
    strongest = np.argsort(-np.linalg.norm(start, axis=(1, 2)))[:MAX_MODES]
    columns = _columns(start[strongest])
    # Growth, moves and mixtures are fitted and thrown away: without their columns s would take a
    # part of them.
    normal = columns @ columns.T
    # Modes without energy make columns of zeros, which no solver takes.
    normal += 1e-9 * np.trace(normal) / len(normal) * np.eye(len(normal))
    amounts = np.linalg.solve(normal, columns @ _as_real((mixed - start)[strongest]))
    return np.asarray(amounts[:2])


def _mixed_like(probe: ComplexArray, start: ComplexArray) -> ComplexArray:
    """Return a probe whose modes are mixed so as to be nearest to those of another."""
    overlaps = start.reshape(len(start), -1) @ probe.reshape(len(probe), -1).conj().T
    # The unitary matrix of this overlap solves the orthogonal Procrustes problem [1].
    left, _, right = np.linalg.svd(overlaps)
    return np.asarray(np.tensordot(left @ right, probe, axes=1))


def _columns(start: ComplexArray) -> FloatArray:
    """Return by what a probe changes where it wanders, moves, grows or mixes its modes."""
    y, x = middle_ramps(start.shape[-2:])
    columns = [y * start, x * start, 1j * y * start, 1j * x * start]
    columns += [start, _derivative(start, 1), _derivative(start, 2)]
    for first in range(len(start)):
        for second in range(first + 1):
            # The generators of unitary mixtures. A real factor on one mode alone would be growth,
            # which is a column already.
            for factor in (1j, 1) if first != second else (1j,):
                mixed = np.zeros_like(start)
                mixed[first] = factor * start[second]
                mixed[second] -= np.conj(factor) * start[first]
                columns.append(mixed)
    return np.stack([_as_real(column) for column in columns])


def _derivative(modes: ComplexArray, axis: int) -> ComplexArray:
    """Return the derivative of modes along an axis; differences would be too coarse for it."""
    shape = [1, 1, 1]
    shape[axis] = -1
    frequencies = 2j * np.pi * np.fft.fftfreq(modes.shape[axis]).reshape(shape)
    return np.asarray(np.fft.ifft(frequencies * np.fft.fft(modes, axis=axis), axis=axis))


def _as_real(values: ComplexArray) -> FloatArray:
    return np.concatenate([values.real.ravel(), values.imag.ravel()])
