"""Patterns and positions that come in any order, on any channel, brought together by index."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, IntArray, RealArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming.index_ranges import IndexRanges
from ptychopinn_plugin.streaming.messages import PatternBatch, PositionBatch, Unit

MAX_WAITING_BYTES = 1 << 30
"""Patterns that wait for positions take no more memory than this, however many may wait."""

MAX_WAITING_POSITIONS = 1 << 22
"""This many positions may wait for their patterns, about half a gigabyte; then the oldest go."""


@dataclass(frozen=True)
class MatchedBatch:
    """Patterns with their positions.

    Attributes
    ----------
    indexes : ndarray of int64, shape (n,)
    patterns : ndarray, shape (n, height, width)
    positions : ndarray of float64, shape (n, 2)
        (y, x) in the unit of the stream.
    received_s : ndarray of float64, shape (n,)
        When each pattern arrived, in seconds of `time.monotonic`.
    """

    indexes: IntArray
    patterns: RealArray
    positions: FloatArray
    received_s: FloatArray

    def __len__(self) -> int:
        return len(self.indexes)


@dataclass
class MatchCounts:
    """What became of patterns and positions.

    Attributes
    ----------
    received : int
        Patterns of different indexes.
    matched : int
        Those that have found their positions.
    repeated : int
        Patterns whose index had come before; the first counts.
    without_position : int
        Patterns left out because their position did not come in time.
    over_window : int
        Patterns left out because more waited for positions than may.
    unused_positions : int
        Positions left out because more waited for patterns than may.
    """

    received: int = 0
    matched: int = 0
    repeated: int = 0
    without_position: int = 0
    over_window: int = 0
    unused_positions: int = 0


class PatternMatcher:
    """Joins patterns with positions. Not safe for threads: one lock guards it and the store.

    Parameters
    ----------
    wait_s : float
        A pattern waits for this time for its position, and is left out then.
    max_waiting : int
        Not more patterns than this wait; where one more comes, the one that waits longest is left
        out.
    clock : callable
        Returns seconds.

    Attributes
    ----------
    counts : MatchCounts
    unit : 'm' or 'px', optional
        Of the positions; None before the first.
    """

    def __init__(
        self,
        wait_s: float,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wait_s, self.max_waiting, self._clock = wait_s, max_waiting, clock
        self.counts = MatchCounts()
        self.unit: Unit | None = None
        self.met = IndexRanges()
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[np.generic] | None = None
        self._patterns: OrderedDict[int, tuple[RealArray, float]] = OrderedDict()
        self._positions: OrderedDict[int, tuple[float, float]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """The number of patterns that wait for positions."""
        return len(self._patterns)

    @property
    def waiting_positions(self) -> int:
        """The number of positions that wait for patterns."""
        return len(self._positions)

    def add_positions(self, batch: PositionBatch) -> MatchedBatch | None:
        """Add positions; return the patterns that have waited for them, if any.

        Where a position comes again before its pattern, the last one counts; after it, the first.

        Raises
        ------
        DataError
            If their unit is another than before.
        """
        if self.unit not in (None, batch.unit):
            raise DataError(
                f'Positions must stay in one unit; they were in {self.unit} and came in '
                f'{batch.unit}. Mend the sender.'
            )
        self.unit = batch.unit
        found = []
        for index, (y, x) in zip(batch.indexes.tolist(), batch.positions.tolist(), strict=True):
            waiting = self._patterns.pop(index, None)
            if waiting is not None:
                found.append((index, waiting[0], (y, x), waiting[1]))
            elif index not in self.met:
                self._positions[index] = (y, x)
        while len(self._positions) > MAX_WAITING_POSITIONS:
            self._positions.popitem(last=False)
            self.counts.unused_positions += 1
        return self._matched(found)

    def add_patterns(self, batch: PatternBatch) -> MatchedBatch | None:
        """Add patterns; return those whose positions are known.

        Raises
        ------
        DataError
            If their shape or type is another than before.
        """
        self._check_kind(batch.patterns)
        found = []
        for index, pattern in zip(batch.indexes.tolist(), batch.patterns, strict=True):
            if not self.met.add(index):
                self.counts.repeated += 1
                continue
            self.counts.received += 1
            position = self._positions.pop(index, None)
            if position is not None:
                found.append((index, pattern, position, batch.received_s))
                continue
            # A view would keep the whole batch.
            self._patterns[index] = (pattern.copy(), batch.received_s)
        fitting = max(1, MAX_WAITING_BYTES // max(1, batch.patterns[:1].nbytes))
        while len(self._patterns) > min(self.max_waiting, fitting):
            self._patterns.popitem(last=False)
            self.counts.over_window += 1
        return self._matched(found)

    def expire(self) -> None:
        """Leave out the patterns that have waited too long."""
        limit = self._clock() - self.wait_s
        # Those of one source come in the order of time; of several, nearly so.
        while self._patterns and next(iter(self._patterns.values()))[1] < limit:
            self._patterns.popitem(last=False)
            self.counts.without_position += 1

    def close(self) -> None:
        """Leave out all that still waits: nothing more will come."""
        self.counts.without_position += len(self._patterns)
        self._patterns.clear()

    def _check_kind(self, patterns: RealArray) -> None:
        if self._shape is None:
            self._shape, self._dtype = patterns.shape[1:], patterns.dtype
        if (patterns.shape[1:], patterns.dtype) != (self._shape, self._dtype):
            raise DataError(
                f'Patterns must stay {self._dtype} of shape {self._shape}, as the first one; got '
                f'{patterns.dtype} of shape {patterns.shape[1:]}. Mend the sender.'
            )

    def _matched(
        self, found: list[tuple[int, RealArray, tuple[float, float], float]]
    ) -> MatchedBatch | None:
        if not found:
            return None
        self.counts.matched += len(found)
        indexes, patterns, positions, received = zip(*found, strict=True)
        return MatchedBatch(
            np.array(indexes, dtype=np.int64),
            np.stack(patterns),
            np.array(positions, dtype=np.float64),
            np.array(received, dtype=np.float64),
        )
