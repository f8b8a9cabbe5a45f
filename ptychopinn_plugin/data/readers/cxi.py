"""CXI files: patterns and geometry of the Coherent X-ray Imaging Data Bank.

Positions are taken as Ptychodus takes them: (x, y) in metres, where a larger x lies further right
and a larger y further down in the object.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.data.readers.domain import Domain
from ptychopinn_plugin.data.readers.hdf5 import check_stack, find, find_number, need, open_hdf5
from ptychopinn_plugin.data.readers.matching import (
    ELECTRON_VOLT_J,
    HC_J_M,
    Measurement,
    Product,
    join,
    load_name,
    measurement_of,
    single_layer,
    single_probe,
)
from ptychopinn_plugin.data.scan import Geometry, Scan
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
_WAVELENGTH = (f'{_SOURCE}/wavelength', 'entry_1/instrument_1/beam_1/wavelength')


def read_cxi(
    path: Path,
    *,
    product: Product | None = None,
    domain: Domain | None,
    probe: ComplexArray | None = None,
) -> Scan:
    """Read a scan from a CXI file.

    Parameters
    ----------
    path : Path
    product : Product, optional
        Used in place of the positions, the probe and the object in the file.
    domain : 'counts' or 'amplitudes', optional
        CXI files hold counts, which is the default.
    probe : ndarray of complex, shape (n_modes, height, width), optional
        Used in place of any other.
    """
    with open_hdf5(path) as file:
        measurement = _measurement(file, domain or 'counts')
        if product is None:
            product = product_of(file)
            positions, patterns = len(product.indexes), len(measurement.patterns)
            if positions != patterns and f'{_EXTRA}/probe_position_indexes' not in file:
                raise DataError(
                    f'{path} must hold one position for each pattern; it holds '
                    f'{count(patterns, "pattern")} and {count(positions, "position")}. '
                    'Cut the longer one.'
                )
    return join(measurement, product, name=load_name(path), probe=probe)


def read_cxi_product(path: Path) -> Product:
    """Read positions, probe and object from a CXI file."""
    with open_hdf5(path) as file:
        return product_of(file)


def _measurement(file: Any, domain: Domain) -> Measurement:
    patterns = need(file, *_PATTERNS)
    check_stack(patterns, f'The patterns of {file.filename}')
    mask = find(file, [f'{_DETECTOR}/mask', 'entry_1/data_1/mask'])
    if mask is not None and mask.ndim == 3:
        # One mask for each pattern: a pixel that is bad once is left out everywhere.
        mask = (mask != 0).astype(np.uint8).max(axis=0)
    return measurement_of(
        patterns,
        np.arange(len(patterns)),
        None if mask is None else mask != 0,
        domain=domain,
        geometry=Geometry(
            photon_energy_eV=_photon_energy(file),
            detector_distance_m=find_number(file, [f'{_DETECTOR}/distance']),
            detector_pixel_height_m=find_number(file, [f'{_DETECTOR}/y_pixel_size']),
            detector_pixel_width_m=find_number(file, [f'{_DETECTOR}/x_pixel_size']),
        ),
    )


def _photon_energy(file: Any) -> float | None:
    energy_j = find_number(file, [f'{_SOURCE}/energy'])
    if energy_j:
        return energy_j / ELECTRON_VOLT_J
    wavelength = find_number(file, _WAVELENGTH)
    return HC_J_M / wavelength / ELECTRON_VOLT_J if wavelength else None


def product_of(file: Any) -> Product:
    """Return positions, probe and object of an open CXI file."""
    translation = need(file, *_TRANSLATION)
    if translation.ndim != 2 or translation.shape[1] < 2 or not len(translation):
        raise DataError(
            f'The translations of {file.filename} must have shape (n_positions, 2 or 3), (x, y) in '
            f'metres; got {translation.shape}.'
        )
    stored = find(file, _PROBE)
    probe, probe_notes = (None, ()) if stored is None else single_probe(stored)
    layers = find(file, ['entry_1/image_2/data'])
    object_, object_notes = (None, ()) if layers is None else single_layer(layers)
    indexes = find(file, [f'{_EXTRA}/probe_position_indexes'])
    center_y = find_number(file, [f'{_EXTRA}/object_center_y_m'])
    center_x = find_number(file, [f'{_EXTRA}/object_center_x_m'])
    if center_y is None or center_x is None:
        # Without a centre nobody knows where the object lies.
        object_, object_notes = None, ()
    return Product(
        indexes=np.arange(len(translation)) if indexes is None else indexes.astype(np.int64),
        positions_m=translation[:, 1::-1].astype(np.float64),
        probe=probe,
        object_=object_,
        center_m=None if center_y is None or center_x is None else (center_y, center_x),
        geometry=Geometry(
            pixel_height_m=find_number(file, [f'{_EXTRA}/object_pixel_height_m']),
            pixel_width_m=find_number(file, [f'{_EXTRA}/object_pixel_width_m']),
            photon_energy_eV=_photon_energy(file),
            detector_distance_m=find_number(file, [f'{_DETECTOR}/distance']),
        ),
        notes=(
            'Positions of the CXI file were taken as (x, y) with y downwards, as Ptychodus does.',
            *probe_notes,
            *object_notes,
        ),
    )
