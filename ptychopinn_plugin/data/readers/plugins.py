"""Whatever an installed Ptychodus can read, through its own registry of file readers.

Ptychodus is loaded by name, on demand: this package works without it.
"""

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin import ptychodus_names
from ptychopinn_plugin.arrays import ComplexArray
from ptychopinn_plugin.data.readers.domain import Domain, to_counts
from ptychopinn_plugin.data.readers.hdf5 import check_stack
from ptychopinn_plugin.data.readers.joining import (
    Measurement,
    Product,
    join,
    load_name,
    single_layer,
    single_probe,
)
from ptychopinn_plugin.data.scan import Geometry, Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.installed import is_importable

# Readers of many beamlines fail in many ways on a file that is not theirs.
_READER_ERRORS = (
    OSError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
)


def read_with_ptychodus(
    path: Path,
    name: str,
    *,
    product: Product | Path | None = None,
    positions: Path | None = None,
    domain: Domain | None,
    probe: ComplexArray | None = None,
) -> Scan:
    """Read a scan with one of Ptychodus' readers.

    Parameters
    ----------
    path : Path
        The file of the patterns.
    name : str
        The reader's name, as `reader_names` lists them.
    product : Product or Path, optional
        Positions, probe and object, or a file from which the product reader `name` reads them.
    positions : Path, optional
        A file of positions, for the position reader `name`, or CSV or TXT by its suffix.
        With neither, the patterns' own file must hold the positions.
    domain : 'counts' or 'amplitudes', optional
        'counts' where not given.
    probe : ndarray of complex, shape (n_modes, height, width), optional
        Used in place of any other.

    Raises
    ------
    DataError
        If Ptychodus is missing, has no such reader, or its reader fails.
    """
    registry = _registry()
    dataset = _read(_strategy(registry.diffraction_file_readers, name, 'patterns'), path, name)
    measurement, middle = _measurement(dataset, path, name, domain or 'counts')
    if not isinstance(product, Product):
        product = _product(registry, path, name, product, positions)
    probe = product.probe if probe is None else probe
    if probe is not None:
        measurement = _cropped(measurement, middle, (probe.shape[-2], probe.shape[-1]))
    return join(measurement, product, name=load_name(path), probe=probe)


def reader_names() -> list[str]:
    """Return the names of the readers of patterns that the installed Ptychodus has."""
    return _names(_registry().diffraction_file_readers)


@functools.cache
def _registry() -> Any:
    if not is_importable('ptychodus'):
        raise DataError(
            'Reading with reader=NAME (--reader NAME) needs Ptychodus, which is not installed. '
            'Run: pip install ptychodus.'
        )
    return importlib.import_module('ptychodus.api.plugins').PluginRegistry.load_plugins()


def _names(chooser: Any) -> list[str]:
    return sorted(plugin.simple_name for plugin in chooser)


def _find(chooser: Any, name: str) -> Any | None:
    folded = name.casefold()
    for plugin in chooser:
        if folded in (plugin.simple_name.casefold(), plugin.display_name.casefold()):
            return plugin.strategy
    return None


def _strategy(chooser: Any, name: str, what: str) -> Any:
    strategy = _find(chooser, name)
    if strategy is None:
        raise DataError(
            f'Ptychodus has no reader {name!r} of {what}. It has: {", ".join(_names(chooser))}.'
        )
    return strategy


def _read(strategy: Any, path: Path, name: str) -> Any:
    if not path.exists():
        raise DataError(f'There is no file {path}. Check the path.')
    try:
        return strategy.read(path)
    except _READER_ERRORS as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise DataError(
            f"Ptychodus' reader {name!r} cannot read {path}: {reason}. "
            'Choose another reader or file.'
        ) from error


def _measurement(
    dataset: Any, path: Path, name: str, domain: Domain
) -> tuple[Measurement, tuple[int, int]]:
    try:
        arrays = [(array.get_indexes(), array.get_patterns()) for array in dataset]
    except _READER_ERRORS as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise DataError(
            f"Ptychodus' reader {name!r} cannot read the patterns of {path}: {reason}. "
            'Check that all files of the scan are there.'
        ) from error
    if not arrays:
        raise DataError(f'{path} holds no pattern for the reader {name!r}; is it the right one?')
    indexes = np.concatenate([np.asarray(each[0]) for each in arrays]).astype(np.int64)
    stacks = [np.asarray(each[1]) for each in arrays]
    patterns = stacks[0] if len(stacks) == 1 else np.concatenate(stacks)
    check_stack(patterns, f'The patterns of {path}')
    metadata = dataset.get_metadata()
    pixel = metadata.detector_pixel_geometry
    height, width = patterns.shape[1:]
    middle = ptychodus_names.beam_center_px(metadata) or (height // 2, width // 2)
    geometry = Geometry(
        photon_energy_eV=ptychodus_names.photon_energy_eV(metadata),
        detector_distance_m=metadata.detector_distance_m,
        detector_pixel_height_m=None if pixel is None else float(pixel.height_m),
        detector_pixel_width_m=None if pixel is None else float(pixel.width_m),
    )
    bad_pixels = np.asarray(dataset.get_bad_pixels(), dtype=bool)
    return Measurement(to_counts(patterns, domain), indexes, bad_pixels, geometry), middle


def _cropped(
    measurement: Measurement, middle: tuple[int, int], shape: tuple[int, int]
) -> Measurement:
    """Cut raw frames around the beam to the size of the probe, as Ptychodus does when it loads."""
    height, width = measurement.patterns.shape[1:]
    if shape == (height, width):
        return measurement
    top, left = middle[0] - shape[0] // 2, middle[1] - shape[1] // 2
    if top < 0 or left < 0 or top + shape[0] > height or left + shape[1] > width:
        raise DataError(
            f'Patterns of {height} x {width} pixels cannot be cut to the {shape[0]} x {shape[1]} '
            f'of the probe around the beam at (row, column) {middle}. Give a probe that fits.'
        )
    window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
    bad = measurement.bad_pixels
    return dataclasses.replace(
        measurement,
        patterns=np.ascontiguousarray(measurement.patterns[:, *window]),
        bad_pixels=None if bad is None else bad[window],
        notes=(
            *measurement.notes,
            f'Frames of {height} x {width} pixels were cut to {shape[0]} x {shape[1]} '
            f'around (row, column) {middle}.',
        ),
    )


def _product(
    registry: Any, path: Path, name: str, product: Path | None, positions: Path | None
) -> Product:
    if positions is not None:
        chooser = registry.probe_position_file_readers
        by_suffix = {'.csv': 'CSV', '.txt': 'TXT'}.get(positions.suffix.lower(), name)
        reader = name if _find(chooser, name) is not None else by_suffix
        return _positions(_read(_strategy(chooser, reader, 'positions'), positions, reader))
    reader_of_products = _find(registry.product_file_readers, name)
    if product is not None:
        reader_of_products = _strategy(registry.product_file_readers, name, 'products')
    if reader_of_products is not None:
        return _from_product(_read(reader_of_products, product or path, name))
    reader_of_positions = _find(registry.probe_position_file_readers, name)
    if reader_of_positions is None:
        raise DataError(
            f'The reader {name!r} gives patterns alone, and positions are needed. Say product=FILE '
            '(--product FILE, a product.h5) or positions=FILE (--positions FILE).'
        )
    return _positions(_read(reader_of_positions, path, name))


def _positions(sequence: Any) -> Product:
    if not len(sequence):
        raise DataError('The file of positions holds none; at least one is needed.')
    return Product(
        indexes=ptychodus_names.position_indexes(sequence),
        positions_m=ptychodus_names.positions_m(sequence),
    )


def _from_product(product: Any) -> Product:
    parts = _positions(product.probe_positions)
    probe, probe_notes = single_probe(product.probes.get_array())
    object_, object_notes = single_layer(product.object_.get_array())
    metadata = product.metadata
    geometry = Geometry(
        photon_energy_eV=ptychodus_names.photon_energy_eV(metadata) or None,
        detector_distance_m=metadata.detector_distance_m or None,
    )
    center = None
    try:
        pixel = product.object_.get_pixel_geometry()
        geometry = dataclasses.replace(
            geometry, pixel_height_m=float(pixel.height_m), pixel_width_m=float(pixel.width_m)
        )
        center = ptychodus_names.place_m(product.object_.get_center())
    except ValueError:
        # Ptychodus says so where a file gives no size or centre; the detector's geometry decides.
        object_notes = ()
    known = center is not None and object_.size > 0
    return dataclasses.replace(
        parts,
        probe=probe if probe.size else None,
        object_=object_ if known else None,
        center_m=center if known else None,
        geometry=geometry,
        notes=(*probe_notes, *object_notes),
    )
