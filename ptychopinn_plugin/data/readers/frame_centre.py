"""Where the beam meets the detector: brought to the middle of the patterns, or noted."""

from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, RealArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics.propagation import light_on_detector
from ptychopinn_plugin.storage.scratch import converted

MIN_LIGHT_IN_CORNERS = 0.6
"""Where zero frequency is in the corners, more than this share of the light lies in the sixteenths
of the pattern there."""

MIN_OFFSET_PX = 3.0
MIN_OFFSET_FRACTION = 0.04
"""A beam that is off by more than both, in pixels and as a share of a side, gets a note."""


class FrameCut:
    """Frames of any size become patterns with the beam in pixel ``[height // 2, width // 2]``."""

    def __init__(self, shape: tuple[int, int] | None, middle: tuple[int, int] | None) -> None:
        self._shape, self._middle = shape, middle

    def _place(self, frame_shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the size of the patterns and where their first pixel lies in a frame."""
        height, width = self._shape or (frame_shape[0], frame_shape[1])
        row, column = self._middle or (frame_shape[0] // 2, frame_shape[1] // 2)
        if height > frame_shape[0] or width > frame_shape[1]:
            raise DataError(
                f'Patterns of {frame_shape[0]} x {frame_shape[1]} pixels cannot be cut to the '
                f'{height} x {width} of the probe. Give a probe that fits.'
            )
        if not (0 <= row < frame_shape[0] and 0 <= column < frame_shape[1]):
            raise DataError(
                f'The beam must lie within the frames of {frame_shape[0]} x {frame_shape[1]} '
                f'pixels; got (row, column) {(row, column)}. Give its place with '
                'beam_center_px=(ROW, COLUMN) (--beam-center ROW,COLUMN).'
            )
        return (height, width), (row - height // 2, column - width // 2)

    def __call__(self, frames: RealArray, beyond: float = 0) -> RealArray:
        """Return a piece of each frame; what lies beyond the frame has the value `beyond`."""
        frame_shape = frames.shape[-2:]
        (height, width), (top, left) = self._place(frame_shape)
        if (height, width) == frame_shape and (top, left) == (0, 0):
            return frames
        source = (
            ...,
            slice(max(top, 0), min(top + height, frame_shape[0])),
            slice(max(left, 0), min(left + width, frame_shape[1])),
        )
        pieces = np.full((*frames.shape[:-2], height, width), beyond, dtype=frames.dtype)
        y, x = max(-top, 0), max(-left, 0)
        inside = frames[source]
        pieces[..., y : y + inside.shape[-2], x : x + inside.shape[-1]] = inside
        return pieces

    def bad_pixels(self, bad_pixels: Any, frame_shape: tuple[int, int], path: Path) -> BoolArray:
        """Return the mask of the patterns.

        Raises
        ------
        DataError
            If the file's mask is of another shape than its patterns.
        """
        none_bad = np.zeros(frame_shape, dtype=bool)
        mask = none_bad if bad_pixels is None else np.asarray(bad_pixels, bool)
        if not mask.any():
            # Some readers make it of another size than the frames.
            mask = none_bad
        if mask.shape != frame_shape:
            raise DataError(
                f'The bad pixels of {path} must be {frame_shape[0]} x {frame_shape[1]} as its '
                f'patterns are; got {mask.shape}.'
            )
        return np.asarray(self(mask, beyond=True), dtype=bool)

    def notes(self, frame_shape: tuple[int, int]) -> tuple[str, ...]:
        """Return a note on what was cut."""
        (height, width), (top, left) = self._place(frame_shape)
        if (height, width) == frame_shape and (top, left) == (0, 0):
            return ()
        around = (top + height // 2, left + width // 2)
        note = (
            f'Frames of {frame_shape[0]} x {frame_shape[1]} pixels were cut to {height} x {width} '
            f'around (row, column) {around}'
        )
        if self._middle is None:
            note += ', their middle; if the beam is elsewhere, use --beam-center ROW,COLUMN'
        if top < 0 or left < 0 or top + height > frame_shape[0] or left + width > frame_shape[1]:
            note += '; pixels beyond their edge count as bad'
        return (f'{note}.',)


def centred(
    counts: RealArray,
    bad_pixels: BoolArray | None,
    probe: ComplexArray | None,
    beam_center_px: tuple[int, int] | None,
    *,
    is_near_field: bool,
) -> tuple[RealArray, BoolArray, tuple[str, ...]]:
    """Return patterns with the beam in the middle, where it is known to be elsewhere.

    Parameters
    ----------
    counts : ndarray, shape (n_patterns, frame_height, frame_width)
    bad_pixels : ndarray of bool, shape (frame_height, frame_width), optional
    probe : ndarray of complex, shape (n_modes, height, width), optional
        To whose size frames are cut, where the beam's place is given; else they keep theirs.
    beam_center_px : (row, column), optional
    is_near_field : bool
        Patterns are images, which have no zero frequency and stay as they are.

    Returns
    -------
    counts : ndarray, shape (n_patterns, height, width)
    bad_pixels : ndarray of bool, shape (height, width)
    notes : tuple of str
    """
    frame_shape = (int(counts.shape[1]), int(counts.shape[2]))
    mask = np.zeros(frame_shape, dtype=bool) if bad_pixels is None else bad_pixels
    if is_near_field:
        check_no_beam_center(beam_center_px)
        return counts, mask, ()
    if beam_center_px is None:
        return corners_to_middle(counts, mask) if mask.shape == frame_shape else (counts, mask, ())
    shape = frame_shape if probe is None else (probe.shape[-2], probe.shape[-1])
    cut = FrameCut(shape, beam_center_px)
    return (
        converted(counts, cut),
        np.asarray(cut(mask, beyond=True), dtype=bool),
        cut.notes(frame_shape),
    )


def check_no_beam_center(beam_center_px: tuple[int, int] | None) -> None:
    """Raise a DataError where images in the near field are given a place of the beam."""
    if beam_center_px is not None:
        raise DataError(
            'In the near field patterns are images of the sample, without a place where the beam '
            f'meets the detector; got {beam_center_px}. Leave beam_center_px (--beam-center) out.'
        )


def corners_to_middle(
    counts: RealArray, bad_pixels: BoolArray
) -> tuple[RealArray, BoolArray, tuple[str, ...]]:
    """Move zero frequency to the middle where it is in the corners, as Fourier transforms put it.

    Parameters
    ----------
    counts : ndarray, shape (n_patterns, height, width)
    bad_pixels : ndarray of bool, shape (height, width)

    Returns
    -------
    counts, bad_pixels : ndarray
        The same objects where nothing was moved.
    notes : tuple of str
    """
    height, width = counts.shape[1:]
    y, x = height // 4, width // 4
    if not y or not x or not len(counts):
        return counts, bad_pixels, ()
    mean = _mean(counts, bad_pixels)
    middle = mean[y : height - y, x : width - x].sum()
    corners = [mean[rows, columns].sum() for rows in _ends(y) for columns in _ends(x)]
    # A ring of light around a dark middle crosses the corners' blocks too, with a quarter of it.
    if 4 * min(corners) <= middle or sum(corners) <= MIN_LIGHT_IN_CORNERS * mean.sum():
        return counts, bad_pixels, ()
    return (
        converted(counts, lambda rows: np.fft.fftshift(rows, axes=(-2, -1))),
        np.fft.fftshift(bad_pixels),
        ('Zero frequency was in the corners of the patterns and was moved to their middle.',),
    )


def centre_note(counts: RealArray, bad_pixels: BoolArray, probe: ComplexArray) -> tuple[str, ...]:
    """Return a note where the light lies off the probe's far field; see `find_beam_center`."""
    beam_center_px = find_beam_center(counts, bad_pixels, probe)
    if beam_center_px is None:
        return ()
    middle = tuple(side // 2 for side in counts.shape[1:])
    row, column = beam_center_px
    return (
        f'The light of the patterns lies around (row, column) {beam_center_px}, where that of the '
        f'probe lies around {middle}. If the beam is off the middle, '
        f'use --beam-center {row},{column} (beam_center_px=({row}, {column})).',
    )


def find_beam_center(
    counts: RealArray, bad_pixels: BoolArray, probe: ComplexArray
) -> tuple[int, int] | None:
    """Return (row, column) of the beam, where it lies elsewhere than the probe's far field.

    Parameters
    ----------
    counts : ndarray, shape (n_patterns, height, width)
    bad_pixels : ndarray of bool, shape (height, width)
    probe : ndarray of complex, shape (n_modes, height, width)

    Returns
    -------
    (int, int) or None
        None where it lies in the middle.
    """
    mean = _mean(counts, bad_pixels)
    far = light_on_detector(probe, None)
    # The same pixels are left out of both: a beamstop off the middle is no shift of the beam.
    offset = _centre(mean) - _centre(np.where(bad_pixels, 0, far))
    shape = np.array(mean.shape)
    if not (np.abs(offset) > np.maximum(MIN_OFFSET_PX, MIN_OFFSET_FRACTION * shape)).any():
        return None
    row, column = np.rint(shape // 2 + offset).astype(int).tolist()
    return row, column


def _mean(counts: RealArray, bad_pixels: BoolArray) -> RealArray:
    """Return the mean of some patterns, zero at bad pixels."""
    some = counts[:: max(1, len(counts) // 128)]
    return np.asarray(np.where(bad_pixels, 0.0, some.mean(axis=0, dtype=np.float64)))


def _centre(image: RealArray) -> RealArray:
    """Return the centre of mass, (row, column), of what is brighter than half of the pixels are."""
    # A background spreads over the detector, and would pull the centre of mass to its middle.
    above = np.maximum(image - np.median(image), 0)
    total = above.sum()
    if not total > 0:
        return np.array(image.shape) / 2
    rows, columns = (np.arange(size) for size in image.shape)
    return np.asarray(np.array([above.sum(axis=1) @ rows, above.sum(axis=0) @ columns]) / total)


def _ends(size: int) -> tuple[slice, slice]:
    return slice(None, size), slice(-size, None)
