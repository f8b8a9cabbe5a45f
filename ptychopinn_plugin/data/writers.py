"""Writing scans and reconstructions, and reading a reconstruction back.

Each file is written under another name first, so a failure leaves nothing half-written.
"""

import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.array_types import FloatArray, IntArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.pattern_fit import Outlier, PatternFit
from ptychopinn_plugin.data.probe_variation import ProbeVariation, coherent_modes
from ptychopinn_plugin.data.readers.matching import middle_offset_px
from ptychopinn_plugin.data.readers.npz import (
    geometry_of,
    read_metadata,
    read_numbers,
    stored_variation,
)
from ptychopinn_plugin.data.readers.npz_archive import open_npz
from ptychopinn_plugin.data.readers.npz_metadata import number_of
from ptychopinn_plugin.data.readers.ptychodus_hdf5 import is_product_file, read_product
from ptychopinn_plugin.data.readers.request import load_name
from ptychopinn_plugin.data.reconstruction import Reconstruction
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import Misfit
from ptychopinn_plugin.storage.atomic import atomic_path

STANDARD_DEVIATIONS = ('amplitude_std', 'phase_std')

UNKNOWN_PIXEL_M = 1e-9
"""A product whose geometry is unknown gets object pixels of this size."""


def write_scan(path: Path | str, scan: Scan) -> None:
    """Write a scan as NPZ, with the keys of Ptychodus' training export.

    `diff3d` holds counts in their source's type, which `_metadata` records. `xcoords` and `ycoords`
    are the position of pixel ``[height // 2, width // 2]`` of the patch.

    Parameters
    ----------
    path : Path
    scan : Scan

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    metadata = {
        'diffraction_domain': 'counts',
        'name': scan.name,
        'geometry': _known(scan.geometry),
        'notes': list(scan.notes),
        'written_by': f'ptychopinn-plugin {__version__}',
    }
    nominal = scan.positions_px if scan.nominal_positions_px is None else scan.nominal_positions_px
    arrays: dict[str, Any] = {
        'xcoords': scan.positions_px[:, 1],
        'ycoords': scan.positions_px[:, 0],
        'xcoords_start': nominal[:, 1],
        'ycoords_start': nominal[:, 0],
        'diff3d': scan.patterns,
        'bad_pixels': scan.bad_pixels,
        'scan_index': scan.scan_index,
        'pattern_indexes': scan.pattern_indexes,
    }
    if scan.probe_origin != 'patterns':
        # That one is made of the patterns again, and known for what it is.
        arrays['probeGuess'] = scan.probe
        arrays |= _variation_arrays(scan.probe_variation)
    if scan.object_ is not None:
        arrays['objectGuess'] = np.asarray(scan.object_, dtype=np.complex64)
    _save(Path(path), arrays, metadata)


def write_reconstruction(path: Path | str, reconstruction: Reconstruction) -> None:
    """Write a reconstruction as NPZ.

    Keys: `object` complex64 (height, width), `origin_px` (y, x), `coverage`, `probe`,
    `positions_px`, `nominal_positions_px` where positions were to be refined, `intensities` where
    those of the beam were, `probe_eigenmodes` and `opr_weights` where the probe varies,
    `pattern_indexes`,
    `likelihoods`, `pattern_deviances` and `pattern_doses` where patterns were judged,
    `pixel_size_m` (height, width) where known, and `_metadata`.

    Parameters
    ----------
    path : Path
    reconstruction : Reconstruction

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    geometry = reconstruction.geometry
    residual = reconstruction.amplitude_residual
    metadata = {
        'name': reconstruction.name,
        'backend': reconstruction.backend,
        'timing': {name: float(seconds) for name, seconds in reconstruction.timing.items()},
        'amplitude_residual': float(residual) if math.isfinite(residual) else None,
        'misfit': None if reconstruction.misfit is None else reconstruction.misfit.to_dict(),
        'geometry': _known(geometry),
        'outliers': _outliers(reconstruction),
        'dropped': [outlier.to_dict() for outlier in reconstruction.dropped],
        'single_shot': reconstruction.is_single_shot,
        'probe_known': reconstruction.is_probe_known,
        'written_by': f'ptychopinn-plugin {__version__}',
        'provenance': dict(reconstruction.provenance),
    }
    arrays: dict[str, Any] = {
        'object': np.asarray(reconstruction.object_, dtype=np.complex64),
        'origin_px': np.asarray(reconstruction.origin_px, dtype=np.float64),
        'coverage': np.asarray(reconstruction.coverage, dtype=np.float32),
        'probe': np.asarray(reconstruction.probe, dtype=np.complex64),
        'positions_px': np.asarray(reconstruction.positions_px, dtype=np.float64),
        'pattern_indexes': reconstruction.pattern_indexes,
        'likelihoods': np.asarray(reconstruction.likelihoods, dtype=np.float64),
    }
    if reconstruction.nominal_positions_px is not None:
        given = np.asarray(reconstruction.nominal_positions_px, dtype=np.float64)
        arrays['nominal_positions_px'] = given
    if reconstruction.intensities is not None:
        arrays['intensities'] = np.asarray(reconstruction.intensities, dtype=np.float64)
    arrays |= _variation_arrays(reconstruction.probe_variation)
    if reconstruction.pattern_fit is not None:
        arrays['pattern_deviances'] = np.asarray(reconstruction.pattern_fit.deviances)
        arrays['pattern_doses'] = np.asarray(reconstruction.pattern_fit.doses)
    for name in STANDARD_DEVIATIONS:
        values = getattr(reconstruction, name)
        if values is not None:
            arrays[name] = np.asarray(values, dtype=np.float32)
    if geometry.pixel_height_m and geometry.pixel_width_m:
        arrays['pixel_size_m'] = np.array([geometry.pixel_height_m, geometry.pixel_width_m])
    _save(Path(path), arrays, metadata)


def _variation_arrays(variation: ProbeVariation | None) -> dict[str, RealArray]:
    if variation is None:
        return {}
    return {'probe_eigenmodes': variation.eigenmodes, 'opr_weights': variation.weights}


def _outliers(reconstruction: Reconstruction) -> list[dict[str, Any]]:
    fit = reconstruction.pattern_fit
    return [] if fit is None else [outlier.to_dict() for outlier in fit.outliers]


def _known(geometry: Geometry) -> dict[str, float | bool]:
    values = dataclasses.asdict(geometry)
    return {
        name: value if isinstance(value, bool) else float(value)
        for name, value in values.items()
        if value is not None
    }


def _save(path: Path, arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
    arrays['_metadata'] = np.array(json.dumps(metadata))
    with atomic_path(path) as temporary, temporary.open('wb') as file:
        np.savez(file, **arrays)


def read_reconstruction(path: Path | str) -> Reconstruction:
    """Read what `write_reconstruction` or `write_product` wrote, or a product of Ptychodus.

    Parameters
    ----------
    path : Path
        A `reconstruction.npz` or a `product.h5`.

    Returns
    -------
    Reconstruction
        Of a product, zero metres are the position of zero pixels, and `coverage`, which it does
        not hold, is 1.

    Raises
    ------
    DataError
        If the file is missing, damaged or not a reconstruction.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f'{path} is a folder. Name the reconstruction.npz or product.h5 in it.')
    if not path.is_file():
        raise DataError(f'There is no file {path}. Check the path.')
    if is_product_file(path):
        return _of_product(path)
    with open_npz(path) as archive:
        _check_is_reconstruction(archive, path)
        object_, probe = (read_numbers(archive, name, 'buifc') for name in ('object', 'probe'))
        origin, coverage, positions, likelihoods = (
            read_numbers(archive, name)
            for name in ('origin_px', 'coverage', 'positions_px', 'likelihoods')
        )
        _check_positions(positions, path)
        indexes = _pattern_indexes(archive, path)
        nominal = _nominal_positions(archive, path)
        intensities = _intensities(archive, path)
        variation = stored_variation(archive, len(positions), probe.shape[-2:])
        fit, stds = _pattern_fit(archive), _standard_deviations(archive, object_.shape)
        metadata, _ = read_metadata(archive)
    if object_.ndim != 2 or coverage.shape != object_.shape or origin.shape != (2,):
        raise DataError(
            f'{path} must hold object and coverage of one shape (height, width) and origin_px '
            f'(y, x); got shapes {object_.shape}, {coverage.shape}, {origin.shape}.'
        )
    residual = number_of(metadata.get('amplitude_residual'))
    timing, misfit = metadata.get('timing'), metadata.get('misfit')
    provenance = metadata.get('provenance')
    if fit is not None:
        fit = dataclasses.replace(fit, outliers=Outlier.from_list(metadata.get('outliers')))
    return Reconstruction(
        object_=object_,
        origin_px=origin,
        coverage=coverage,
        probe=probe,
        positions_px=positions,
        backend=str(metadata.get('backend', 'unknown')),
        likelihoods=tuple(map(float, likelihoods.ravel())),
        timing=dict(timing) if isinstance(timing, Mapping) else {},
        amplitude_residual=float('nan') if residual is None else residual,
        geometry=geometry_of(metadata),
        is_single_shot=metadata.get('single_shot') is True,
        name=str(metadata.get('name', 'scan')),
        pattern_indexes=indexes,
        misfit=Misfit.from_dict(misfit) if isinstance(misfit, Mapping) else None,
        nominal_positions_px=nominal,
        intensities=intensities,
        probe_variation=variation,
        pattern_fit=fit,
        amplitude_std=stds.get('amplitude_std'),
        phase_std=stds.get('phase_std'),
        dropped=Outlier.from_list(metadata.get('dropped')),
        is_probe_known=metadata.get('probe_known') is not False,
        provenance=provenance if isinstance(provenance, Mapping) else {},
    )


def _check_is_reconstruction(archive: Mapping[str, RealArray], path: Path) -> None:
    missing = [name for name in ('object', 'origin_px', 'coverage') if name not in archive]
    if missing:
        raise DataError(
            f'{path} is no reconstruction: it must hold {missing[0]!r}; it holds '
            f'{", ".join(archive) or "nothing"}. Give a reconstruction.npz or a product.h5.'
        )


def _check_positions(positions: RealArray, path: Path) -> None:
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise DataError(
            f'positions_px of {path} must have shape (n_positions, 2); got {positions.shape}. '
            'Write the file again.'
        )


def _pattern_indexes(archive: Mapping[str, RealArray], path: Path) -> IntArray | None:
    if 'pattern_indexes' not in archive:
        # Before files had them, patterns were counted from 0.
        return None
    indexes, count = archive['pattern_indexes'], len(archive['positions_px'])
    if indexes.shape != (count,) or indexes.dtype.kind not in 'iu':
        raise DataError(
            f'pattern_indexes of {path} must be {count} integers, one for each position; they are '
            f'{indexes.dtype} of shape {indexes.shape}. Write the file again.'
        )
    return indexes


def _standard_deviations(
    archive: Mapping[str, RealArray], shape: tuple[int, ...]
) -> dict[str, RealArray]:
    """Return those that fit the object; files from before had none."""
    return {
        name: read_numbers(archive, name)
        for name in STANDARD_DEVIATIONS
        if name in archive and archive[name].shape == shape
    }


def _pattern_fit(archive: Mapping[str, RealArray]) -> PatternFit | None:
    if 'pattern_deviances' not in archive or 'pattern_doses' not in archive:
        # Before files had them, patterns were not judged.
        return None
    return PatternFit(
        read_numbers(archive, 'pattern_deviances'), read_numbers(archive, 'pattern_doses')
    )


def _nominal_positions(archive: Mapping[str, RealArray], path: Path) -> FloatArray | None:
    if 'nominal_positions_px' not in archive:
        return None
    given = read_numbers(archive, 'nominal_positions_px')
    shape = archive['positions_px'].shape
    if given.shape != shape:
        raise DataError(
            f'nominal_positions_px of {path} must have the shape of positions_px, {shape}; got '
            f'{given.shape}. Write the file again.'
        )
    return given


def _intensities(archive: Mapping[str, RealArray], path: Path) -> FloatArray | None:
    if 'intensities' not in archive:
        return None
    found, count = read_numbers(archive, 'intensities'), len(archive['positions_px'])
    if found.shape != (count,) or not np.all(found > 0):
        raise DataError(
            f'intensities of {path} must be {count} positive numbers, one for each position; they '
            f'are {found.dtype} of shape {found.shape}. Write the file again.'
        )
    return found


def _of_product(path: Path) -> Reconstruction:
    product = read_product(path)
    object_, probe, known = product.object_, product.probe, product.geometry
    if object_ is None or probe is None:
        raise DataError(f'{path} holds no object. Reconstruct it, or give another product.')
    if not (known.pixel_height_m and known.pixel_width_m):
        raise DataError(
            f'{path} must hold the size of an object pixel (pixel_height_m, pixel_width_m); it '
            'does not. Write it again with Ptychodus.'
        )
    pixel_m = np.array([known.pixel_height_m, known.pixel_width_m])
    # `write_product` has put this in the place of an unknown size.
    if (pixel_m == UNKNOWN_PIXEL_M).all():
        known = dataclasses.replace(known, pixel_height_m=None, pixel_width_m=None)
    return Reconstruction(
        object_=object_.astype(np.complex64),
        origin_px=product.centre_m / pixel_m - _middle_px(object_.shape, probe.shape[-2:]),
        coverage=np.ones(object_.shape, dtype=np.float32),
        probe=probe.astype(np.complex64),
        probe_variation=product.probe_variation,
        positions_px=product.positions_m / pixel_m,
        backend='unknown',
        likelihoods=product.losses,
        geometry=known,
        name=product.name or load_name(path),
        pattern_indexes=product.indexes,
    )


def _middle_px(shape: Sequence[int], probe_shape: Sequence[int]) -> FloatArray:
    """Return the middle of an object, between pixels as in Ptychodus; see `readers.matching`."""
    offset = [middle_offset_px(side) for side in probe_shape]
    return (np.array(shape) - 1) / 2 + offset


def write_product(path: Path | str, reconstruction: Reconstruction) -> None:
    """Write a reconstruction as a Ptychodus product.

    A position of zero pixels becomes zero metres. Where the size of an object pixel is unknown, it
    is written as a nanometre, and the comments note that.

    Parameters
    ----------
    path : Path
    reconstruction : Reconstruction

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    geometry = reconstruction.geometry
    comments = f'Reconstructed by ptychopinn-plugin {__version__} ({reconstruction.backend}).'
    pixel_m = (geometry.pixel_height_m, geometry.pixel_width_m)
    if not (pixel_m[0] and pixel_m[1]):
        pixel_m = (UNKNOWN_PIXEL_M, UNKNOWN_PIXEL_M)
        comments += ' The pixel size is unknown; a pixel is written as 1 nm.'
    attributes = {
        'name': reconstruction.name,
        'comments': comments,
        'provenance': json.dumps(dict(reconstruction.provenance)),
        'detector_object_distance_m': geometry.detector_distance_m or 0.0,
        'photon_energy_eV': geometry.photon_energy_eV or 0.0,
        # Ptychodus reads this name until 1.6, and needs it.
        'probe_energy_eV': geometry.photon_energy_eV or 0.0,
        'probe_photon_count': float((np.abs(reconstruction.probe) ** 2).sum(dtype=np.float64)),
        'exposure_time_s': 0.0,
        'mass_attenuation_m2_per_kg': 0.0,
        'tomography_angle_deg': 0.0,
        'tilt_angle_deg': 0.0,
        'focus_object_distance_m': geometry.focus_object_distance_m or 0.0,
        'far_field': not geometry.is_near_field,
    }
    # It is made in memory first: a disk that fills up while HDF5 closes a file can end the process.
    content = io.BytesIO()
    with h5py.File(content, 'w') as file:
        file.attrs.update(attributes)
        _write_arrays(file, reconstruction, np.array(pixel_m, dtype=np.float64))
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(content.getbuffer())


def _write_arrays(file: Any, reconstruction: Reconstruction, pixel_m: RealArray) -> None:
    positions_m = reconstruction.positions_px * pixel_m
    file['probe_position_indexes'] = reconstruction.pattern_indexes
    file['probe_position_y_m'] = positions_m[:, 0]
    file['probe_position_x_m'] = positions_m[:, 1]
    probe = np.asarray(reconstruction.probe, dtype=np.complex64)
    stored, weights = coherent_modes(
        probe, reconstruction.probe_variation, reconstruction.intensities
    )
    file['probe'] = stored
    if weights is not None:
        file['opr_weights'] = weights
    if reconstruction.intensities is not None:
        file['intensities'] = np.asarray(reconstruction.intensities, dtype=np.float64)
    file['object'] = np.asarray(reconstruction.object_, dtype=np.complex64)[np.newaxis]
    for name in ('probe', 'object'):
        file[name].attrs.update(pixel_height_m=pixel_m[0], pixel_width_m=pixel_m[1])
    middle = _middle_px(reconstruction.object_.shape, probe.shape[-2:])
    centre_m = (reconstruction.origin_px + middle) * pixel_m
    file['object'].attrs.update(center_y_m=centre_m[0], center_x_m=centre_m[1])
    # These are for people and scripts; Ptychodus leaves them alone.
    for name in STANDARD_DEVIATIONS:
        values = getattr(reconstruction, name)
        if values is not None:
            file[f'object_{name}'] = np.asarray(values, dtype=np.float32)[np.newaxis]
    fit = reconstruction.pattern_fit
    for name, outliers in (
        ('outlier_indexes', () if fit is None else fit.outliers),
        ('dropped_indexes', reconstruction.dropped),
    ):
        if outliers:
            file[name] = np.array([outlier.pattern_index for outlier in outliers], np.int64)
    file['object_layer_spacing_m'] = np.zeros(0)
    likelihoods = np.asarray(reconstruction.likelihoods, dtype=np.float64)
    file['loss_epochs'] = np.arange(len(likelihoods))
    file['loss_values'] = likelihoods
