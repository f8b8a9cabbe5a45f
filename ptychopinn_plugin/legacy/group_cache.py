"""Groups beside the scan they were found in: `<scan>.groups_cache.npz`."""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, IntArray
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage.atomic import atomic_path
from ptychopinn_plugin.storage.untrusted import NUMPY_ERRORS

VERSION = 1
"""This number changes whenever the same options would give other groups."""

logger = logging.getLogger(__name__)


def cache_path(scan: Path) -> Path:
    """Return where the groups of a scan are kept."""
    return scan.with_name(f'{scan.name.removesuffix(".npz")}.groups_cache.npz')


def cached_groups(
    path: Path | None,
    positions_px: FloatArray,
    options: Mapping[str, Any],
    find: Callable[[], IntArray],
) -> IntArray:
    """Return groups from a cache, or find them and keep them there.

    Parameters
    ----------
    path : Path, optional
        The cache; without it, groups are found anew.
    positions_px : ndarray, shape (n_positions, 2)
    options : mapping of str to plain values
        All that the groups depend on.
    find : callable

    Returns
    -------
    ndarray of int64, shape (n_groups, group_size)
        A cache that is damaged, or of other positions or options, is ignored with a note in the
        log and written anew; one that cannot be written costs a note, too.
    """
    if path is None:
        return find()
    key = groups_key(positions_px, options)
    groups = _read(path, key, len(positions_px))
    if groups is None:
        groups = find()
        _write(path, key, groups)
    return groups


def groups_key(positions_px: FloatArray, options: Mapping[str, Any]) -> str:
    """Return a hash of positions and options."""
    text = json.dumps({'version': VERSION, **options}, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    # One byte order lets a cache be of use on another machine.
    positions = np.ascontiguousarray(positions_px, dtype='<f8')
    digest.update(str(positions.shape).encode())
    digest.update(positions.tobytes())
    return digest.hexdigest()


def _read(path: Path, key: str, n_positions: int) -> IntArray | None:
    if not path.is_file():
        return None
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
            found, groups = str(archive['key']), archive['groups']
    except (*NUMPY_ERRORS, MemoryError) as error:
        logger.warning('The group cache %s is damaged and is ignored: %s.', path, error)
        return None
    if found != key:
        logger.warning('The group cache %s is of other positions or options; ignored.', path)
        return None
    sound = groups.ndim == 2 and groups.dtype.kind in 'iu' and groups.size
    if not sound or groups.min() < 0 or groups.max() >= n_positions:
        logger.warning('The group cache %s holds no groups of this scan; ignored.', path)
        return None
    return np.asarray(groups, dtype=np.int64)


def _write(path: Path, key: str, groups: IntArray) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, key=np.array(key), groups=groups)
    try:
        with atomic_path(path) as partial:
            partial.write_bytes(buffer.getvalue())
    except OutputError as error:
        logger.warning('The groups are not kept: %s', error)
