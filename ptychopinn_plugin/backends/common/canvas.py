"""Parts of the canvas, so that work on a few patches does not take the whole of it."""

from ptychopinn_plugin.array_types import IntArray

CanvasWindow = tuple[slice, slice]
"""It holds the rows and columns of a part of the canvas."""


def window_of(rows: IntArray, columns: IntArray, height: int, width: int) -> CanvasWindow:
    """Return what patches with these first rows and columns cover."""
    return (
        slice(int(rows.min()), int(rows.max()) + height),
        slice(int(columns.min()), int(columns.max()) + width),
    )


def window_shape(canvas_window: CanvasWindow) -> tuple[int, int]:
    """Return the height and width of a part of the canvas."""
    rows, columns = canvas_window
    return rows.stop - rows.start, columns.stop - columns.start
