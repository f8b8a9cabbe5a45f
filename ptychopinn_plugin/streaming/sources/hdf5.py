"""A growing HDF5 file, read while its writer adds to it (single writer, multiple readers)."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming.messages import StreamMessage, messages_of
from ptychopinn_plugin.streaming.sources import OnFault

UNWRITTEN = -1
"""The value of an index whose pattern is not written yet."""

READ_BYTES = 16 << 20
"""This much is read at a time."""

_POLL_S = 0.02
"""A file that has not grown is looked at again after this time."""

_PATTERNS = ('patterns', 'entry/data/data', 'exchange/data')
_INDEXES = ('indexes', 'entry/instrument/NDAttributes/NDArrayUniqueId')
_CONSISTENCY_FLAGS = 11
"""Which byte of the file holds them, in the superblock that SWMR needs (its version 3)."""


class GrowingFile:
    """Reads patterns and positions as they are added; see `StreamSource` and docs/streaming.md.

    A pattern counts as written once its index is: writers extend a dataset before they fill it.
    Where a file holds no indexes, a pattern of zeros at its end counts as not written yet. When
    the writer has closed the file, nothing more comes.

    Parameters
    ----------
    path : Path
        It may not exist yet.
    on_fault : callable
    """

    def __init__(self, path: Path, on_fault: OnFault) -> None:
        self._path, self._on_fault = path, on_fault
        self.overrun = 0
        self._file: h5py.File | None = None
        self._n_patterns = self._n_positions = 0
        self._is_opened = self._is_closed = False
        self._is_done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def is_done(self) -> bool:
        """Whether the writer has closed the file, and all of it was read."""
        return self._is_done

    def receive(self, timeout_s: float) -> Sequence[StreamMessage]:
        """Return what was added; see `StreamSource`.

        Raises
        ------
        DataError
            If the file holds no dataset of patterns or positions when it is complete.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self._read_more()
            if found or self._is_done or time.monotonic() >= deadline:
                return found
            time.sleep(_POLL_S)

    def _read_more(self) -> list[StreamMessage]:
        if self._file is None and not self._open():
            return []
        assert self._file is not None
        # This is looked at first: what was written before the end is seen then.
        was_closed = not _is_being_written(self._path)
        found: list[StreamMessage] = []
        if not self._is_opened:
            found += self._opening()
            self._is_opened = True
        found += self._new_positions()
        found += self._new_patterns(is_complete=was_closed)
        if was_closed and not found:
            if not self._find(_PATTERNS) and self._positions_name() is None:
                raise DataError(
                    f'{self._path} must hold patterns ({", ".join(_PATTERNS)}) or positions '
                    f'(positions_m, positions_px); it holds {", ".join(self._file) or "nothing"}.'
                )
            self._is_done = True
            end = self._file['n_patterns'][()] if 'n_patterns' in self._file else None
            found += messages_of({'end': True} | ({} if end is None else {'n_patterns': end}))
        return found

    def _open(self) -> bool:
        """Open the file, as soon as it exists and its writer lets others read it."""
        try:
            self._file = h5py.File(self._path, 'r', libver='latest', swmr=True)
        except FileNotFoundError:
            return False
        except OSError:
            # It is not complete yet, or its writer has not begun to share it.
            return False
        return True

    def _opening(self) -> list[StreamMessage]:
        assert self._file is not None
        values: dict[str, Any] = {
            name: self._file[name][()] for name in ('probe', 'bad_pixels') if name in self._file
        }
        found = self._find(_PATTERNS)
        for holder in (self._file, *(self._file[name] for name in found[:1])):
            values |= {name: _plain(holder.attrs[name]) for name in holder.attrs}
        # They count with the datasets alone.
        for name in ('patterns', 'indexes', 'positions_m', 'positions_px', 'end'):
            values.pop(name, None)
        return messages_of(values)

    def _new_positions(self) -> list[StreamMessage]:
        name = self._positions_name()
        if name is None or self._file is None:
            return []
        key = 'position_indexes' if 'position_indexes' in self._file else 'indexes'
        positions, indexes = self._file[name], self._file.get(key)
        positions.refresh()
        count = len(positions)
        if indexes is not None:
            indexes.refresh()
            count = min(count, len(indexes))
        start = self._n_positions
        if count <= start:
            return []
        numbers = np.arange(start, count) if indexes is None else indexes[start:count]
        count = start + _written(numbers)
        self._n_positions = count
        numbers = numbers[: count - start]
        if not len(numbers):
            return []
        return messages_of({name: positions[start:count], 'position_indexes': numbers})

    def _new_patterns(self, *, is_complete: bool) -> list[StreamMessage]:
        assert self._file is not None
        names = self._find(_PATTERNS)
        if not names:
            return []
        patterns = self._file[names[0]]
        patterns.refresh()
        start = self._n_patterns
        each = max(1, int(np.prod(patterns.shape[1:])) * patterns.dtype.itemsize)
        stop = min(len(patterns), start + max(1, READ_BYTES // each))
        numbers = self._indexes_of(start, stop)
        if numbers is not None:
            stop = start + _written(numbers)
            numbers = numbers[: stop - start]
        if stop <= start:
            return []
        block = patterns[start:stop]
        if numbers is None:
            numbers = np.arange(start, stop)
            if not is_complete:
                lit = np.flatnonzero(block.any(axis=tuple(range(1, block.ndim))))
                written = int(lit[-1]) + 1 if len(lit) else 0
                block, numbers = block[:written], numbers[:written]
        self._n_patterns += len(block)
        if not len(block):
            return []
        return messages_of({'patterns': block, 'indexes': numbers})

    def _indexes_of(self, start: int, stop: int) -> IntArray | None:
        """Return the indexes that are there of some patterns; None where the file has none."""
        assert self._file is not None
        names = self._find(_INDEXES)
        if not names:
            return None
        indexes = self._file[names[0]]
        indexes.refresh()
        return np.asarray(indexes[start:stop])

    def _find(self, names: Sequence[str]) -> list[str]:
        assert self._file is not None
        return [name for name in names if isinstance(self._file.get(name), h5py.Dataset)]

    def _positions_name(self) -> str | None:
        return next(iter(self._find(('positions_m', 'positions_px'))), None)


def _written(indexes: IntArray) -> int:
    """Return how many of some indexes are written, up to the first that is not."""
    missing = np.flatnonzero(indexes == UNWRITTEN)
    return int(missing[0]) if len(missing) else len(indexes)


def _is_being_written(path: Path) -> bool:
    """Return whether a writer has the file open, by the flags in its superblock."""
    with suppress(OSError), path.open('rb') as file:
        head = file.read(_CONSISTENCY_FLAGS + 1)
        return len(head) > _CONSISTENCY_FLAGS and head[8] >= 3 and bool(head[_CONSISTENCY_FLAGS])
    return True


def _plain(value: Any) -> Any:
    return value.decode(errors='replace') if isinstance(value, bytes) else value
