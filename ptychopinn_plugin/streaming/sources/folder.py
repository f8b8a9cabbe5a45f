"""A folder in which files appear, each with some patterns or positions of a scan."""

import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ptychopinn_plugin.data.readers.npy import read_npy
from ptychopinn_plugin.data.readers.npz_archive import open_npz
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming.messages import StreamMessage, messages_of
from ptychopinn_plugin.streaming.sources import OnFault, load_library, need_library

_POLL_S = 0.05
"""The folder is looked at again after this time."""

UNCHANGED_S = 10.0
"""A file that cannot be read is left out when it has not changed for this time."""

_TIFF = ('.tif', '.tiff')
_SUFFIXES = ('.npz', '.npy', *_TIFF)
_UNFINISHED = ('.tmp', '.part', '.partial')


@dataclass
class _Pending:
    """A file that could not be read yet, with its size and time when that was last tried."""

    state: tuple[int, int]
    since_s: float
    reason: str


class WatchedFolder:
    """Reads files as they appear; see `StreamSource` and docs/streaming.md.

    A file that was written elsewhere and renamed into the folder is read at once. One that is
    still being written cannot be read whole: it is tried again when it has changed, and left out
    when it stays as it is. Names that begin with a dot, or end as temporary files do, are passed
    over.

    Parameters
    ----------
    path : Path
        It may not exist yet.
    on_fault : callable
    clock : callable
        Returns seconds, from any start.
    """

    def __init__(
        self, path: Path, on_fault: OnFault, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._on_fault, self._clock = path, on_fault, clock
        self.overrun = 0
        self._met: set[str] = set()
        self._pending: dict[str, _Pending] = {}
        self._looks: dict[str, tuple[int, int]] = {}
        self._new: deque[str] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return

    @property
    def is_done(self) -> bool:
        """Return False: more files can always come."""
        return False

    def receive(self, timeout_s: float) -> Sequence[StreamMessage]:
        """Return what the next file holds; see `StreamSource`."""
        deadline = self._clock() + timeout_s
        while True:
            if not self._new:
                self._look()
            while self._new:
                found = self._read(self._new.popleft())
                if found:
                    return found
            if self._clock() >= deadline:
                return []
            time.sleep(_POLL_S)

    def _look(self) -> None:
        """Queue the files that are new, and those that have changed since they were tried."""
        try:
            entries = sorted(os.scandir(self._path), key=lambda entry: _natural(entry.name))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name in self._met or not _is_of_interest(entry.name):
                continue
            state, before = _state(self._path / entry.name), self._pending.get(entry.name)
            if entry.name.lower().endswith(_TIFF) and self._looks.get(entry.name) != state:
                # One that is cut off can be read; NPZ and NPY cannot. So it must have come to rest.
                self._looks[entry.name] = state
            elif before is None or before.state != state:
                self._new.append(entry.name)
            elif self._clock() - before.since_s > UNCHANGED_S:
                self._leave_out(entry.name, before.reason)

    def _read(self, name: str) -> list[StreamMessage]:
        path = self._path / name
        state = _state(path)
        try:
            found = messages_of(_values_of(path))
        except DataError as error:
            self._pending[name] = _Pending(state, self._clock(), str(error))
            return []
        self._close(name)
        return found

    def _close(self, name: str) -> None:
        """Look at a file no more."""
        self._pending.pop(name, None)
        self._looks.pop(name, None)
        self._met.add(name)

    def _leave_out(self, name: str, reason: str) -> None:
        self._close(name)
        self._on_fault(f'{self._path / name} was left out: {reason}')


def _values_of(path: Path) -> Mapping[str, Any]:
    """Return the named arrays of a file; one of patterns alone has its index in its name."""
    if path.suffix.lower() == '.npz':
        with open_npz(path) as archive:
            return {name: _plain(archive[name]) for name in archive}
    patterns = read_npy(path) if path.suffix.lower() == '.npy' else _read_tiff(path)
    numbers = re.findall(r'\d+', path.stem)
    if not numbers:
        raise DataError(f'{path} must have the index of its pattern in its name, as frame_0042.')
    count = 1 if patterns.ndim == 2 else len(patterns)
    return {'patterns': patterns, 'indexes': int(numbers[-1]) + np.arange(count)}


def _read_tiff(path: Path) -> np.ndarray[Any, Any]:
    need_library('tifffile', 'tifffile', 'A TIFF file', 'formats')
    tifffile: Any = load_library('tifffile')
    try:
        return np.asarray(tifffile.imread(path))
    except (OSError, ValueError, KeyError, IndexError, tifffile.TiffFileError) as error:
        raise DataError(f'{path} is no complete TIFF file: {error}.') from error


def _state(path: Path) -> tuple[int, int]:
    """Return the size and the time of change of a file; zeros where it has gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return found.st_size, found.st_mtime_ns


def _is_of_interest(name: str) -> bool:
    lower = name.lower()
    return (
        not name.startswith('.') and lower.endswith(_SUFFIXES) and not lower.endswith(_UNFINISHED)
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts frame_2 before frame_10."""
    parts = re.split(r'(\d+)', name)
    return [(int(part), '') if part.isdigit() else (-1, part) for part in parts]


def _plain(array: np.ndarray[Any, Any]) -> Any:
    return str(array) if array.dtype.kind == 'U' and array.ndim == 0 else array
