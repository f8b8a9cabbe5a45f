"""What a scan's file may lead to: other files, and memory.

Scans are files of strangers. A link in one could read another file of this machine as patterns, and
a few kilobytes could claim all of its memory.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import new_array
from ptychopinn_plugin.text import count

MAX_EXPANSION = 500
"""An array may be this many times larger than the file it comes from.

Counts of few photons shrink to a hundredth at most; zeros alone shrink to a thousandth.
"""

FREE_BYTES = 64 << 20
"""Arrays up to this size may shrink as much as they like."""

READ_PATTERNS = 256
"""Readers go through a file by this number of patterns, as not all may fit into memory."""


@dataclass
class Limits:
    """What one reading may lead to.

    Attributes
    ----------
    allow_links : bool
        Whether links may lead out of the folder of the file that holds them.
    max_bytes : int, optional
        What an array may take; where not given, `MAX_EXPANSION` times its file.
    memory_bytes : int, optional
        What patterns, and the roots that backends make of them, may take in memory; larger ones lie
        in a file. Where not given, `storage.scratch` decides by what this machine has left.
    followed : dict of Path to Path
        The other files that were read, and the one that named each.
    roots : set of Path
        The folders of the files that the user named.
    """

    allow_links: bool = False
    max_bytes: int | None = None
    memory_bytes: int | None = None
    followed: dict[Path, Path] = field(default_factory=dict)
    roots: set[Path] = field(default_factory=set)

    def follow(self, found: Path, owner: Path, what: str) -> None:
        """Take down that a file is read which another one names, or refuse it.

        Parameters
        ----------
        found : Path
            The file that exists.
        owner : Path
            The file that names it; the user named that one, or it was followed before.
        what : str
            The beginning of a message: what leads where.

        Raises
        ------
        DataError
            If it is no regular file, or lies outside of the folder that is allowed.
        """
        target, folder = found.resolve(), owner.parent.resolve()
        if not stat.S_ISREG(target.stat().st_mode):
            raise DataError(f'{what}, which is no regular file. It is not read.')
        if owner.resolve() not in self.followed:
            # The user named it. Where it is a symbolic link, what it leads to may lie elsewhere.
            self.roots |= {folder, owner.resolve().parent}
        if not self.allow_links and not any(target.is_relative_to(root) for root in self.roots):
            raise DataError(
                f'{what}, which lies outside the folder {folder}. If you trust the file, use '
                'allow_links=True (--allow-links), or copy the other file to that folder.'
            )
        self.followed.setdefault(target, owner)

    def check_size(self, what: str, claimed: int, file_bytes: int) -> None:
        """Raise DataError where an array is larger than it may be.

        Parameters
        ----------
        what : str
        claimed : int
            Bytes of the array in memory.
        file_bytes : int
            Of the files that it comes from.

        Raises
        ------
        DataError
            If it takes more than is allowed, or grows too much from its file.
        """
        option = 'If that is right, use max_gib=N (--max-gib N)'
        if self.max_bytes is not None:
            if claimed > self.max_bytes:
                raise DataError(
                    f'{what} would take {size_in_words(claimed)}; max_gib (--max-gib) allows '
                    f'{size_in_words(self.max_bytes)}.'
                )
            return
        if claimed > FREE_BYTES and claimed > MAX_EXPANSION * file_bytes:
            raise DataError(
                f'{what} would grow from a file of {size_in_words(file_bytes)} to '
                f'{size_in_words(claimed)}, more than {MAX_EXPANSION} times, as no counts '
                f'do. {option} with at least {claimed / 2**30:.3g}.'
            )

    def new_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> RealArray:
        """Return an array for what a file holds, in memory or, if it is too large, in a file."""
        memory_bytes = self.memory_bytes
        if memory_bytes is not None:
            # Backends keep the roots of counts, in float32, beside the counts.
            size = np.dtype(dtype).itemsize
            memory_bytes = memory_bytes * size // (size + np.dtype(np.float32).itemsize)
        return new_array(shape, dtype, memory_bytes=memory_bytes)

    def notes(self) -> tuple[str, ...]:
        """Return a note that names the other files, where there are any."""
        if not self.followed:
            return ()
        names = ', '.join(sorted(str(path) for path in self.followed)[:3])
        more = len(self.followed) - 3
        others = f' and {more} more' if more > 0 else ''
        return (f'Read from {count(len(self.followed), "other file")} as well: {names}{others}.',)


_in_force: ContextVar[Limits | None] = ContextVar('limits', default=None)


def limits() -> Limits:
    """Return the limits of the reading under way; outside of one, the strict ones."""
    return _in_force.get() or Limits()


@contextmanager
def reading_with(chosen: Limits) -> Iterator[Limits]:
    """Put limits in force for what the block reads."""
    token = _in_force.set(chosen)
    try:
        yield chosen
    finally:
        _in_force.reset(token)


def size_in_words(size: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit, scale in (('GiB', 2**30), ('MiB', 2**20), ('KiB', 2**10)):
        if size >= scale:
            return f'{size / scale:.3g} {unit}'
    return f'{size} bytes'
