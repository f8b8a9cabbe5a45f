"""A growing HDF5 file, read while its writer adds to it (single writer, multiple readers)."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.data.readers.hdf5 import find_dataset
from ptychopinn_plugin.data.readers.hdf5_links import HDF5_DAMAGE, refuse_special_files
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming.messages import StreamMessage, messages_of
from ptychopinn_plugin.streaming.sources import OnFault

UNWRITTEN = -1
"""An index has this value until its pattern is written."""

READ_BYTES = 16 << 20
"""This much is read at a time."""

_POLL_S = 0.02
"""A file that has not grown is looked at again after this time."""

_PATTERNS = ('patterns', 'entry/data/data', 'exchange/data')
_POSITIONS = ('positions_m', 'positions_px')
_INDEXES = ('indexes', 'entry/instrument/NDAttributes/NDArrayUniqueId')
_CONSISTENCY_FLAGS = 11
"""This byte of the file holds them, in the superblock that SWMR needs (its version 3)."""


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
        self._patterns: Any = None
        self._indexes: Any = None
        self._positions: Any = None
        self._position_indexes: Any = None
        self._n_patterns = self._n_positions = 0
        self._is_opened = self._is_done = False

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
            If the file holds no patterns and no positions, is damaged, or leads to what may not be
            read; see `readers.hdf5`.
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
        # This is looked at first: what was written before the end is seen then.
        was_closed = not _is_being_written(self._path)
        try:
            found = self._opening() if not self._is_opened else []
            self._is_opened = True
            found += self._new_positions()
            found += self._new_patterns(is_complete=was_closed)
        except HDF5_DAMAGE as error:
            raise DataError(f'{self._path} is damaged ({error}). Write it again.') from error
        if was_closed and not found:
            self._is_done = True
            found = messages_of({'end': True})
        return found

    def _open(self) -> bool:
        """Open the file, as soon as it exists and its writer lets others read it."""
        try:
            file = h5py.File(self._path, 'r', libver='latest', swmr=True)
        except OSError:
            # It is missing or not complete yet, or its writer has not begun to share it.
            return False
        self._file = file
        refuse_special_files(file)
        # While a file is shared, nothing but rows is added to it.
        self._patterns, self._indexes = find_dataset(file, _PATTERNS), find_dataset(file, _INDEXES)
        self._positions = find_dataset(file, _POSITIONS)
        self._position_indexes = find_dataset(file, ('position_indexes', 'indexes'))
        if self._patterns is None and self._positions is None:
            raise DataError(
                f'{self._path} must hold patterns ({", ".join(_PATTERNS)}) or positions '
                f'({", ".join(_POSITIONS)}); it holds {", ".join(file) or "nothing"}.'
            )
        return True

    def _opening(self) -> list[StreamMessage]:
        assert self._file is not None
        values: dict[str, Any] = {}
        for holder in (self._file, self._patterns):
            if holder is not None:
                values |= {name: _plain(holder.attrs[name]) for name in holder.attrs}
        for name in ('probe', 'bad_pixels'):
            dataset = find_dataset(self._file, (name,))
            if dataset is not None:
                values[name] = dataset[()]
        # Only datasets grow.
        for name in ('patterns', 'indexes', *_POSITIONS, 'end'):
            values.pop(name, None)
        return messages_of(values)

    def _new_positions(self) -> list[StreamMessage]:
        positions, start = self._positions, self._n_positions
        if positions is None:
            return []
        stop = _length(positions)
        numbers = np.arange(start, stop)
        if self._position_indexes is not None:
            stop = min(stop, _length(self._position_indexes))
            numbers = self._position_indexes[start:stop]
            numbers = numbers[: _written(numbers)]
        if not len(numbers):
            return []
        self._n_positions += len(numbers)
        name = positions.name.rpartition('/')[2]
        rows = positions[start : start + len(numbers)]
        return messages_of({name: rows, 'position_indexes': numbers})

    def _new_patterns(self, *, is_complete: bool) -> list[StreamMessage]:
        patterns, start = self._patterns, self._n_patterns
        if patterns is None:
            return []
        each = max(1, math.prod(patterns.shape[1:]) * patterns.dtype.itemsize)
        stop = min(_length(patterns), start + max(1, READ_BYTES // each))
        numbers = np.arange(start, stop)
        if self._indexes is not None:
            numbers = self._indexes[start : min(stop, _length(self._indexes))]
            numbers = numbers[: _written(numbers)]
        block = patterns[start : start + len(numbers)]
        if self._indexes is None and not is_complete:
            lit = np.flatnonzero(block.any(axis=tuple(range(1, block.ndim))))
            written = int(lit[-1]) + 1 if len(lit) else 0
            block, numbers = block[:written], numbers[:written]
        if not len(block):
            return []
        self._n_patterns += len(block)
        return messages_of({'patterns': block, 'indexes': numbers})


def _length(dataset: Any) -> int:
    """Return how many rows a dataset has by now."""
    dataset.refresh()
    return len(dataset)


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
