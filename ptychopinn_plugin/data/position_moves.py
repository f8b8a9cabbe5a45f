"""How far refined scan positions lie from the given ones, and what all of them have in common."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from ptychopinn_plugin.array_types import FloatArray


@dataclass(frozen=True)
class PositionMoves:
    """What refinement did to the positions of a scan.

    The last four are the affine part, the linear map from the given positions to the refined ones
    that fits all of them best. It shows a wrong pixel size, step of a motor or angle.

    Attributes
    ----------
    rms_px, largest_px : float
        Root mean square and largest distance.
    scale_y, scale_x : float
        Refined over given extent.
    rotation_deg : float
        From y towards x is positive.
    shear_deg : float
        What is missing to a right angle between the axes.
    """

    rms_px: float
    largest_px: float
    scale_y: float
    scale_x: float
    rotation_deg: float
    shear_deg: float

    def to_dict(self) -> dict[str, float]:
        """Return plain values by name."""
        return asdict(self)


def measure_moves(given_px: FloatArray, refined_px: FloatArray) -> PositionMoves:
    """Measure moves and their affine part.

    Parameters
    ----------
    given_px, refined_px : ndarray of float64, shape (n_positions, 2)
        (y, x).

    Returns
    -------
    PositionMoves
        Where positions lie on one line or are too few, the affine part is that of least change.
    """
    moves = refined_px - given_px
    lengths = np.linalg.norm(moves, axis=1)
    # A shift of all positions is no change of scale or angle.
    from_middle = given_px - given_px.mean(axis=0)
    change = np.linalg.lstsq(from_middle, moves - moves.mean(axis=0), rcond=None)[0].T
    image_y, image_x = (np.eye(2) + change).T  # where the unit steps in y and in x lead
    turn_y = math.atan2(image_y[1], image_y[0])
    turn_x = math.atan2(-image_x[0], image_x[1])
    return PositionMoves(
        rms_px=float(np.sqrt((lengths**2).mean())),
        largest_px=float(lengths.max()),
        scale_y=float(np.linalg.norm(image_y)),
        scale_x=float(np.linalg.norm(image_x)),
        rotation_deg=math.degrees((turn_y + turn_x) / 2),
        shear_deg=math.degrees(turn_y - turn_x),
    )
