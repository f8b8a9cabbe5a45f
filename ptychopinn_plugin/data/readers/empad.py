"""The two files of an EMPAD: a raw one with the frames, and one in XML that names it."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.readers.limits import READ_PATTERNS, limits
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import chunks

_FRAME = np.dtype([('patterns', '<f4', (128, 128)), ('footer', '<f4', (2, 128))])
"""A frame is followed by two rows of the camera's own."""

EMPAD_PIXEL_M = 150e-6
MAX_XML_BYTES = 16 << 20
MAX_XML_FILES = 100
"""In a folder, this many are looked at to find the one that names a raw file."""


def _raw_name(path: Path) -> str | None:
    """Return the raw file that the XML file of an EMPAD names; None where it names none."""
    if path.stat().st_size > MAX_XML_BYTES:
        return None
    try:
        item = ElementTree.parse(path).getroot().find('raw_file')
    except ElementTree.ParseError:
        return None
    return None if item is None else item.get('filename')


def raw_file_of(path: Path) -> Path:
    """Return the raw file that the XML file of an EMPAD names.

    Raises
    ------
    DataError
        If there is no such file, it holds no whole frames, or it may not be read.
    """
    name = _raw_name(path)
    if name is None:
        raise DataError(
            f'{path} must be the XML file of an EMPAD, with the element raw_file and its filename; '
            'it is not. Copy it again, or name another file.'
        )
    raw = path.parent / name
    if not raw.is_file():
        raise DataError(
            f'{raw}, the raw file that {path} names, is missing. Put it there under this name.'
        )
    limits().follow(raw, path, f'{path} names the raw file {raw}')
    _check_frames(raw)
    return raw


def xml_file_of(path: Path) -> Path | None:
    """Return the XML file beside a raw file that names it; None where there is none."""
    for candidate in sorted(path.parent.glob('*.xml'))[:MAX_XML_FILES]:
        name = _raw_name(candidate)
        if name is not None and (path.parent / name).resolve() == path.resolve():
            return candidate
    return None


def shape_in_name(path: Path) -> tuple[int, int] | None:
    """Return (rows, columns) of a raw file called as the camera calls it, `scan_x128_y64.raw`."""
    found = re.search(r'_x(\d+)_y(\d+)$', path.stem)
    return None if found is None else (int(found[2]), int(found[1]))


def read_raw_file(path: Path) -> RealArray:
    """Return all patterns of a raw file, shape (n_patterns, 128, 128).

    Raises
    ------
    DataError
        If it holds no whole frames, or more than memory allows.
    """
    n_bytes = _check_frames(path)
    limits().check_size(f'The patterns of {path}', n_bytes, n_bytes)
    frames = np.memmap(path, _FRAME, mode='r')
    patterns = limits().new_array((len(frames), *_FRAME['patterns'].shape), np.float32)
    for part, values in chunks(patterns, READ_PATTERNS):
        values[...] = frames['patterns'][part]
    return patterns


def _check_frames(path: Path) -> int:
    """Return the size of a raw file, which holds whole frames."""
    n_bytes = path.stat().st_size
    if n_bytes % _FRAME.itemsize or not n_bytes:
        raise DataError(
            f'{path} must hold frames of {_FRAME.itemsize} bytes, 130 x 128 floats; its {n_bytes} '
            'bytes are not a whole number of them. Copy the file again.'
        )
    return n_bytes
