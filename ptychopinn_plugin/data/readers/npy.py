"""NPY files, and the headers of the arrays in NPZ files: nothing is taken on trust."""

import contextlib
import math
from pathlib import Path
from typing import IO, Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.untrusted import NUMPY_ERRORS

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, Any]:
    """Return shape, whether the first index runs fastest, and type of the NPY data that follow.

    Raises
    ------
    KeyError
        If the file is of a later version of the format.
    """
    header: tuple[tuple[int, ...], bool, Any] = _HEADERS[np.lib.format.read_magic(file)](file)
    return header


def check_claim(what: str, shape: tuple[int, ...], kind: Any, file_bytes: int) -> None:
    """Raise DataError where a header claims more numbers than its file can hold."""
    if not kind.hasobject and math.prod(shape) * kind.itemsize > file_bytes:
        raise DataError(
            f'{what} claims the shape {shape}, for which its {file_bytes} bytes are too few. '
            'Copy or write the file again.'
        )


def read_npy(path: Path) -> RealArray:
    """Read the array of an NPY file, never with pickle.

    Raises
    ------
    DataError
        If it is no NPY file, is damaged, or claims more numbers than it holds.
    """
    try:
        with path.open('rb') as file:
            with contextlib.suppress(KeyError):
                shape, _, kind = read_header(file)
                check_claim(str(path), shape, kind, path.stat().st_size)
            file.seek(0)
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except DataError:
        raise
    except NUMPY_ERRORS as error:
        raise DataError(
            f'{path} is damaged, or is no NPY file of numbers. Write it again with numpy.save.'
        ) from error
