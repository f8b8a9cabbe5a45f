"""Ptychodus' own pair of files: `diffraction.h5` and `product.h5`."""

from pathlib import Path

import h5py
import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.outline import ScanOutline
from ptychopinn_plugin.data.readers.domain import Domain
from ptychopinn_plugin.data.readers.hdf5 import (
    attribute,
    attribute_value,
    find,
    need,
    need_dataset,
    open_hdf5,
    stack_of,
    text_attribute,
)
from ptychopinn_plugin.data.readers.matching import (
    Measurement,
    Product,
    join,
    measurement_of,
    outline_of,
    single_layer,
    to_indexes,
)
from ptychopinn_plugin.data.readers.probe_axes import varying_probe
from ptychopinn_plugin.data.readers.request import ADVICE_ALONE, ReadingRequest, load_name
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.ptychodus_compat import PRODUCT_NAMES

NOTE_OF_INTENSITIES = (
    "The beam's intensities in the product are not used, as its probe has several modes; "
    '--refine-intensities finds them again.'
)


def read_pair(path: Path, request: ReadingRequest, product: Path | None) -> Scan:
    """Read a scan from Ptychodus' two files.

    Parameters
    ----------
    path : Path
        The folder of both, or one of them.
    request : ReadingRequest
    product : Path, optional
        Where the product is, if not beside the patterns.

    Raises
    ------
    DataError
        If one of the two files is missing, or they do not belong together.
    """
    if request.single_shot and product is None and not _has_product(path):
        patterns = path / 'diffraction.h5' if path.is_dir() else path
        return join(read_measurement(patterns, domain=request.domain), None, request)
    diffraction, product = _files_of_pair(path, product)
    # It is read before the patterns, which are large.
    known = read_product(product)
    measurement = read_measurement(diffraction, domain=request.domain)
    return join(measurement, known, request)


def read_pair_outline(path: Path) -> ScanOutline:
    """Read what Ptychodus' two files hold but for the patterns; see `read_pair`."""
    diffraction, product = _files_of_pair(path, None)
    known = read_product(product)
    with open_hdf5(diffraction) as file:
        dataset = need_dataset(file, 'patterns')
        # It has the shape of the patterns, and takes no memory.
        stand_in = np.broadcast_to(np.zeros((), dataset.dtype), dataset.shape)
        return outline_of(_recorded(file, diffraction, stand_in), known, load_name(path))


def _has_product(path: Path) -> bool:
    """Return whether a path is a product, or one lies beside its patterns or in its folder."""
    folder = path if path.is_dir() else path.parent
    if any((folder / name).is_file() for name in PRODUCT_NAMES):
        return True
    return not path.is_dir() and is_product(path)


def _files_of_pair(path: Path, product: Path | None) -> tuple[Path, Path]:
    """Return the files of the patterns and of the product; a DataError names a missing one."""
    folder = path if path.is_dir() else path.parent
    diffraction = folder / 'diffraction.h5'
    if not path.is_dir() and not is_product(path):
        diffraction = path
    elif product is None and not path.is_dir():
        product = path
    present = [name for name in PRODUCT_NAMES if (folder / name).is_file()]
    product = product or folder / (present or PRODUCT_NAMES)[0]
    for file, what in ((diffraction, 'the patterns'), (product, 'positions and probe')):
        if not file.is_file():
            raise DataError(
                f'Ptychodus keeps a scan in two files; {file}, which holds {what}, is missing. '
                'Put diffraction.h5 and product.h5 into one folder, or use product=FILE '
                f'(--product FILE). {ADVICE_ALONE if file == product else ""}'.rstrip()
            )
    return diffraction, product


def is_product_file(path: Path) -> bool:
    """Return whether a path is a product of Ptychodus in HDF5, whatever its name."""
    return path.is_file() and h5py.is_hdf5(path) and is_product(path)


def is_product(path: Path) -> bool:
    """Return whether an HDF5 file holds a product rather than patterns."""
    with open_hdf5(path) as file:
        return 'patterns' not in file and 'probe_position_x_m' in file


def read_measurement(path: Path, *, domain: Domain | None) -> Measurement:
    """Read a `diffraction.h5`.

    Raises
    ------
    DataError
        If the file has not one index for each pattern.
    """
    with open_hdf5(path) as file:
        recorded = _recorded(file, path, need(file, 'patterns'))
    return measurement_of(
        *(recorded.patterns, recorded.indexes, recorded.bad_pixels),
        domain=domain,
        geometry=recorded.geometry,
    )


def _recorded(file: h5py.File, path: Path, patterns: RealArray) -> Measurement:
    """Return what a `diffraction.h5` holds of patterns, as it is written there."""
    patterns = stack_of(patterns, f"'patterns' of {path}")
    indexes = find(file, ['indexes'])
    if indexes is None:
        indexes = np.arange(len(patterns))
    if indexes.shape != patterns.shape[:1]:
        raise DataError(
            f"'indexes' of {path} must have {len(patterns)} values, one for each pattern; "
            f'its shape is {indexes.shape}.'
        )
    bad_pixels = find(file, ['bad_pixels'])
    geometry = Geometry(
        detector_pixel_height_m=attribute(file['patterns'], 'detector_pixel_height_m'),
        detector_pixel_width_m=attribute(file['patterns'], 'detector_pixel_width_m'),
    )
    bad = None if bad_pixels is None else bad_pixels != 0
    return Measurement(patterns, to_indexes(indexes, f'The indexes of {path}'), bad, geometry)


def read_product(path: Path) -> Product:
    """Read a `product.h5`.

    Raises
    ------
    DataError
        If the coordinates of the positions are of different lengths.
    """
    with open_hdf5(path) as file:
        x_m, y_m = need(file, 'probe_position_x_m'), need(file, 'probe_position_y_m')
        indexes = find(file, ['probe_position_indexes'])
        if indexes is None:
            indexes = np.arange(len(x_m))
        if x_m.ndim != 1 or x_m.shape != y_m.shape or indexes.shape != x_m.shape:
            raise DataError(
                f'The positions of {path} must have one length; x has shape {x_m.shape}, '
                f'y {y_m.shape}, indexes {indexes.shape}.'
            )
        opr_weights = find(file, ['opr_weights'])
        probe, variation, probe_notes = varying_probe(
            need(file, 'probe', kinds='buifc'), opr_weights, len(indexes)
        )
        if 'intensities' in file and len(probe) > 1:
            probe_notes = (*probe_notes, NOTE_OF_INTENSITIES)
        layers = need(file, 'object', kinds='buifc')
        attributes = file['object']
        centre = (attribute(attributes, 'center_y_m'), attribute(attributes, 'center_x_m'))
        geometry = Geometry(
            pixel_height_m=attribute(attributes, 'pixel_height_m'),
            pixel_width_m=attribute(attributes, 'pixel_width_m'),
            photon_energy_eV=attribute(file, 'photon_energy_eV')
            or attribute(file, 'probe_energy_eV'),
            detector_distance_m=attribute(file, 'detector_object_distance_m'),
            # Both exist since 1.7; before, every product was of the far field.
            near_field=None if np.all(attribute_value(file, 'far_field', True)) else True,
            focus_object_distance_m=attribute(file, 'focus_object_distance_m') or None,
        )
        name, comments = text_attribute(file, 'name'), text_attribute(file, 'comments')
        # Ptychodus called them costs until 1.5.
        losses = find(file, ['loss_values', 'costs'])
    object_, object_notes = single_layer(layers) if layers.size else (None, ())
    return Product(
        indexes=to_indexes(indexes, f'The indexes of {path}'),
        positions_m=np.stack([y_m, x_m], axis=1).astype(np.float64),
        probe=probe,
        probe_variation=variation,
        object_=object_,
        centre_m=(centre[0] or 0.0, centre[1] or 0.0),
        geometry=geometry,
        notes=(*probe_notes, *object_notes),
        name=name,
        comments=comments,
        losses=() if losses is None else tuple(losses.astype(np.float64).ravel().tolist()),
    )
