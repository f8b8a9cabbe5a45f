"""What a source sends: patterns, positions, what is known at the start, and the end.

Every source carries the same named arrays and values, whether as datasets of an HDF5 file, arrays
of an NPZ file, parts of a ZeroMQ message or fields of a PV Access structure; docs/streaming.md
lists them.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.data import Geometry
from ptychopinn_plugin.data.readers.probe_axes import single_probe
from ptychopinn_plugin.errors import DataError

Unit = Literal['m', 'px']
"""Positions are in metres, or in pixels of the object."""


@dataclass(frozen=True)
class PatternBatch:
    """Patterns that arrived together.

    Attributes
    ----------
    indexes : ndarray of int64, shape (n_patterns,)
        By which patterns meet positions; not negative.
    patterns : ndarray, shape (n_patterns, height, width)
        Counts.
    received_s : float
        When they arrived, in seconds of `time.monotonic`.
    """

    indexes: IntArray
    patterns: RealArray
    received_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class PositionBatch:
    """Positions that arrived together.

    Attributes
    ----------
    indexes : ndarray of int64, shape (n_positions,)
    positions : ndarray of float64, shape (n_positions, 2)
        (y, x). In metres they are those of the middle of the patch, as Ptychodus has it; in pixels
        those of its pixel ``[height // 2, width // 2]``, as `data.Scan` has it.
    unit : 'm' or 'px'
    """

    indexes: IntArray
    positions: FloatArray
    unit: Unit


@dataclass(frozen=True)
class Opening:
    """What is known before the first pattern; each value is None where it was not sent.

    Attributes
    ----------
    probe : ndarray of complex, shape (n_modes, height, width), optional
    bad_pixels : ndarray of bool, shape (height, width), optional
    geometry : Geometry
    n_patterns : int, optional
        The number of patterns of the whole scan.
    name : str, optional
    """

    probe: ComplexArray | None = None
    bad_pixels: BoolArray | None = None
    geometry: Geometry = field(default_factory=Geometry)
    n_patterns: int | None = None
    name: str | None = None

    def is_empty(self) -> bool:
        """Return whether nothing is known."""
        plain = (self.probe, self.bad_pixels, self.n_patterns, self.name)
        return all(value is None for value in plain) and self.geometry == Geometry()


@dataclass(frozen=True)
class Ending:
    """The scan has ended; `n_patterns` is how many it has, where the sender counts them."""

    n_patterns: int | None = None


StreamMessage = PatternBatch | PositionBatch | Opening | Ending

_GEOMETRY = tuple(item.name for item in fields(Geometry))


def messages_of(values: Mapping[str, Any]) -> list[StreamMessage]:
    """Return the messages that named arrays and values hold, in the order in which they count.

    Parameters
    ----------
    values : mapping of str to arrays, numbers and texts
        See docs/streaming.md; names that are not listed there are left alone.

    Raises
    ------
    DataError
        If a value is not what it must be; the message names it.
    """
    found: list[StreamMessage] = []
    opening = _opening(values)
    if not opening.is_empty():
        found.append(opening)
    found += _positions(values)
    if 'patterns' in values:
        patterns = _numbers(values, 'patterns', 'buif')
        if patterns.ndim == 2:
            patterns = patterns[np.newaxis]
        if patterns.ndim != 3:
            raise DataError(
                'patterns must have shape (n_patterns, height, width), or (height, width) for one; '
                f'got {patterns.shape}.'
            )
        if len(patterns):
            found.append(PatternBatch(_indexes(values, 'indexes', len(patterns)), patterns))
    if 'end' in values and _numbers(values, 'end', 'buif').all():
        found.append(Ending(opening.n_patterns))
    return found


def _opening(values: Mapping[str, Any]) -> Opening:
    probe = None
    if 'probe' in values:
        probe = single_probe(_numbers(values, 'probe', 'buifc'))[0]
    known: dict[str, Any] = {}
    for name in _GEOMETRY:
        if name in values:
            number = _numbers(values, name, 'buif')
            if number.size != 1 or not math.isfinite(float(number.ravel()[0])):
                raise DataError(f'{name} must be a number; got {values[name]!r}.')
            # Programs write zero where nobody has filled a value in.
            if float(number.ravel()[0]):
                value = float(number.ravel()[0])
                known[name] = True if name == 'near_field' else value
    expected = None
    if 'n_patterns' in values:
        number = _numbers(values, 'n_patterns', 'uif')
        if number.size != 1 or not 0 <= number.ravel()[0] < np.inf:
            raise DataError(f'n_patterns must be a whole number; got {values["n_patterns"]!r}.')
        # A structure of PV Access has no empty numbers: 0 is an unknown one.
        expected = int(number.ravel()[0]) or None
    bad = _numbers(values, 'bad_pixels', 'buif') != 0 if 'bad_pixels' in values else None
    text = str(values['name']) if 'name' in values else None
    return Opening(probe, bad, Geometry(**known), expected, text or None)


def _positions(values: Mapping[str, Any]) -> list[StreamMessage]:
    given = [name for name in ('positions_m', 'positions_px') if name in values]
    if not given:
        return []
    if len(given) > 1:
        raise DataError('Positions must be in one unit; got positions_m and positions_px.')
    (name,) = given
    positions = _numbers(values, name, 'uif').astype(np.float64)
    if positions.ndim == 1 and len(positions) % 2 == 0:
        # Structures of PV Access have no arrays of two axes.
        positions = positions.reshape(-1, 2)
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise DataError(
            f'{name} must have shape (n_positions, 2), one (y, x) each; got {positions.shape}.'
        )
    if not len(positions):
        return []
    key = 'position_indexes' if 'position_indexes' in values else 'indexes'
    indexes = _indexes(values, key, len(positions))
    return [PositionBatch(indexes, positions, 'm' if name == 'positions_m' else 'px')]


def _indexes(values: Mapping[str, Any], key: str, count: int) -> IntArray:
    if key not in values:
        raise DataError(f'{key} is missing: one whole number for each pattern and position.')
    indexes = _numbers(values, key, 'ui').ravel()
    if len(indexes) != count:
        raise DataError(f'{key} must have {count} values; it has {len(indexes)}.')
    if indexes.min() < 0 or indexes.max() > np.iinfo(np.int64).max:
        raise DataError(f'{key} must not be negative; got {indexes.min()}.')
    return indexes.astype(np.int64)


def _numbers(values: Mapping[str, Any], name: str, kinds: str) -> RealArray:
    try:
        array = np.asarray(values[name])
    except ValueError as error:
        # Lists of different lengths make no array.
        raise DataError(f'{name} must hold numbers of one shape; got {error}.') from error
    if array.dtype.kind not in kinds:
        raise DataError(f'{name} must hold numbers; got {array.dtype}.')
    return array
