r"""How far counts lie from their expectation because they are counted: the yardstick of a misfit.

For Poisson counts :math:`k` of expectation :math:`I`,

.. math:: v(I) = \mathrm{E}[(\sqrt k - \sqrt I)^2] = 2 I - 2 \sqrt I\, \mathrm{E}[\sqrt k],

which is nearly :math:`2 I` in the dark, 0.45 at one count and 1/4 in the light.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import gammaln, xlogy

from ptychopinn_plugin.array_types import BoolArray, FloatArray, RealArray

LIT_COUNTS = 1.0
"""Pixels that expect fewer are left out: there the fit follows the counts, or background counts."""

_TABLE_END = 36.0
"""`shot_noise` is tabulated up to these counts; above, its expansion is right to 1e-4."""


def shot_noise(expected: RealArray) -> FloatArray:
    r"""Compute :math:`v(I) = \mathrm{E}[(\sqrt k - \sqrt I)^2]` for Poisson counts.

    Parameters
    ----------
    expected : ndarray of float
        Expected counts :math:`I`.

    Returns
    -------
    ndarray of float64
        In photons, right to 1e-4.
    """
    roots, values = _table()
    # The expansion for many counts is E[sqrt(k)] = sqrt(I) (1 - 1 / 8I - 7 / 128I^2 - ...).
    bright = 0.25 + 7 / 64 / np.maximum(expected, _TABLE_END)
    return np.where(
        expected < _TABLE_END, np.interp(np.sqrt(expected), roots, values), bright
    ).astype(np.float64)


@dataclass(frozen=True)
class Misfit:
    r"""How far expected counts are from measured ones, over lit and good pixels.

    Attributes
    ----------
    over_noise : float, optional
        None where shot noise is unknown, as the counts are in another unit than photons. Else
        :math:`\sum(\sqrt I - \sqrt k)^2 / \sum v(I)`: about 1 where nothing but shot noise is
        left.
    share : float
        :math:`\sum(\sqrt I - \sqrt k)^2 / \sum k`.
    correlation : float
        Of :math:`\sqrt I - \sqrt k` with itself one pixel further: about 0 where only noise is
        left, whatever the unit of the counts; what an object misses is as wide as the speckles.
    """

    over_noise: float | None
    share: float
    correlation: float = 0.0

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON."""
        return {
            'times_shot_noise': self.over_noise,
            'share_of_counts': self.share,
            'neighbour_correlation': self.correlation,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self | None:
        """Return what `to_dict` gave; None where it is something else."""
        over, share, correlation = (
            values.get(key)
            for key in ('times_shot_noise', 'share_of_counts', 'neighbour_correlation')
        )
        if not isinstance(share, int | float) or not isinstance(correlation, int | float):
            return None
        if not isinstance(over, int | float | None):
            return None
        return cls(None if over is None else float(over), float(share), float(correlation))


def measure_misfit(
    expected: RealArray, counts: RealArray, valid_mask: BoolArray, *, lit_counts: float = LIT_COUNTS
) -> Misfit | None:
    """Compare a misfit with shot noise; None where no pixel is lit.

    Parameters
    ----------
    expected, counts : ndarray, shape (n_positions, height, width)
        :math:`I` and :math:`k`, per pixel; in photons where shot noise is judged.
    valid_mask : ndarray of bool, shape (height, width)
    lit_counts : float
        What lit pixels expect at least; `LIT_COUNTS` in photons, less in another unit.

    Returns
    -------
    Misfit or None
    """
    lit = (expected >= lit_counts) & valid_mask
    expected, counts = expected.astype(np.float64), counts.astype(np.float64)
    total = counts[lit].sum()
    if total == 0:
        return None
    # Bad pixels may hold anything, and roots of negative numbers would warn.
    missed = np.where(lit, np.sqrt(expected) - np.sqrt(np.maximum(counts, 0)), 0)
    squared = (missed**2).sum()
    # Ratios of sums, and no means of ratios, in which the many dark pixels would outvote the light.
    return Misfit(
        over_noise=float(squared / shot_noise(expected[lit]).sum()),
        share=float(squared / total),
        correlation=_correlation(missed, lit),
    )


def _correlation(missed: FloatArray, lit: BoolArray) -> float:
    """Return how alike neighbours are, along both axes of the patterns, where both are lit."""
    # Shot noise differs from pixel to pixel, while what an object misses is as wide as a speckle.
    products = squares = 0.0
    for axis in (1, 2):
        first, second = np.moveaxis(missed, axis, 0)[:-1], np.moveaxis(missed, axis, 0)[1:]
        both = np.moveaxis(lit, axis, 0)[:-1] & np.moveaxis(lit, axis, 0)[1:]
        products += float((first * second)[both].sum())
        squares += float(((first**2 + second**2) / 2)[both].sum())
    return products / squares if squares > 0 else 0.0


@functools.cache
def _table() -> tuple[FloatArray, FloatArray]:
    """Return roots of expected counts, and `shot_noise` there by summing over counts."""
    roots = np.linspace(0, np.sqrt(_TABLE_END), 601)
    # 200 counts are 27 standard deviations above the table's last expectation.
    counts = np.arange(200)
    expected = roots[:, np.newaxis] ** 2
    probabilities = np.exp(xlogy(counts, expected) - expected - gammaln(counts + 1))
    return roots, 2 * roots**2 - 2 * roots * (probabilities @ np.sqrt(counts))
