"""Rasters of electron microscopes: patterns without positions, at even steps, become a scan."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry, wavelength_m
from ptychopinn_plugin.data.readers.hdf5 import stack_of
from ptychopinn_plugin.data.readers.matching import (
    Product,
    join,
    known_geometry,
    measurement_of,
    options_for_pixel,
)
from ptychopinn_plugin.data.readers.request import ADVICE_ALONE, ReadingRequest
from ptychopinn_plugin.data.readers.units import length_of_unit
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError

_ANGLES = {'rad': 1.0, 'mrad': 1e-3, 'mrads': 1e-3}


@dataclass(frozen=True)
class Raster:
    """What a file holds of a raster.

    Attributes
    ----------
    patterns : ndarray, shape (rows, columns, height, width)
    steps_m : (float, float), optional
        Down and right.
    detector_pixels : tuple of (float, str)
        Height and width of a detector pixel with their units: a spatial frequency or an angle.
        Empty where they are unknown.
    geometry : Geometry
        What else is known.
    """

    patterns: RealArray
    steps_m: tuple[float, float] | None = None
    detector_pixels: tuple[tuple[float, str], ...] = ()
    geometry: Geometry = field(default_factory=Geometry)
    notes: tuple[str, ...] = ()


def raster_scan(
    raster: Raster, path: Path, request: ReadingRequest, product: Product | None = None
) -> Scan:
    """Make a scan of a raster, row by row.

    Parameters
    ----------
    raster : Raster
    path : Path
        Its file.
    request : ReadingRequest
        Its geometry is used where the size of a detector pixel in reciprocal space is unknown, or
        in place of it, and its `scan_step_m` in place of the raster's steps.
    product : Product, optional
        Positions and probe, in place of a raster with even steps.

    Raises
    ------
    DataError
        If the size of a step or of a pixel is unknown.
    """
    step_m = request.scan_step_m
    stands_alone = request.single_shot and not (step_m or raster.steps_m)
    patterns = stack_of(raster.patterns, f'The patterns of {path}')
    notes = raster.notes
    if product is None and not stands_alone:
        rows, columns = raster.patterns.shape[:2]
        steps = (step_m, step_m) if step_m else raster.steps_m
        if steps is None:
            raise DataError(
                f'{path} does not hold the step of its raster in a unit of length. Give it: '
                'scan_step_m=METRES (--scan-step METRES), or positions: product=FILE '
                f'(--product FILE).{_also_missing(raster, path, request)} {ADVICE_ALONE}'
            )
        # With the place of the beam, frames are cut to the size of the probe.
        probe = None if request.beam_center_px is None else request.probe
        shape = patterns.shape if probe is None else probe.shape
        note = f'The raster of {rows} x {columns} patterns was taken row by row, downwards, '
        note += f'with steps of {steps[0]:.4g} and {steps[1]:.4g} m (down, right).'
        product = Product(
            np.arange(rows * columns),
            _positions(rows, columns, steps),
            geometry=_object_pixels(raster, path, shape, request.given_geometry),
            notes=(*notes, note),
        )
    elif product is None:
        product = Product.without_positions(np.arange(len(patterns)))
        product = replace(product, notes=(*notes, *product.notes))
    measurement = measurement_of(
        patterns, np.arange(len(patterns)), None, domain=request.domain, geometry=raster.geometry
    )
    return join(measurement, product, request)


def _also_missing(raster: Raster, path: Path, request: ReadingRequest) -> str:
    """Return what else has to be given, so that one refusal names all; begins with a space."""
    given, shape = request.given_geometry, raster.patterns.shape
    try:
        pixels = _object_pixels(raster, path, shape, given)
        geometry = known_geometry(raster.geometry.with_values_of(pixels), given, shape)
    except DataError as error:
        return f' {error}'
    options = options_for_pixel(geometry, 'height') or options_for_pixel(geometry, 'width')
    if not options:
        return ''
    return f' The size of an object pixel is unknown too: give {", ".join(options)} as well.'


def step_of(size: float | None, unit: str) -> float | None:
    """Return a step in metres, negative where an axis falls; None without a unit of length."""
    factor = length_of_unit(unit)
    return size * factor if size and np.isfinite(size) and factor is not None else None


def _positions(rows: int, columns: int, steps_m: tuple[float, float]) -> FloatArray:
    """Return (y, x) of a raster in metres, row by row, shape (rows columns, 2)."""
    grid = np.indices((rows, columns)).reshape(2, -1).T.astype(np.float64)
    return np.asarray(grid * np.array(steps_m))


def _object_pixels(raster: Raster, path: Path, shape: tuple[int, ...], given: Geometry) -> Geometry:
    """Return the size of an object pixel, 1 / (n q), where that of the detector, q, is known."""
    # A frequency of the far field is no length of an image.
    if given.is_near_field or (given.detector_distance_m and given.detector_pixel_height_m):
        return Geometry()
    energy = given.photon_energy_eV or raster.geometry.photon_energy_eV
    sizes = []
    for (size, unit), side in zip(raster.detector_pixels, shape[-2:], strict=False):
        frequency = _frequency(size, unit, energy, path)
        sizes.append(1 / (side * frequency) if frequency else None)
    if len(sizes) != 2 or None in sizes:
        return Geometry()
    return Geometry(pixel_height_m=sizes[0], pixel_width_m=sizes[1])


def _frequency(size: float, unit: str, energy_eV: float | None, path: Path) -> float | None:
    """Return the spatial frequency, per metre, that a detector pixel spans; None if unknown."""
    name = unit.strip().replace('Å', 'A').replace(' ', '')
    if not size > 0 or not np.isfinite(size):
        return None
    if name in _ANGLES:
        if not energy_eV:
            raise DataError(
                f'{path} has its pixels in {name}, so that the wavelength is needed. Give '
                '--electron-energy EV, or --photon-energy EV (geometry=Geometry(...)).'
            )
        # An angle over the wavelength is a spatial frequency.
        return size * _ANGLES[name] / wavelength_m(energy_eV)
    length = name.removeprefix('1/')
    for power in ('^-1', '**-1'):
        length = length.removesuffix(power)
    factor = length_of_unit(length) if length != name else None
    return None if factor is None else size / factor
