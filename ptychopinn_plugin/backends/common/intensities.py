r"""The intensity of the beam at each pattern, the same in every backend.

A beam that drifts or flickers gives the patterns :math:`j` other numbers of photons than one probe
explains. With the object and the probe as they are, the likelihood of counts :math:`k_j` that
expect :math:`g_j I_j` is highest for :math:`g_j = \sum_q k_{jq} / \sum_q I_{jq}`, as in [1]_.
Counting alone makes the logarithm of this ratio vary by :math:`1 / \sum_q k_{jq}`; what it varies
beyond that is the beam's variance :math:`\sigma^2`, and the intensity becomes

.. math:: \log g_j = \frac{\sigma^2}{\sigma^2 + 1 / \sum_q k_{jq}}
    \log \frac{\sum_q k_{jq}}{\sum_q I_{jq}},

so that a steady beam stays steady. The mean of all is 1: the probe has the energy.

Iterations give a slow drift of the beam to the object; `common.phase_drift` takes it back.

References
----------
.. [1] P. Thibault, M. Guizar-Sicairos, New J. Phys. 14 (2012) 063004,
   doi:10.1088/1367-2630/14/6/063004.
"""

from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.phase_drift import has_slow_errors
from ptychopinn_plugin.data.pattern_fit import NORMAL_QUARTILE

INTENSITY_START_FRACTION = 0.1
"""Intensities stay until this share of the iterations is done: an object that is still flat would
have all that it absorbs taken for the beam's."""

INTENSITY_NOISE_EXCESS = 2.0
"""This is the variance of the ratios by noise, in times of what counting alone gives."""

MAX_RATIO = 100.0
"""No beam is brighter or dimmer than the typical one by more than this."""


def intensities_move(forward: Any, fraction: float) -> bool:
    """Return whether intensities are refined after a share of the iterations.

    In a pattern that shares nothing with others, a brighter beam and a more transparent object
    look alike.
    """
    return has_slow_errors(forward) and fraction >= INTENSITY_START_FRACTION


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
    # The larger of both: by its counts alone an empty pattern, as of a closed shutter, would
    # look uncertain, where its emptiness is as certain as the counts of the others.
    noise = 1 / np.maximum(np.maximum(counted, expected), 1)
    spread = float(np.median(np.abs(logs)) / NORMAL_QUARTILE) ** 2
    variance = max(0.0, spread - INTENSITY_NOISE_EXCESS * float(np.median(noise)))
    intensities = np.exp(logs * variance / (variance + noise))
    return np.asarray(intensities / intensities.mean())
