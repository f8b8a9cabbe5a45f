"""The dictionary of grouped patterns that PtychoPINN's loader takes."""

import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.data import Scan, load_scan, scan_from_arrays
from ptychopinn_plugin.data.grouping import covering_groups, training_groups
from ptychopinn_plugin.data.readers.npz import arrays_of
from ptychopinn_plugin.legacy.group_cache import cached_groups
from ptychopinn_plugin.legacy.group_options import GroupOptions
from ptychopinn_plugin.physics import extract_patches

__all__ = ['GroupOptions', 'find_groups', 'group_scan', 'groups_are_kept']

logger = logging.getLogger(__name__)


def find_groups(
    positions_px: FloatArray, options: GroupOptions, *, cache: Path | None = None
) -> IntArray:
    """Choose groups of neighbouring positions.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
    options : GroupOptions
    cache : Path, optional
        Where they are kept from call to call.

    Returns
    -------
    ndarray of int64, shape (n_groups, gridsize²)
        The seed first, which is in its own group.
    """
    return cached_groups(
        cache, positions_px, asdict(options), lambda: _find_groups(positions_px, options)
    )


def _find_groups(positions_px: FloatArray, options: GroupOptions) -> IntArray:
    size, rng = options.gridsize**2, np.random.default_rng(options.seed)
    if options.cover:
        return covering_groups(positions_px, size)
    wanted = options.n_groups or len(positions_px)
    if wanted > len(positions_px) and not options.enable_oversampling:
        logger.warning(
            '%d groups were requested; there are only as many as patterns, %d. '
            'Set enable_oversampling for more.',
            wanted,
            len(positions_px),
        )
        wanted = len(positions_px)
    parts: list[IntArray] = []
    while wanted > 0:
        # A call draws each seed once; more groups than patterns take further calls, with other
        # members.
        part = training_groups(positions_px, size, options.neighbor_count, rng, wanted)
        parts.append(part)
        wanted -= len(part)
    return np.concatenate(parts)


def groups_are_kept(cache: Path, positions_px: FloatArray, options: GroupOptions) -> bool:
    """Return whether a cache holds the groups of these positions and options."""

    def missing() -> IntArray:
        raise LookupError

    try:
        cached_groups(cache, positions_px, asdict(options), missing)
    except LookupError:
        return False
    return True


def group_scan(
    scan: object,
    options: GroupOptions | None = None,
    *,
    cache: Path | None = None,
    with_patches: bool = True,
) -> dict[str, RealArray | None]:
    """Group a scan as PtychoPINN's loader takes it.

    Parameters
    ----------
    scan : Scan, RawData or path
        A `RawData` is an object with the attributes of PtychoPINN's.
    options : GroupOptions, optional
    cache : Path, optional
        See `find_groups`; `group_cache.cache_path` names the one beside a scan.
    with_patches : bool
        Cut the true patches out of the scan's object, where it has one.

    Returns
    -------
    dict
        With n groups of C = gridsize² patterns, N pixels wide, and coordinates (x, y):

        ``diffraction`` float32 (n, N, N, C): amplitudes, the square root of counts.
        ``X_full`` float32 (n, N, N, C): the same, scaled so that the scan's patterns have the mean
        energy (N / 2)².
        ``Y`` complex64 (n, N, N, C): true patches; None without an object.
        ``coords_nn`` float64 (n, 1, 2, C): where the patches' middles lie, in object pixels.
        ``coords_offsets`` float64 (n, 1, 2, 1): the mean of each group.
        ``coords_relative`` float64 (n, 1, 2, C): the offset minus `coords_nn`.
        ``coords_start_nn``, ``coords_start_offsets``, ``coords_start_relative``: the same of the
        nominal positions; those of the measured ones where the scan has no others.
        ``nn_indices`` int64 (n, C): which patterns.
        ``objectGuess`` complex64 (H, W); None without one.
    """
    scan, options = _as_scan(scan), options or GroupOptions()
    groups = find_groups(scan.positions_px, options, cache=cache)
    size = scan.pattern_shape[1]
    amplitudes = np.sqrt(scan.patterns[groups].astype(np.float32)).transpose(0, 2, 3, 1)
    # PtychoPINN's network was made for patterns of the energy (N / 2)² on average.
    scale = np.float32(size / 2 / np.sqrt(scan.mean_counts()))
    nominal = scan.nominal_positions_px
    measured = _coordinates(scan.positions_px, groups)
    start = measured if nominal is None else _coordinates(nominal, groups)
    patches = scan.object_ is not None and with_patches
    names = ('nn', 'offsets', 'relative')
    return {
        'diffraction': amplitudes,
        'X_full': amplitudes * scale,
        'Y': _true_patches(scan, groups) if patches else None,
        **{f'coords_{name}': part for name, part in zip(names, measured, strict=True)},
        **{f'coords_start_{name}': part for name, part in zip(names, start, strict=True)},
        'nn_indices': groups,
        'objectGuess': scan.object_,
    }


def _as_scan(scan: object) -> Scan:
    if isinstance(scan, Scan):
        return scan
    if isinstance(scan, str | Path):
        return load_scan(scan)
    return scan_from_arrays(arrays_of(scan), name=type(scan).__name__)


def _coordinates(
    positions_px: FloatArray, groups: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return where the patches of groups lie, the groups' means, and minus the differences."""
    # From our (n, C, (y, x)) to their (n, 1, (x, y), C).
    points = positions_px[groups][..., ::-1].transpose(0, 2, 1)[:, np.newaxis]
    means = points.mean(axis=3, keepdims=True)
    return np.ascontiguousarray(points), means, means - points


def _true_patches(scan: Scan, groups: IntArray) -> ComplexArray:
    assert scan.object_ is not None
    used, inverse = np.unique(groups, return_inverse=True)
    # A pattern is in several groups, and its patch is cut once. Between pixels, a patch at the edge
    # looks at the pixel beyond it.
    object_ = np.pad(scan.object_, 1, mode='edge')
    patches = extract_patches(object_, scan.positions_px[used] + 1, scan.pattern_shape)
    grouped = patches[inverse.reshape(groups.shape)].transpose(0, 2, 3, 1)
    return np.ascontiguousarray(grouped, dtype=np.complex64)
