r"""How far counts lie from a model because they are counted: the yardstick of a misfit.

For Poisson counts :math:`k` of expectation :math:`I`,

.. math:: v(I) = \mathrm{E}[(\sqrt k - \sqrt I)^2] = 2 I - 2 \sqrt I\, \mathrm{E}[\sqrt k],

which is nearly :math:`2 I` in the dark, 0.45 at one count and 1/4 in the light.
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from ptychopinn_plugin.array_types import BoolArray, FloatArray, RealArray

LIT_COUNTS = 1.0
"""Pixels that expect fewer are left out: there the fit follows the counts, or background counts."""

_TABLE_END = 36.0
"""Expected counts up to which `shot_noise` is tabulated; above, its expansion is right to 1e-4."""


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
    # The expansion for many counts, E[sqrt(k)] = sqrt(I) (1 - 1 / 8I - 7 / 128I^2 - ...).
    bright = 0.25 + 7 / 64 / np.maximum(expected, _TABLE_END)
    return np.where(
        expected < _TABLE_END, np.interp(np.sqrt(expected), roots, values), bright
    ).astype(np.float64)


@dataclass(frozen=True)
class Misfit:
    r"""How far a model is from counts, over lit and good pixels.

    Attributes
    ----------
    over_noise : float
        :math:`\sum(\sqrt I - \sqrt k)^2 / \sum v(I)`: about 1 where nothing but shot noise is
        left.
    share : float
        :math:`\sum(\sqrt I - \sqrt k)^2 / \sum k`.
    """

    over_noise: float
    share: float


def measure_misfit(expected: RealArray, counts: RealArray, valid_mask: BoolArray) -> Misfit | None:
    """Compare a misfit with shot noise; None where no pixel is lit.

    Parameters
    ----------
    expected, counts : ndarray, shape (n_positions, height, width)
        :math:`I` and :math:`k`, in photons per pixel.
    valid_mask : ndarray of bool, shape (height, width)

    Returns
    -------
    Misfit or None
    """
    expected, counts = expected[:, valid_mask], counts[:, valid_mask]
    lit = expected >= LIT_COUNTS
    expected, counts = expected[lit].astype(np.float64), counts[lit].astype(np.float64)
    total = counts.sum()
    if total == 0:
        return None
    misfit = ((np.sqrt(expected) - np.sqrt(counts)) ** 2).sum()
    return Misfit(float(misfit / shot_noise(expected).sum()), float(misfit / total))


@functools.cache
def _table() -> tuple[FloatArray, FloatArray]:
    """Return roots of expected counts, and `shot_noise` there by summing over counts."""
    roots = np.linspace(0, np.sqrt(_TABLE_END), 601)
    # 200 counts are 27 standard deviations above the table's last expectation.
    counts = np.arange(200)
    expected = roots[:, np.newaxis] ** 2
    probabilities = np.exp(xlogy(counts, expected) - expected - gammaln(counts + 1))
    return roots, 2 * roots**2 - 2 * roots * (probabilities @ np.sqrt(counts))
