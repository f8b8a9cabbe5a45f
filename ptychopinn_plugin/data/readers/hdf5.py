"""Opening HDF5 files: what is wrong with one becomes a DataError."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.readers.hdf5_links import (
    HDF5_DAMAGE,
    broken_link,
    check_links,
    check_readable,
    refuse_special_files,
)
from ptychopinn_plugin.data.readers.limits import READ_PATTERNS, limits
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import chunks, is_stored

_NUMBERS = {'buif': 'real numbers', 'buifc': 'numbers'}


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; a damaged one is a DataError, whenever it shows.

    Raises
    ------
    DataError
        If there is no such file, or it is damaged, which may only show inside the block.
    """
    try:
        with h5py.File(path, 'r') as file:
            refuse_special_files(file)
            yield file
    except FileNotFoundError as error:
        raise DataError(f'There is no file {path}. Check the path.') from error
    except HDF5_DAMAGE as error:
        reason = ' '.join(str(error).split()).strip('\'"')
        raise DataError(
            f'{path} is truncated, damaged or no HDF5 file ({reason}). '
            'Copy or write the file again.'
        ) from error


def find(file: Any, keys: Sequence[str], *, kinds: str = 'buif') -> RealArray | None:
    """Return the numbers of the first dataset of these names; None where there is none.

    One that is too large for the memory lies in a file: see `storage.scratch`.

    `kinds` are NumPy's letters of the types that they may have; 'buifc' allows complex numbers.

    Raises
    ------
    DataError
        If it holds no such numbers, or its file, or what decompresses it, is missing.
    """
    dataset = find_dataset(file, keys)
    if dataset is None:
        return None
    _check_numbers(dataset, kinds)
    return read_array(dataset)


def _check_numbers(dataset: Any, kinds: str) -> None:
    if dataset.dtype.kind not in kinds or dataset.shape is None:
        kind = 'nothing' if dataset.shape is None else dataset.dtype
        raise DataError(
            f'{dataset.name} of {dataset.file.filename} must hold {_NUMBERS[kinds]}; it holds '
            f'{kind}. Write the file again.'
        )


def read_array(dataset: Any) -> RealArray:
    """Return a dataset that `check_readable` has passed, in a file where memory is too small."""
    if not dataset.shape or not dataset.size or dataset.dtype.kind not in 'biufc':
        return np.asarray(dataset[()])
    array = limits().new_array(dataset.shape, dataset.dtype)
    for part, _ in chunks(array, READ_PATTERNS if is_stored(array) else len(array)):
        dataset.read_direct(array, part, part)
    return array


def find_dataset(file: Any, keys: Sequence[str]) -> Any | None:
    """Return the first dataset of these names, which can be read; None where there is none.

    Raises
    ------
    DataError
        If the first name that is there leads to a file that is missing.
    """
    for key in keys:
        check_links(file, key)
        broken = broken_link(file, key)
        if broken:
            raise DataError(
                f'{file.filename}: {broken}. Copy that file to the same folder, or write this one '
                'again.'
            )
        if key in file and isinstance(file[key], h5py.Dataset):
            check_readable(file[key])
            return file[key]
    return None


def need(file: Any, *keys: str, kinds: str = 'buif') -> RealArray:
    """Return the first dataset of these names; without one, a DataError names them.

    Raises
    ------
    DataError
        If the file has none of them.
    """
    dataset = need_dataset(file, *keys)
    _check_numbers(dataset, kinds)
    return read_array(dataset)


def need_dataset(file: Any, *keys: str) -> Any:
    """Return the first dataset of these names, which can be read; see `need`.

    Raises
    ------
    DataError
        If the file has none of them.
    """
    dataset = find_dataset(file, keys)
    if dataset is None:
        raise DataError(
            f'{file.filename} must hold the dataset {" or ".join(keys)}; '
            f'it holds {", ".join(file) or "nothing"}.'
        )
    return dataset


def find_number(file: Any, keys: Sequence[str]) -> float | None:
    """Return the first of these datasets as a number; None where there is none."""
    dataset = find_dataset(file, keys)
    if dataset is None or not dataset.size or dataset.dtype.kind not in 'uif':
        return None
    return float(np.asarray(dataset[()]).ravel()[0])


def attribute_value(item: Any, key: str, default: Any) -> Any:
    """Return an attribute as h5py gives it.

    Raises
    ------
    DataError
        If h5py cannot read its type, as in a damaged file.
    """
    try:
        return item.attrs.get(key, default)
    except (TypeError, ValueError) as error:
        raise DataError(
            f'The attribute {key!r} of {item.name} of {item.file.filename} must be a number or a '
            f'text; its type is neither, or damaged ({error}). Write the file again.'
        ) from error


def attribute(item: Any, key: str) -> float | None:
    """Return an attribute as a number; None where there is none."""
    value = np.asarray(attribute_value(item, key, np.nan))
    if value.size == 0 or value.dtype.kind not in 'uif' or not np.isfinite(value.ravel()[0]):
        return None
    return float(value.ravel()[0])


def text_attribute(item: Any, key: str) -> str:
    """Return an attribute as text; nothing where there is none."""
    value = attribute_value(item, key, '')
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)


def stack_of(patterns: RealArray, where: str) -> RealArray:
    """Return a stack of real images; those of a raster (rows, columns, height, width) row by row.

    Raises
    ------
    DataError
        If `patterns` are not such images, or there are none.
    """
    if patterns.ndim not in (3, 4) or patterns.dtype.kind not in 'uif':
        raise DataError(
            f'{where} must be real numbers of shape (n_patterns, height, width) or (rows, columns, '
            f'height, width); it is {patterns.dtype} of shape {patterns.shape}.'
        )
    if not patterns.size:
        raise DataError(f'{where} holds no pattern; at least one is needed.')
    return patterns.reshape(-1, *patterns.shape[-2:])
