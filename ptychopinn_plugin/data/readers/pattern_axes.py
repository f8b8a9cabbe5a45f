"""Which axis of an array of patterns counts the positions."""

import math

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import converted


def positions_first(
    patterns: RealArray, key: str, count: int, *, known_order: bool
) -> tuple[RealArray, tuple[str, ...]]:
    """Return patterns with the axis of the positions first, and a note where they were turned.

    Parameters
    ----------
    patterns : ndarray
        Of three axes, or of four, where two of them are the rows and columns of a raster.
    key : str
        Its name in the file, for messages.
    count : int
        How many positions there are.
    known_order : bool
        Whether the file is known to have the positions first.

    Raises
    ------
    DataError
        If there is not one pattern for each position.
    """
    pattern_shape_of(patterns.shape, key, count)
    if patterns.ndim == 4:
        return _raster(patterns, key, count)
    if patterns.shape == (count,) * 3 and not known_order:
        return _cube(patterns, key)
    if len(patterns) == count:
        return patterns, ()
    note = f'{key} was stored as (height, width, n_positions) and has been turned.'
    return _with_positions_first(patterns), (note,)


def pattern_shape_of(shape: tuple[int, ...], key: str, count: int) -> tuple[int, int]:
    """Return height and width of the patterns in an array of which the shape alone is known.

    Parameters
    ----------
    shape : tuple of int
        Of the array, whichever of its axes counts the positions.
    key, count
        As in `positions_first`.

    Raises
    ------
    DataError
        If there is not one pattern for each position.
    """
    if len(shape) not in (3, 4):
        raise DataError(
            f'{key} must have shape (n_positions, height, width) or that of a raster, (rows, '
            f'columns, height, width); it has {shape}.'
        )
    if 0 in shape:
        raise DataError(f'{key} holds no pattern (shape {shape}); at least one is needed.')
    n_axes = len(shape) - 2
    if math.prod(shape[:n_axes]) == count:
        return shape[-2], shape[-1]
    if math.prod(shape[2:]) == count:
        return shape[0], shape[1]
    raster = '' if n_axes == 1 else f', a raster of {math.prod(shape[:2])}'
    raise DataError(
        f'{key} must hold one pattern for each of the {count} positions of xcoords; its shape is '
        f'{shape}{raster}. Cut the longer one.'
    )


def count_alone(
    shape: tuple[int, ...], key: str, known_shape: tuple[int, ...] | None, *, known_order: bool
) -> int:
    """Return how many patterns an array holds for which no positions are known.

    Parameters
    ----------
    shape : tuple of int
        Of the array: of one pattern, of a stack, or of a raster.
    key : str
        Its name in the file, for messages.
    known_shape : tuple of int, optional
        Height and width of the probe, which those of a pattern equal.
    known_order : bool
        As in `positions_first`.

    Raises
    ------
    DataError
        If nothing shows which axes are those of a pattern.
    """
    if len(shape) == 2:
        return 1
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(
            f'{key} must hold patterns: (height, width), (n_patterns, height, width) or (rows, '
            f'columns, height, width); its shape is {shape}.'
        )
    at_end, at_start = shape[-2:], shape[:2]
    n_first, n_last = math.prod(shape[:-2]), math.prod(shape[2:])
    # The probe decides where it can; else patterns are square more often than rasters are.
    if known_order or at_end == known_shape:
        return n_first
    if at_start == known_shape:
        return n_last
    if at_end[0] == at_end[1]:
        return n_first
    if at_start[0] == at_start[1]:
        return n_last
    raise DataError(
        f'{key} has shape {shape}, and without positions or a probe nothing shows which of its '
        'axes counts the patterns. Give the probe: probe_from=FILE (--probe-from FILE).'
    )


def _raster(patterns: RealArray, key: str, count: int) -> tuple[RealArray, tuple[str, ...]]:
    first, last = patterns.shape[:2], patterns.shape[2:]
    if first[0] * first[1] == count:
        note = f'{key} is a raster of {first[0]} x {first[1]}, which was taken row by row.'
        return patterns.reshape(count, *last), (note,)
    note = f'{key} was stored as (height, width, rows, columns) of a raster of {last[0]} x '
    note += f'{last[1]}; it has been turned and was taken row by row.'
    return _with_positions_first(patterns.reshape(*first, count)), (note,)


def _with_positions_first(patterns: RealArray) -> RealArray:
    """Return patterns of shape (height, width, n_positions) with the positions first."""
    return converted(np.moveaxis(patterns, 2, 0), np.ascontiguousarray)


def _cube(patterns: RealArray, key: str) -> tuple[RealArray, tuple[str, ...]]:
    """Find which axis of a cube holds the positions: along it, patterns are about equally bright.

    Along the sides of a pattern they are not: light gathers at the zero frequency, or around a
    beam stop.
    """
    sums = (patterns.sum(axis=(1, 2), dtype=float), patterns.sum(axis=(0, 1), dtype=float))
    first, last = (float(each.std() / each.mean()) if each.mean() > 0 else 0.0 for each in sums)
    is_clear = max(first, last) > max(2 * min(first, last), 0.1)
    which = 'last' if is_clear and last < first else 'first'
    reason = 'along it patterns are about equally bright' if is_clear else 'as in most files'
    note = f'{key} has three sides of {len(patterns)}: the {which} axis was taken for the '
    note += f'positions; {reason}.'
    return (_with_positions_first(patterns) if which == 'last' else patterns), (note,)
