"""EMD files of electron microscopes: a raster of patterns, as py4DSTEM writes it.

Their layout is described at https://emdatasets.com/format: groups with the attribute
`emd_group_type`, a four-dimensional `data`, its axes in `dim0` to `dim3` with `units`, and the
sizes of steps and pixels in a `calibration`.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray
from ptychopinn_plugin.data.readers.domain import Domain
from ptychopinn_plugin.data.readers.hdf5 import (
    find,
    find_dataset,
    find_number,
    open_hdf5,
    stack_of,
)
from ptychopinn_plugin.data.readers.matching import (
    Product,
    join,
    load_name,
    measurement_of,
    wavelength_m,
)
from ptychopinn_plugin.data.readers.units import length_of_unit
from ptychopinn_plugin.data.scan import Geometry, Scan
from ptychopinn_plugin.errors import DataError

_TYPE = 'emd_group_type'


def is_emd(file: Any) -> bool:
    """Return whether an open HDF5 file is EMD, by the attributes of its groups."""
    return any(_TYPE in item.attrs for item in file.values() if isinstance(item, h5py.Group))


def read_emd(
    path: Path,
    *,
    product: Product | None = None,
    domain: Domain | None,
    probe: ComplexArray | None = None,
    given: Geometry | None = None,
    beam_center_px: tuple[int, int] | None = None,
    mask: BoolArray | None = None,
    scan_step_m: float | None = None,
) -> Scan:
    """Read the raster of patterns of an EMD file, row by row.

    Parameters
    ----------
    path : Path
    product : Product, optional
        Positions and probe, in place of a raster with even steps.
    domain : 'counts' or 'amplitudes', optional
        EMD files hold counts, which is the default.
    probe : ndarray of complex, shape (n_modes, height, width), optional
        Used in place of the product's; without any, one is made of the patterns.
    given : Geometry, optional
        Energy, distance and detector pixel, where the file has no size of a pixel in reciprocal
        angstroms, or in place of it.
    beam_center_px : (row, column), optional
    mask : ndarray of bool, shape (frame_height, frame_width), optional
    scan_step_m : float, optional
        The step in both directions, in place of that in the file.

    Raises
    ------
    DataError
        If it holds not one raster, or the size of a step or of a pixel is unknown.
    """
    with open_hdf5(path) as file:
        group = _raster(file)
        data = find(file, [f'{group.name}/data'])
        assert data is not None
        patterns = stack_of(data, f'The patterns of {path}')
        rows, columns = data.shape[:2]
        if product is None:
            steps = (scan_step_m, scan_step_m) if scan_step_m else _steps(file, group)
            indexes = np.arange(rows * columns)
            positions = raster_positions(rows, columns, steps)
            # With the place of the beam, frames are cut to the size of the probe.
            is_cut = beam_center_px is not None and probe is not None
            shape = probe.shape if is_cut and probe is not None else patterns.shape
            geometry = _object_pixels(file, shape, given or Geometry())
            note = f'The raster of {rows} x {columns} patterns was taken row by row, downwards, '
            note += f'with steps of {steps[0]:.4g} and {steps[1]:.4g} m (down, right).'
            product = Product(indexes, positions, geometry=geometry, notes=(note,))
    measurement = measurement_of(patterns, np.arange(len(patterns)), None, domain=domain)
    return join(
        measurement,
        product,
        name=load_name(path),
        probe=probe,
        given=given,
        beam_center_px=beam_center_px,
        mask=mask,
    )


def raster_positions(rows: int, columns: int, steps_m: tuple[float, float]) -> FloatArray:
    """Return (y, x) of a raster in metres, row by row, shape (rows columns, 2)."""
    grid = np.indices((rows, columns)).reshape(2, -1).T.astype(np.float64)
    return np.asarray(grid * np.array(steps_m))


def _raster(file: Any) -> Any:
    """Return the one group that holds a `data` of four axes."""
    found: list[Any] = []

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 4 and name.endswith('/data'):
            found.append(item.parent)

    file.visititems(look)
    if len(found) != 1:
        names = ', '.join(group.name for group in found) or 'none'
        raise DataError(
            f'{file.filename} must hold one array of (rows, columns, height, width); it holds '
            f'{names}. Write the one to reconstruct into a file of its own.'
        )
    return found[0]


def _calibration(file: Any, key: str) -> tuple[float | None, str]:
    """Return a size and its unit of the calibration, wherever that is."""
    value: list[Any] = [None, '']

    def look(name: str, item: object) -> None:
        if not name.endswith(f'calibration/{key}_size') or not isinstance(item, h5py.Dataset):
            return
        value[0] = find_number(file, [name])
        units = find_dataset(file, [name.removesuffix('_size') + '_units'])
        if units is not None and units.shape == ():
            text = units[()]
            value[1] = text.decode('utf-8', 'replace') if isinstance(text, bytes) else str(text)

    file.visititems(look)
    return value[0], value[1]


def _steps(file: Any, group: Any) -> tuple[float, float]:
    """Return the steps down and right in metres, of the calibration or of the axes."""
    size, unit = _calibration(file, 'R_pixel')
    factor = length_of_unit(unit)
    if size and size > 0 and factor is not None:
        return size * factor, size * factor
    steps = []
    for axis in (0, 1):
        values = find_dataset(file, [f'{group.name}/dim{axis}'])
        if values is None or values.size in (None, 0, 1) or values.dtype.kind not in 'uif':
            break
        units = values.attrs.get('units', '')
        units = units.decode('utf-8', 'replace') if isinstance(units, bytes) else str(units)
        factor = length_of_unit(units)
        numbers = np.asarray(values[:2], dtype=np.float64)
        if factor is None or not abs(numbers[1] - numbers[0]) > 0:
            break
        steps.append(float(numbers[1] - numbers[0]) * factor)
    if len(steps) == 2:
        return steps[0], steps[1]
    raise DataError(
        f'{file.filename} does not hold the step of its raster in a unit of length. Give it: '
        'scan_step_m=METRES (--scan-step METRES), or positions: product=FILE (--product FILE).'
    )


def _object_pixels(file: Any, shape: tuple[int, ...], given: Geometry) -> Geometry:
    """Return the size of an object pixel, 1 / (n q), where that of the detector, q, is known."""
    if given.detector_distance_m and given.detector_pixel_height_m:
        return Geometry()
    size, unit = _calibration(file, 'Q_pixel')
    if not size or not size > 0:
        return Geometry()
    name = unit.strip().replace('Å', 'A').replace(' ', '')
    if name in ('A^-1', '1/A', 'A**-1'):
        frequency = size * 1e10
    elif name in ('mrad', 'mrads'):
        if not given.photon_energy_eV:
            raise DataError(
                f'{file.filename} has its pixels in mrad, so that the wavelength is needed. Give '
                '--electron-energy EV, or --photon-energy EV (geometry=Geometry(...)).'
            )
        # An angle over the wavelength is a spatial frequency.
        frequency = size * 1e-3 / wavelength_m(given.photon_energy_eV)
    else:
        return Geometry()
    height, width = shape[-2:]
    return Geometry(pixel_height_m=1 / (height * frequency), pixel_width_m=1 / (width * frequency))
