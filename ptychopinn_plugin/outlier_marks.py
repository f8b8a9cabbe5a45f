"""Marks in a picture, for the patterns that do not fit the others."""

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from ptychopinn_plugin.data import Reconstruction
from ptychopinn_plugin.text import count


def draw_outliers(axes: Axes, reconstruction: Reconstruction, box: tuple[slice, slice]) -> None:
    """Draw a circle where a pattern does not fit, and a cross where such a pattern was dropped.

    Parameters
    ----------
    axes : Axes
        Shows the box of the object, a pixel a unit.
    reconstruction : Reconstruction
        Without such patterns nothing is drawn.
    box : (slice, slice)
        Rows and columns of the object.
    """
    fit = reconstruction.pattern_fit
    groups = (
        ('o', () if fit is None else fit.outliers, 'not fitting'),
        ('x', reconstruction.dropped, 'dropped'),
    )
    notes = []
    axes.autoscale(False)
    for marker, outliers, word in groups:
        if not outliers:
            continue
        y = [outlier.y_px - reconstruction.origin_px[0] - box[0].start for outlier in outliers]
        x = [outlier.x_px - reconstruction.origin_px[1] - box[1].start for outlier in outliers]
        axes.plot(
            *(x, y, marker),
            color='red',
            markerfacecolor='none',
            markersize=7,
            markeredgewidth=1.5,
        )
        notes.append(f'{count(len(outliers), "pattern")} {word} ({marker})')
    if notes:
        axes.text(
            *(0.02, 0.02, ', '.join(notes)),
            transform=axes.transAxes,
            va='bottom',
            fontsize=7,
            color='white',
            path_effects=[withStroke(linewidth=2, foreground='black')],
        )
