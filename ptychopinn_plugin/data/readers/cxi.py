"""CXI files: patterns and geometry of the Coherent X-ray Imaging Data Bank, also as NXcxi_ptycho.

Positions are taken as Ptychodus takes them: (x, y) in metres, where a larger x lies further right
and a larger y further down in the object.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.geometry import ELECTRON_VOLT_J, HC_J_M, Geometry
from ptychopinn_plugin.data.readers.domain import Domain
from ptychopinn_plugin.data.readers.hdf5 import (
    find,
    find_dataset,
    find_number,
    need,
    open_hdf5,
    stack_of,
)
from ptychopinn_plugin.data.readers.matching import (
    Measurement,
    Product,
    join,
    measurement_of,
    single_layer,
    to_indexes,
)
from ptychopinn_plugin.data.readers.probe_axes import single_probe
from ptychopinn_plugin.data.readers.request import (
    ADVICE_ALONE,
    NOTE_WITHOUT_POSITIONS,
    ReadingRequest,
)
from ptychopinn_plugin.data.readers.units import (
    find_one_quantity,
    find_quantity,
)
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.text import count

_DETECTOR = 'entry_1/instrument_1/detector_1'
_SOURCE = 'entry_1/instrument_1/source_1'
_EXTRA = 'entry_1/ptychodus'
_PATTERNS = ('entry_1/data_1/data', f'{_DETECTOR}/data')
_TRANSLATION = (
    'entry_1/sample_1/geometry_1/translation',
    'entry_1/data_1/translation',
    f'{_DETECTOR}/translation',
)
_PROBE = ('entry_1/image_1/data', f'{_SOURCE}/illumination', 'entry_1/data_1/probe')
_NOTE_OF_AXES = (
    'Positions of the CXI file were taken as (x, y) with y downwards, as Ptychodus does.'
)
_ENERGIES = ('incident_energy', 'incident_beam_energy', 'energy')
_BEAMS = (
    'entry_1/instrument_1/beam_1',
    'entry_1/instrument_1/beam',
    'entry_1/sample_1/beam_1',
    'entry_1/sample_1/beam',
    _SOURCE,
)
"""The source comes last: its energy may be that of the electrons in the machine."""


def read_cxi(path: Path, request: ReadingRequest, product: Product | None = None) -> Scan:
    """Read a scan from a CXI file.

    Parameters
    ----------
    path : Path
    request : ReadingRequest
    product : Product, optional
        Used in place of the positions, the probe and the object in the file.

    Raises
    ------
    DataError
        If the file lacks a part of a scan, or has not one position for each pattern.
    """
    with open_hdf5(path) as file:
        measurement = _measurement(file, request.domain, request.given_geometry)
        if product is None:
            n_alone = len(measurement.patterns) if request.single_shot else None
            product = product_of(file, request.geometry, n_alone)
            positions, patterns = len(product.indexes), len(measurement.patterns)
            if positions != patterns and f'{_EXTRA}/probe_position_indexes' not in file:
                raise DataError(
                    f'{path} must hold one position for each pattern; it holds '
                    f'{count(patterns, "pattern")} and {count(positions, "position")}. '
                    'Cut the longer one.'
                )
    return join(measurement, product, request)


def read_cxi_product(path: Path, given: Geometry | None = None) -> Product:
    """Read positions, probe and object from a CXI file; see `product_of`."""
    with open_hdf5(path) as file:
        return product_of(file, given)


def holds_translations(file: Any) -> bool:
    """Return whether an open CXI file holds positions."""
    return find_dataset(file, _TRANSLATION) is not None


def _measurement(file: Any, domain: Domain | None, given: Geometry) -> Measurement:
    patterns = stack_of(need(file, *_PATTERNS), f'The patterns of {file.filename}')
    mask = find(file, [f'{_DETECTOR}/mask', 'entry_1/data_1/mask'])
    if mask is not None and mask.ndim > 2:
        # There is a mask for each pattern; a pixel that is bad once is left out everywhere.
        mask = (mask != 0).reshape(-1, *mask.shape[-2:]).any(axis=0)
    return measurement_of(
        patterns,
        np.arange(len(patterns)),
        None if mask is None else mask != 0,
        domain=domain,
        geometry=_geometry(file, given),
    )


def _photon_energy(file: Any) -> float | None:
    for beam in _BEAMS:
        keys = [f'{beam}/{key}' for key in _ENERGIES]
        energy_j = find_one_quantity(file, keys, 'energy')
        if energy_j:
            return energy_j / ELECTRON_VOLT_J
        keys = [f'{beam}/incident_wavelength', f'{beam}/wavelength']
        wavelength_m = find_one_quantity(file, keys, 'length')
        if wavelength_m:
            return HC_J_M / wavelength_m / ELECTRON_VOLT_J
    return None


def _geometry(file: Any, given: Geometry) -> Geometry:
    """Return what the file holds and the user does not give."""

    def length(key: str) -> float | None:
        return find_one_quantity(file, [f'{_DETECTOR}/{key}'], 'length')

    return Geometry(
        photon_energy_eV=given.photon_energy_eV or _photon_energy(file),
        detector_distance_m=given.detector_distance_m or length('distance'),
        detector_pixel_height_m=given.detector_pixel_height_m or length('y_pixel_size'),
        detector_pixel_width_m=given.detector_pixel_width_m or length('x_pixel_size'),
    )


def product_of(file: Any, given: Geometry | None = None, n_alone: int | None = None) -> Product:
    """Return positions, probe and object of an open CXI file.

    Parameters
    ----------
    file : h5py.File
    given : Geometry, optional
        In place of the file's.
    n_alone : int, optional
        This number of patterns is reconstructed each alone, and may be without translations.

    Raises
    ------
    DataError
        If the translations are missing, or not rows of 2 or 3 coordinates.
    """
    translation = find_quantity(file, _TRANSLATION, 'length')
    if translation is None:
        translation = _bare_translation(file, n_alone)
    has_positions = translation is not None
    if translation is None:
        translation = np.zeros((n_alone or 0, 2))
    if translation.ndim not in (2, 3) or translation.shape[-1] < 2 or not translation.size:
        raise DataError(
            f'The translations of {file.filename} must have shape (n_positions, 2 or 3), or that '
            f'of a raster, (rows, columns, 2 or 3), (x, y) in metres; got {translation.shape}.'
        )
    translation = translation.reshape(-1, translation.shape[-1])
    geometry = _geometry(file, given or Geometry())
    stored = find(file, _PROBE, kinds='buifc')
    probe, probe_notes = (None, ()) if stored is None else single_probe(stored)
    layers = find(file, ['entry_1/image_2/data'], kinds='buifc')
    object_, object_notes = (None, ()) if layers is None else single_layer(layers)
    indexes = find(file, [f'{_EXTRA}/probe_position_indexes'])
    centre_y = find_number(file, [f'{_EXTRA}/object_center_y_m'])
    centre_x = find_number(file, [f'{_EXTRA}/object_center_x_m'])
    if centre_y is None or centre_x is None:
        # Without a centre the place of the object is unknown.
        object_, object_notes = None, ()
    if indexes is None:
        indexes = np.arange(len(translation))
    return Product(
        indexes=to_indexes(indexes, f'The indexes of the positions of {file.filename}'),
        # From (x, y) or (x, y, z) to (y, x).
        positions_m=translation[:, 1::-1].astype(np.float64),
        probe=probe,
        object_=object_,
        centre_m=None if centre_y is None or centre_x is None else (centre_y, centre_x),
        geometry=Geometry(
            pixel_height_m=find_number(file, [f'{_EXTRA}/object_pixel_height_m']),
            pixel_width_m=find_number(file, [f'{_EXTRA}/object_pixel_width_m']),
            photon_energy_eV=geometry.photon_energy_eV,
            detector_distance_m=geometry.detector_distance_m,
        ),
        notes=(
            _NOTE_OF_AXES if has_positions else NOTE_WITHOUT_POSITIONS,
            *probe_notes,
            *object_notes,
        ),
        has_positions=has_positions,
    )


def _bare_translation(file: Any, n_alone: int | None) -> RealArray | None:
    """Return translations without a unit; None where patterns stand alone and there are none."""
    try:
        return need(file, *_TRANSLATION)
    except DataError as error:
        if find_dataset(file, _TRANSLATION) is not None:
            raise
        if n_alone is None:
            raise DataError(f'{error} {ADVICE_ALONE}') from error
        return None
