"""The arrays of an NPZ file, read with care: nothing is executed, and sizes are checked."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.readers.limits import READ_PATTERNS, limits
from ptychopinn_plugin.data.readers.npy import check_claim, read_header
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import chunks, is_stored
from ptychopinn_plugin.storage.untrusted import NUMPY_ERRORS

_OPTIONAL = (
    'objectGuess',
    'scan_index',
    'pattern_indexes',
    'bad_pixels',
    'xcoords_start',
    'ycoords_start',
)


class Archive(Mapping[str, RealArray]):
    """The arrays of an NPZ file; what is wrong with one becomes a DataError."""

    def __init__(self, path: Path, members: Any) -> None:
        self._path, self._members = path, members
        self.empty = tuple(key for key in _OPTIONAL if self._is_object(key))
        """These optional keys hold an object and no array, as `np.savez` makes of None."""
        self._keys = tuple(key for key in members.files if key not in self.empty)

    def __contains__(self, key: object) -> bool:
        # The inherited test would read the whole array.
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, key: str) -> RealArray:
        if key not in self:
            raise DataError(
                f'{self._path} must hold {key!r}; it holds {", ".join(self) or "nothing"}.'
            )
        try:
            self._check_size(key)
            array = self._read(key)
        except DataError:
            raise
        except NUMPY_ERRORS as error:
            if 'allow_pickle' not in str(error):
                raise _damaged(self._path, key) from error
            raise DataError(
                f'{key!r} of {self._path} must be an array of numbers; it is an object array, '
                'which can run code when it is read. Save it again as numbers.'
            ) from error
        if not isinstance(array, np.ndarray):
            raise DataError(
                f'{key!r} of {self._path} must be an array; it is another kind of file.'
            )
        return array

    def _read(self, key: str) -> Any:
        """Return an array, which lies in a file where it is too large for the memory."""
        if f'{key}.npy' not in self._members.zip.NameToInfo:
            return self._members[key]
        with self._members.zip.open(f'{key}.npy') as file:
            try:
                shape, is_fortran, kind = read_header(file)
            except KeyError:
                # Another version of the format is left to NumPy.
                return self._members[key]
            if kind.kind not in 'biufc' or not math.prod(shape):
                return self._members[key]
            # In the order of the file: the other one is its transpose.
            array = limits().new_array(shape[::-1] if is_fortran else shape, kind)
            if not is_stored(array):
                return self._members[key]
            for _, rows in chunks(array, READ_PATTERNS):
                data = file.read(rows.nbytes)
                if len(data) < rows.nbytes:
                    raise EOFError
                rows[...] = np.frombuffer(data, kind).reshape(rows.shape)
        return array.T if is_fortran else array

    def shape_of(self, key: str) -> tuple[int, ...]:
        """Return the shape of an array, for which most files need not be read."""
        try:
            return self._header(key)[0]
        except NUMPY_ERRORS:
            # Another version of the format, or what is missing or damaged, which this explains.
            return self[key].shape

    def _is_object(self, key: str) -> bool:
        """Recognize a single object by the text of the header; the object is never read."""
        if key not in self._members.files:
            return False
        try:
            shape, kind = self._header(key)
        except NUMPY_ERRORS:
            return False
        return shape == () and kind.hasobject

    def _header(self, key: str) -> tuple[tuple[int, ...], Any]:
        with self._members.zip.open(f'{key}.npy') as file:
            shape, _, kind = read_header(file)
        return shape, kind

    def _check_size(self, key: str) -> None:
        """Compare what an array claims with its file, before any memory is given to it."""
        names = self._members.zip.NameToInfo
        info = names.get(f'{key}.npy') or names[key]
        with contextlib.suppress(KeyError):
            # Another version of the format is left to NumPy.
            check_claim(f'{key!r} of {self._path}', *self._header(key), info.file_size)
        limits().check_size(f'{key!r} of {self._path}', info.file_size, info.compress_size)


def _damaged(path: Path, key: str) -> DataError:
    return DataError(f'{key!r} of {path} is truncated or damaged. Copy or write the file again.')


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Archive]:
    """Open an NPZ file for reading, never with pickle.

    Raises
    ------
    DataError
        If the file cannot be opened, is damaged, or is HDF5 where NPZ is needed.
    """
    # NumPy leaves a file that it opened itself open where it turns out to be damaged.
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open('rb'))
            members = stack.enter_context(np.load(file, allow_pickle=False))
        except OSError as error:
            raise DataError(f'{path} cannot be read: {error.strerror}. Check the path.') from error
        except NUMPY_ERRORS as error:
            if h5py.is_hdf5(path):
                raise DataError(
                    f'{path} must be an NPZ file here, as reconstruction.npz; it is HDF5.'
                ) from error
            raise DataError(
                f'{path} is truncated or damaged: it is no complete NPZ file. '
                'Copy or write the file again.'
            ) from error
        yield Archive(path, members)
