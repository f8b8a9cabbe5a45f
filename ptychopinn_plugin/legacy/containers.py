"""Zip and HDF5 files of unknown origin, read in memory and within limits.

Nothing is unpacked to disk, so a name cannot lead out of a folder; names that try are refused all
the same, as such a file was made to do harm.
"""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import h5py

from ptychopinn_plugin.arrays import RealArray
from ptychopinn_plugin.errors import ArchiveError

LARGEST_MEMBER_BYTES = 2 << 30
LARGEST_TEXT_BYTES = 32 << 20
LARGEST_SUM_BYTES = 8 << 30
MOST_MEMBERS = 20_000
LARGEST_RATIO = 250
"""Weights shrink to about nine tenths and texts to a tenth; zeros alone shrink to a thousandth."""

RATIO_FLOOR_BYTES = 16 << 20
"""Smaller members may shrink as much as they like."""


class SafeZip:
    """A zip whose members are read by name.

    Parameters
    ----------
    archive : zipfile.ZipFile
    source : str
        For messages.
    """

    def __init__(self, archive: zipfile.ZipFile, source: str) -> None:
        self._archive, self.source = archive, source
        self._sizes = {info.filename: info for info in archive.infolist()}
        self._check()

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def names(self) -> list[str]:
        """Return the names of all members."""
        return list(self._sizes)

    def read(self, name: str, *, largest: int = LARGEST_MEMBER_BYTES) -> bytes:
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
        size = self._sizes[name].file_size
        if size > largest:
            raise ArchiveError(
                f'{self.source}: {name} has {size} bytes; at most {largest} are read.'
            )
        try:
            return self._archive.read(name)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise ArchiveError(
                f'{self.source}: {name} is damaged: {error}. Copy the file again.'
            ) from error

    def _check(self) -> None:
        infos = self._archive.infolist()
        if len(infos) > MOST_MEMBERS:
            raise ArchiveError(
                f'{self.source} is refused: {len(infos)} members; at most {MOST_MEMBERS}.'
            )
        if len(infos) != len(self._sizes):
            raise ArchiveError(f'{self.source} is refused: two of its members have one name.')
        for info in infos:
            path = PurePosixPath(info.filename.replace('\\', '/'))
            if path.is_absolute() or '..' in path.parts or ':' in info.filename:
                raise ArchiveError(
                    f'{self.source} is refused: the member {info.filename!r} points outside.'
                )
            size, packed = info.file_size, max(1, info.compress_size)
            if size > LARGEST_MEMBER_BYTES or (
                size > RATIO_FLOOR_BYTES and size / packed > LARGEST_RATIO
            ):
                raise ArchiveError(
                    f'{self.source} is refused: {info.filename} would grow from {packed} to {size} '
                    'bytes.'
                )
        total = sum(info.file_size for info in infos)
        if total > LARGEST_SUM_BYTES:
            raise ArchiveError(f'{self.source} is refused: it would grow to {total} bytes.')


@contextlib.contextmanager
def open_zip(file: Path | bytes, source: str) -> Iterator[SafeZip]:
    """Open a zip of a path or of bytes.

    Raises
    ------
    ArchiveError
        If it is no zip, or exceeds the limits.
    """
    with contextlib.ExitStack() as stack:
        try:
            stream = io.BytesIO(file) if isinstance(file, bytes) else file
            archive = stack.enter_context(zipfile.ZipFile(stream))
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ArchiveError(f'{source} is not a readable zip: {error}.') from error
        yield SafeZip(archive, source)


def read_hdf5(data: bytes, source: str) -> tuple[dict[str, RealArray], dict[str, str]]:
    """Read the datasets of an HDF5 file in memory.

    Parameters
    ----------
    data : bytes
    source : str
        For messages.

    Returns
    -------
    datasets : dict of str to ndarray
        By path.
    names : dict of str to str
        The attribute `name` of each group that has one, by path.

    Raises
    ------
    ArchiveError
        If it is damaged, or refers to other files.
    """
    datasets: dict[str, RealArray] = {}
    names: dict[str, str] = {}

    def visit(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[path] = _read_dataset(item, f'{source}: {path}', len(data))
        elif isinstance(item, h5py.Group) and 'name' in item.attrs:
            names[path] = str(item.attrs['name'])

    try:
        with h5py.File(io.BytesIO(data), 'r') as file:
            # Follows neither soft nor external links, so the file cannot point outside itself.
            file.visititems(visit)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArchiveError(f'{source} is not a readable HDF5 file: {error}.') from error
    return datasets, names


def _read_dataset(item: h5py.Dataset, source: str, file_bytes: int) -> RealArray:
    if item.external or item.is_virtual:
        raise ArchiveError(f'{source} is refused: its numbers would come from another file.')
    if item.dtype.kind not in 'biufc' or item.dtype.hasobject:
        raise ArchiveError(f'{source} is refused: it holds {item.dtype}, not numbers.')
    # Chunks that were never written take no place in the file.
    if item.nbytes > LARGEST_RATIO * file_bytes:
        raise ArchiveError(f'{source} is refused: it claims {item.nbytes} bytes.')
    values: RealArray = item[()]
    return values
