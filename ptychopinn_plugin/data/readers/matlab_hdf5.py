"""MATLAB 7.3 files, which are HDF5.

Arrays have their axes in the reverse order; complex numbers are pairs of `real` and `imag`, texts
are numbers of characters, a struct is a group, and a cell array holds references to its elements.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.readers.hdf5 import (
    attribute_value,
    find_dataset,
    open_hdf5,
    read_array,
    text_attribute,
)
from ptychopinn_plugin.data.readers.hdf5_links import check_links, check_readable
from ptychopinn_plugin.data.readers.limits import limits
from ptychopinn_plugin.errors import DataError

MAX_STRUCT_DEPTH = 4
"""Structs in structs of the metadata are read down to this depth."""

_CLASS = 'MATLAB_class'
_INTERNAL = '#'
"""Names that begin so hold what MATLAB keeps for itself, as the elements of cell arrays."""


@contextlib.contextmanager
def open_matlab_hdf5(path: Path, patterns: Sequence[str]) -> Iterator['_Source']:
    """Open a MATLAB 7.3 file; where it holds none of `patterns`, its one struct that does.

    Raises
    ------
    DataError
        If it is damaged, which may only show inside the block.
    """
    with open_hdf5(path) as file:
        yield _Source(path, file, _holder(file, patterns))


def _holder(file: Any, patterns: Sequence[str]) -> Any:
    """Return the group with the variables of the scan: the file, or a struct in it."""
    if any(name in file for name in patterns):
        return file
    structs = []
    for name in file:
        is_own = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if is_own and isinstance(file[name], h5py.Group) and not name.startswith(_INTERNAL):
            structs.append(file[name])
    found = [group for group in structs if any(name in group for name in patterns)]
    return found[0] if len(found) == 1 else file


class _Source:
    """The variables of a file or struct."""

    def __init__(self, path: Path, file: Any, group: Any) -> None:
        self._path, self._file, self._group = path, file, group
        self.names = tuple(name for name in group if not name.startswith(_INTERNAL))

    def read(self, name: str) -> RealArray:
        """Return an array of numbers with its axes as MATLAB has them.

        Raises
        ------
        DataError
            If it is no such array, or a cell array whose elements are not all of one shape.
        """
        dataset = find_dataset(self._group, [name])
        if dataset is None:
            sparse = 'MATLAB_sparse' in self._group[name].attrs
            kind = 'a sparse matrix' if sparse else 'a struct'
            advice = f'full({name})' if sparse else 'its field'
            raise DataError(f'{self._not_numbers(name, kind)} Save {advice} under this name.')
        if dataset.dtype.kind == 'O':
            return self._cells(name, dataset)
        return self._numbers(name, dataset)

    def read_plain(self, name: str) -> Any:
        """Return a text, a number, or a struct of such as a dict; None for anything else."""
        return self._plain(self._group, name, 0)

    def _plain(self, group: Any, name: str, depth: int) -> Any:
        check_links(group, name)
        item = group.get(name)
        if isinstance(item, h5py.Group) and depth < MAX_STRUCT_DEPTH:
            return {key: self._plain(item, key, depth + 1) for key in item}
        if not isinstance(item, h5py.Dataset):
            return None
        check_readable(item)
        # A dataset of HDF5 may have no shape, and then no values.
        if item.shape is None or item.dtype.kind not in 'uif':
            return None
        if text_attribute(item, _CLASS) == 'char' and item.dtype.kind == 'u':
            codes = np.asarray(item[()]).T.ravel(order='F').astype('<u2')
            return '' if _is_empty(item) else codes.tobytes().decode('utf-16-le', 'replace')
        return float(item[()].ravel()[0]) if item.size == 1 and not _is_empty(item) else None

    def _numbers(self, name: str, dataset: Any) -> RealArray:
        kind = text_attribute(dataset, _CLASS)
        fields = dataset.dtype.fields or {}
        if kind == 'char' or (dataset.dtype.kind not in 'uif' and set(fields) != {'real', 'imag'}):
            raise DataError(
                f'{self._not_numbers(name, kind or str(dataset.dtype))} Save numbers under this '
                'name.'
            )
        if _is_empty(dataset):
            # The numbers stored are then the sides of the array, of which one is zero.
            return np.zeros(0)
        if not fields:
            return read_array(dataset).T
        values = np.asarray(dataset[()])
        parts = [values[part] for part in ('real', 'imag')]
        single = parts[0].dtype == np.float32
        array = np.empty(values.shape, dtype=np.complex64 if single else np.complex128)
        array.real, array.imag = parts
        return array.T

    def _cells(self, name: str, dataset: Any) -> RealArray:
        """Return the elements of a cell array, which are images of one shape, as its last axes."""
        references = np.asarray(dataset[()]).T
        found = [self._cell(name, reference) for reference in references.ravel(order='F')]
        shapes = {item.shape for item in found}
        if len(shapes) != 1:
            raise DataError(
                f'The cells of {name!r} of {self._path} must all be of one size; they are '
                f'{", ".join(str(shape[::-1]) for shape in sorted(shapes)[:3]) or "none"}. Save '
                'those of one size.'
            )
        n_bytes = sum(item.size * item.dtype.itemsize for item in found)
        limits().check_size(f'{name!r} of {self._path}', n_bytes, self._path.stat().st_size)
        first = self._numbers(name, found[0])
        stack = limits().new_array((len(found), *first.shape), first.dtype)
        for number, item in enumerate(found):
            stack[number] = self._numbers(name, item)
        if 1 in references.shape:
            return np.moveaxis(stack, 0, -1)
        # The number of a cell runs along its column first.
        raster = stack.reshape(*references.shape[::-1], *first.shape)
        return np.moveaxis(raster, (1, 0), (-2, -1))

    def _cell(self, name: str, reference: Any) -> Any:
        item = self._file[reference] if reference else None
        if isinstance(item, h5py.Dataset):
            check_readable(item)
            if item.dtype.kind != 'O':
                return item
        raise DataError(
            f'{self._not_numbers(name, "a cell array of other than images")} Save one image in '
            'each cell.'
        )

    def _not_numbers(self, name: str, kind: str) -> str:
        return f'{name!r} of {self._path} must be an array of numbers; it is {kind}.'


def _is_empty(dataset: Any) -> bool:
    return bool(np.any(attribute_value(dataset, 'MATLAB_empty', 0)))
