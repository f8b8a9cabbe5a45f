"""Arrows in a picture, for the positions that refinement has moved."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from ptychopinn_plugin.data import Reconstruction

TYPICAL_FRACTION = 0.05
"""The typical arrow takes this share of the picture's shorter side."""

MOVED_PX = 1e-3
"""Positions whose typical move is shorter get no arrows."""


def draw_moves(axes: Axes, reconstruction: Reconstruction, box: tuple[slice, slice]) -> None:
    """Draw how far positions were moved, lengthened by a round factor that a note names.

    Parameters
    ----------
    axes : Axes
        Shows the box of the object, a pixel a unit.
    reconstruction : Reconstruction
        Without refined positions nothing is drawn.
    box : (slice, slice)
        Rows and columns of the object.
    """
    given = reconstruction.nominal_positions_px
    if given is None:
        return
    moves = reconstruction.positions_px - given
    typical = float(np.sqrt((moves**2).sum(axis=1).mean()))
    if typical < MOVED_PX:
        note = 'positions as given'
    else:
        side = min(part.stop - part.start for part in box)
        factor = _round_factor(TYPICAL_FRACTION * side / typical)
        start = given - reconstruction.origin_px - [part.start for part in box]
        axes.autoscale(False)
        arrows = axes.quiver(
            *(start[:, 1], start[:, 0], factor * moves[:, 1], factor * moves[:, 0]),
            angles='xy',
            scale_units='xy',
            scale=1,
            width=0.004,
            color='red',
        )
        # Long arrows must not make the picture small.
        arrows.set_in_layout(False)
        note = f'moves of positions x {factor:g}; RMS {typical:.2g} px'
    axes.text(
        *(0.02, 0.98, note),
        transform=axes.transAxes,
        va='top',
        fontsize=7,
        color='white',
        path_effects=[withStroke(linewidth=2, foreground='black')],
    )


def _round_factor(factor: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20 ... that is no larger; 1 at least."""
    if factor < 1:
        return 1.0
    power = 10.0 ** np.floor(np.log10(factor))
    return float(next(power * step for step in (5, 2, 1) if power * step <= factor * 1.0001))
