"""What Ptychodus' readers give as patterns, as beamlines record them, and what a scan needs."""

from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin import ptychodus_compat
from ptychopinn_plugin.array_types import BoolArray, IntArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.readers.domain import (
    Domain,
    squares_are_whole,
    to_counts,
    values_are_whole,
    without_logarithm,
)
from ptychopinn_plugin.data.readers.frame_centre import (
    FrameCut,
    check_no_beam_center,
    corners_to_middle,
)
from ptychopinn_plugin.data.readers.hdf5 import stack_of
from ptychopinn_plugin.data.readers.invalid_pixels import (
    clip_negative,
    mask_invalid,
    with_common_marks,
)
from ptychopinn_plugin.data.readers.mask_files import with_mask
from ptychopinn_plugin.data.readers.matching import Measurement
from ptychopinn_plugin.errors import DataError

_OF_AMPLITUDES = ('nsls_ii_2',)
"""These readers take datasets of amplitudes, as their name diffamp shows."""


def read_frames(
    dataset: Any,
    path: Path,
    name: str,
    *,
    domain: Domain | None,
    shape: tuple[int, int] | None,
    beam_center_px: tuple[int, int] | None,
    mask: BoolArray | None = None,
    is_near_field: bool = False,
) -> Measurement:
    """Read the patterns of a dataset of Ptychodus.

    Parameters
    ----------
    dataset : ptychodus.api.diffraction.DiffractionDataset
    path : Path
        The file, for messages.
    name : str
        The reader's name.
    domain : 'counts' or 'amplitudes', optional
        Where not given: amplitudes for a reader of such or where the squares are whole numbers,
        else counts.
    shape : (height, width), optional
        To which raw frames are cut around the beam, as Ptychodus does when it loads.
    beam_center_px : (row, column), optional
        Where the beam meets the detector, in place of the centre in the file.
    mask : ndarray of bool, shape (frame_height, frame_width), optional
        More bad pixels.
    is_near_field : bool
        The patterns are images, of which those of the probe's size around the file's centre are
        taken.

    Raises
    ------
    DataError
        If the patterns are no stack of images, or do not belong together.
    """
    if is_near_field:
        check_no_beam_center(beam_center_px)
    metadata = dataset.get_metadata()
    middle = beam_center_px or ptychodus_compat.beam_center_px(metadata)
    cut = FrameCut(shape, middle)
    frame_shape, patterns, indexes = _stack(dataset, path, name, cut)
    bad_pixels = cut.bad_pixels(
        with_mask(dataset.get_bad_pixels(), mask, frame_shape), frame_shape, path
    )
    patterns, bad_pixels, notes = mask_invalid(patterns, bad_pixels)
    patterns, log_notes = without_logarithm(patterns, domain)
    domain, domain_notes = _domain(patterns, name, domain)
    if domain == 'counts':
        patterns, more = clip_negative(patterns, bad_pixels)
        notes = (*notes, *more)
    counts = to_counts(patterns, domain)
    if middle is None and not is_near_field:
        counts, bad_pixels, corner_notes = corners_to_middle(counts, bad_pixels)
        notes = (*notes, *corner_notes)
    pixel = metadata.detector_pixel_geometry
    return Measurement(
        counts,
        indexes,
        bad_pixels,
        Geometry(
            photon_energy_eV=ptychodus_compat.photon_energy_eV(metadata),
            detector_distance_m=metadata.detector_distance_m,
            detector_pixel_height_m=None if pixel is None else float(pixel.height_m),
            detector_pixel_width_m=None if pixel is None else float(pixel.width_m),
        ),
        notes=(*log_notes, *domain_notes, *notes, *cut.notes(frame_shape)),
    )


def _stack(
    dataset: Any, path: Path, name: str, cut: FrameCut
) -> tuple[tuple[int, int], RealArray, IntArray]:
    """Return the size of a frame, all patterns and their indexes."""
    frame_shape = None
    blocks, indexes = [], []
    for array in dataset:
        label = array.get_label()
        block = stack_of(np.asarray(array.get_patterns()), f'The patterns of {path} ({label})')
        frame_shape = frame_shape or (block.shape[1], block.shape[2])
        if block.shape[1:] != frame_shape:
            raise DataError(
                f'All patterns of {path} must be {frame_shape[0]} x {frame_shape[1]} pixels; '
                f'{label} holds '
                f'{block.shape[1]} x {block.shape[2]}. Move files of other scans elsewhere.'
            )
        numbers = np.asarray(array.get_indexes(), dtype=np.int64).ravel()
        if len(numbers) != len(block):
            raise DataError(
                f'{label} of {path} holds {len(block)} patterns, and the reader {name!r} announces '
                f'{len(numbers)}. Write the file again, or choose another reader.'
            )
        indexes.append(numbers)
        # They are cut at once, as all raw frames of a scan may not fit into memory.
        blocks.append(cut(block))
    if frame_shape is None:
        raise DataError(f'{path} holds no pattern for the reader {name!r}; is it the right one?')
    patterns = blocks[0] if len(blocks) == 1 else np.concatenate(with_common_marks(blocks))
    if not patterns.dtype.isnative:
        patterns = patterns.astype(patterns.dtype.newbyteorder('='))
    return frame_shape, patterns, np.concatenate(indexes)


def _domain(
    patterns: RealArray, name: str, domain: Domain | None
) -> tuple[Domain, tuple[str, ...]]:
    if domain is not None:
        return domain, ()
    if patterns.dtype.kind != 'f' or values_are_whole(patterns) or patterns.min() < 0:
        return 'counts', ()
    if name.casefold() in _OF_AMPLITUDES:
        reason = f'the reader {name} reads a dataset of this name'
    elif squares_are_whole(patterns):
        reason = 'their squares are whole numbers'
    else:
        return 'counts', ()
    note = (
        f'Patterns were taken as amplitudes because {reason}; if not, use '
        "domain='counts' (--domain counts)."
    )
    return 'amplitudes', (note,)
