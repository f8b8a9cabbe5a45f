"""What is done with a scan after its file was read."""

import dataclasses

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.data.preparation import find_hot_pixels
from ptychopinn_plugin.data.scan import ProbeOrigin, Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import split_positions, with_modes
from ptychopinn_plugin.text import count


def without_useless_object(scan: Scan) -> Scan:
    """Leave out an object without structure, or one that does not cover the scan, with a note."""
    reason = '' if scan.object_ is None else _useless_object(scan, scan.object_)
    if not reason:
        return scan
    note = f'The object of the file {reason}; it was left out.'
    return dataclasses.replace(scan, object_=None, notes=(*scan.notes, note))


def with_hot_pixels_marked(scan: Scan) -> Scan:
    """Mark hot pixels as bad, with a note."""
    assert scan.bad_pixels is not None
    hot = find_hot_pixels(scan.patterns, scan.bad_pixels)
    note = f'Marked as bad: {count(int(hot.sum()), "hot pixel")}.'
    # The same array, where no pixel is hot, spares another pass over the counts.
    bad_pixels = scan.bad_pixels | hot if hot.any() else scan.bad_pixels
    return dataclasses.replace(scan, bad_pixels=bad_pixels, notes=(*scan.notes, note))


def with_probe_modes(scan: Scan, n_modes: int) -> Scan:
    """Give the probe another number of modes, with a note.

    Raises
    ------
    DataError
        If `n_modes` is less than 1.
    """
    before = len(scan.probe)
    if n_modes < 1:
        raise DataError(f'probe_modes must be at least 1; got {n_modes}.')
    if n_modes < before:
        note = f'Of {before} modes of the probe, the {count(n_modes, "mode")} of most energy stay.'
    else:
        note = f'The probe has {count(before, "mode")} and was given {n_modes - before} more, '
        note += 'which the iterations correct.'
    origin: ProbeOrigin = scan.probe_origin
    if n_modes > before and origin == 'given':
        origin = 'extended'
    probe = with_modes(scan.probe, n_modes)
    return dataclasses.replace(scan, probe=probe, probe_origin=origin, notes=(*scan.notes, note))


def _useless_object(scan: Scan, object_: ComplexArray) -> str:
    if not np.isfinite(object_).all():
        return 'holds NaN or infinity'
    # Reconstructions start from such an object; it is no truth to compare with.
    if np.abs(object_ - object_.flat[0]).max() <= 1e-6 * np.abs(object_.flat[0]):
        return 'is flat'
    shape = np.array(scan.pattern_shape)
    patch_origins = split_positions(scan.positions_px)[0] - shape // 2
    if (patch_origins < 0).any() or (patch_origins + shape > np.array(object_.shape)).any():
        return f'(shape {object_.shape}) does not cover the scan'
    return ''
