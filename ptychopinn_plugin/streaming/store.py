"""The patterns of a running scan: from the threads that receive to the one that computes."""

import threading
from collections.abc import Callable

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.storage.memory import available_bytes
from ptychopinn_plugin.storage.scratch import MAX_MEMORY_FRACTION, new_array, release_pages
from ptychopinn_plugin.streaming.matching import MatchedBatch

STORED_BLOCK_BYTES = 32 << 20
"""Patterns are kept in blocks of this size."""


class _Block:
    def __init__(self, length: int, like: RealArray, *, in_memory: bool) -> None:
        memory_bytes = None if in_memory else 0
        shape = (length, *like.shape[1:])
        self.patterns = new_array(shape, like.dtype, memory_bytes=memory_bytes)
        self.indexes = np.empty(length, dtype=np.int64)
        self.positions = np.empty((length, 2), dtype=np.float64)
        self.received_s = np.empty(length, dtype=np.float64)
        self.filled = 0

    def batch(self, start: int, stop: int) -> MatchedBatch:
        part = slice(start, stop)
        return MatchedBatch(
            self.indexes[part], self.patterns[part], self.positions[part], self.received_s[part]
        )


class PatternStore:
    """Holds patterns with positions, in the order in which they were matched.

    Where it keeps them all, for the reconstruction at the end, those beyond the memory that it may
    take lie in a temporary file, and receiving never waits for computing. Where it does not, it is
    a queue of bounded length: what was taken goes, and receiving waits, or leaves patterns out,
    while the queue is full.

    Parameters
    ----------
    keeps : bool
    max_queued : int
        The length of the queue, where patterns are not kept.
    drops : bool
        Whether patterns are left out while the queue is full; else `append` waits.
    memory_bytes : int, optional
        What kept patterns may take in memory; where not given, `MAX_MEMORY_FRACTION` of what is
        free.

    Attributes
    ----------
    dropped : int
        Patterns that were left out.
    """

    def __init__(
        self, *, keeps: bool, max_queued: int, drops: bool, memory_bytes: int | None = None
    ) -> None:
        self.keeps, self.drops, self.max_queued = keeps, drops, max_queued
        if memory_bytes is None:
            memory_bytes = int(MAX_MEMORY_FRACTION * (available_bytes() or 0)) or None
        self._memory_bytes = memory_bytes
        self._blocks: list[_Block] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._n_appended = self._n_taken = self._n_freed = 0
        self.dropped = 0

    @property
    def n_appended(self) -> int:
        """The number of patterns that have come in."""
        return self._n_appended

    @property
    def n_queued(self) -> int:
        """The number of patterns that were not taken yet."""
        return self._n_appended - self._n_taken

    def append(self, batch: MatchedBatch, is_stopping: Callable[[], bool]) -> None:
        """Add patterns; while the queue is full, wait, or leave them out.

        Parameters
        ----------
        batch : MatchedBatch
        is_stopping : callable
            Where it returns True, no one will take patterns any more; the rest is left out.
        """
        done = 0
        while done < len(batch):
            with self._changed:
                free = len(batch) - done
                if not self.keeps:
                    free = min(free, self.max_queued - self.n_queued)
                if free <= 0:
                    if self.drops or is_stopping():
                        self.dropped += len(batch) - done
                        return
                    self._changed.wait(0.1)
                    continue
                done += self._write(batch, done, free)
                self._changed.notify_all()

    def take(self, size: int, timeout_s: float, *, at_least: int = 1) -> MatchedBatch | None:
        """Return the patterns that come next, once they are this many.

        Parameters
        ----------
        size : int
        timeout_s : float
        at_least : int
            Once the store is closed, this number of them is enough.

        Returns
        -------
        MatchedBatch or None
            None where too few are there in time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.n_queued >= size or self._is_closed, timeout_s)
            count = min(size, self.n_queued)
            if count < (at_least if self._is_closed else size):
                return None
            found = self._read(self._n_taken, count)
            self._n_taken += count
            if not self.keeps:
                self._free()
            self._changed.notify_all()
            return found

    def read(self, start: int, count: int) -> MatchedBatch:
        """Return kept patterns again, by their place in the order of matching."""
        with self._changed:
            return self._read(start, count)

    def wait_for_more(self, n_patterns: int, timeout_s: float) -> bool:
        """Return whether this many patterns have come in, or nothing more will, within a time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._n_appended >= n_patterns or self._is_closed, timeout_s
            )

    def clear(self) -> None:
        """Let go of all patterns."""
        with self._changed:
            self._blocks.clear()

    def close(self) -> None:
        """Note that nothing more will come."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come."""
        return self._is_closed

    def _write(self, batch: MatchedBatch, start: int, count: int) -> int:
        length = max(1, STORED_BLOCK_BYTES // max(1, batch.patterns[:1].nbytes))
        if not self.keeps:
            length = min(length, self.max_queued)
        if not self._blocks or self._blocks[-1].filled == len(self._blocks[-1].indexes):
            self._blocks.append(self._new_block(length, batch.patterns))
        block = self._blocks[-1]
        count = min(count, len(block.indexes) - block.filled)
        source, target = slice(start, start + count), slice(block.filled, block.filled + count)
        block.indexes[target] = batch.indexes[source]
        block.patterns[target] = batch.patterns[source]
        block.positions[target] = batch.positions[source]
        block.received_s[target] = batch.received_s[source]
        block.filled += count
        self._n_appended += count
        if block.filled == len(block.indexes):
            release_pages(block.patterns)
        return count

    def _new_block(self, length: int, like: RealArray) -> _Block:
        size = length * like[:1].nbytes
        used = sum(block.patterns.nbytes for block in self._blocks)
        fits = self._memory_bytes is None or used + size <= self._memory_bytes
        return _Block(length, like, in_memory=not self.keeps or fits)

    def _read(self, start: int, count: int) -> MatchedBatch:
        """Return a copy of patterns in the order of matching; it may span blocks."""
        parts, place = [], self._n_freed
        for block in self._blocks:
            first, last = max(start, place), min(start + count, place + block.filled)
            if first < last:
                parts.append(block.batch(first - place, last - place))
            place += block.filled
        shape = (count, *parts[0].patterns.shape[1:])
        # A large part of the scan lies in a file as the scan itself does.
        patterns = new_array(shape, parts[0].patterns.dtype, like=parts[0].patterns)
        done = 0
        for part in parts:
            patterns[done : done + len(part)] = part.patterns
            done += len(part)
        return MatchedBatch(
            np.concatenate([part.indexes for part in parts]),
            patterns,
            np.concatenate([part.positions for part in parts]),
            np.concatenate([part.received_s for part in parts]),
        )

    def _free(self) -> None:
        """Let go of the blocks of which all patterns were taken."""
        while self._blocks and self._n_freed + self._blocks[0].filled <= self._n_taken:
            if self._blocks[0].filled < len(self._blocks[0].indexes):
                break
            self._n_freed += self._blocks.pop(0).filled
