"""Whatever an installed Ptychodus can read, through its own registry of file readers.

Ptychodus is loaded by name, on demand: this package works without it.
"""

import contextlib
import dataclasses
import functools
import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin import ptychodus_compat
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.readers.cxi import holds_translations, read_cxi_product
from ptychopinn_plugin.data.readers.detector_frames import read_frames
from ptychopinn_plugin.data.readers.hdf5 import open_hdf5
from ptychopinn_plugin.data.readers.hdf5_links import INSTALL_FILTERS, broken_links, check_path
from ptychopinn_plugin.data.readers.matching import (
    NOTE_OF_OTHER_POSITIONS,
    Product,
    join,
    rows_at,
    single_layer,
)
from ptychopinn_plugin.data.readers.probe_axes import varying_probe
from ptychopinn_plugin.data.readers.request import ADVICE_ALONE, ReadingRequest
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.packages import is_importable

logger = logging.getLogger(__name__)

_BY_SUFFIX = {
    '.csv': 'CSV',
    '.txt': 'TXT',
    '.mda': 'MDA',
    '.h5': 'HDF5',
    '.hdf5': 'HDF5',
    '.npz': 'NPZ',
    '.cxi': 'CXI',
}
"""These readers belong to no instrument."""

_COUNTING_READINGS = ('aps_ptychosaxs_tiff',)
"""These give a point the number of the readings before it, where each has several."""

MAX_SCAN_M = 0.1
"""Positions that span more than this are in another unit than metres."""


def read_with_ptychodus(
    path: Path,
    request: ReadingRequest,
    name: str,
    *,
    product: Product | Path | None = None,
    positions: Path | None = None,
    positions_reader: str | None = None,
) -> Scan:
    """Read a scan with one of Ptychodus' readers.

    Parameters
    ----------
    path : Path
        The file of the patterns; of a scan in many files, any of them.
    request : ReadingRequest
    name : str
        The reader's name, as `reader_names` lists them.
    product : Product or Path, optional
        Positions, probe and object, or a file of them.
    positions : Path, optional
        A file of positions, in place of the product's. With neither, the patterns' own file must
        hold them.
    positions_reader : str, optional
        Which of Ptychodus' position readers reads it; else the name and the suffix decide.

    Raises
    ------
    DataError
        If Ptychodus is missing, has no such reader, or its reader fails.
    """
    registry = _registry()
    reader = _by_name(registry.diffraction_file_readers, name, 'patterns').strategy
    if path.is_dir():
        raise DataError(f'{path} is a folder; the reader {name!r} needs a file of the scan in it.')
    with _warnings_of_ptychodus() as logged:
        dataset = _read(reader, path, name)
        # Positions come before the patterns, which are large, and after their file, from which the
        # readers of one instrument take what they need to turn its positions.
        if positions is not None:
            table = _positions_of(registry, name, positions, positions_reader)
            product = (
                table if product is None else _moved(_product_of(registry, name, product), table)
            )
        elif product is not None:
            product = _product_of(registry, name, product)
        else:
            product = _in_the_same_file(registry, path, name, request)
        own = Product.without_positions(np.arange(0)) if product is None else product
        regime = own.geometry.with_values_of(request.given_geometry)
        centred_by = own.probe if request.probe is None else request.probe
        with _failing(
            f'the patterns of {path}', name, 'Check that all files of the scan are there.', path
        ):
            measurement = read_frames(
                dataset,
                path,
                name,
                domain=request.domain,
                shape=None if centred_by is None else (centred_by.shape[-2], centred_by.shape[-1]),
                beam_center_px=request.beam_center_px,
                mask=request.mask,
                is_near_field=regime.is_near_field,
            )
    measurement = dataclasses.replace(measurement, notes=(*logged, *measurement.notes))
    # The place of the beam and the mask are those of the frames, which have been cut by now.
    cut = dataclasses.replace(request, beam_center_px=None, mask=None)
    return join(measurement, product, cut)


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


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(' '.join(record.getMessage().split()))


@contextlib.contextmanager
def _warnings_of_ptychodus() -> Iterator[list[str]]:
    """Collect what its readers log, which else is lost or, with a traceback, on the terminal."""
    handler, logger = _Lines(), logging.getLogger('ptychodus')
    logged: list[str] = []
    logger.addHandler(handler)
    try:
        yield logged
    finally:
        logger.removeHandler(handler)
    lines = list(dict.fromkeys(handler.lines))
    logged += [f'Ptychodus: {line}' for line in lines[:5]]
    if len(lines) > 5:
        logged.append(f'Ptychodus warned of {len(lines) - 5} more.')


@contextlib.contextmanager
def _failing(what: str, name: str, advice: str, path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into a DataError: it is the code of many beamlines."""
    try:
        # What their code reads once it has the file cannot be limited any more.
        check_path(path)
        yield
    except DataError:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split()).strip('\'"') or type(error).__name__
        if 'filter' in reason:
            advice = f'Run: {INSTALL_FILTERS}.'
        broken = broken_links(path)
        if broken:
            advice += f' {"; ".join(broken[:3])}: copy it to the same folder.'
        raise DataError(
            f"Ptychodus' reader {name!r} cannot read {what}: {reason.rstrip('.')}. {advice}"
        ) from error


def _read(strategy: Any, path: Path, name: str) -> Any:
    if not path.exists():
        raise DataError(f'There is no file {path}. Check the path.')
    with _failing(str(path), name, 'Choose another reader or file.', path):
        return strategy.read(path)


def _names(chooser: Any) -> list[str]:
    return sorted(plugin.simple_name for plugin in chooser)


def _find(chooser: Any, name: str) -> Any | None:
    folded = name.casefold()
    for plugin in chooser:
        if folded in (plugin.simple_name.casefold(), plugin.display_name.casefold()):
            return plugin
    return None


def _by_name(chooser: Any, name: str, what: str) -> Any:
    plugin = _find(chooser, name)
    if plugin is None:
        raise DataError(
            f'Ptychodus has no reader {name!r} of {what}. It has: {", ".join(_names(chooser))}.'
        )
    return plugin


def _suffixes(plugin: Any) -> list[str]:
    return re.findall(r'\*(\.\w+)', plugin.display_name.lower())


def _choose(chooser: Any, name: str, path: Path, what: str) -> Any:
    """Find the reader of a file that goes with the patterns of reader `name`.

    The reader of the same name, one of the same instrument (their names begin alike), or one of no
    instrument: the first that is for such a suffix.
    """
    suffix = path.suffix.lower()
    own = _find(chooser, name)
    if own is not None and suffix in _suffixes(own):
        return own
    related = [
        plugin
        for plugin in chooser
        if suffix in _suffixes(plugin) and _begin_alike(plugin.simple_name, name)
    ]
    if len(related) > 1:
        raise DataError(
            f'{path} may be in one of several formats. Use positions_reader=NAME '
            f'(--positions-reader NAME): {" or ".join(each.simple_name for each in related)}.'
        )
    plugin = related[0] if related else _find(chooser, _BY_SUFFIX.get(suffix, '')) or own
    if plugin is None:
        raise DataError(
            f'Ptychodus has no reader of {what} for the reader {name!r} and {path.name}. '
            f'It has: {", ".join(_names(chooser))}.'
        )
    return plugin


def _begin_alike(one: str, other: str) -> bool:
    one, other = f'{one}_'.casefold(), f'{other}_'.casefold()
    return one.startswith(other) or other.startswith(one)


def _positions_of(registry: Any, name: str, path: Path, reader: str | None) -> Product:
    chooser = registry.probe_position_file_readers
    if reader is None:
        plugin = _choose(chooser, name, path, 'positions')
    else:
        plugin = _by_name(chooser, reader, 'positions')
    if plugin.simple_name in ('CSV', 'TXT'):
        return _table(path, plugin.simple_name)
    if plugin.simple_name == 'CXI' and path.exists():
        # Ptychodus takes positions out of a whole product, and raw data have no object.
        found = read_cxi_product(path)
        return Product(indexes=found.indexes, positions_m=found.positions_m)
    return _positions(_read(plugin.strategy, path, plugin.simple_name), path, plugin.simple_name)


def _table(path: Path, name: str) -> Product:
    """Read columns of text as Ptychodus lays them out, but leave headers out of the count."""
    if not path.exists():
        raise DataError(f'There is no file {path}. Check the path.')
    expected = f'{path} must hold two columns in metres, {"y, x" if name == "CSV" else "x y"}'
    try:
        with warnings.catch_warnings(action='ignore', category=UserWarning):
            rows = np.loadtxt(path, delimiter=',' if name == 'CSV' else None, ndmin=2)
    except ValueError as error:
        reason = ' '.join(str(error).split()).rstrip('.')
        raise DataError(f'{expected} (comments after #): {reason}.') from error
    if rows.shape[1] < 2 or not len(rows):
        raise DataError(f'{expected}; got shape {rows.shape}.')
    positions_m = rows[:, :2] if name == 'CSV' else rows[:, 1::-1]
    span = np.ptp(positions_m, axis=0).max()
    if span > MAX_SCAN_M:
        raise DataError(f'{expected}; they span {span:g} m. Are they in another unit?')
    return Product(indexes=np.arange(len(rows)), positions_m=positions_m)


def _product_of(registry: Any, name: str, product: Product | Path) -> Product:
    if isinstance(product, Product):
        return product
    plugin = _choose(registry.product_file_readers, name, product, 'products')
    read = _read(plugin.strategy, product, plugin.simple_name)
    return _from_product(read, product, plugin.simple_name)


def _moved(product: Product, positions: Product) -> Product:
    """Return a product at other positions, among which the place of its object is unknown."""
    variation, notes = product.probe_variation, product.notes
    if variation is not None and np.isin(positions.indexes, product.indexes).all():
        weights = rows_at(variation.weights, product.indexes, positions.indexes)
        variation = dataclasses.replace(variation, weights=weights)
    elif variation is not None:
        variation, notes = None, (*notes, NOTE_OF_OTHER_POSITIONS)
    return dataclasses.replace(
        product,
        probe_variation=variation,
        notes=notes,
        indexes=positions.indexes,
        positions_m=positions.positions_m,
        object_=None,
        centre_m=None,
    )


def _in_the_same_file(
    registry: Any, path: Path, name: str, request: ReadingRequest
) -> Product | None:
    """Read positions, and what else there is, from the file of the patterns.

    Where patterns may be alone and this is no file of positions, None is returned.
    """
    may_be_alone = request.single_shot
    of_products = _find(registry.product_file_readers, name)
    plugin = of_products or _find(registry.probe_position_file_readers, name)
    if may_be_alone and (plugin is None or path.suffix.lower() not in _suffixes(plugin)):
        return None
    advice = (
        'and positions are needed. Use positions=FILE (--positions FILE) or product=FILE '
        f'(--product FILE, a product.h5). {ADVICE_ALONE}'
    )
    if plugin is None:
        raise DataError(f'The reader {name!r} gives patterns alone, {advice}')
    if path.suffix.lower() not in _suffixes(plugin):
        kinds = ' or '.join(f'*{suffix}' for suffix in _suffixes(plugin))
        raise DataError(
            f'The reader {name!r} has positions in a file of their own ({kinds}), {advice}'
        )
    try:
        read = _read(plugin.strategy, path, name)
        return (_positions if of_products is None else _from_product)(read, path, name)
    except DataError as error:
        if plugin.simple_name == 'CXI' and _holds_cxi_positions(path):
            # A file of raw data has no object, without which Ptychodus reads no positions either.
            return read_cxi_product(path, request.geometry)
        if may_be_alone:
            logger.warning('No positions are used, as each pattern stands alone: %s', error)
            return None
        raise DataError(
            f'{error} If positions are elsewhere, use positions=FILE (--positions FILE) or '
            'product=FILE (--product FILE).'
        ) from error


def _holds_cxi_positions(path: Path) -> bool:
    with open_hdf5(path) as file:
        return holds_translations(file)


def _positions(sequence: Any, path: Path, name: str) -> Product:
    if not len(sequence):
        raise DataError(
            f'{path} holds no positions for the reader {name!r}; at least one is needed.'
        )
    indexes = ptychodus_compat.position_indexes(sequence)
    # With five readings for each point, 0, 5, 10 ... become 0, 1, 2 ...
    if name.casefold() in _COUNTING_READINGS:
        indexes = np.unique(indexes, return_inverse=True)[1]
    return Product(
        indexes=indexes,
        positions_m=ptychodus_compat.positions_m(sequence),
    )


def _number(value: Any) -> float:
    # MATLAB's numbers are arrays of shape (1, 1).
    return float(np.squeeze(value))


def _from_product(product: Any, path: Path, name: str) -> Product:
    parts = _positions(product.probe_positions, path, name)
    probes = product.probes
    probe, variation, probe_notes = varying_probe(
        probes.get_array(), ptychodus_compat.opr_weights(probes), len(product.probe_positions)
    )
    object_, object_notes = single_layer(product.object_.get_array())
    metadata = product.metadata
    geometry = Geometry(
        photon_energy_eV=ptychodus_compat.photon_energy_eV(metadata) or None,
        detector_distance_m=metadata.detector_distance_m or None,
        near_field=ptychodus_compat.is_near_field(metadata) or None,
        focus_object_distance_m=ptychodus_compat.focus_distance_m(metadata),
    )
    centre = None
    try:
        pixel = product.object_.get_pixel_geometry()
        geometry = dataclasses.replace(
            geometry, pixel_height_m=_number(pixel.height_m), pixel_width_m=_number(pixel.width_m)
        )
        centre = ptychodus_compat.point_m(product.object_.get_center())
    except ValueError:
        # Ptychodus logs this where a file gives no size or centre; the detector's geometry decides.
        object_notes = ()
    known = centre is not None and object_.size > 0
    return dataclasses.replace(
        parts,
        probe=probe if probe.size else None,
        probe_variation=variation,
        object_=object_ if known else None,
        centre_m=centre if known else None,
        geometry=geometry,
        notes=(*probe_notes, *object_notes),
        name=metadata.name,
    )
