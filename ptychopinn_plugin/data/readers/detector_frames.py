"""What Ptychodus' readers give as patterns, as beamlines record them, and what a scan needs."""

from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin import ptychodus_compat
from ptychopinn_plugin.array_types import BoolArray, IntArray, RealArray
from ptychopinn_plugin.data.readers.domain import (
    Domain,
    squares_are_whole,
    to_counts,
    values_are_whole,
)
from ptychopinn_plugin.data.readers.hdf5 import check_stack
from ptychopinn_plugin.data.readers.invalid_pixels import (
    clip_negative,
    mask_invalid,
    with_common_marks,
)
from ptychopinn_plugin.data.readers.matching import Measurement
from ptychopinn_plugin.data.scan import Geometry
from ptychopinn_plugin.errors import DataError

_OF_AMPLITUDES = ('nsls_ii_2',)
"""Readers whose dataset says by its name that it holds amplitudes: diffamp."""


def read_frames(
    dataset: Any,
    path: Path,
    name: str,
    *,
    domain: Domain | None,
    shape: tuple[int, int] | None,
    beam_center_px: tuple[int, int] | None,
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
        Where not given: amplitudes if the reader or their squares say so, else counts.
    shape : (height, width), optional
        To which raw frames are cut around the beam, as Ptychodus does when it loads.
    beam_center_px : (row, column), optional
        Where the beam meets the detector, in place of what the file says.

    Raises
    ------
    DataError
        If the patterns are no stack of images, or do not belong together.
    """
    metadata = dataset.get_metadata()
    middle = beam_center_px or ptychodus_compat.beam_center_px(metadata)
    cut = _Cut(shape, middle)
    frame, patterns, indexes = _stack(dataset, path, name, cut)
    bad_pixels = cut.bad_pixels(dataset.get_bad_pixels(), frame, path)
    patterns, bad_pixels, notes = mask_invalid(patterns, bad_pixels)
    domain, domain_notes = _domain(patterns, name, domain)
    if domain == 'counts':
        patterns, more = clip_negative(patterns, bad_pixels)
        notes = (*notes, *more)
    if middle is None:
        patterns, bad_pixels, corner_notes = _corners_to_middle(patterns, bad_pixels)
        notes = (*notes, *corner_notes)
    pixel = metadata.detector_pixel_geometry
    return Measurement(
        to_counts(patterns, domain),
        indexes,
        bad_pixels,
        Geometry(
            photon_energy_eV=ptychodus_compat.photon_energy_eV(metadata),
            detector_distance_m=metadata.detector_distance_m,
            detector_pixel_height_m=None if pixel is None else float(pixel.height_m),
            detector_pixel_width_m=None if pixel is None else float(pixel.width_m),
        ),
        notes=(*domain_notes, *notes, *cut.notes(frame)),
    )


def _stack(
    dataset: Any, path: Path, name: str, cut: '_Cut'
) -> tuple[tuple[int, int], RealArray, IntArray]:
    """Return the size of a frame, all patterns and their indexes."""
    frame = None
    blocks, indexes = [], []
    for array in dataset:
        block, label = np.asarray(array.get_patterns()), array.get_label()
        check_stack(block, f'The patterns of {path} ({label})')
        frame = frame or (block.shape[1], block.shape[2])
        if block.shape[1:] != frame:
            raise DataError(
                f'All patterns of {path} must be {frame[0]} x {frame[1]} pixels; {label} holds '
                f'{block.shape[1]} x {block.shape[2]}. Move files of other scans elsewhere.'
            )
        numbers = np.asarray(array.get_indexes(), dtype=np.int64).ravel()
        if len(numbers) != len(block):
            raise DataError(
                f'{label} of {path} holds {len(block)} patterns, and the reader {name!r} announces '
                f'{len(numbers)}. Write the file again, or choose another reader.'
            )
        indexes.append(numbers)
        # At once: all raw frames of a scan may not fit into memory.
        blocks.append(cut(block))
    if frame is None:
        raise DataError(f'{path} holds no pattern for the reader {name!r}; is it the right one?')
    patterns = blocks[0] if len(blocks) == 1 else np.concatenate(with_common_marks(blocks))
    if not patterns.dtype.isnative:
        patterns = patterns.astype(patterns.dtype.newbyteorder('='))
    return frame, patterns, np.concatenate(indexes)


class _Cut:
    """Frames of any size become patterns with the beam in pixel ``[height // 2, width // 2]``."""

    def __init__(self, shape: tuple[int, int] | None, middle: tuple[int, int] | None) -> None:
        self._shape, self._middle = shape, middle

    def _place(self, frame: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the size of the patterns and where their first pixel lies in a frame."""
        height, width = self._shape or (frame[0], frame[1])
        row, column = self._middle or (frame[0] // 2, frame[1] // 2)
        if height > frame[0] or width > frame[1]:
            raise DataError(
                f'Patterns of {frame[0]} x {frame[1]} pixels cannot be cut to the {height} x '
                f'{width} of the probe. Give a probe that fits.'
            )
        if not (0 <= row < frame[0] and 0 <= column < frame[1]):
            raise DataError(
                f'The beam must lie within the frames of {frame[0]} x {frame[1]} pixels; the file '
                f'says (row, column) {(row, column)}. Say where it is: beam_center_px=(ROW, '
                'COLUMN) (--beam-center ROW,COLUMN).'
            )
        return (height, width), (row - height // 2, column - width // 2)

    def __call__(self, frames: RealArray, beyond: float = 0) -> RealArray:
        """Return a piece of each frame; what lies beyond the frame has the value `beyond`."""
        frame = frames.shape[-2:]
        (height, width), (top, left) = self._place(frame)
        if (height, width) == frame and (top, left) == (0, 0):
            return frames
        source = (
            ...,
            slice(max(top, 0), min(top + height, frame[0])),
            slice(max(left, 0), min(left + width, frame[1])),
        )
        pieces = np.full((*frames.shape[:-2], height, width), beyond, dtype=frames.dtype)
        y, x = max(-top, 0), max(-left, 0)
        inside = frames[source]
        pieces[..., y : y + inside.shape[-2], x : x + inside.shape[-1]] = inside
        return pieces

    def bad_pixels(self, bad_pixels: Any, frame: tuple[int, int], path: Path) -> BoolArray:
        """Return the mask of the patterns."""
        mask = np.zeros(frame, dtype=bool) if bad_pixels is None else np.asarray(bad_pixels, bool)
        if not mask.any():
            # Some readers make it of another size than the frames.
            mask = np.zeros(frame, dtype=bool)
        if mask.shape != frame:
            raise DataError(
                f'The bad pixels of {path} must be {frame[0]} x {frame[1]} as its patterns are; '
                f'got {mask.shape}.'
            )
        return np.asarray(self(mask, beyond=True), dtype=bool)

    def notes(self, frame: tuple[int, int]) -> tuple[str, ...]:
        """Say what was cut."""
        (height, width), (top, left) = self._place(frame)
        if (height, width) == frame and (top, left) == (0, 0):
            return ()
        around = (top + height // 2, left + width // 2)
        note = (
            f'Frames of {frame[0]} x {frame[1]} pixels were cut to {height} x {width} around '
            f'(row, column) {around}'
        )
        if self._middle is None:
            note += ', their middle; if the beam is elsewhere, say --beam-center ROW,COLUMN'
        if top < 0 or left < 0 or top + height > frame[0] or left + width > frame[1]:
            note += '; pixels beyond their edge count as bad'
        return (f'{note}.',)


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
    note = f'Patterns were taken as amplitudes because {reason}; if not, say --domain counts.'
    return 'amplitudes', (note,)


def _corners_to_middle(
    patterns: RealArray, bad_pixels: BoolArray
) -> tuple[RealArray, BoolArray, list[str]]:
    """Move zero frequency to the middle where it is in the corners, as Fourier transforms put it.

    A detector does not record that, so whole numbers are left as they are.
    """
    height, width = patterns.shape[1:]
    mean = patterns.mean(axis=0, dtype=np.float64)
    y, x = height // 4, width // 4
    if patterns.dtype.kind != 'f' or not y or not x:
        return patterns, bad_pixels, []
    middle = mean[y : height - y, x : width - x].sum()
    corners = [mean[rows, columns].sum() for rows in _ends(y) for columns in _ends(x)]
    if 4 * min(corners) <= middle:
        return patterns, bad_pixels, []
    note = 'Zero frequency was in the corners of the patterns and was moved to their middle.'
    return (
        np.fft.fftshift(patterns, axes=(-2, -1)),
        np.fft.fftshift(bad_pixels),
        [note],
    )


def _ends(size: int) -> tuple[slice, slice]:
    return slice(None, size), slice(-size, None)
