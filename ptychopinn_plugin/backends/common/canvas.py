"""Parts of the canvas, so that work on a few patches does not take the whole of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychopinn_plugin.array_types import IntArray

CanvasWindow = tuple[slice, slice]
"""It holds the rows and columns of a part of the canvas."""


def window_of(rows: IntArray, columns: IntArray, height: int, width: int) -> CanvasWindow:
    """Return what patches with these first rows and columns cover."""
    return (
        slice(int(rows.min()), int(rows.max()) + height),
        slice(int(columns.min()), int(columns.max()) + width),
    )


def place_one_by_one(
    patches: NDArray[Any], rows: Sequence[int], columns: Sequence[int], shape: tuple[int, int]
) -> NDArray[Any]:
    """Add whole patches (n, height, width) to an empty canvas of this shape.

    On a CPU this takes a third of the time of a framework's addition pixel by pixel.
    """
    canvas = np.zeros(shape, patches.dtype)
    height, width = patches.shape[-2:]
    for patch, row, column in zip(patches, rows, columns, strict=True):
        canvas[row : row + height, column : column + width] += patch
    return canvas


def window_shape(canvas_window: CanvasWindow) -> tuple[int, int]:
    """Return the height and width of a part of the canvas."""
    rows, columns = canvas_window
    return rows.stop - rows.start, columns.stop - columns.start
