"""Zip and HDF5 files of unknown origin, read in memory and within limits.

Nothing is unpacked to disk, so a name cannot lead out of a folder; names that try are refused all
the same, as such a file was made to do harm. The sizes in a zip's table are claims: members are
read in pieces, and never more of one than it claims.
"""

import contextlib
import io
import json
import lzma
import math
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import ArchiveError

MAX_MEMBER_BYTES = 2 << 30
"""One member may grow to this, which no model of this kind needs."""

MAX_TEXT_BYTES = 32 << 20
"""A manifest or a graph in JSON may have this size."""

MAX_SUM_BYTES = 8 << 30
"""All members together may grow to this."""

MAX_MEMBERS = 20_000
"""A checkpoint of torch has one member for each tensor, which is a few hundred."""

MAX_COMPRESSION = 250
"""Weights shrink to about nine tenths and texts to a tenth; zeros alone shrink to a thousandth."""

RATIO_FLOOR_BYTES = 16 << 20
"""Smaller members may shrink as much as they like."""

MIN_CHUNK_BYTES = 1024
"""Of smaller chunks, a dataset may have `MAX_TINY_CHUNKS`; a pattern of 32 x 32 pixels has more."""

MAX_TINY_CHUNKS = 20_000
"""HDF5 reads some thousand chunks in a second, however small they are."""

CHUNK_BYTES = 1 << 20
"""A member is inflated in pieces of this size."""

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Model files are written with these; Python cannot limit what the others grow to."""

ZIP_ERRORS = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""zipfile raises these on a damaged file: names that are not UTF-8, encryption, and so on."""

NUMPY_ERRORS = (
    *ZIP_ERRORS,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SyntaxError,
    tokenize.TokenError,
    lzma.LZMAError,
    struct.error,
)
"""NumPy raises these on a damaged NPY or NPZ file, whose headers are literals of Python."""


class SafeZip:
    """A zip whose members are read by name.

    Parameters
    ----------
    archive : zipfile.ZipFile
    source : str
        For messages.
    file_bytes : int
        The size of the zip.

    Raises
    ------
    ArchiveError
        If it exceeds the limits, names a place outside or is compressed in an unusual way.
    """

    def __init__(self, archive: zipfile.ZipFile, source: str, file_bytes: int) -> None:
        self._archive, self.source = archive, source
        self._infos = {info.filename: info for info in archive.infolist()}
        self._check_names()
        for info in self._infos.values():
            self._check_member(info)
        self._check_sums(file_bytes)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def names(self) -> list[str]:
        """Return the names of all members."""
        return list(self._infos)

    def read(self, name: str, *, largest: int = MAX_MEMBER_BYTES) -> bytes:
        """Return a member's bytes.

        Raises
        ------
        ArchiveError
            If it is missing, damaged, encrypted or larger than `largest`.
        """
        if name not in self:
            raise ArchiveError(
                f'{self.source} must hold {name}; it holds {", ".join(self.names()[:6])}.'
            )
        info = self._infos[name]
        if info.file_size > largest:
            raise ArchiveError(
                f'{self.source}: {name} claims {info.file_size} bytes; at most {largest} are read.'
            )
        try:
            data = self._read(info)
        except ZIP_ERRORS as error:
            raise ArchiveError(
                f'{self.source}: {name} is damaged: {error}. Copy the file again.'
            ) from error
        if len(data) != info.file_size:
            raise ArchiveError(
                f'{self.source}: {name} is damaged: it must have {info.file_size} bytes and has '
                f'{len(data)}. Copy the file again.'
            )
        return data

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        # A stream ends at the size that the table claims, and each piece inflates to its own size.
        buffer = io.BytesIO()
        with self._archive.open(info) as stream:
            shutil.copyfileobj(stream, buffer, CHUNK_BYTES)
        return buffer.getvalue()

    def _check_names(self) -> None:
        infos = self._archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise ArchiveError(
                f'{self.source} is refused: {len(infos)} members; at most {MAX_MEMBERS}.'
            )
        # Programs differ in which of the two they read: one could be checked and the other used.
        if len(infos) != len(self._infos):
            raise ArchiveError(f'{self.source} is refused: two of its members have one name.')
        for name in self._infos:
            # On Windows a backslash parts folders, and a colon follows a drive.
            path = PurePosixPath(name.replace('\\', '/'))
            if path.is_absolute() or '..' in path.parts or ':' in name:
                raise ArchiveError(f'{self.source} is refused: the member {name!r} points outside.')

    def _check_member(self, info: zipfile.ZipInfo) -> None:
        if info.compress_type not in COMPRESSIONS:
            raise ArchiveError(
                f'{self.source} is refused: {info.filename} is compressed with method '
                f'{info.compress_type}; only stored and deflated members are read.'
            )
        size, packed = info.file_size, max(1, info.compress_size)
        if size > MAX_MEMBER_BYTES or (
            size > RATIO_FLOOR_BYTES and size / packed > MAX_COMPRESSION
        ):
            raise ArchiveError(
                f'{self.source} is refused: {info.filename} would grow from {packed} to {size} '
                'bytes.'
            )

    def _check_sums(self, file_bytes: int) -> None:
        total = sum(info.file_size for info in self._infos.values())
        if total > MAX_SUM_BYTES:
            raise ArchiveError(f'{self.source} is refused: it would grow to {total} bytes.')
        packed = sum(info.compress_size for info in self._infos.values())
        # Members that overlap make a small file grow as a large one does.
        if packed > file_bytes:
            raise ArchiveError(
                f'{self.source} is refused: its members claim {packed} bytes of a file of '
                f'{file_bytes}.'
            )


@contextlib.contextmanager
def open_zip(file: Path | bytes, source: str, *, what: str = 'zip') -> Iterator[SafeZip]:
    """Open a zip of unknown origin.

    Parameters
    ----------
    file : Path or bytes
    source : str
        The name of the file, for messages.
    what : str
        What the file should be, for messages.

    Yields
    ------
    SafeZip

    Raises
    ------
    ArchiveError
        If it is no zip, or exceeds the limits.
    """
    with contextlib.ExitStack() as stack:
        try:
            stream = (
                io.BytesIO(file)
                if isinstance(file, bytes)
                else stack.enter_context(file.open('rb'))
            )
            archive = stack.enter_context(zipfile.ZipFile(stream))
            file_bytes = stream.seek(0, io.SEEK_END)
        except ZIP_ERRORS as error:
            raise ArchiveError(
                f'{source} is not a readable {what}: {error}. Copy the file again.'
            ) from error
        yield SafeZip(archive, source, file_bytes)


def parse_json(data: str | bytes) -> Any:
    """Return what JSON holds, without the NaN and infinity that Python reads besides.

    Raises
    ------
    ValueError
        If it is no JSON, or has a number that no float holds.
    """

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f'{text} is no number of JSON that a float holds')
        return number

    return json.loads(data, parse_float=finite, parse_constant=finite)


def zip_names(path: Path) -> list[str]:
    """Return the names of a zip's members; an empty list where it is damaged or no zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except ZIP_ERRORS:
        return []


def read_hdf5(
    data: bytes, source: str, *, skip: str = ''
) -> tuple[dict[str, RealArray], dict[str, str]]:
    """Read the datasets of an HDF5 file in memory.

    Parameters
    ----------
    data : bytes
    source : str
        The name of the file, for messages.
    skip : str
        Datasets whose path begins so are left unread.

    Returns
    -------
    datasets : dict of str to ndarray
        By path.
    names : dict of str to str
        The attribute `name` of each group that has one, by path.

    Raises
    ------
    ArchiveError
        If it is damaged, refers to other files or claims too much.
    """
    names: dict[str, str] = {}

    def visit(path: str, item: object) -> None:
        if isinstance(item, h5py.Group) and 'name' in item.attrs:
            names[path] = str(item.attrs['name'])

    try:
        with h5py.File(io.BytesIO(data), 'r') as file:
            file.visititems(visit)
            datasets = read_datasets(file, source, len(data), skip=skip)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArchiveError(f'{source} is not a readable HDF5 file: {error}.') from error
    return datasets, names


def read_datasets(
    file: h5py.File, source: str, file_bytes: int, *, skip: str = ''
) -> dict[str, RealArray]:
    """Read the datasets of an open HDF5 file of `file_bytes` bytes; see `read_hdf5`.

    Raises
    ------
    ArchiveError
        If a dataset is refused, as for a size that its file cannot hold.
    """
    found: dict[str, h5py.Dataset] = {}

    def visit(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not (skip and path.startswith(skip)):
            found[path] = item

    # It follows neither soft nor external links, so the file cannot point outside itself.
    file.visititems(visit)
    # Chunks that were never written take no place in the file.
    left = min(MAX_MEMBER_BYTES, MAX_COMPRESSION * file_bytes)
    for path, item in found.items():
        _check_dataset(item, f'{source}: {path}')
        left -= _claimed_bytes(item)
        if left < 0:
            raise ArchiveError(
                f'{source}: {path} is refused: it claims {item.nbytes} bytes, and with what came '
                f'before more than a file of {file_bytes} bytes may hold.'
            )
    return {path: item[()] for path, item in found.items()}


def _check_dataset(item: h5py.Dataset, source: str) -> None:
    if item.external or item.is_virtual:
        raise ArchiveError(f'{source} is refused: its numbers would come from another file.')
    if item.shape is None:
        raise ArchiveError(f'{source} is refused: it holds nothing, not even a shape.')
    if item.dtype.kind not in 'biufc' or item.dtype.hasobject:
        raise ArchiveError(f'{source} is refused: it holds {item.dtype}, not numbers.')
    n_chunks, chunk_bytes = tiny_chunks(item)
    if n_chunks:
        raise ArchiveError(f'{source} is refused: it has {n_chunks} chunks of {chunk_bytes} bytes.')


def tiny_chunks(item: h5py.Dataset) -> tuple[int, int]:
    """Return number and bytes of a dataset's chunks where reading them would take minutes.

    Both are 0 where it would not.
    """
    if not item.chunks or not item.size:
        return 0, 0
    chunk_bytes = math.prod(item.chunks) * item.dtype.itemsize
    sides = zip(item.shape, item.chunks, strict=True)
    n_chunks = math.prod(-(-side // part) for side, part in sides)
    if n_chunks <= MAX_TINY_CHUNKS or chunk_bytes >= MIN_CHUNK_BYTES:
        return 0, 0
    return n_chunks, chunk_bytes


def _claimed_bytes(item: h5py.Dataset) -> int:
    """Return what reading takes: all numbers, or one chunk where that is more."""
    chunk_bytes = math.prod(item.chunks or (0,)) * item.dtype.itemsize
    return max(int(item.nbytes), int(chunk_bytes))
