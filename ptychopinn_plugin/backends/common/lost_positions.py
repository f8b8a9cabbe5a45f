"""Positions that are too far off to be drawn to the right place, found by trying others.

A position is drawn to where the likelihood rises. One that is off by more than the features of the
object are wide can come to rest at a place which merely resembles its own. Its pattern then fits
far worse than the others do. Places on a grid are compared for it, as in the annealing of [1]_,
with the object as it is; from the best of them the position is drawn on.

References
----------
.. [1] A. M. Maiden, M. J. Humphry, M. C. Sarahan, B. Kraus, J. M. Rodenburg, Ultramicroscopy 120
   (2012) 64, doi:10.1016/j.ultramic.2012.06.001.
"""

from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, FloatArray, IntArray

LOST_RATIO = 1.5
"""A position is lost where its pattern misses by more than this, in times of the median."""

MAX_LOST_FRACTION = 0.1
"""No more than this share of the positions, the worst, are looked for: the others must show the
object where they are."""

GRID_STEP_PX = 2.0
"""This is less than the distance from which a position is drawn to the right place."""

GRID_REACH_PX = 10.0
"""The grid reaches no further, however far positions may move: large patterns would have thousands
of places, each of which costs as much as the prediction of all lost patterns."""

MIN_DEVIATION_PX = 0.5
"""Where errors are smaller, every position is drawn to the right place."""

BETTER_RATIO = 0.7
"""A place is better where the pattern misses by less than this share of what it missed by."""

_BATCH = 64


def find_lost_positions(
    forward: Any,
    object_: Any,
    valid_mask: BoolArray,
    moves_px: FloatArray,
    deviation_px: float,
) -> FloatArray:
    """Return moves in which lost positions lie at the best of the places that were tried.

    Parameters
    ----------
    forward : ForwardModel
        It has these moves, and gets others for the trials: they must be set again.
    object_ : tensor of complex64, shape `forward.canvas_shape`
    valid_mask : ndarray of bool, shape (height, width)
        In the order of the forward model's patterns.
    moves_px : ndarray of float64, shape (n_positions, 2)
        How far the positions have moved, (y, x), in pixels.
    deviation_px : float
        Standard deviation of the errors of positions, in y and in x.

    Returns
    -------
    ndarray of float64, shape (n_positions, 2)
        The very same array where no position has been found.
    """
    if deviation_px < MIN_DEVIATION_PX:
        return moves_px
    misses = _misses(forward, object_, valid_mask, np.arange(len(moves_px)))
    lost = _lost(misses)
    # A place must be clearly better: of many that are tried one fits a little better by chance.
    found, best = moves_px.copy(), BETTER_RATIO * misses[lost]
    for place in _grid(min(forward.reach_px, GRID_REACH_PX)):
        if not len(lost):
            break
        # All lost positions are tried at this place together, in batches.
        trial = moves_px.copy()
        trial[lost] = place
        forward.set_moves(trial)
        here = _misses(forward, object_, valid_mask, lost)
        better = here < best
        found[lost[better]], best = place, np.where(better, here, best)
    return moves_px if np.array_equal(found, moves_px) else found


def _lost(misses: FloatArray) -> IntArray:
    """Return the positions whose patterns miss by far more than others, in ascending order."""
    largest = int(MAX_LOST_FRACTION * len(misses))
    # Against the median, which a tenth of lost positions does not move.
    worst = np.argsort(-misses, kind='stable')[:largest]
    return np.sort(worst[misses[worst] > LOST_RATIO * np.median(misses)])


def _grid(reach_px: float) -> FloatArray:
    """Return places on a grid around the given position, (y, x), within a distance."""
    side = np.arange(0, reach_px + 1e-9, GRID_STEP_PX)
    side = np.concatenate([-side[:0:-1], side])
    places = np.stack(np.meshgrid(side, side, indexing='ij'), axis=-1).reshape(-1, 2)
    within: FloatArray = places[np.hypot(*places.T) <= reach_px + 1e-9]
    return within


def _misses(forward: Any, object_: Any, valid_mask: BoolArray, indices: IntArray) -> FloatArray:
    r"""Return :math:`\sum_q (\sqrt{k} - \sqrt{I})^2` of some patterns, in photons."""
    found = []
    for start in range(0, len(indices), _BATCH):
        batch = indices[start : start + _BATCH]
        expected, counts = forward.expected_and_counted(object_, batch)
        rest = (np.sqrt(expected) - np.sqrt(counts)) ** 2
        found.append((rest * valid_mask).sum(axis=(1, 2), dtype=np.float64))
    return np.concatenate(found)
