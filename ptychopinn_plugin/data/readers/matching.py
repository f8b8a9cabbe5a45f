"""Patterns from one place, positions from another: how the two become a scan.

Ptychodus keeps positions as (x, y) in metres. Pixel i of an object with W pixels across lies at
``centre + (i - (W - 1) / 2) * pixel``, and a patch of n pixels is centred between its pixels, at
``(n - 1) / 2``. This project gives the position of pixel ``n // 2``, which for an even n lies half
a pixel further. The change from (x, y) to (y, x) and from one middle to the other happens here.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry, wavelength_m
from ptychopinn_plugin.data.outline import ScanOutline
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.readers.domain import Domain, to_counts, without_logarithm
from ptychopinn_plugin.data.readers.frame_centre import centred
from ptychopinn_plugin.data.readers.invalid_pixels import clip_negative, mask_invalid
from ptychopinn_plugin.data.readers.mask_files import with_mask
from ptychopinn_plugin.data.readers.request import NOTE_WITHOUT_POSITIONS, ReadingRequest
from ptychopinn_plugin.data.scan import ProbeOrigin, Scan
from ptychopinn_plugin.data.starting_probe import made_probe
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import taken
from ptychopinn_plugin.text import count

ELECTRON_REST_ENERGY_EV = 510998.95

PHOTON_ENERGIES_EV = (1.0, 1e7)
"""The range is from visible light to hard X-rays and electrons in a microscope."""


_OBJECT_PIXEL = ('pixel_height_m', 'pixel_width_m')


NOTE_OF_OTHER_PROBE = (
    'The eigenmodes and weights in the file (OPR) belong to its own probe, and are not used with '
    'another one.'
)


NOTE_OF_OTHER_POSITIONS = (
    "The weights of the probe's eigenmodes in the product (OPR) are not used, as they are not "
    'known for all of these positions.'
)


@dataclass(frozen=True)
class Measurement:
    """What a detector recorded, and what its file holds about it.

    Attributes
    ----------
    patterns : ndarray, shape (n_patterns, height, width)
    indexes : ndarray of int, shape (n_patterns,)
        By which patterns meet positions; negative where a pattern is to be left out.
    bad_pixels : ndarray of bool, shape (height, width), optional
    geometry : Geometry
        Without the size of an object pixel.
    """

    patterns: RealArray
    indexes: IntArray
    bad_pixels: BoolArray | None = None
    geometry: Geometry = field(default_factory=Geometry)
    notes: tuple[str, ...] = ()

    @property
    def pattern_shape(self) -> tuple[int, int]:
        """Height and width of a pattern, in pixels."""
        return (int(self.patterns.shape[1]), int(self.patterns.shape[2]))


def measurement_of(
    patterns: RealArray,
    indexes: IntArray,
    bad_pixels: BoolArray | None,
    *,
    domain: Domain | None = None,
    geometry: Geometry | None = None,
) -> Measurement:
    """Make a measurement of what a file holds, with its marks as bad pixels.

    Parameters
    ----------
    patterns : ndarray, shape (n_patterns, height, width)
    indexes : ndarray of int, shape (n_patterns,)
    bad_pixels : ndarray of bool, shape (height, width), optional
    domain : 'counts' or 'amplitudes', optional
        Where not given, counts, or their logarithms where the values show that.
    geometry : Geometry, optional

    Raises
    ------
    DataError
        If the numbers can be neither counts nor amplitudes.
    """
    # Marks come first: the largest number of a type would decide over what the others look like.
    patterns, bad_pixels, notes = mask_invalid(patterns, bad_pixels)
    if domain is None:
        patterns, more = without_logarithm(patterns, domain)
        notes, domain = (*notes, *more), 'counts'
    if domain == 'counts':
        patterns, more = clip_negative(patterns, bad_pixels)
        notes = (*notes, *more)
    return Measurement(
        to_counts(patterns, domain), indexes, bad_pixels, geometry or Geometry(), notes
    )


@dataclass(frozen=True)
class Product:
    """Positions, probe and object in metres, as Ptychodus keeps them.

    Attributes
    ----------
    indexes : ndarray of int, shape (n_positions,)
    positions_m : ndarray, shape (n_positions, 2)
        (y, x), at the middle of the patch.
    probe : ndarray of complex, shape (n_modes, height, width), optional
    probe_variation : ProbeVariation, optional
        How it varies from position to position.
    object_ : ndarray of complex, shape (object_height, object_width), optional
    centre_m : (float, float), optional
        (y, x) of the middle of the object.
    name, comments : str
    losses : tuple of float
        Of each epoch of what made it.
    has_positions : bool
        Whether the positions are known; where they are not, they are zeros.
    """

    indexes: IntArray
    positions_m: FloatArray
    probe: ComplexArray | None = None
    object_: ComplexArray | None = None
    centre_m: tuple[float, float] | None = None
    geometry: Geometry = field(default_factory=Geometry)
    notes: tuple[str, ...] = ()
    name: str = ''
    comments: str = ''
    losses: tuple[float, ...] = ()
    probe_variation: ProbeVariation | None = None
    has_positions: bool = True

    @classmethod
    def without_positions(cls, indexes: IntArray) -> 'Product':
        """Return what is known where a file holds patterns alone."""
        return cls(
            indexes,
            np.zeros((len(indexes), 2)),
            notes=(NOTE_WITHOUT_POSITIONS,),
            has_positions=False,
        )


def photon_energy_of_electrons(electron_energy_eV: float) -> float:
    r"""Return the energy of a photon of the wavelength that electrons have.

    With the kinetic energy :math:`E` and the rest energy :math:`m c^2`, by which wavelengths are
    relativistic, it is :math:`h c / \lambda = \sqrt{E (E + 2 m c^2)}`.

    Parameters
    ----------
    electron_energy_eV : float
        The accelerating voltage times the charge.
    """
    return math.sqrt(electron_energy_eV * (electron_energy_eV + 2 * ELECTRON_REST_ENERGY_EV))


def to_indexes(values: RealArray, what: str) -> IntArray:
    """Return numbers of patterns as int64.

    Parameters
    ----------
    values : ndarray of a real type
    what : str
        What they are, with their file, for messages.

    Raises
    ------
    DataError
        If one is not whole, or larger than int64 holds.
    """
    # Beyond this size not every whole number is a float, and a cast would give any number.
    is_index = (np.abs(values.astype(np.float64)) < 2.0**53) & (values == np.rint(values))
    if not is_index.all():
        wrong = values[~is_index].ravel()[0]
        raise DataError(
            f'{what} must be whole numbers below 2^53; one of them is {wrong:g}. Write the file '
            'again, or leave them out.'
        )
    return values.astype(np.int64)


def middle_offset_px(size: int) -> float:
    """Return how far pixel ``size // 2`` lies beyond the middle of a patch."""
    return size // 2 - (size - 1) / 2


def single_layer(object_: ComplexArray) -> tuple[ComplexArray, tuple[str, ...]]:
    """Return (height, width) of an object that may have layers, and a note.

    Raises
    ------
    DataError
        If it has neither 2 nor 3 axes.
    """
    if object_.ndim == 2:
        return object_, ()
    if object_.ndim != 3:
        raise DataError(f'The object must have 2 or 3 axes; got shape {object_.shape}.')
    # A product of Ptychodus always has an axis of layers.
    if len(object_) == 1:
        return object_[0], ()
    note = f'The object has {len(object_)} layers; their product is used.'
    # Layers multiply where nothing diffracts between them, as this package has it.
    return np.prod(object_, axis=0), (note,)


def join(measurement: Measurement, product: Product | None, request: ReadingRequest) -> Scan:
    """Make a scan of patterns and positions, matched by their indexes.

    Parameters
    ----------
    measurement : Measurement
    product : Product, optional
        Patterns may do without one where each is reconstructed alone.
    request : ReadingRequest
        Its values take the place of those in the files.

    Raises
    ------
    DataError
        If no index is common, or the size of an object pixel is unknown.
    """
    if product is None:
        product = Product.without_positions(measurement.indexes)
    variation, replaced = product.probe_variation, list[str]()
    if variation is not None and request.probe is not None:
        variation = None
        replaced.append(NOTE_OF_OTHER_PROBE)
    probe = product.probe if request.probe is None else request.probe
    bad_pixels = with_mask(measurement.bad_pixels, request.mask, measurement.patterns.shape[1:])
    stated = measurement.geometry.with_values_of(product.geometry)
    patterns, bad_pixels, centring_notes = centred(
        *(measurement.patterns, bad_pixels, probe, request.beam_center_px),
        is_near_field=stated.with_values_of(request.given_geometry).is_near_field,
    )
    measurement = dataclasses.replace(measurement, patterns=patterns, bad_pixels=bad_pixels)
    kept, positions_m, notes = _match(measurement.indexes, product)
    geometry = _merged_geometry(measurement, product.geometry, request.given_geometry)
    product, unplaced = _without_useless_positions(product, geometry, request)
    if product.has_positions:
        _check_pixel(geometry)
    origin: ProbeOrigin = 'given'
    if probe is None:
        # The patterns are centred by now, without which their far field gives no probe.
        probe, note = made_probe(patterns, bad_pixels, geometry)
        origin, centring_notes = 'patterns', (*centring_notes, note)
    if variation is not None:
        weights = rows_at(variation.weights, product.indexes, measurement.indexes[kept])
        variation = dataclasses.replace(variation, weights=weights)
    product, more = _with_pixel(product, geometry, request.geometry)
    positions_px: FloatArray = np.zeros((len(kept), 2))
    if product.has_positions:
        positions_px = _to_pixels(positions_m, product, geometry, measurement.pattern_shape)
    return Scan(
        patterns=patterns if len(kept) == len(patterns) else taken(patterns, kept),
        positions_px=positions_px,
        probe=probe,
        object_=None if product.object_ is None else product.object_.astype(np.complex64),
        bad_pixels=bad_pixels,
        pattern_indexes=measurement.indexes[kept].astype(np.int64),
        geometry=geometry,
        probe_origin=origin,
        name=request.name,
        probe_variation=variation,
        notes=(
            *(*measurement.notes, *centring_notes, *product.notes),
            *(*notes, *unplaced, *more, *replaced),
        ),
    )


def outline_of(measurement: Measurement, product: Product, name: str) -> ScanOutline:
    """Return the outline of the scan that `join` makes of a measurement whose patterns are no part.

    Parameters
    ----------
    measurement : Measurement
        The shape of its patterns counts, and not their values.
    product : Product
    name : str

    Raises
    ------
    DataError
        As in `join`.
    """
    _, positions_m, _ = _match(measurement.indexes, product)
    geometry = _merged_geometry(measurement, product.geometry, Geometry())
    _check_pixel(geometry)
    shape = measurement.pattern_shape
    return ScanOutline(
        *(_to_pixels(positions_m, product, geometry, shape), shape, product.probe, name)
    )


def _match(indexes: IntArray, product: Product) -> tuple[IntArray, FloatArray, list[str]]:
    unique = np.unique(product.indexes)
    kept = np.flatnonzero(np.isin(indexes, unique) & (indexes >= 0))
    if not kept.size:
        raise DataError(
            f'Patterns and positions must share indexes; the patterns have {_span(indexes)}, '
            f'the positions {_span(product.indexes)}. Do the two files belong together?'
        )
    notes = []
    if len(kept) < len(indexes):
        notes.append(f'Left out: {count(len(indexes) - len(kept), "pattern")} without a position.')
    unused = int((~np.isin(unique, indexes)).sum())
    if unused:
        notes.append(f'Left out: {count(unused, "position")} without a pattern.')
    if len(unique) < len(product.indexes):
        notes.append('Positions with the same index were averaged.')
    return kept, rows_at(product.positions_m, product.indexes, indexes[kept]), notes


def rows_at(values: FloatArray, indexes: IntArray, wanted: IntArray) -> FloatArray:
    """Return rows of values (n_positions, n_columns) by the indexes of their positions."""
    unique, inverse = np.unique(indexes, return_inverse=True)
    repeats = np.bincount(inverse, minlength=len(unique))
    # An index that occurs more than once is one exposure with several readings of its position.
    columns = [np.bincount(inverse, column) / repeats for column in values.T]
    return np.stack(columns, axis=1)[np.searchsorted(unique, wanted)]


def _span(indexes: IntArray) -> str:
    return f'{indexes.min()} to {indexes.max()}' if indexes.size else 'none'


def _with_pixel(
    product: Product, geometry: Geometry, given: Geometry | None
) -> tuple[Product, tuple[str, ...]]:
    """Leave out an object of other pixels than the user's options give, with a note."""
    old = product.geometry.pixel_height_m, product.geometry.pixel_width_m
    new = geometry.pixel_height_m, geometry.pixel_width_m
    if given is None or not (old[0] and old[1] and new[0] and new[1]):
        return product, ()
    if np.allclose([old[0], old[1]], [new[0], new[1]], rtol=1e-3, atol=0):
        return product, ()
    note = (
        f'Pixels of the object are {new[0]:.4g} x {new[1]:.4g} m by the options given; the '
        f"file's {old[0]:.4g} x {old[1]:.4g} m and its object were not used."
    )
    return dataclasses.replace(product, object_=None, centre_m=None), (note,)


def known_geometry(own: Geometry, given: Geometry, shape: tuple[int, ...]) -> Geometry:
    """Return a geometry with the user's values; the object's pixel follows, where it can.

    Parameters
    ----------
    own : Geometry
        The values of the files.
    given : Geometry
        Its values take the place of those.
    shape : tuple of int
        Of the patterns.

    Raises
    ------
    DataError
        If the energy cannot be one of photons.
    """
    stated, merged = given.stated(), own.with_values_of(given)
    if merged.is_near_field != own.is_near_field and not {*stated} & {*_OBJECT_PIXEL}:
        # It is that of the other kind of field.
        merged = dataclasses.replace(merged, pixel_height_m=None, pixel_width_m=None)
    sizes: dict[str, Any] = {}
    for axis, detector_pixel, side in (
        ('pixel_height_m', merged.detector_pixel_height_m, -2),
        ('pixel_width_m', merged.detector_pixel_width_m, -1),
    ):
        energy, distance = merged.photon_energy_eV, merged.detector_distance_m
        # A pixel in the file is the one that its object was made with; only the user overrules it.
        stands = getattr(own, axis) and not stated
        if stands or axis in stated or not detector_pixel:
            continue
        if energy and distance:
            _check_energy(energy)
        if merged.is_near_field:
            sizes[axis] = detector_pixel / merged.magnification()
        elif energy and distance:
            length = wavelength_m(energy) * abs(distance)
            sizes[axis] = float(length / (shape[side] * detector_pixel))
    return dataclasses.replace(merged, **sizes)


def _check_energy(energy_eV: float) -> None:
    # An energy in another unit, or that of electrons in a ring, would give pixels that look right.
    low, high = PHOTON_ENERGIES_EV
    if not low <= energy_eV <= high:
        raise DataError(
            f'The photon energy must be between {low:g} and {high:g} eV; in the file '
            f'it is {energy_eV:.3g} eV. Is it in another unit, or that of the machine? Give the '
            'right one: --photon-energy EV (geometry=Geometry(photon_energy_eV=...)).'
        )


def _without_useless_positions(
    product: Product, geometry: Geometry, request: ReadingRequest
) -> tuple[Product, tuple[str, ...]]:
    """Leave positions out that no pixel turns into pixels, where patterns stand alone."""
    if not product.has_positions:
        return dataclasses.replace(product, object_=None, centre_m=None), ()
    if not request.single_shot or (geometry.pixel_height_m and geometry.pixel_width_m):
        return product, ()
    note = (
        'The size of an object pixel is unknown, so that the positions, which are in metres, were '
        'left out; each pattern stands alone.'
    )
    found = dataclasses.replace(product, object_=None, centre_m=None, has_positions=False)
    return found, (note,)


def _merged_geometry(measurement: Measurement, product: Geometry, given: Geometry) -> Geometry:
    """Return what product, measurement and user know of the geometry."""
    own = measurement.geometry.with_values_of(product)
    geometry = known_geometry(own, given, measurement.patterns.shape)
    return dataclasses.replace(
        geometry,
        # Programs write zero where nobody has filled a value in.
        photon_energy_eV=geometry.photon_energy_eV or None,
        detector_distance_m=geometry.detector_distance_m or None,
    )


def options_for_pixel(geometry: Geometry, axis: Literal['height', 'width']) -> list[str]:
    """Return the options that give what the size of an object pixel lacks; none where known."""
    if getattr(geometry, f'pixel_{axis}_m'):
        return []
    values = {
        '--photon-energy (of electrons: --electron-energy)': geometry.photon_energy_eV,
        '--detector-distance': geometry.detector_distance_m,
        '--detector-pixel': getattr(geometry, f'detector_pixel_{axis}_m'),
    }
    return [option for option, value in values.items() if not value]


def _check_pixel(geometry: Geometry) -> None:
    """Raise a DataError unless the size of an object pixel is known."""
    axes: tuple[Literal['height', 'width'], ...] = ('height', 'width')
    for axis in axes:
        if getattr(geometry, f'pixel_{axis}_m'):
            continue
        raise DataError(
            f'The {axis} of an object pixel is needed to turn metres into pixels, and the file '
            f'lacks a part of what gives it. Use {", ".join(options_for_pixel(geometry, axis))} '
            '(geometry=Geometry(...)), or write it into the file.'
        )


def _to_pixels(
    positions_m: FloatArray, product: Product, geometry: Geometry, shape: tuple[int, ...]
) -> FloatArray:
    pixel_m = np.array([geometry.pixel_height_m, geometry.pixel_width_m])
    if product.object_ is None or product.centre_m is None:
        # Without an object zero is where the first patch starts.
        corner = positions_m.min(axis=0) if np.isfinite(positions_m).all() else np.zeros(2)
        return np.asarray((positions_m - corner) / pixel_m + [shape[0] // 2, shape[1] // 2])
    middle = (np.array(product.object_.shape) - 1) / 2
    offset = [middle_offset_px(shape[0]), middle_offset_px(shape[1])]
    return np.asarray((positions_m - product.centre_m) / pixel_m + middle + offset)
