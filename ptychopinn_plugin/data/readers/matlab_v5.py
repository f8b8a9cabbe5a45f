"""MATLAB files of versions 6 and 7, which begin with "MATLAB 5.0 MAT-file".

A variable is a sequence of elements, each a tag (type, number of bytes) and its bytes, padded to
eight; version 7 compresses it as a whole. Arrays of numbers and texts are read; structs, cells and
objects are not. SciPy's reader of this format is not used, as damaged files make it end the
process with a fault in memory.
"""

import contextlib
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.readers.limits import limits
from ptychopinn_plugin.errors import DataError

_HEADER_BYTES, _TAG_BYTES = 128, 8
_MATRIX, _COMPRESSED = 14, 15
_START_BYTES = 4096
"""Name, class and shape of a variable lie within this many bytes."""

MAX_AXES = 32
_IS_COMPLEX = 0x0800

_CLASSES = {
    1: 'cell',
    2: 'struct',
    3: 'object',
    4: 'char',
    5: 'sparse',
    6: 'double',
    7: 'single',
    8: 'int8',
    9: 'uint8',
    10: 'int16',
    11: 'uint16',
    12: 'int32',
    13: 'uint32',
    14: 'int64',
    15: 'uint64',
    16: 'function',
}
_NUMBERS = tuple(name for code, name in _CLASSES.items() if 6 <= code <= 15)

_TYPES = {
    1: 'i1',
    2: 'u1',
    3: 'i2',
    4: 'u2',
    5: 'i4',
    6: 'u4',
    7: 'f4',
    9: 'f8',
    12: 'i8',
    13: 'u8',
}
"""Numbers are stored in these types, by that of their element; whole ones take fewer bytes in the
file than in memory."""

_ENCODINGS = {1: 'utf-8', 2: 'utf-8', 16: 'utf-8', 4: 'utf-16', 17: 'utf-16', 18: 'utf-32'}
"""The characters of a text are stored in these encodings, by the type of its element."""


@dataclass(frozen=True)
class _Variable:
    """Where a variable lies in its file, and what it is.

    Attributes
    ----------
    offset, n_bytes : int
        Of what follows its tag.
    inflated_bytes : int
        In memory, by its own tag.
    kind : str
        MATLAB's class.
    """

    offset: int
    n_bytes: int
    inflated_bytes: int
    is_compressed: bool
    kind: str


@contextlib.contextmanager
def open_matlab_v5(path: Path) -> Iterator['_Source']:
    """Open a file of MATLAB 6 or 7.

    Raises
    ------
    DataError
        If it is damaged, which may only show inside the block.
    """
    try:
        with path.open('rb') as file:
            yield _Source(path, file)
    except (OSError, struct.error, zlib.error, _DamagedError) as error:
        reason = ' '.join(str(error).split())
        raise DataError(
            f'{path} is truncated or damaged: it is no complete file of MATLAB ({reason}). Copy '
            'or write the file again.'
        ) from error


class _DamagedError(Exception):
    """The bytes of a file make no sense."""


class _Elements:
    """The elements of a variable, one after the other."""

    def __init__(self, data: bytes, order: str) -> None:
        self._data, self._order, self._offset = data, order, 0

    def next(self) -> tuple[int, bytes]:
        """Return the type and the bytes of the next element."""
        start = self._offset
        kind, n_bytes = struct.unpack_from(f'{self._order}II', self._data, start)
        # Up to four bytes lie in the tag itself, which then has their number in its upper half.
        is_small = kind >> 16
        first = start + (4 if is_small else _TAG_BYTES)
        if is_small:
            kind, n_bytes = kind & 0xFFFF, kind >> 16
            self._offset = start + _TAG_BYTES
        else:
            self._offset = first + n_bytes + -n_bytes % _TAG_BYTES
        found = self._data[first : first + n_bytes]
        if len(found) < n_bytes:
            raise _DamagedError(f'{n_bytes} bytes were expected, {len(found)} are there')
        return kind, found

    def header(self) -> tuple[str, bool, tuple[int, ...], str]:
        """Return class, whether it is complex, shape and name, with which a variable begins."""
        _, flags = self.next()
        (flag,) = struct.unpack(f'{self._order}I', flags[:4])
        _, stored = self.next()
        n_axes = len(stored) // 4
        if not 0 < n_axes <= MAX_AXES:
            raise _DamagedError(f'an array of {n_axes} axes')
        shape = struct.unpack(f'{self._order}{n_axes}i', stored[: 4 * n_axes])
        if min(shape) < 0:
            raise _DamagedError(f'an array of shape {shape}')
        _, name = self.next()
        kind = _CLASSES.get(flag & 0xFF, 'unknown')
        return kind, bool(flag & _IS_COMPLEX), shape, name.decode('utf-8', 'replace')

    def numbers(self, shape: tuple[int, ...]) -> RealArray:
        """Return the next element as an array of numbers, column by column."""
        kind, stored = self.next()
        dtype = np.dtype(self._order + _TYPES.get(kind, 'u1'))
        if kind not in _TYPES or len(stored) != math.prod(shape) * dtype.itemsize:
            raise _DamagedError(f'{len(stored)} bytes of type {kind} are no array of shape {shape}')
        found = np.frombuffer(stored, dtype).astype(dtype.newbyteorder('='), copy=False)
        return found.reshape(shape, order='F')

    def text(self) -> str:
        """Return the next element as a text."""
        kind, stored = self.next()
        encoding = _ENCODINGS.get(kind, 'utf-8')
        if encoding != 'utf-8':
            encoding += '-le' if self._order == '<' else '-be'
        return stored.decode(encoding, 'replace')


class _Source:
    """The variables of a file."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file
        # The two letters are MI where numbers have the high byte first.
        self._order = '>' if file.read(_HEADER_BYTES)[-2:] == b'MI' else '<'
        self._variables = dict(self._look())
        self.names = tuple(self._variables)

    def read(self, name: str) -> RealArray:
        """Return an array of numbers with its axes as MATLAB has them.

        Raises
        ------
        DataError
            If it is anything else.
        """
        kind = self._variables[name].kind
        if kind not in _NUMBERS:
            advice = 'with "save -v7.3", which is read,' if kind in ('struct', 'cell') else 'again'
            raise DataError(
                f'{name!r} of {self._path} must be an array of numbers; it is of class {kind}. '
                f'Save the file {advice} or write numbers under this name.'
            )
        elements = self._load(name)
        _, is_complex, shape, _ = elements.header()
        real = elements.numbers(shape)
        if not is_complex:
            return real
        array = np.empty(shape, np.complex64 if kind == 'single' else np.complex128, order='F')
        array.real, array.imag = real, elements.numbers(shape)
        return array

    def read_plain(self, name: str) -> Any:
        """Return a text or a number; None for anything else."""
        kind = self._variables[name].kind
        if kind == 'char':
            elements = self._load(name)
            elements.header()
            return elements.text()
        values = self.read(name) if kind in _NUMBERS else np.zeros(0)
        return float(values.ravel()[0].real) if values.size == 1 else None

    def _load(self, name: str) -> _Elements:
        variable = self._variables[name]
        limits().check_size(
            f'{name!r} of {self._path}', variable.inflated_bytes, variable.n_bytes + _TAG_BYTES
        )
        body = self._body(variable.offset, variable.n_bytes, variable.is_compressed, None)
        return _Elements(body[_TAG_BYTES:], self._order)

    def _look(self) -> Iterator[tuple[str, _Variable]]:
        """Find the variables by their tags and first bytes."""
        end = self._path.stat().st_size
        offset = _HEADER_BYTES
        while offset < end:
            self._file.seek(offset)
            kind, n_bytes = self._tag(self._file.read(_TAG_BYTES))
            offset += _TAG_BYTES
            if offset + n_bytes > end:
                raise _DamagedError(
                    f'{n_bytes} bytes were expected after byte {offset}, {end - offset} are there'
                )
            is_compressed = kind == _COMPRESSED
            start = self._body(offset, n_bytes, is_compressed, _START_BYTES)
            inner, inflated_bytes = self._tag(start[:_TAG_BYTES])
            if inner == _MATRIX:
                matlab_class, _, _, name = _Elements(start[_TAG_BYTES:], self._order).header()
                yield (
                    name,
                    _Variable(offset, n_bytes, inflated_bytes, is_compressed, matlab_class),
                )
            offset += n_bytes

    def _tag(self, stored: bytes) -> tuple[int, int]:
        kind, n_bytes = struct.unpack(f'{self._order}II', stored)
        return int(kind), int(n_bytes)

    def _body(self, offset: int, n_bytes: int, is_compressed: bool, most: int | None) -> bytes:
        """Return a variable with its tag, inflated, or its first `most` bytes."""
        self._file.seek(offset if is_compressed else offset - _TAG_BYTES)
        if not is_compressed:
            n_bytes += _TAG_BYTES
            return bytes(self._file.read(n_bytes if most is None else min(n_bytes, most)))
        stored = self._file.read(n_bytes if most is None else min(n_bytes, most))
        inflate = zlib.decompressobj()
        start = inflate.decompress(stored, _TAG_BYTES)
        _, inflated_bytes = self._tag(start)
        # No more than its own tag claims, whatever the stream goes on with.
        wanted = inflated_bytes if most is None else min(inflated_bytes, most)
        return start + inflate.decompress(inflate.unconsumed_tail, max(1, wanted))
