"""Which axis of an array of patterns counts the positions."""

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import DataError


def positions_first(
    patterns: RealArray, key: str, count: int, *, known_order: bool
) -> tuple[RealArray, tuple[str, ...]]:
    """Return patterns with the axis of the positions first, and a note where they were turned.

    Parameters
    ----------
    patterns : ndarray
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
    if patterns.ndim != 3:
        raise DataError(
            f'{key} must have shape (n_positions, height, width); it has {patterns.shape}.'
        )
    if not patterns.size:
        raise DataError(f'{key} holds no pattern (shape {patterns.shape}); at least one is needed.')
    if patterns.shape == (count,) * 3 and not known_order:
        return _cube(patterns, key)
    if len(patterns) == count:
        return patterns, ()
    if patterns.shape[2] == count:
        note = f'{key} was stored as (height, width, n_positions) and has been turned.'
        return _turned(patterns), (note,)
    raise DataError(
        f'{key} must hold one pattern for each of the {count} positions of xcoords; '
        f'its shape is {patterns.shape}. Cut the longer one.'
    )


def _turned(patterns: RealArray) -> RealArray:
    return np.ascontiguousarray(np.moveaxis(patterns, 2, 0))


def _cube(patterns: RealArray, key: str) -> tuple[RealArray, tuple[str, ...]]:
    """Tell which axis of a cube holds the positions: along it, patterns are about equally bright.

    Along the sides of a pattern they are not: light gathers at the zero frequency, or around a
    beam stop.
    """
    sums = (patterns.sum(axis=(1, 2), dtype=float), patterns.sum(axis=(0, 1), dtype=float))
    first, last = (float(each.std() / each.mean()) if each.mean() > 0 else 0.0 for each in sums)
    told = max(first, last) > max(2 * min(first, last), 0.1)
    which = 'last' if told and last < first else 'first'
    reason = 'along it patterns are about equally bright' if told else 'as in most files'
    note = f'{key} has three sides of {len(patterns)}: the {which} axis was taken for the '
    note += f'positions; {reason}.'
    return (_turned(patterns) if which == 'last' else patterns), (note,)
