"""Bad pixels from a file of their own."""

import importlib
from pathlib import Path

import h5py
import numpy as np

from ptychopinn_plugin.array_types import BoolArray, RealArray
from ptychopinn_plugin.data.readers.hdf5 import find, open_hdf5
from ptychopinn_plugin.data.readers.limits import limits
from ptychopinn_plugin.data.readers.matlab_files import is_matlab, open_source
from ptychopinn_plugin.data.readers.npy import read_npy
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.packages import is_importable

MAX_BAD_FRACTION = 0.5
"""A mask of more than this share of the pixels is likely one of good pixels."""


_TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
"""TIFF files begin so: with the low or the high byte first, and beyond 4 GiB."""


def read_mask(path: Path) -> BoolArray:
    """Read a mask: True, or any number but zero, where a pixel is bad.

    Parameters
    ----------
    path : Path
        An NPY or TIFF file; or an HDF5 or MATLAB file whose only image is the mask, or
        `FILE:DATASET`.

    Returns
    -------
    ndarray of bool, shape (frame_height, frame_width)

    Raises
    ------
    DataError
        If there is no such file, or it holds no mask.
    """
    file, key = path, ''
    if not path.exists() and ':' in str(path):
        # The last colon parts them: on Windows a path has one of its own, after the drive.
        name, _, key = str(path).rpartition(':')
        file = Path(name)
    if not file.is_file():
        raise DataError(f'There is no file {file}. Check the path.')
    if is_matlab(file):
        found = _from_matlab(file, key)
    elif h5py.is_hdf5(file):
        found = _from_hdf5(file, key)
    else:
        found = (_from_tiff if _starts_as_tiff(file) else _from_npy)(file)
    mask = np.squeeze(found)
    if mask.ndim != 2 or mask.dtype.kind not in 'buif' or not mask.size:
        raise DataError(
            f'The mask {path} must be one image of numbers, 0 where a pixel is good; it is '
            f'{mask.dtype} of shape {mask.shape}.'
        )
    bad = np.asarray(mask != 0, dtype=bool)
    if bad.mean() > MAX_BAD_FRACTION:
        raise DataError(
            f'The mask {path} must be 0 where a pixel is good; {bad.mean():.0%} of its pixels are '
            'not. Where it marks good pixels, invert it.'
        )
    return bad


def with_mask(
    bad_pixels: BoolArray | None, mask: BoolArray | None, frame_shape: tuple[int, ...]
) -> BoolArray:
    """Return bad pixels with those of a mask.

    Parameters
    ----------
    bad_pixels, mask : ndarray of bool, shape (frame_height, frame_width), optional
    frame_shape : (frame_height, frame_width)

    Raises
    ------
    DataError
        If the mask is not of the frames' size.
    """
    shape = tuple(int(side) for side in frame_shape)
    own = np.zeros(shape, dtype=bool) if bad_pixels is None else np.asarray(bad_pixels, dtype=bool)
    if mask is None:
        return own
    if mask.shape != shape:
        raise DataError(
            f'The mask must be {shape[0]} x {shape[1]} pixels as the frames are; it is '
            f'{mask.shape[0]} x {mask.shape[1]}. Give the mask of this detector.'
        )
    # Some readers make an empty one of another size.
    own = own if own.any() else np.zeros(shape, dtype=bool)
    return mask | own if own.shape == shape else own


def _starts_as_tiff(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(4) in _TIFF_STARTS


def _from_tiff(path: Path) -> RealArray:
    if not is_importable('tifffile'):
        raise DataError(
            f'{path} is a TIFF file, which is read where tifffile is installed. '
            'Run: pip install tifffile; or write the mask as an NPY file.'
        )
    tifffile = importlib.import_module('tifffile')
    try:
        with tifffile.TiffFile(path) as file:
            image = file.series[0]
            n_bytes = int(image.size) * image.dtype.itemsize
            limits().check_size(f'The mask {path}', n_bytes, path.stat().st_size)
            return np.asarray(image.asarray())
    except DataError:
        raise
    # Its readers raise whatever comes when bytes make no sense.
    except Exception as error:
        raise DataError(
            f'{path} is a TIFF file that cannot be read ({error}). Write it again.'
        ) from error


def _from_npy(path: Path) -> RealArray:
    try:
        return read_npy(path)
    except DataError as error:
        raise DataError(
            f'A mask is read from an NPY, TIFF, HDF5 or MATLAB file. {error}'
        ) from error


def _from_matlab(path: Path, key: str) -> RealArray:
    with open_source(path) as variables:
        if not key and len(variables.names) == 1:
            key = variables.names[0]
        if key not in variables.names:
            raise DataError(
                f'{path} must hold one variable to be a mask, or this one to be named: '
                f'{path}:VARIABLE; it holds {", ".join(variables.names) or "none"}.'
            )
        return variables.read(key)


def _from_hdf5(path: Path, key: str) -> RealArray:
    with open_hdf5(path) as file:
        images: list[str] = []

        def look(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.dtype.kind in 'bui':
                images.append(name)

        if not key:
            file.visititems(look)
            if len(images) != 1:
                raise DataError(
                    f'{path} must hold one image of whole numbers to be a mask; it holds '
                    f'{", ".join(images) or "no image"}. Name the dataset: {path}:DATASET.'
                )
            key = images[0]
        found = find(file, [key])
        if found is None:
            raise DataError(f'{path} holds no dataset {key}; it holds {", ".join(file)}.')
        return found
