"""EMD files of electron microscopes: a raster of patterns, as py4DSTEM writes it.

Their layout is described at https://emdatasets.com/format: groups with the attribute
`emd_group_type`, a four-dimensional `data`, its axes in `dim0` to `dim3` with `units`, and the
sizes of steps and pixels in a `calibration`.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn_plugin.data.readers.hdf5 import (
    find,
    find_dataset,
    find_number,
    open_hdf5,
    text_attribute,
)
from ptychopinn_plugin.data.readers.matching import Product
from ptychopinn_plugin.data.readers.rasters import Raster, raster_scan, step_of
from ptychopinn_plugin.data.readers.request import ReadingRequest
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError

_TYPE = 'emd_group_type'


def is_emd(file: Any) -> bool:
    """Return whether an open HDF5 file is EMD, by the attributes of its groups."""
    return any(_TYPE in item.attrs for item in file.values() if isinstance(item, h5py.Group))


def read_emd(path: Path, request: ReadingRequest, product: Product | None = None) -> Scan:
    """Read the raster of patterns of an EMD file, row by row.

    Parameters
    ----------
    path : Path
    request : ReadingRequest
        Its geometry takes the place of the size of a pixel in reciprocal angstroms, and its
        `scan_step_m` that of the steps.
    product : Product, optional
        Positions and probe, in place of a raster with even steps.

    Raises
    ------
    DataError
        If it holds not one raster, or the size of a step or of a pixel is unknown.
    """
    with open_hdf5(path) as file:
        group = _raster(file)
        data = find(file, [f'{group.name}/data'])
        assert data is not None
        size, unit = _calibration(file, 'Q_pixel')
        raster = Raster(
            data,
            _steps(file, group) if product is None and request.scan_step_m is None else None,
            () if size is None else ((size, unit), (size, unit)),
        )
    return raster_scan(raster, path, request, product)


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


def _steps(file: Any, group: Any) -> tuple[float, float] | None:
    """Return the steps down and right in metres, of the calibration or of the axes."""
    step = step_of(*_calibration(file, 'R_pixel'))
    if step is not None and step > 0:
        return step, step
    steps = []
    for axis in (0, 1):
        values = find_dataset(file, [f'{group.name}/dim{axis}'])
        if values is None or values.size in (None, 0, 1) or values.dtype.kind not in 'uif':
            return None
        # An even axis is known by its first two values, and may be stored by them alone.
        numbers = np.asarray(values[:2], dtype=np.float64)
        steps.append(step_of(numbers[1] - numbers[0], text_attribute(values, 'units')))
    return None if steps[0] is None or steps[1] is None else (steps[0], steps[1])
