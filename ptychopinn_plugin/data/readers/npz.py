"""NPZ scans: PtychoPINN's contract (amplitudes) and Ptychodus' export (counts), one set of keys."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import (
    BoolArray,
    ComplexArray,
    FloatArray,
    IntArray,
    NamedArrays,
    RealArray,
)
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.outline import ScanOutline
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.readers.domain import (
    Domain,
    infer_domain,
    squares_are_whole,
    to_counts,
    without_logarithm,
)
from ptychopinn_plugin.data.readers.frame_centre import centred
from ptychopinn_plugin.data.readers.invalid_pixels import clip_negative, mask_invalid
from ptychopinn_plugin.data.readers.mask_files import with_mask
from ptychopinn_plugin.data.readers.matching import (
    NOTE_OF_OTHER_PROBE,
    known_geometry,
    middle_offset_px,
    single_layer,
    to_indexes,
)
from ptychopinn_plugin.data.readers.npz_archive import open_npz
from ptychopinn_plugin.data.readers.npz_metadata import number_of, photons_of
from ptychopinn_plugin.data.readers.pattern_axes import (
    count_alone,
    pattern_shape_of,
    positions_first,
)
from ptychopinn_plugin.data.readers.probe_axes import single_probe
from ptychopinn_plugin.data.readers.request import (
    ADVICE_ALONE,
    NOTE_WITHOUT_POSITIONS,
    ReadingRequest,
    load_name,
)
from ptychopinn_plugin.data.scan import ProbeOrigin, Scan
from ptychopinn_plugin.data.starting_probe import made_probe
from ptychopinn_plugin.errors import DataError

_ATTRIBUTES = (
    'diff3d',
    'xcoords',
    'ycoords',
    'xcoords_start',
    'ycoords_start',
    'probeGuess',
    'objectGuess',
    'scan_index',
)
_GEOMETRY = tuple(Geometry.__dataclass_fields__)


def arrays_of(raw: object) -> dict[str, RealArray]:
    """Return the arrays of an object with the attributes of PtychoPINN's `RawData`, by key."""
    found = {name: getattr(raw, name, None) for name in _ATTRIBUTES}
    arrays = {name: np.asarray(value) for name, value in found.items()}
    return {name: array for name, array in arrays.items() if array.shape or array.dtype != object}


def read_numbers(arrays: NamedArrays, key: str, kinds: str = 'uif') -> RealArray:
    """Return an array of numbers; `kinds` are NumPy's letters of the types that it may have.

    Raises
    ------
    DataError
        If the array is of another type.
    """
    values = arrays[key]
    if values.dtype.kind not in kinds:
        numbers = 'numbers' if 'c' in kinds else 'real numbers'
        raise DataError(f'{key} must hold {numbers}; its type is {values.dtype}.')
    return values


def read_metadata(archive: NamedArrays) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the JSON of `_metadata`, empty where there is none, and a note if it is unreadable."""
    if '_metadata' not in archive:
        return {}, ()
    try:
        values = json.loads(str(archive['_metadata'].ravel()[0]))
    except (DataError, IndexError, json.JSONDecodeError):
        return {}, ('_metadata is not JSON and was ignored.',)
    if not isinstance(values, dict):
        return {}, ('_metadata is not a JSON object and was ignored.',)
    return values, ()


def geometry_of(metadata: Mapping[str, Any]) -> Geometry:
    """Return the sizes that metadata hold, under `geometry` or beside the rest."""
    values: dict[str, Any] = {}
    for source in (metadata, metadata.get('geometry')):
        if not isinstance(source, Mapping):
            continue
        for name in _GEOMETRY:
            number = number_of(source.get(name))
            if number:
                values[name] = number
        # Structs of MATLAB have numbers where JSON has truth values.
        if source.get('near_field'):
            values['near_field'] = True
    return Geometry(**values)


def read_npz(path: Path, request: ReadingRequest) -> Scan:
    """Read a scan from an NPZ file, which may state its `diffraction_domain` in `_metadata`."""
    with open_npz(path) as archive:
        scan = scan_of(archive, request)
        if archive.empty:
            note = f'{", ".join(archive.empty)}: an object (None?) and no array; not read.'
            scan = dataclasses.replace(scan, notes=(*scan.notes, note))
        return scan


def read_npz_outline(path: Path) -> ScanOutline:
    """Read what an NPZ file holds but for its patterns; see `read_npz`."""
    with open_npz(path) as archive:
        metadata, _ = read_metadata(archive)
        positions, _ = _positions(archive)
        key = _pattern_key(archive)
        shape = pattern_shape_of(archive.shape_of(key), key, len(positions))
        probe = None
        if 'probeGuess' in archive:
            probe, _ = single_probe(read_numbers(archive, 'probeGuess', 'buifc'))
        positions = positions + _offset_px(archive, metadata, shape)
        return ScanOutline(positions, shape, probe, str(metadata.get('name') or load_name(path)))


def scan_of(archive: NamedArrays, request: ReadingRequest) -> Scan:
    """Make a scan of arrays under the names of an NPZ file; see `read_npz`."""
    probe = request.probe
    metadata, notes = read_metadata(archive)
    modes_axis, variation, of_probe = False, None, tuple[str, ...]()
    has_own_probe = probe is None and 'probeGuess' in archive
    if has_own_probe:
        guess = read_numbers(archive, 'probeGuess', 'buifc')
        modes_axis = guess.ndim > 2
        probe, of_probe = single_probe(guess)
    # Both of these write the positions first.
    known = 'bad_pixels' in archive or 'diffraction_domain' in metadata
    if request.single_shot and not _has_positions(archive):
        known_shape = None if probe is None else probe.shape[-2:]
        patterns, order = _patterns_alone(archive, known_shape, known_order=known)
        positions: FloatArray = np.zeros((len(patterns), 2))
        notes = (*notes, NOTE_WITHOUT_POSITIONS, *order, *of_probe)
    else:
        positions, more = _positions(archive)
        patterns, order = _patterns(archive, len(positions), known_order=known)
        notes = (*notes, *more, *order, *of_probe)
    if has_own_probe:
        assert probe is not None
        variation = stored_variation(archive, len(positions), probe.shape[-2:])
    elif 'opr_weights' in archive:
        notes = (*notes, NOTE_OF_OTHER_PROBE)
    looks_exported = 'bad_pixels' in archive or modes_axis
    patterns, bad_pixels, more = _measured(
        archive, patterns, request.domain, metadata, looks_exported
    )
    bad_pixels = with_mask(bad_pixels, request.mask, patterns.shape[1:])
    geometry = geometry_of(metadata)
    patterns, bad_pixels, centring_notes = centred(
        *(patterns, bad_pixels, probe, request.beam_center_px),
        is_near_field=geometry.with_values_of(request.given_geometry).is_near_field,
    )
    if request.geometry is not None:
        geometry = known_geometry(geometry, request.geometry, patterns.shape)
    origin: ProbeOrigin = 'given'
    if probe is None:
        probe, note = made_probe(patterns, bad_pixels, geometry)
        origin, centring_notes = 'patterns', (*centring_notes, note)
    object_, object_notes = _object(archive)
    nominal = _nominal(archive, len(positions))
    offset = _offset_px(archive, metadata, patterns.shape[1:])
    nominal = None if nominal is None else nominal + offset
    return Scan(
        patterns=patterns,
        positions_px=positions + offset,
        probe=probe,
        object_=object_,
        bad_pixels=bad_pixels,
        nominal_positions_px=nominal,
        scan_index=_numbers_of_patterns(archive, 'scan_index', len(positions)),
        pattern_indexes=_numbers_of_patterns(archive, 'pattern_indexes', len(positions)),
        geometry=geometry,
        probe_variation=variation,
        probe_origin=origin,
        name=str(metadata.get('name') or request.name),
        notes=(*notes, *more, *centring_notes, *object_notes, *_restored(metadata)),
    )


def stored_variation(
    archive: NamedArrays, n_positions: int, pattern_shape: tuple[int, int]
) -> ProbeVariation | None:
    """Return how a probe varies, as `write_scan` and `write_reconstruction` write it.

    Raises
    ------
    DataError
        If `probe_eigenmodes` and `opr_weights` belong to other positions or patterns.
    """
    if 'opr_weights' not in archive or 'probe_eigenmodes' not in archive:
        return None
    variation = ProbeVariation(
        read_numbers(archive, 'probe_eigenmodes', 'buifc'), read_numbers(archive, 'opr_weights')
    )
    variation.check(n_positions, pattern_shape)
    return variation


def _offset_px(
    archive: NamedArrays, metadata: Mapping[str, Any], pattern_shape: tuple[int, ...]
) -> FloatArray:
    """Return what is to be added to the positions of a file, (y, x)."""
    if metadata or 'bad_pixels' not in archive:
        return np.zeros(2)
    # Since 1.6 Ptychodus gives the middle between pixels; only newer files have bad_pixels.
    return np.array([middle_offset_px(side) for side in pattern_shape])


def _measured(
    archive: NamedArrays,
    patterns: RealArray,
    domain: Domain | None,
    metadata: Mapping[str, Any],
    looks_exported: bool,
) -> tuple[RealArray, BoolArray, tuple[str, ...]]:
    """Return counts, bad pixels, and notes of what was taken for what."""
    patterns, bad_pixels, notes = mask_invalid(patterns, _bad_pixels(archive))
    patterns, of_logarithm = without_logarithm(patterns, domain)
    domain, more = _choose_domain(patterns, domain, metadata, looks_exported)
    notes = (*notes, *of_logarithm, *more)
    if domain == 'counts':
        patterns, more = clip_negative(patterns, bad_pixels)
        notes = (*notes, *more)
    patterns, more = _counts(patterns, domain, metadata)
    return patterns, bad_pixels, (*notes, *more)


def _restored(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    notes = metadata.get('notes')
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def _column(archive: NamedArrays, key: str) -> FloatArray:
    return read_numbers(archive, key).astype(np.float64).ravel()


def _coordinates(archive: NamedArrays, x_key: str, y_key: str) -> FloatArray:
    x, y = _column(archive, x_key), _column(archive, y_key)
    if len(x) != len(y):
        raise DataError(
            f'{x_key} and {y_key} must have the same length; they have {len(x)} and {len(y)}.'
        )
    return np.stack([y, x], axis=1)


def _has_positions(archive: NamedArrays) -> bool:
    return 'xcoords' in archive or 'xcoords_start' in archive


def _positions(archive: NamedArrays) -> tuple[FloatArray, tuple[str, ...]]:
    if 'xcoords' not in archive and 'xcoords_start' in archive:
        nominal = _coordinates(archive, 'xcoords_start', 'ycoords_start')
        return nominal, ('The file holds nominal positions alone; they are used.',)
    if 'xcoords' not in archive:
        try:
            archive['xcoords']
        except DataError as error:
            raise DataError(f'{error} {ADVICE_ALONE}') from error
    return _coordinates(archive, 'xcoords', 'ycoords'), ()


def _nominal(archive: NamedArrays, count: int) -> FloatArray | None:
    if 'xcoords_start' not in archive or 'ycoords_start' not in archive:
        return None
    nominal = _coordinates(archive, 'xcoords_start', 'ycoords_start')
    if len(nominal) != count:
        raise DataError(
            f'xcoords_start must have {count} values as xcoords has; it has {len(nominal)}.'
        )
    return nominal


def _pattern_key(archive: NamedArrays) -> str:
    return 'diffraction' if 'diff3d' not in archive and 'diffraction' in archive else 'diff3d'


def _patterns(
    archive: NamedArrays, count: int, *, known_order: bool
) -> tuple[RealArray, tuple[str, ...]]:
    key = _pattern_key(archive)
    return positions_first(read_numbers(archive, key), key, count, known_order=known_order)


def _patterns_alone(
    archive: NamedArrays, known_shape: tuple[int, ...] | None, *, known_order: bool
) -> tuple[RealArray, tuple[str, ...]]:
    """Return patterns without positions, whose order does not matter."""
    key = _pattern_key(archive)
    patterns = read_numbers(archive, key)
    count = count_alone(patterns.shape, key, known_shape, known_order=known_order)
    if patterns.ndim == 2:
        patterns = patterns[np.newaxis]
    return positions_first(patterns, key, count, known_order=known_order)


def _choose_domain(
    patterns: RealArray, domain: Domain | None, metadata: Mapping[str, Any], looks_exported: bool
) -> tuple[Domain, tuple[str, ...]]:
    if domain is not None:
        return domain, ()
    stated = metadata.get('diffraction_domain')
    if stated in ('counts', 'intensity', 'intensities'):
        return 'counts', ()
    if stated in ('amplitudes', 'amplitude'):
        return 'amplitudes', ()
    inferred, reason = infer_domain(patterns, is_ptychodus_export=looks_exported)
    other = 'amplitudes' if inferred == 'counts' else 'counts'
    return inferred, (
        f'The patterns were taken as {inferred} because {reason}; '
        f'if that is wrong, use domain={other!r} (--domain {other}).',
    )


def _counts(
    patterns: RealArray, domain: Domain, metadata: Mapping[str, Any]
) -> tuple[RealArray, tuple[str, ...]]:
    if domain == 'counts':
        return to_counts(patterns, domain), ()
    photons = photons_of(metadata)
    # Amplitudes of another unit become photons, as the Poisson statistics of the loss need.
    rescalable = photons is not None and not squares_are_whole(patterns)
    counts = to_counts(patterns, domain)
    mean = float(np.mean([chunk.sum(dtype=np.float64) for chunk in counts]))
    if photons is None or not rescalable or not mean > 0 or 0.5 < photons / mean < 2:
        return counts, ()
    counts *= np.float32(photons / mean)
    return counts, (
        f'The squared amplitudes were scaled by {photons / mean:.3g} '
        f'to the {photons:.3g} photons per pattern of _metadata.',
    )


def _object(archive: NamedArrays) -> tuple[ComplexArray | None, tuple[str, ...]]:
    if 'objectGuess' not in archive:
        return None, ()
    values = read_numbers(archive, 'objectGuess', 'buifc')
    if not values.size or values.ndim == 0:
        return None, ()
    object_, notes = single_layer(values)
    return object_.astype(np.complex64), notes


def _bad_pixels(archive: NamedArrays) -> BoolArray | None:
    return read_numbers(archive, 'bad_pixels', 'buif') != 0 if 'bad_pixels' in archive else None


def _numbers_of_patterns(archive: NamedArrays, key: str, count: int) -> IntArray | None:
    if key not in archive:
        return None
    values = read_numbers(archive, key, 'buif').ravel()
    if len(values) != count:
        raise DataError(f'{key} must have {count} values as xcoords has; it has {len(values)}.')
    return to_indexes(values, key)
