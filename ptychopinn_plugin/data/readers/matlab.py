"""MATLAB files: the variables of an NPZ scan, as ``save`` writes them in versions 6, 7 and 7.3.

MATLAB counts the elements of an array column by column, and so are positions and patterns matched
here: `xcoords(k)` belongs to `diff3d(:, :, k)`. Variables may lie in one struct.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.readers.matlab_files import MatlabVariables, open_source
from ptychopinn_plugin.data.readers.npz import scan_of
from ptychopinn_plugin.data.readers.request import ReadingRequest
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError

_PATTERNS = ('diff3d', 'diffraction')
_OF_POSITIONS = (
    'xcoords',
    'ycoords',
    'xcoords_start',
    'ycoords_start',
    'scan_index',
    'pattern_indexes',
)
_METADATA = '_metadata'
_MATLAB_METADATA = 'metadata'
"""No variable of MATLAB begins with an underscore."""


class Variables(Mapping[str, RealArray]):
    """The variables of a file under the names of an NPZ scan, in the shapes that those have."""

    def __init__(self, path: Path, source: MatlabVariables) -> None:
        self._path, self._source = path, source
        self._has_metadata = _MATLAB_METADATA in source.names
        self.notes: tuple[str, ...] = ()
        """They state which variables were read as what."""

    def __contains__(self, key: object) -> bool:
        if key == _METADATA:
            return self._has_metadata
        return key in self._source.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.names)

    def __len__(self) -> int:
        return len(self._source.names)

    def __getitem__(self, key: str) -> RealArray:
        if key not in self:
            raise DataError(
                f'{self._path} must hold the variable {key!r}; it holds '
                f'{", ".join(self) or "nothing"}. Save it under this name, or use the reader of '
                'an installed Ptychodus that reads these: reader=NAME (--reader NAME).'
            )
        if key == _METADATA:
            return np.array(self._metadata())
        array = self._source.read(key)
        if key in _OF_POSITIONS:
            return array.ravel(order='F')
        return self._patterns(key, array) if key in _PATTERNS else array

    def _metadata(self) -> str:
        """Return the JSON that an NPZ file holds, of a text or of a struct of numbers and texts."""
        found = self._source.read_plain(_MATLAB_METADATA)
        return found if isinstance(found, str) else json.dumps(found)

    def _patterns(self, key: str, array: RealArray) -> RealArray:
        if array.ndim == 2:
            # MATLAB leaves out a last axis of one element.
            return array[:, :, np.newaxis]
        if array.ndim != 4 or 'xcoords' not in self:
            return array
        n_positions = int(self._source.read('xcoords').size)
        first, last = array.shape[:2], array.shape[2:]
        for raster, shape in ((last, (*first, n_positions)), (first, (n_positions, *last))):
            if math.prod(raster) == n_positions:
                self.notes = (
                    f'{key} is a raster of {raster[0]} x {raster[1]}, which was taken column by '
                    'column, as MATLAB counts.',
                )
                return array.reshape(shape, order='F')
        return array


@contextlib.contextmanager
def open_matlab(path: Path) -> Iterator[Variables]:
    """Open a file of MATLAB for reading.

    Raises
    ------
    DataError
        If it is damaged, which may only show inside the block.
    """
    with open_source(path, _PATTERNS) as source:
        yield Variables(path, source)


def read_matlab(path: Path, request: ReadingRequest) -> Scan:
    """Read a scan from a file of MATLAB; its variables are those of `read_npz`.

    Raises
    ------
    DataError
        If a variable is missing, is not what it must be, or the file is damaged.
    """
    with open_matlab(path) as variables:
        scan = scan_of(variables, request)
        return dataclasses.replace(scan, notes=(*variables.notes, *scan.notes))
