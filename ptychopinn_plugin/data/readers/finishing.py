"""What is done with a scan after its file was read."""

import dataclasses

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, IntArray
from ptychopinn_plugin.data.preparation import find_hot_pixels
from ptychopinn_plugin.data.scan import CHUNK_PATTERNS, ProbeOrigin, Scan
from ptychopinn_plugin.data.starting_probe import NOTE_OF_TWIN, made_probe
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import split_positions, with_modes
from ptychopinn_plugin.text import count

SAMPLE_PATTERNS = 32
"""This number of patterns, evenly over the scan, shows which pixels look hot."""

STRAY_RATIO = 100
"""A pixel with this many times its usual counts, and most of its pattern's, has a fault."""


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


def bright_pixel_notes(scan: Scan) -> tuple[str, ...]:
    """Return notes that name pixels which look hot, and patterns with a fault in one pixel.

    Either ruins an object, as the likelihood takes the counts for light of the sample.
    """
    assert scan.bad_pixels is not None
    sample = scan.patterns[:: max(1, len(scan) // SAMPLE_PATTERNS)]
    notes = []
    hot = np.argwhere(find_hot_pixels(sample, scan.bad_pixels))
    if len(hot):
        notes.append(
            f'{_listed_pixels(hot)} far brighter than the neighbours in most patterns. Where '
            'they are hot, use --mask-hot (mask_hot=True), or a mask.'
        )
    usual = sample.mean(axis=0, dtype=np.float64).ravel()
    valid_mask = ~scan.bad_pixels.ravel()
    stray: list[tuple[int, int, int]] = []
    for start in range(0, len(scan), CHUNK_PATTERNS):
        counts = scan.patterns[start : start + CHUNK_PATTERNS].reshape(-1, usual.size) * valid_mask
        pixel = counts.argmax(axis=1)
        brightest = counts[np.arange(len(counts)), pixel].astype(np.float64)
        # In a sample of few patterns the fault itself is a part of what is usual.
        expected = usual[pixel] - brightest / max(2, len(sample))
        found = (2 * brightest > counts.sum(axis=1, dtype=np.float64)) & (
            brightest > STRAY_RATIO * np.maximum(expected, 1)
        )
        for number in np.flatnonzero(found).tolist():
            row, column = divmod(int(pixel[number]), scan.pattern_shape[1])
            stray.append((start + number, row, column))
    if stray:
        first = ', '.join(f'{n} at ({y}, {x})' for n, y, x in stray[:3])
        more = f' and {len(stray) - 3} more' if len(stray) > 3 else ''
        notes.append(
            f'A single pixel holds most counts of {count(len(stray), "pattern")} and few of the '
            f'others: {first}{more} (row, column). Where that is a cosmic ray or a fault of the '
            'detector, mask the pixel (--mask FILE), or leave those patterns out.'
        )
    return tuple(notes)


def _listed_pixels(pixels: IntArray) -> str:
    shown = ', '.join(f'({y}, {x})' for y, x in pixels[:3].tolist())
    more = f' and {len(pixels) - 3} more' if len(pixels) > 3 else ''
    one = len(pixels) == 1
    return f'{"Pixel" if one else "Pixels"} {shown}{more} {"is" if one else "are"}'


def with_probe_of_patterns(scan: Scan) -> Scan:
    """Return a scan whose probe is made of its patterns, whatever the file held."""
    if scan.probe_origin == 'patterns':
        return scan
    probe, _ = made_probe(scan.patterns, scan.bad_pixels, scan.geometry)
    note = (
        'The given probe is left out, and one is made of the mean pattern. The iterations '
        'correct it.'
    )
    if not scan.geometry.is_near_field:
        note = f'{note} {NOTE_OF_TWIN}'
    return dataclasses.replace(
        scan,
        probe=probe,
        probe_variation=None,
        probe_origin='patterns',
        notes=(*scan.notes, note),
    )


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
    variation = scan.probe_variation
    if variation is not None:
        # The first mode may have less energy beside others, and its eigenmodes follow.
        norms = [float(np.linalg.norm(modes[0])) for modes in (scan.probe, probe)]
        variation = variation.times(norms[1] / max(norms[0], 1e-30))
    return dataclasses.replace(
        scan,
        probe=probe,
        probe_variation=variation,
        probe_origin=origin,
        notes=(*scan.notes, note),
    )


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
