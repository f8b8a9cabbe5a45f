"""MATLAB files of either format, distinguished by their first bytes, as named variables."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.readers.matlab_hdf5 import open_matlab_hdf5
from ptychopinn_plugin.data.readers.matlab_v5 import open_matlab_v5

_HDF5_START = b'MATLAB 7.3 MAT-file'
_V5_START = b'MATLAB 5.0 MAT-file'


class MatlabVariables(Protocol):
    """The variables of an open file."""

    names: tuple[str, ...]

    def read(self, name: str) -> RealArray:
        """Return an array of numbers with its axes as MATLAB has them; else raise a DataError."""

    def read_plain(self, name: str) -> Any:
        """Return a text, a number, or a struct of such as a dict; None for anything else."""


def is_matlab(path: Path) -> bool:
    """Return whether a file is one of MATLAB, version 6 or newer, by its first bytes."""
    return _start(path) in (_V5_START, _HDF5_START)


@contextlib.contextmanager
def open_source(path: Path, patterns: Sequence[str] = ()) -> Iterator[MatlabVariables]:
    """Open a file of MATLAB for reading.

    Parameters
    ----------
    path : Path
    patterns : sequence of str
        A struct that holds one of these is opened in place of a file that holds none.

    Raises
    ------
    DataError
        If it is damaged, which may only show inside the block.
    """
    if _start(path) == _HDF5_START:
        with open_matlab_hdf5(path, patterns) as in_hdf5:
            yield in_hdf5
    else:
        with open_matlab_v5(path) as in_v5:
            yield in_v5


def _start(path: Path) -> bytes:
    if not path.is_file():
        return b''
    with path.open('rb') as file:
        return file.read(len(_V5_START))
