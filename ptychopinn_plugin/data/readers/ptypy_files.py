"""Files of PtyPy: prepared scans, `.ptyd`, and the probe of its reconstructions, `.ptyr`.

Both are HDF5 and are described at https://ptycho.github.io/ptypy: `chunks/0`, `chunks/1` ... hold
`data`, `positions` (y, x) in metres, `indices` and `weights`, which are zero at bad pixels; `meta`
holds the geometry, with the energy in keV. What is None is stored with the attribute `type`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.readers.hdf5 import (
    find,
    find_dataset,
    open_hdf5,
    stack_of,
    text_attribute,
)
from ptychopinn_plugin.data.readers.hdf5_links import check_links
from ptychopinn_plugin.data.readers.limits import limits
from ptychopinn_plugin.data.readers.matching import Product, join, measurement_of, to_indexes
from ptychopinn_plugin.data.readers.probe_axes import single_probe
from ptychopinn_plugin.data.readers.request import ADVICE_ALONE, ReadingRequest
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import taken
from ptychopinn_plugin.text import count

_OF_ALL = ('info/positions_theory', 'info/positions_scan', 'common/positions_scan')
"""One of these holds the positions of all frames, where the chunks hold no positions."""

_COMMON_WEIGHTS = ('meta/weight2d', 'common/weight2d', 'info/weight2d')
_PROBES = 'content/probe'


@dataclass(frozen=True)
class _Chunk:
    """What some frames have besides their patterns, in the order of the file.

    Attributes
    ----------
    indexes : ndarray of int, shape (n_frames,)
    positions_m : ndarray, shape (n_frames, 2)
        (y, x); zeros where they come from a product.
    bad_pixels : ndarray of bool, shape (height, width), optional
        Those of zero weight in some frame.
    n_left_out : int
        Further frames, all weights of which are zero.
    """

    indexes: IntArray
    positions_m: FloatArray
    bad_pixels: BoolArray | None = None
    n_left_out: int = 0


def is_ptyd(file: Any) -> bool:
    """Return whether an open HDF5 file is a scan that PtyPy has prepared."""
    return 'chunks' in file and ('meta' in file or 'info' in file)


def is_ptyr(file: Any) -> bool:
    """Return whether an open HDF5 file is a reconstruction of PtyPy."""
    return _PROBES in file


def read_ptyd(path: Path, request: ReadingRequest, product: Product | None = None) -> Scan:
    """Read a scan that PtyPy has prepared, all its chunks.

    Parameters
    ----------
    path : Path
    request : ReadingRequest
        Without its place of the beam, that is the file's `center`.
    product : Product, optional
        Positions and probe, in place of the positions in the file; matched by its `indices`.

    Raises
    ------
    DataError
        If it holds no frames, or parts of it do not belong together.
    """
    with open_hdf5(path) as file:
        alone = product is None and request.single_shot and not _has_positions(file)
        patterns, chunks = _chunks(file, with_positions=product is None and not alone)
        indexes, notes = _indexes(chunks)
        notes = (*notes, *_notes(file, chunks))
        geometry = _geometry(file)
        is_near_field = geometry.with_values_of(request.given_geometry).is_near_field
        # Images in the near field have no such centre.
        if request.beam_center_px is None and not is_near_field:
            centre_px, more = _beam_center(file, patterns.shape[1:])
            request = replace(request, beam_center_px=centre_px)
            notes = (*notes, *more)
        bad_pixels = _bad_pixels(file, chunks, patterns.shape[1:])
    if product is None and alone:
        product = Product.without_positions(indexes)
        product = replace(product, notes=(*notes, *product.notes))
    elif product is None:
        positions_m = np.concatenate([chunk.positions_m for chunk in chunks])
        product = Product(indexes=indexes, positions_m=positions_m, notes=notes)
    measurement = measurement_of(
        patterns, indexes, bad_pixels, domain=request.domain, geometry=geometry
    )
    return join(measurement, product, request)


def read_ptyr_probe(path: Path) -> ComplexArray:
    """Read the probe of a reconstruction, shape (n_modes, height, width).

    Raises
    ------
    DataError
        If it holds not one probe: several scans have one each.
    """
    with open_hdf5(path) as file:
        check_links(file, _PROBES)
        names = sorted(file[_PROBES])
        if len(names) != 1:
            raise DataError(
                f'{path} must hold one probe in {_PROBES} to be used; it holds '
                f'{", ".join(names) or "none"}. Write the one to use into an NPY file.'
            )
        stored = find(file, [f'{_PROBES}/{names[0]}/data'], kinds='buifc')
        if stored is None or stored.dtype.kind != 'c':
            raise DataError(
                f'{_PROBES}/{names[0]}/data of {path} must be an array of complex numbers, (modes, '
                'height, width); it is not. Save the reconstruction again.'
            )
        return single_probe(stored)[0]


def _chunks(file: Any, *, with_positions: bool) -> tuple[RealArray, list[_Chunk]]:
    """Return the patterns of all chunks that have weight, and the rest of each."""
    check_links(file, 'chunks')
    names = sorted((name for name in file['chunks'] if name.isdecimal()), key=int)
    found = {f'chunks/{name}': find_dataset(file, [f'chunks/{name}/data']) for name in names}
    datasets = {key: item for key, item in found.items() if item is not None and item.size}
    _check_sizes(file, list(datasets.values()))
    n_frames = sum(math.prod(item.shape[:-2]) for item in datasets.values())
    first = next(iter(datasets.values()), None)
    shape = () if first is None else first.shape[-2:]
    dtype = np.result_type(*(item.dtype for item in datasets.values())) if datasets else 'f4'
    patterns = limits().new_array((n_frames, *shape), dtype)
    chunks: list[_Chunk] = []
    n_read = n_kept = 0
    for key in datasets:
        own, chunk = _chunk(file, key, n_read, with_positions=with_positions)
        patterns[n_kept : n_kept + len(own)] = own
        chunks.append(chunk)
        n_kept += len(own)
        n_read += len(own) + chunk.n_left_out
    if not n_kept:
        raise DataError(
            f'{file.filename} must hold frames in chunks/0/data and further chunks; it holds '
            'none with weight. Prepare the scan again with PtyPy (save="append" or "link").'
        )
    return patterns[:n_kept], chunks


def _check_sizes(file: Any, datasets: Sequence[Any]) -> None:
    """Raise a DataError unless frames are real images of one size, within the limits."""
    for dataset in datasets:
        if dataset.ndim not in (3, 4) or dataset.dtype.kind not in 'uif':
            raise DataError(
                f'{dataset.name} of {file.filename} must be real numbers of shape (n_frames, '
                f'height, width); it is {dataset.dtype} of shape {dataset.shape}.'
            )
    # Each is held to the limits alone; together they must be as well.
    files = {Path(item.file.filename) for item in datasets}
    limits().check_size(
        f'The frames of {file.filename}',
        sum(int(item.size) * item.dtype.itemsize for item in datasets),
        sum(path.stat().st_size for path in files),
    )
    sizes = {item.shape[-2:] for item in datasets}
    if len(sizes) > 1:
        raise DataError(
            f'All frames of {file.filename} must be of one size; the chunks hold '
            f'{" and ".join(f"{height} x {width}" for height, width in sorted(sizes))} pixels. '
            'Prepare the scan again.'
        )


def _chunk(file: Any, key: str, n_before: int, *, with_positions: bool) -> tuple[RealArray, _Chunk]:
    """Return the patterns of a chunk that have weight, and the rest of it."""
    stored = find(file, [f'{key}/data'], kinds='buifc')
    assert stored is not None
    patterns = stack_of(stored, f'{key}/data of {file.filename}')
    indexes = _array(file, [f'{key}/indices'])
    if indexes is None:
        indexes = np.arange(n_before, n_before + len(patterns))
    if indexes.shape != patterns.shape[:1] or indexes.dtype.kind not in 'uif':
        raise DataError(
            f'{key}/indices of {file.filename} must be {len(patterns)} numbers, one for each '
            f'frame; it is {indexes.dtype} of shape {indexes.shape}. Prepare the scan again.'
        )
    indexes = to_indexes(indexes, f'{key}/indices of {file.filename}')
    positions_m: FloatArray = np.zeros((len(indexes), 2))
    if with_positions:
        positions_m = _positions(file, key, indexes)
    weights = _array(file, [f'{key}/weights'])
    if weights is None or weights.ndim < 2:
        return patterns, _Chunk(indexes, positions_m)
    if (
        weights.shape not in (patterns.shape, patterns.shape[1:])
        or weights.dtype.kind not in 'buif'
    ):
        raise DataError(
            f'{key}/weights of {file.filename} must be numbers of the shape of its data, '
            f'{patterns.shape}, or of a frame; it is {weights.dtype} of shape {weights.shape}. '
            'Prepare the scan again.'
        )
    is_bad = np.asarray(weights <= 0, dtype=bool)
    if is_bad.ndim == 2:
        return patterns, _Chunk(indexes, positions_m, is_bad)
    kept = ~is_bad.all(axis=(1, 2))
    # A pixel that is bad once is left out everywhere.
    bad_pixels = np.asarray(is_bad[kept].any(axis=0), dtype=bool)
    if not kept.all():
        patterns = taken(patterns, np.flatnonzero(kept))
        indexes, positions_m = indexes[kept], positions_m[kept]
    return patterns, _Chunk(indexes, positions_m, bad_pixels, int((~kept).sum()))


def _indexes(chunks: Sequence[_Chunk]) -> tuple[IntArray, tuple[str, ...]]:
    """Return the indices of all frames, by their order where the file repeats some."""
    indexes = np.concatenate([chunk.indexes for chunk in chunks])
    if len(np.unique(indexes)) == len(indexes):
        return indexes, ()
    note = 'Some indices of the file occur more than once; frames were numbered in their order.'
    return np.arange(len(indexes)), (note,)


def _has_positions(file: Any) -> bool:
    """Return whether a chunk has positions, or all have them in common."""
    check_links(file, 'chunks')
    keys = [f'chunks/{name}/positions' for name in file['chunks'] if name.isdecimal()]
    return any(_array(file, [key]) is not None for key in (*keys, *_OF_ALL))


def _positions(file: Any, key: str, indexes: IntArray) -> FloatArray:
    """Return the positions of a chunk, or those of its indexes among all."""
    own = _array(file, [f'{key}/positions'])
    if own is not None and own.shape == (len(indexes), 2) and own.dtype.kind in 'uif':
        return own.astype(np.float64)
    of_all = _array(file, _OF_ALL)
    if own is None and of_all is not None and of_all.ndim == 2 and of_all.shape[1] == 2:
        if indexes.min() >= 0 and indexes.max() < len(of_all):
            return np.asarray(of_all[indexes], dtype=np.float64)
        raise DataError(
            f'The indices of {key} of {file.filename} must be below the number of positions, '
            f'{len(of_all)}; they reach {indexes.max()}. Prepare the scan again.'
        )
    shape = 'missing' if own is None else f'{own.dtype} of shape {own.shape}'
    raise DataError(
        f'{key}/positions of {file.filename} must be (y, x) in metres of shape ({len(indexes)}, '
        f'2); it is {shape}. Prepare the scan with its positions, or give them: product=FILE '
        f'(--product FILE). {ADVICE_ALONE}'
    )


def _array(file: Any, keys: Sequence[str]) -> RealArray | None:
    """Return the first of these that is not None, as PtyPy stores that."""
    for key in keys:
        dataset = find_dataset(file, [key])
        if dataset is not None and text_attribute(dataset, 'type') != 'None':
            return np.asarray(dataset[()])
    return None


def _text(file: Any, key: str) -> str:
    found = _array(file, [key])
    value = '' if found is None or found.shape != () else found[()]
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)


def _numbers(file: Any, key: str, n_numbers: int) -> list[float] | None:
    """Return this many finite numbers of a parameter of `meta`, of which one may stand for all."""
    found = _array(file, [f'meta/{key}', f'info/{key}'])
    if found is None or found.dtype.kind not in 'uif' or found.size not in (1, n_numbers):
        return None
    values = np.broadcast_to(found.astype(np.float64).ravel(), n_numbers)
    return [float(value) for value in values] if np.isfinite(values).all() else None


def _geometry(file: Any) -> Geometry:
    def number(key: str) -> float | None:
        found = _numbers(file, key, 1)
        return found[0] if found and found[0] else None

    energy_keV, psize = number('energy'), _numbers(file, 'psize', 2) or [0.0, 0.0]
    return Geometry(
        photon_energy_eV=None if energy_keV is None else energy_keV * 1e3,
        detector_distance_m=number('distance'),
        detector_pixel_height_m=psize[0] or None,
        detector_pixel_width_m=psize[1] or None,
        near_field=_is_near_field(file) or None,
    )


def _beam_center(
    file: Any, shape: tuple[int, ...]
) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    """Return where the beam lies by `center`, if not in the middle, and a note if in no pixel."""
    if 'meta/center' not in file:
        return None, ()
    centre = _numbers(file, 'center', 2)
    # Zero frequency in the corners is found by the light.
    if centre is None or not any(centre):
        return None, ()
    row, column = (round(value) for value in centre)
    notes: tuple[str, ...] = ()
    if max(abs(centre[0] - row), abs(centre[1] - column)) > 0.25:
        notes = (
            f"The file's center, {centre[0]:.2f}, {centre[1]:.2f}, lies between pixels; row {row}, "
            f'column {column} is used.',
        )
    if (row, column) == (shape[0] // 2, shape[1] // 2):
        return None, notes
    return (row, column), notes


def _bad_pixels(file: Any, chunks: Sequence[_Chunk], shape: tuple[int, ...]) -> BoolArray | None:
    own = [chunk.bad_pixels for chunk in chunks if chunk.bad_pixels is not None]
    if own:
        return np.asarray(np.any(own, axis=0), dtype=bool)
    weights = _array(file, _COMMON_WEIGHTS)
    # In newer files, info/weight2d only states whether there is one.
    if weights is None or weights.ndim != 2:
        return None
    if weights.shape != tuple(shape):
        raise DataError(
            f'weight2d of {file.filename} must be {shape[0]} x {shape[1]} as the frames are; it is '
            f'{weights.shape}. Prepare the scan again.'
        )
    return np.asarray(weights <= 0, dtype=bool)


def _notes(file: Any, chunks: Sequence[_Chunk]) -> tuple[str, ...]:
    notes = []
    left_out = sum(chunk.n_left_out for chunk in chunks)
    if left_out:
        notes.append(f'Left out: {count(left_out, "frame")} whose weights are all zero.')
    n_frames = left_out + sum(len(chunk.indexes) for chunk in chunks)
    announced = _numbers(file, 'num_frames', 1)
    if announced and announced[0] > n_frames:
        notes.append(
            f'The file announces {announced[0]:.0f} frames and holds {n_frames}; was it written to '
            'the end?'
        )
    return tuple(notes)


def _is_near_field(file: Any) -> bool:
    """Return whether the frames are images, whose pixels are those of the object in PtyPy."""
    return any(_text(file, f'{group}/propagation') == 'nearfield' for group in ('meta', 'info'))
