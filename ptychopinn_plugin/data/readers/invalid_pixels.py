"""Pixels that hold no counts, by one rule for all readers.

In place of counts, detectors and programs write marks: NaN or infinity, the largest number of a
type (gaps between modules, saturation), -1 and -2, or another negative number in every pattern.
What holds one is no measurement, whatever the file's own mask holds. A mask is common to all
patterns, so:

1. A pattern with marks nearly everywhere was not recorded: it is emptied, and patterns without
   light are left out of what is computed.
2. A pixel with a mark in most of the other patterns is bad.
3. A pattern in which marks hide much of the rest, as where a module was not read out, is emptied.
4. A pixel with a mark in any of what is left, as one that is saturated now and then, is bad.

Where that would hide too much, the numbers are no marks. Other negative numbers are the noise of a
dark field that was subtracted: they become zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, IntArray, RealArray
from ptychopinn_plugin.data.readers.limits import READ_PATTERNS
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import chunks, converted
from ptychopinn_plugin.text import count

MAX_SPORADIC_FRACTION = 0.25
"""At most this share of the pixels may hold a mark in some patterns only."""

MAX_HIDDEN_FRACTION = 0.1
"""A pattern is emptied where more than this share of its pixels hold a mark that others lack."""

MAX_NEGATIVE_FRACTION = 0.5
"""Negative numbers may sum up to this share of the positive ones; with more, they are no noise."""

MIN_NOISE_FRACTION = 0.05
"""Where there is noise, at least this share of the numbers is negative; fewer are outliers."""

_UNRECORDED_FRACTION = 0.9
_NEGATIVE_MARKS = (-1, -2)
_TYPE_MAXIMA = (2**16 - 1, 2**31 - 1, 2**32 - 1)
"""These are the largest numbers of the types that detectors write. They are marks in wider types
as well, to which programs convert."""


def mask_invalid(
    patterns: RealArray, bad_pixels: BoolArray | None
) -> tuple[RealArray, BoolArray, tuple[str, ...]]:
    """Find marks in place of counts, and make them bad pixels.

    Parameters
    ----------
    patterns : ndarray, shape (n_patterns, height, width)
        Numbers as the file has them, counts or amplitudes. Changed in place where it is writeable.
    bad_pixels : ndarray of bool, shape (height, width), optional
        Those that the file names; marks on them are not counted again.

    Returns
    -------
    patterns : ndarray
        Zero wherever a mark was.
    bad_pixels : ndarray of bool, shape (height, width)
    notes : tuple of str
        What was found, a sentence each.

    Raises
    ------
    DataError
        If what looks like marks lies on too many pixels of some patterns.
    """
    bad = np.zeros(patterns.shape[1:], dtype=bool) if bad_pixels is None else bad_pixels
    if bad.shape != patterns.shape[1:] or bad.all() or patterns.dtype.kind not in 'uif':
        return patterns, bad, ()
    lowest, highest, is_finite = _range(patterns, ~bad)
    largest, negative = _largest(patterns.dtype, highest), _negative_marks(patterns, ~bad, lowest)
    spread = None
    # -1 and -2 may be noise of a dark field after all: as marks they must spare nearly all
    # patterns.
    if negative:
        spread = _spread(patterns, ~bad, (*largest, *negative), min_kept=0.9)
    # These are no counts in any case, so that up to half of the patterns may be given up.
    if spread is None and (largest or not is_finite):
        negative = ()
        spread = _spread(patterns, ~bad, largest, min_kept=0.5)
        if spread is None:
            raise DataError(_too_many(patterns.dtype, largest))
    if spread is None:
        spread = _Spread(np.zeros_like(bad), np.zeros_like(bad), np.empty(0, dtype=np.int64))
    always = spread.always
    if lowest < 0 and not negative:
        always = always | (_always_negative(patterns, spread.emptied) & ~bad)
    notes = _notes(patterns.dtype, spread, always, (*largest, *negative), is_finite=is_finite)
    marked = always | spread.sporadic
    # What belongs to somebody else, or is mapped from a file, stays as it is.
    if notes and not patterns.flags.writeable:
        patterns = converted(patterns, np.copy)
    bad = bad | marked
    if patterns.flags.writeable and bad.any():
        for _, chunk in chunks(patterns, READ_PATTERNS):
            chunk[:, bad] = 0
    if spread.emptied.size:
        patterns[spread.emptied] = 0
    return patterns, bad, notes


def clip_negative(patterns: RealArray, bad_pixels: BoolArray) -> tuple[RealArray, tuple[str, ...]]:
    r"""Set the noise of a subtracted dark field, which shows in negative numbers, to zero.

    Of noise that is Gaussian, :math:`\sigma` follows from the negative numbers, whose median is
    :math:`-0.674\,\sigma`. Were only they set to zero, the rest would be a background that no
    object explains: so is everything below :math:`2\sigma`.

    Parameters
    ----------
    patterns : ndarray, shape (n_patterns, height, width)
        Counts, without marks. Changed in place where it is writeable.
    bad_pixels : ndarray of bool, shape (height, width)

    Returns
    -------
    patterns : ndarray
    notes : tuple of str

    Raises
    ------
    DataError
        If negative numbers are no small part of the whole.
    """
    if patterns.dtype.kind == 'u' or bad_pixels.all():
        return patterns, ()
    valid_mask = ~bad_pixels
    lowest = below = above = 0.0
    samples = []
    for _, chunk in _chunks(patterns, valid_mask):
        lowest = min(lowest, float(chunk.min()))
        below -= float(np.minimum(chunk, 0).sum(dtype=np.float64))
        above += float(np.maximum(chunk, 0).sum(dtype=np.float64))
        # A few patterns of each chunk suffice for a median.
        samples.append(chunk[:: max(1, len(chunk) // 4)].ravel())
    if lowest >= 0 or not np.isfinite(lowest):
        return patterns, ()
    if below > MAX_NEGATIVE_FRACTION * above:
        raise DataError(
            f'Counts must not be negative, but for the noise of a dark field; got {lowest:g}, and '
            f'negative numbers sum up to {below / max(above, 1e-30):.2g} times the positive ones. '
            'Give counts: no logarithms, and less background subtracted.'
        )
    floor = _noise_floor(np.concatenate(samples))
    if not patterns.flags.writeable:
        patterns = converted(patterns, np.copy)
    for _, chunk in chunks(patterns, READ_PATTERNS):
        chunk[chunk < floor] = 0
    return patterns, (
        f'Negative counts, down to {lowest:g} and in all {below / above:.2g} of the positive ones, '
        f'were taken for the noise of a subtracted dark field: what is below {floor:.3g} was set '
        'to zero.',
    )


def _noise_floor(counts: RealArray) -> float:
    """Return twice the standard deviation of the noise; 0 where too few numbers are negative."""
    negative = counts[counts < 0]
    if negative.size < MIN_NOISE_FRACTION * counts.size:
        return 0.0
    return float(2 * np.median(-negative) / 0.6745)


def with_common_marks(blocks: list[RealArray]) -> list[RealArray]:
    """Give blocks of several types one type, in which the largest number of each stays a mark."""
    kinds = {block.dtype for block in blocks}
    if len(kinds) < 2:
        return blocks
    common = np.result_type(*kinds)
    mark = np.nan if common.kind == 'f' else np.iinfo(common).max
    result = []
    for block in blocks:
        wide = block.astype(common)
        if block.dtype.kind != 'f' and block.dtype != common:
            wide[block == np.iinfo(block.dtype).max] = mark
        result.append(wide)
    return result


@dataclass(frozen=True)
class _Spread:
    """Where marks lie: in most patterns, in some, and on patterns that are to be emptied."""

    always: BoolArray
    sporadic: BoolArray
    emptied: IntArray


def _chunks(patterns: RealArray, valid_mask: BoolArray) -> Iterator[tuple[int, RealArray]]:
    """Yield parts of the patterns and where they start; bad pixels left out, if there are some."""
    for part, chunk in chunks(patterns, READ_PATTERNS):
        yield (
            part.start,
            chunk.reshape(len(chunk), -1) if valid_mask.all() else chunk[:, valid_mask],
        )


def _range(patterns: RealArray, valid_mask: BoolArray) -> tuple[float, float, bool]:
    """Return the lowest and highest number, and whether all are finite."""
    lowest, highest, is_finite = np.inf, -np.inf, True
    for _, chunk in _chunks(patterns, valid_mask):
        numbers = chunk
        if patterns.dtype.kind == 'f' and not (finite := np.isfinite(chunk)).all():
            is_finite, numbers = False, chunk[finite]
        if numbers.size:
            lowest = min(lowest, float(numbers.min()))
            highest = max(highest, float(numbers.max()))
    return lowest, highest, is_finite


def _largest(kind: np.dtype[Any], highest: float) -> tuple[float, ...]:
    """Return the largest number of a type, if the highest of all patterns is one."""
    candidates: list[float] = list(_TYPE_MAXIMA)
    if kind.kind == 'f':
        # Amplitudes, which programs make of counts, have it as well.
        candidates += [float(np.sqrt(number)) for number in _TYPE_MAXIMA]
        # Half precision holds few of them.
        with np.errstate(over='ignore'):
            kinds = [np.array(number).astype(kind) for number in candidates]
        return tuple(float(number) for number in kinds if float(number) == highest)
    candidates.append(np.iinfo(kind).max)
    return tuple({number for number in candidates if float(number) == highest})


def _negative_marks(patterns: RealArray, valid_mask: BoolArray, lowest: float) -> tuple[int, ...]:
    """Return -1 and -2, if no other number is negative."""
    if lowest not in _NEGATIVE_MARKS:
        return ()
    found: set[float] = set()
    for _, chunk in _chunks(patterns, valid_mask):
        found.update(np.unique(chunk[chunk < 0]).tolist())
        if not found <= set(_NEGATIVE_MARKS):
            return ()
    return tuple(int(number) for number in sorted(found, reverse=True))


def _marked(chunk: RealArray, marks: tuple[float, ...]) -> BoolArray:
    held = np.zeros(chunk.shape, dtype=bool)
    if chunk.dtype.kind == 'f':
        held |= ~np.isfinite(chunk)
    for mark in marks:
        held |= chunk == mark
    return held


def _tally(
    patterns: RealArray, pixels: BoolArray, marks: tuple[float, ...], kept: BoolArray
) -> tuple[IntArray, IntArray]:
    """Count marks on some pixels: in each of all patterns, and on each pixel of those kept."""
    in_pattern = np.zeros(len(patterns), dtype=np.int64)
    on_pixel = np.zeros(int(pixels.sum()), dtype=np.int64)
    for start, chunk in _chunks(patterns, pixels):
        held = _marked(chunk, marks)
        in_pattern[start : start + len(chunk)] = held.sum(axis=1)
        on_pixel += held[kept[start : start + len(chunk)]].sum(axis=0)
    return in_pattern, on_pixel


def _spread(
    patterns: RealArray, valid_mask: BoolArray, marks: tuple[float, ...], *, min_kept: float
) -> _Spread | None:
    """Find by the four rules above where marks lie; None where they lie as no marks do.

    `min_kept` is the share of patterns that the third rule must leave.
    """
    everyone = np.ones(len(patterns), dtype=bool)
    in_pattern, on_pixel = _tally(patterns, valid_mask, marks, everyone)
    recorded = in_pattern <= _UNRECORDED_FRACTION * valid_mask.sum()
    # A pattern that was not recorded has marks everywhere, and counts against good pixels.
    if recorded.any() and not recorded.all():
        _, on_pixel = _tally(patterns, valid_mask, marks, recorded)
    if not recorded.any():
        # Then the marks are bad pixels, and nothing is left, which `Scan` refuses.
        recorded = everyone
    always, sporadic = np.zeros_like(valid_mask), np.zeros_like(valid_mask)
    always[valid_mask] = on_pixel > recorded.sum() / 2
    rest = valid_mask & ~always
    if (on_pixel[~always[valid_mask]] == 0).all() or not rest.any():
        return _Spread(always, sporadic, np.flatnonzero(~recorded))
    in_pattern, _ = _tally(patterns, rest, marks, recorded)
    kept = recorded & (in_pattern <= MAX_HIDDEN_FRACTION * rest.sum())
    if kept.sum() < min_kept * recorded.sum():
        return None
    _, on_pixel = _tally(patterns, rest, marks, kept)
    sporadic[rest] = on_pixel > 0
    if sporadic.sum() > MAX_SPORADIC_FRACTION * valid_mask.sum():
        return None
    return _Spread(always, sporadic, np.flatnonzero(~kept))


def _always_negative(patterns: RealArray, emptied: IntArray) -> BoolArray:
    """Find pixels that are negative in every pattern; of floats, those with one such number.

    Where too much background was subtracted, floats may be negative everywhere in the dark.
    """
    kept = np.setdiff1d(np.arange(len(patterns)), emptied)
    always, same = np.ones(patterns.shape[1:], dtype=bool), np.ones(patterns.shape[1:], dtype=bool)
    for start in range(0, len(kept), READ_PATTERNS):
        chunk = patterns[kept[start : start + READ_PATTERNS]]
        always &= (chunk < 0).all(axis=0)
        same &= (chunk == patterns[kept[0]]).all(axis=0)
    if patterns.dtype.kind == 'f':
        return always & same & (len(kept) > 1)
    return always


def _notes(
    kind: np.dtype[Any],
    spread: _Spread,
    always: BoolArray,
    marks: tuple[float, ...],
    *,
    is_finite: bool,
) -> tuple[str, ...]:
    words = _in_words(kind, marks) + ([] if is_finite else ['NaN or infinity'])
    if (always & ~spread.always).any():
        words.append('negative in every pattern')
    what = '; '.join(words)
    notes = []
    if number := int((always | spread.sporadic).sum()):
        some = int((spread.sporadic & ~always).sum())
        note = f'{count(number, "pixel")} that hold no counts ({what}) were marked as bad'
        if some:
            note += f', {some:,} of them for the sake of some patterns only'
        notes.append(f'{note}.')
    if spread.emptied.size:
        notes.append(
            f'{count(spread.emptied.size, "pattern")} with such marks ({what}) on much of the '
            f'detector were emptied, and are left out (the first is number {spread.emptied[0]}).'
        )
    return tuple(notes)


def _in_words(kind: np.dtype[Any], marks: tuple[float, ...]) -> list[str]:
    words = []
    for mark in marks:
        own = kind.kind != 'f' and mark == np.iinfo(kind).max
        what = f'the largest number of {kind}' if own else 'the largest number of a type'
        words.append(f'{mark:.10g}, {what}' if mark > 0 else f'{mark:g}')
    return words


def _too_many(kind: np.dtype[Any], marks: tuple[float, ...]) -> str:
    what = ' or '.join(f'{mark:.10g}' for mark in marks) or 'NaN or infinity'
    return (
        f'Patterns must be counts (or their roots); these hold {what} on too many pixels, in one '
        'pattern here and in another there. Where they are logarithms, give counts; where '
        f'they are saturated ({kind}), or frames are broken, leave those patterns out.'
    )
