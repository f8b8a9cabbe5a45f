r"""How far scan positions move during the iterations, the same in every backend.

Each iteration ends with one step of Gauss and Newton for every position, with the object as it is.
The expected amplitude :math:`a = \sqrt{I + \epsilon}` of a pattern changes by
:math:`J = \mathrm{Re} \sum_m \Psi_m^* \mathcal{F}[P_m \nabla O] / a` where the patch moves over the
object, as in the least squares of [1]_. A framework supplies the force
:math:`g = \sum_q J (k - I) / 2a` and the stiffness :math:`H = \sum_q J J^T`; the step is

.. math:: d = (4 \sigma^2 H + 1)^{-1} (4 \sigma^2 g - m),

for a position that has moved by :math:`m` and errors of variance :math:`\sigma^2`, which is
estimated from the moves: where they are no larger than shot noise makes them, :math:`\sigma^2` is
0 and the given positions stay. In the first iterations :math:`\sigma^2` is unlimited and steps are
long, so that the search is coarse first and fine later, as in annealing [2]_.

References
----------
.. [1] M. Odstrčil, A. Menzel, M. Guizar-Sicairos, Opt. Express 26 (2018) 3108,
   doi:10.1364/OE.26.003108.
.. [2] A. M. Maiden, M. J. Humphry, M. C. Sarahan, B. Kraus, J. M. Rodenburg, Ultramicroscopy 120
   (2012) 64, doi:10.1016/j.ultramic.2012.06.001.
"""

from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.common.requests import IterationRequest

POSITION_START_FRACTION = 0.05
"""Positions stay until this share of the iterations is done: the object must be there first."""

FREE_FRACTION = 0.4
"""Until this share of the iterations is done, positions move as far as they are drawn."""

SEARCH_FRACTIONS = (0.45, 0.65)
"""Lost positions are looked for once after each of these shares of the iterations."""

FIRST_STEP_PX = 1.0
LAST_STEP_PX = 0.1
OUTLIER = 3.0
"""No position takes a step of more than this number of median steps, or the last step."""

POSITION_NOISE_EXCESS = 2.0
"""This is the variance of moves by noise, in times of that for an object without noise."""

FLOOR_FRACTION = 0.4
"""Pixels darker than this share of the mean pixel hardly count: amplitudes are biased there."""

NOTHING_PX = 1e-3
"""Where no position moves further, all stay exactly where they were."""

MIN_POSITIONS = 4
"""Fewer positions have nothing to agree on."""


def reach_px(shape: tuple[int, int]) -> int:
    """Return how far positions may move in y and in x, in pixels, for patterns of a shape."""
    return max(5, max(shape) // 6)


def position_refiner(
    forward: Any, request: IterationRequest, start_fraction: float = 0.0
) -> 'PositionRefiner | None':
    """Return what moves the positions of a forward model; None where they are to stay.

    Parameters
    ----------
    forward : ForwardModel
    request : IterationRequest
    start_fraction : float
        They stay until this share of the iterations is done, or `POSITION_START_FRACTION`.
    """
    if not request.refine_positions:
        return None
    return PositionRefiner(
        forward.given_origins_px,
        forward.reach_px,
        scale=request.position_scale,
        start_fraction=max(start_fraction, POSITION_START_FRACTION),
    )


class PositionRefiner:
    """Turns forces on positions into moves, iteration by iteration.

    Parameters
    ----------
    given_px : ndarray of float64, shape (n_positions, 2)
        (y, x).
    reach_px : float
        No position moves further in y or x.
    scale : bool
        Keep the scale of the moves. Noise enlarges it; without, it is taken out like the mean.
    start_fraction : float
        Positions stay until this share of the iterations is done.

    Attributes
    ----------
    moves_px : ndarray of float64, shape (n_positions, 2)
        From the given positions, (y, x); whoever moves positions in another way sets them.
    deviation_px : float
        Standard deviation of the errors of positions, in y and in x, as the last step estimated it.
    """

    def __init__(
        self,
        given_px: FloatArray,
        reach_px: float,
        *,
        scale: bool = False,
        start_fraction: float = POSITION_START_FRACTION,
    ) -> None:
        self._start_fraction = start_fraction
        self.moves_px: FloatArray = np.zeros_like(given_px)
        # A scale about another point would be a scale and a shift of all.
        self._from_middle = given_px - given_px.mean(axis=0)
        self._reach_px, self._scale = reach_px, scale
        self._searches = list(SEARCH_FRACTIONS)
        self.deviation_px = 0.0

    def moves_at(self, fraction: float) -> bool:
        """Return whether positions move after a share of the iterations."""
        return fraction >= self._start_fraction and len(self.moves_px) >= MIN_POSITIONS

    def searches_at(self, fraction: float) -> bool:
        """Return whether lost positions are looked for now; each search is due once."""
        due = [search for search in self._searches if search <= fraction]
        self._searches = self._searches[len(due) :]
        return bool(due)

    def step(self, forces: FloatArray, stiffnesses: FloatArray, fraction: float) -> FloatArray:
        """Return the moves after another step.

        Parameters
        ----------
        forces : ndarray of float64, shape (n_positions, 2)
        stiffnesses : ndarray of float64, shape (n_positions, 2, 2)
        fraction : float
            Share of the iterations done, which decides how far steps go.

        Returns
        -------
        ndarray of float64, shape (n_positions, 2)
            From the given positions, (y, x) in pixels.
        """
        free = _free_steps(forces, stiffnesses)
        steps = free
        if fraction >= FREE_FRACTION:
            variance = self._variance(self.moves_px + free, stiffnesses)
            self.deviation_px = variance**0.5
            matrices = 4 * variance * stiffnesses + np.eye(2)
            sides = 4 * variance * forces - self.moves_px
            steps = np.linalg.solve(matrices, sides[..., np.newaxis])[..., 0]
        limit = max(LAST_STEP_PX, FIRST_STEP_PX * (1 - 2 * fraction))
        # Outliers are cut first, so that they push no others.
        steps = _without_outliers(steps - np.median(steps, axis=0))
        steps = _limited(self._own_part(steps), limit)
        moves = self._own_part(self.moves_px + steps)
        if np.abs(moves).max() < NOTHING_PX:
            moves = np.zeros_like(moves)
        # The canvas was made with this margin, beyond which a patch would have no object.
        self.moves_px = np.clip(moves, -self._reach_px, self._reach_px)
        return self.moves_px

    def _own_part(self, moves: FloatArray) -> FloatArray:
        """Take out what patterns cannot determine: the mean, and the scale where it is to stay."""
        own: FloatArray = moves - moves.mean(axis=0)
        size = float((self._from_middle**2).sum())
        if not self._scale and size > 0:
            own -= self._from_middle * float((self._from_middle * own).sum() / size)
        return own

    def _variance(self, moves: FloatArray, stiffnesses: FloatArray) -> float:
        """Return the variance of the errors of positions, per axis, without that of noise."""
        design = np.column_stack([np.ones(len(moves)), self._from_middle])
        # What all positions have in common, as by a wrong pixel size, is no scatter of single ones.
        rest = moves - design @ np.linalg.lstsq(design, moves, rcond=None)[0]
        # The median of a chi-squared variable with two degrees of freedom is 2 log 2.
        spread = np.median((rest**2).sum(axis=1)) / (2 * np.log(2))
        # Amplitudes have a variance of a quarter, and a free step one of 1 / 4C; C is the mean of
        # both axes here.
        stiffness = np.trace(stiffnesses, axis1=1, axis2=2) / 2
        noise = POSITION_NOISE_EXCESS / (4 * max(float(np.median(stiffness)), 1e-30))
        return max(0.0, float(spread) - noise)


def _free_steps(forces: FloatArray, stiffnesses: FloatArray) -> FloatArray:
    """Return Gauss and Newton's steps; hardly any where a pattern does not show its position."""
    typical = float(np.median(np.trace(stiffnesses, axis1=1, axis2=2)))
    damped = stiffnesses + (1e-3 * typical + 1e-30) * np.eye(2)
    steps: FloatArray = np.linalg.solve(damped, forces[..., np.newaxis])[..., 0]
    return steps


def _without_outliers(steps: FloatArray) -> FloatArray:
    typical = float(np.median(np.linalg.norm(steps, axis=1)))
    return _limited(steps, max(OUTLIER * typical, LAST_STEP_PX))


def _limited(steps: FloatArray, limit: float) -> FloatArray:
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    return np.asarray(steps * np.minimum(1, limit / np.maximum(lengths, 1e-30)))
