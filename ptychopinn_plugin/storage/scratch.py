"""Arrays that are too large for the memory: mapped from a file that is gone when they are.

The system writes their pages to the file and reads them back, so that they are used as any other
array is. What a process has touched counts as its memory until it is given back, which
`release_pages` does: nothing is lost by it, as the file keeps everything.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage.memory import available_bytes

MAX_MEMORY_FRACTION = 0.5
"""Arrays of more than this share of the free memory lie in a file, unless a limit is given."""

SMALL_BYTES = 64 << 20
"""Arrays up to this size are in memory wherever no limit is given."""

MAX_RESIDENT_BYTES = 64 << 20
"""Pages of a file are given back after this much of it was used."""


class _Mapping(mmap.mmap):
    """The memory of an array of this module, by which it is known again."""


def new_array(
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    like: RealArray | None = None,
    memory_bytes: int | None = None,
) -> RealArray:
    """Return an array for results, in memory or, where it is too large, in a file.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    like : ndarray, optional
        What is computed from an array that lies in a file lies in one too.
    memory_bytes : int, optional
        The size up to which an array is in memory; where not given, `MAX_MEMORY_FRACTION` of what
        this machine has left.

    Returns
    -------
    ndarray
        Of no defined content.

    Raises
    ------
    OutputError
        If the folder for temporary files has no space for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size and (is_stored(like) or not _fits(size, memory_bytes)):
        return np.ndarray(shape, dtype, buffer=_new_mapping(size))
    return np.empty(shape, dtype)


def is_stored(array: RealArray | None) -> bool:
    """Return whether an array, or what it is a view of, lies in a file of this module."""
    return _mapping_of(array) is not None


def release_pages(array: RealArray) -> None:
    """Give the memory back that an array takes, where it lies in a file; it can be used on."""
    mapping = _mapping_of(array)
    if mapping is not None and hasattr(mmap, 'MADV_DONTNEED'):
        mapping.madvise(mmap.MADV_DONTNEED)


def chunks(array: RealArray, length: int) -> Iterator[tuple[slice, RealArray]]:
    """Yield an array in parts along its first axis, and give the memory of those used back.

    Parameters
    ----------
    array : ndarray, shape (n, ...)
    length : int
        Of a part; those of an array in a file are no larger than `MAX_RESIDENT_BYTES`.

    Yields
    ------
    part : slice
    values : ndarray, shape (length, ...)
        A view.
    """
    usage = Usage(array)
    if is_stored(array):
        length = min(length, max(1, MAX_RESIDENT_BYTES // max(1, array[:1].nbytes)))
    for start in range(0, len(array), length):
        part = slice(start, min(start + length, len(array)))
        yield part, array[part]
        usage.add(array[part].nbytes)


def taken(array: RealArray, indices: RealArray, length: int = 1024) -> RealArray:
    """Return the rows of an array with these indices, in a file where it lies in one.

    Parameters
    ----------
    array : ndarray, shape (n, ...)
    indices : ndarray of int, shape (n_indices,)
    length : int
        This number of rows is copied at a time.
    """
    if not is_stored(array):
        return array[indices]
    result = new_array((len(indices), *array.shape[1:]), array.dtype, like=array)
    usage = Usage(array)
    for part, rows in chunks(result, length):
        rows[...] = array[indices[part]]
        usage.add(rows.nbytes)
    return result


def converted(
    array: RealArray, change: Callable[[RealArray], RealArray], length: int = 1024
) -> RealArray:
    """Return what a function makes of an array, row by row in a file where the array lies in one.

    Parameters
    ----------
    array : ndarray, shape (n, ...)
    change : callable
        Returns the rows, changed; each alone, so that it may get some of them at a time.
    length : int
        This number of rows is changed at a time.
    """
    if not is_stored(array):
        return change(array)
    first = change(array[:1])
    result = new_array((len(array), *first.shape[1:]), first.dtype, like=array)
    usage = Usage(result)
    for part, rows in chunks(array, length):
        result[part] = change(rows)
        usage.add(result[part].nbytes)
    return result


class Usage:
    """Adds up what is read of an array, and gives its memory back now and then.

    Parameters
    ----------
    array : ndarray, optional
        One in memory, as is None, stays as it is.
    """

    def __init__(self, array: RealArray | None = None) -> None:
        self._array = array if is_stored(array) else None
        self._used = 0

    def add(self, n_bytes: int) -> None:
        """Take down that this much was read or written."""
        if self._array is None:
            return
        self._used += n_bytes
        if self._used >= MAX_RESIDENT_BYTES:
            release_pages(self._array)
            self._used = 0


def scratch_folder() -> Path:
    """Return where the files lie: the folder for temporary files that the user has set, if any.

    Where none is set, it is /var/tmp: /tmp lies in memory on many machines.
    """
    is_set = any(os.environ.get(name) for name in ('TMPDIR', 'TEMP', 'TMP'))
    large = Path('/var/tmp')
    if not is_set and large.is_dir() and os.access(large, os.W_OK):
        return large
    return Path(tempfile.gettempdir())


def _fits(size: int, memory_bytes: int | None) -> bool:
    if memory_bytes is not None:
        return size <= memory_bytes
    if size <= SMALL_BYTES:
        return True
    free = available_bytes()
    return free is None or size <= MAX_MEMORY_FRACTION * free


def _new_mapping(size: int) -> _Mapping:
    folder = scratch_folder()
    try:
        # It has no name, so that it goes with the process, however that ends.
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, 'posix_fallocate'):
                # Without its space reserved, a full disk would end the process by a signal.
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return _Mapping(file.fileno(), size)
    except OSError as error:
        raise OutputError(
            f'Patterns that do not fit into memory need {size / 2**30:.3g} GiB in a temporary file '
            f'in {folder}: {error.strerror}. Make space there, choose another folder by the '
            'variable TMPDIR, or allow more memory (--max-memory GIB).'
        ) from error


def _mapping_of(array: Any) -> _Mapping | None:
    """Return the mapping of which an array is a view, if any."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, _Mapping) else None
