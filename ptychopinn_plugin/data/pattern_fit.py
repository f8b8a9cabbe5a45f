r"""How well an object explains each pattern of a scan, and which patterns do not fit the others.

A pattern of counts :math:`k` with expectation :math:`I` has the Poisson deviance

.. math:: D = \frac{2}{n} \sum_{I \ge 1} \left[ s I - k + k \log \frac{k}{s I} \right],
    \qquad s = \frac{\sum k}{\sum I},

over its :math:`n` lit and good pixels: about 1 where only shot noise is left. The dose :math:`s`
comes first, so that a beam that flickers is not taken for a pattern of something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import xlogy

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray

MIN_JUDGED_PATTERNS = 50
"""Fewer patterns have no distribution that one of them could stand out from."""

MIN_LIT_PX = 16
"""A pattern with fewer lit pixels is not judged."""

MAX_DEVIANCE_RATIO = 25.0
"""A pixel counts with at most this many times the typical deviance: a dead pixel that nobody has
marked, or one hit by a cosmic ray, does not decide over its pattern."""

SUSPECT_DEVIATIONS, SUSPECT_RATIO = 5.0, 1.4
OUTLIER_DEVIATIONS, OUTLIER_RATIO = 6.0, 1.5
"""A deviance is too high from this many standard deviations of its logarithm on, and this ratio."""

SUSPECT_DOSE_RATIO, OUTLIER_DOSE_RATIO = 1.2, 1.25
"""A dose is another one from this ratio to the median on, and as many standard deviations."""

OVERSHADOWING = 2.0
"""A suspect whose neighbour misses its counts by more than this ratio is that neighbour's victim:
a wrong pattern bends the object under the patterns around it."""

NORMAL_QUARTILE, _NORMAL_5 = 0.6745, 1.6449
"""A quarter and a twentieth of a normal distribution lie farther above its middle than this many
standard deviations."""


@dataclass(frozen=True)
class Outlier:
    """A pattern that does not fit the others.

    Attributes
    ----------
    pattern_index : int
        As in `Scan.pattern_indexes`.
    y_px, x_px : float
        Its position, in object pixels.
    deviance : float
        Poisson deviance per lit pixel, its dose taken out.
    dose : float
        Measured over expected counts.
    reason : 'shape' or 'dose'
        Whether it is another pattern, or the right one with another number of photons.
    """

    pattern_index: int
    y_px: float
    x_px: float
    deviance: float
    dose: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_list(cls, values: object) -> tuple[Self, ...]:
        """Return what a list of `to_dict` gave; nothing where it is something else."""
        try:
            return tuple(cls(**item) for item in values)  # type: ignore[attr-defined]
        except TypeError:
            return ()


@dataclass(frozen=True)
class PatternFit:
    """How well an object explains each pattern.

    Attributes
    ----------
    deviances : ndarray of float64, shape (n_positions,)
        Poisson deviance per lit pixel; NaN where a pattern has too few lit pixels.
    doses : ndarray of float64, shape (n_positions,)
        Measured over expected counts.
    outliers : tuple of Outlier
    n_suspects : int
        This number of patterns stands out where they are too many for any to be named.
    """

    deviances: FloatArray
    doses: FloatArray
    outliers: tuple[Outlier, ...] = ()
    n_suspects: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a summary for JSON."""
        judged = self.deviances[np.isfinite(self.deviances)]
        return {
            'typical_deviance': float(np.median(judged)) if len(judged) else None,
            'outliers': [outlier.to_dict() for outlier in self.outliers],
        }


@dataclass(frozen=True)
class Deviances:
    """What `measure_deviances` finds, an entry for each pattern.

    Attributes
    ----------
    deviances, doses : ndarray of float64, shape (n_positions,)
    n_lit : ndarray of int64, shape (n_positions,)
        Lit and good pixels.
    """

    deviances: FloatArray
    doses: FloatArray
    n_lit: IntArray

    @property
    def is_judged(self) -> BoolArray:
        """Where there are enough lit pixels and counts."""
        return (self.n_lit >= MIN_LIT_PX) & (self.doses > 0)

    @property
    def logarithms(self) -> FloatArray:
        """The logarithms of the deviances."""
        return np.log(np.maximum(self.deviances, 1e-12))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return those of several batches as one."""
        return cls(
            np.concatenate([part.deviances for part in parts]),
            np.concatenate([part.doses for part in parts]),
            np.concatenate([part.n_lit for part in parts]),
        )


def measure_deviances(
    expected: RealArray,
    counts: RealArray,
    valid_mask: BoolArray,
    *,
    lit_counts: float,
    largest: float = np.inf,
) -> Deviances:
    """Measure the Poisson deviance per lit pixel and the dose of each pattern.

    Parameters
    ----------
    expected, counts : ndarray, shape (n_positions, height, width)
        Per pixel, in photons; in another unit the deviances are in that unit.
    valid_mask : ndarray of bool, shape (height, width)
    lit_counts : float
        What lit pixels expect at least.
    largest : float
        A pixel counts with at most this deviance.
    """
    # Terms of bright pixels are small differences of large numbers.
    expected, counts = expected.astype(np.float64), counts.astype(np.float64)
    # Chosen by what is expected: chosen by counts, dark pixels would be in where noise is high.
    lit = (expected >= lit_counts) & valid_mask
    n_lit = lit.sum(axis=(1, 2))
    light = np.where(lit, expected, 0).sum(axis=(1, 2))
    doses = np.where(lit, counts, 0).sum(axis=(1, 2)) / np.maximum(light, 1e-12)
    scaled = np.maximum(expected * doses[:, np.newaxis, np.newaxis], 1e-12)
    # xlogy is 0 where nothing was counted, as the limit of k log k is.
    terms = 2 * (scaled - counts + xlogy(counts, counts / scaled))
    sums = np.where(lit, np.minimum(terms, largest), 0).sum(axis=(1, 2))
    return Deviances(sums / np.maximum(n_lit, 1), doses, n_lit.astype(np.int64))


def light_diameter_px(probe: ComplexArray) -> float:
    """Return the diameter of the disc that holds the probe's light, in pixels.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    """
    # (sum I)² / sum I² is the area of a disc of even intensity.
    intensity = (np.abs(probe) ** 2).sum(axis=0)
    return float(2 * np.sqrt(intensity.sum() ** 2 / (intensity**2).sum() / np.pi))


def find_suspects(found: Deviances, positions_px: FloatArray, near_px: float) -> IntArray:
    """Return the patterns that may not fit the others, for a second look without them.

    They are compared with the better half of the scan, which a few wrong patterns leave as it is,
    and with their neighbours: a wrong pattern spoils the object under those around it, and misses
    its counts by more than they do.

    Parameters
    ----------
    found : Deviances
    positions_px : ndarray of float64, shape (n_positions, 2)
    near_px : float
        Positions nearer than this share light.

    Returns
    -------
    ndarray of int64
        Their numbers in the scan, in ascending order.
    """
    judged = found.is_judged
    if judged.sum() < MIN_JUDGED_PATTERNS:
        return np.zeros(0, np.int64)
    logs = found.logarithms
    # The lower tail has its width from right patterns alone: wrong ones, and those whose object
    # they have bent, lie above.
    low, quarter = np.quantile(logs[judged], [0.05, 0.25])
    deviation = (quarter - low) / (_NORMAL_5 - NORMAL_QUARTILE)
    typical = quarter + NORMAL_QUARTILE * deviation
    # Both limits must be passed: where a scan fits evenly, many standard deviations are next to
    # nothing.
    limits = SUSPECT_DEVIATIONS * _deviations(deviation, found.n_lit)
    is_candidate = judged & (logs > typical + np.maximum(limits, np.log(SUSPECT_RATIO)))
    excess = np.where(judged, found.deviances - np.exp(typical), 0)
    tree = cKDTree(positions_px)
    suspects = _other_doses(found, judged, SUSPECT_DEVIATIONS, SUSPECT_DOSE_RATIO)
    for number in np.flatnonzero(is_candidate):
        near = tree.query_ball_point(positions_px[number], near_px)
        # The pattern itself is among those near, so that the worst one always passes.
        if excess[near].max() <= OVERSHADOWING * excess[number]:
            suspects[number] = True
    return np.flatnonzero(suspects)


def find_outliers(first: Deviances, second: Deviances, suspects: IntArray) -> dict[int, str]:
    """Find which suspects do not fit an object that was made without them, and why.

    Parameters
    ----------
    first, second : Deviances
        Of the object that all patterns made, and of the one without the suspects.
    suspects : ndarray of int64

    Returns
    -------
    dict of int to str
        By number in the scan, 'shape' or 'dose'.
    """
    is_other = second.is_judged
    is_other[suspects] = False
    if is_other.sum() < MIN_JUDGED_PATTERNS // 2:
        return {}
    # None of these is a suspect, so that the upper half, where outliers would lie, can be trusted.
    middle, three_quarters = np.quantile(second.logarithms[is_other], [0.5, 0.75])
    deviation = (three_quarters - middle) / NORMAL_QUARTILE
    limits = OUTLIER_DEVIATIONS * _deviations(deviation, second.n_lit)
    limits = middle + np.maximum(limits, np.log(OUTLIER_RATIO))
    # Where few illuminations overlap, the others predict no pattern well: it must have missed its
    # counts also when it helped to make the object.
    shape = (second.logarithms > limits) & (first.logarithms > limits) & second.is_judged
    dose = _other_doses(second, is_other, OUTLIER_DEVIATIONS, OUTLIER_DOSE_RATIO)
    return {
        int(number): 'shape' if shape[number] else 'dose'
        for number in suspects
        if shape[number] or dose[number]
    }


def _deviations(deviation: float, n_lit: IntArray) -> FloatArray:
    """Return the standard deviation of each logarithm: that of the scan, or of counting alone."""
    # The deviance of n pixels is nearly chi squared over n, with a variance of 2 / n; near 1 its
    # logarithm has the same.
    result: FloatArray = np.maximum(deviation, np.sqrt(2 / np.maximum(n_lit, 1)))
    return result


def _other_doses(
    found: Deviances, is_typical: BoolArray, deviations: float, ratio: float
) -> BoolArray:
    logs = np.log(np.maximum(found.doses, 1e-12))
    middle = np.median(logs[is_typical])
    deviation = np.median(np.abs(logs[is_typical] - middle)) / NORMAL_QUARTILE
    # They are logarithms, so that half the dose is as far off as twice the dose.
    limit = max(deviations * float(deviation), np.log(ratio))
    result: BoolArray = found.is_judged & (np.abs(logs - middle) > limit)
    return result


def outliers_in_words(outliers: Sequence[Outlier], dropped: Sequence[Outlier]) -> str:
    """Return which patterns do not fit, as sentences in one line; empty where all do.

    Parameters
    ----------
    outliers, dropped : sequence of Outlier
        Those that the object was made with, and those that were left out of it.
    """
    parts = []
    if dropped:
        parts.append(f'Left out, as they do not fit the others: {_named(dropped)}.')
    if outliers:
        kept = f'{"Of the rest, these" if dropped else "These"} do not fit the others: '
        remedy = '' if dropped else '; --drop-outliers leaves them out'
        parts.append(f'{kept}{_named(outliers)}{remedy}.')
    return ' '.join(parts)


def _named(outliers: Sequence[Outlier]) -> str:
    shown = ', '.join(
        f'{outlier.pattern_index} at ({outlier.y_px:.0f}, {outlier.x_px:.0f})'
        + (f' with {outlier.dose:.2g} times the dose' if outlier.reason == 'dose' else '')
        for outlier in outliers[:4]
    )
    more = f' and {len(outliers) - 4} more' if len(outliers) > 4 else ''
    return f'{"pattern" if len(outliers) == 1 else "patterns"} {shown}{more}'


def as_outliers(
    reasons: Mapping[int, str],
    found: Deviances,
    positions_px: FloatArray,
    pattern_indexes: IntArray,
) -> tuple[Outlier, ...]:
    """Return the outliers of a scan under the numbers of their source.

    Parameters
    ----------
    reasons : mapping of int to str
        By number in the scan.
    found : Deviances
    positions_px : ndarray of float64, shape (n_positions, 2)
    pattern_indexes : ndarray of int64, shape (n_positions,)
    """
    return tuple(
        Outlier(
            pattern_index=int(pattern_indexes[number]),
            y_px=float(positions_px[number, 0]),
            x_px=float(positions_px[number, 1]),
            deviance=float(found.deviances[number]),
            dose=float(found.doses[number]),
            reason=reason,
        )
        for number, reason in sorted(reasons.items())
    )
