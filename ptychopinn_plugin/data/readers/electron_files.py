"""Files of electron cameras, through RosettaSciIO: EMPAD, Merlin, Gatan, NanoMEGAS and TVIPS.

RosettaSciIO is loaded by name, on demand: this package works without it. Most of these formats
have no mark of their own, so that the suffix decides.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.readers.empad import (
    EMPAD_PIXEL_M,
    raw_file_of,
    read_raw_file,
    shape_in_name,
    xml_file_of,
)
from ptychopinn_plugin.data.readers.limits import limits
from ptychopinn_plugin.data.readers.matching import Product, photon_energy_of_electrons
from ptychopinn_plugin.data.readers.rasters import Raster, raster_scan, step_of
from ptychopinn_plugin.data.readers.request import ReadingRequest
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.packages import is_importable
from ptychopinn_plugin.storage.scratch import chunks, is_stored

_MODULES = {
    '.xml': 'empad',
    '.raw': 'empad',
    '.mib': 'quantumdetector',
    '.dm3': 'digitalmicrograph',
    '.dm4': 'digitalmicrograph',
    '.blo': 'blockfile',
    '.tvips': 'tvips',
}
"""RosettaSciIO reads files of each suffix by this module."""


@dataclass(frozen=True)
class _Axes:
    """The axes of an array, with the sizes of a step and their units."""

    steps: tuple[float | None, ...]
    pixels: tuple[tuple[float, str], ...]


def is_electron_file(path: Path) -> bool:
    """Return whether RosettaSciIO reads a file here, by its suffix."""
    return path.suffix.lower() in _MODULES


def read_electron_file(path: Path, request: ReadingRequest, product: Product | None = None) -> Scan:
    """Read the raster of an electron camera.

    Parameters
    ----------
    path : Path
        Of an EMPAD, the XML file or the raw file that it names.
    request : ReadingRequest
    product : Product, optional
        Positions and probe, in place of a raster with even steps.

    Raises
    ------
    DataError
        If RosettaSciIO is missing or cannot read the file, if it holds no raster, or if the size of
        a step or of a pixel is unknown.
    """
    scan_shape = request.scan_shape
    is_raw = path.suffix.lower() == '.raw'
    xml = xml_file_of(path) if is_raw else None
    if is_raw and xml is None:
        raster = _without_xml(path, scan_shape)
    else:
        raster = _raster(path, xml or path, scan_shape)
    return raster_scan(raster, path, request, product)


def _without_xml(path: Path, scan_shape: tuple[int, int] | None) -> Raster:
    """Return the raster of an EMPAD's raw file alone."""
    patterns = _in_rows(read_raw_file(path), scan_shape or shape_in_name(path), path)
    geometry = Geometry(detector_pixel_height_m=EMPAD_PIXEL_M, detector_pixel_width_m=EMPAD_PIXEL_M)
    note = 'No XML file beside it names the raw file; what it would hold is taken from the options.'
    return Raster(patterns, geometry=geometry, notes=(note,))


def _raster(path: Path, source: Path, scan_shape: tuple[int, int] | None) -> Raster:
    """Return a raster through RosettaSciIO, to which `source` is given."""
    if not is_importable('rsciio'):
        raise DataError(
            f'{path} is read by RosettaSciIO, which is not installed. '
            "Run: pip install 'ptychopinn-plugin[electron]'."
        )
    module = _MODULES[path.suffix.lower()]
    with_patterns = raw_file_of(source) if module == 'empad' else source
    found = _load(source, module)
    axes = _axes(found)
    patterns = _in_rows(_patterns(found, with_patterns), scan_shape, path)
    steps = None
    if len(axes.steps) == 2 and axes.steps[0] is not None and axes.steps[1] is not None:
        steps = (axes.steps[0], axes.steps[1])
    geometry, notes = _geometry(found, module, has_pixels=_are_known(axes.pixels))
    return Raster(patterns, steps, axes.pixels, geometry, notes)


def _load(path: Path, module: str) -> Mapping[str, Any]:
    """Return what RosettaSciIO gives of a file, whose array is not in memory yet."""
    reader = importlib.import_module(f'rsciio.{module}')
    with _failing(path):
        found = reader.file_reader(str(path), lazy=True)
    images = [item for item in found if np.ndim(item['data']) >= 3]
    if len(images) != 1:
        shapes = ', '.join(str(item['data'].shape) for item in found) or 'nothing'
        raise DataError(
            f'{path} must hold one raster of patterns, (rows, columns, height, width); it holds '
            f'{shapes}. Write the one to reconstruct into a file of its own.'
        )
    return dict(images[0])


@contextlib.contextmanager
def _failing(path: Path) -> Iterator[None]:
    """Turn what RosettaSciIO raises, whatever that is where bytes make no sense, into DataError."""
    try:
        yield
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise DataError(
            f'RosettaSciIO cannot read {path} ({reason.rstrip(".")}): it is truncated, damaged or '
            f'no {path.suffix} file. Copy or write the file again.'
        ) from error


def _axes(found: Mapping[str, Any]) -> _Axes:
    axes = sorted(found['axes'], key=lambda axis: int(axis['index_in_array']))
    sizes = [(float(axis['scale']), str(axis['units'] or '')) for axis in axes]
    return _Axes(tuple(step_of(*size) for size in sizes[:-2]), tuple(sizes[-2:]))


def _are_known(pixels: tuple[tuple[float, str], ...]) -> bool:
    return len(pixels) == 2 and all(unit not in ('', 'px') for _, unit in pixels)


def _patterns(found: Mapping[str, Any], path: Path) -> RealArray:
    """Return the patterns in memory, within the limits."""
    data = found['data']
    if data.dtype.kind not in 'uif':
        raise DataError(
            f'The patterns of {path} must be real numbers; they are {data.dtype}. Write them as '
            'counts.'
        )
    n_bytes = int(data.size) * data.dtype.itemsize
    limits().check_size(f'The patterns of {path}', n_bytes, path.stat().st_size)
    array = limits().new_array(data.shape, data.dtype.newbyteorder('='))
    # What lies in a file is computed row by row.
    for part, values in chunks(array, 1 if is_stored(array) else len(array)):
        with _failing(path):
            values[...] = np.asarray(data[part])
    return array


def _in_rows(patterns: RealArray, scan_shape: tuple[int, int] | None, path: Path) -> RealArray:
    """Return patterns as (rows, columns, height, width)."""
    height, width = patterns.shape[-2:]
    n_patterns = patterns.size // (height * width)
    if scan_shape is not None:
        rows, columns = scan_shape
        if rows * columns != n_patterns:
            raise DataError(
                f'The raster must hold the {n_patterns} patterns of {path}; {rows} x {columns} are '
                f'{rows * columns}. Give the right shape: scan_shape=(ROWS, COLUMNS) '
                '(--scan-shape ROWS,COLUMNS).'
            )
        return patterns.reshape(rows, columns, height, width)
    if patterns.ndim != 4:
        raise DataError(
            f'{path} holds a stack of {n_patterns} patterns without the shape of the raster. Give '
            'it: scan_shape=(ROWS, COLUMNS) (--scan-shape ROWS,COLUMNS).'
        )
    return patterns


def _geometry(
    found: Mapping[str, Any], module: str, *, has_pixels: bool
) -> tuple[Geometry, tuple[str, ...]]:
    """Return the energy of the electrons, and the camera length where no pixels are known."""
    microscope = _at(found, 'metadata', 'Acquisition_instrument', 'TEM')
    measured = _at(found, 'original_metadata', 'root', 'iom_measurements')
    in_gatan = _at(
        found, 'original_metadata', 'ImageList', 'TagGroup0', 'ImageTags', 'Microscope Info'
    )
    # RosettaSciIO gives it in keV, and as these cameras write it in volts.
    energy_eV = (
        _number(microscope, 'beam_energy') * 1e3
        or _number(measured, 'high_voltage')
        or _number(in_gatan, 'Voltage')
    )
    photon_energy_eV = photon_energy_of_electrons(energy_eV) if energy_eV else None
    length_m = _number(measured, 'nominal_camera_length')
    if module != 'empad' or has_pixels or not length_m:
        return Geometry(photon_energy_eV=photon_energy_eV), ()
    note = (
        f'The size of a pixel follows from the nominal camera length, {length_m:.4g} m, which may '
        'be off by a tenth. If it was calibrated, give it: --detector-distance M.'
    )
    geometry = Geometry(
        photon_energy_eV=photon_energy_eV,
        detector_distance_m=length_m,
        detector_pixel_height_m=EMPAD_PIXEL_M,
        detector_pixel_width_m=EMPAD_PIXEL_M,
    )
    return geometry, (note,)


def _at(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
    return tree


def _number(tree: Any, key: str) -> float:
    """Return a positive number of metadata; zero where there is none."""
    try:
        value = float(tree.get(key, 0.0))
    except (TypeError, ValueError, AttributeError):
        return 0.0
    return value if np.isfinite(value) and value > 0 else 0.0
