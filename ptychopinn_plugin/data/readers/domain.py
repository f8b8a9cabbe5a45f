"""Counts or amplitudes: what the numbers of a pattern are, and how amplitudes become counts."""

import functools
from typing import Any, Literal, TypeAlias

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, RealArray
from ptychopinn_plugin.data.scan import CHUNK_PATTERNS
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.scratch import Usage, chunks, converted, new_array

Domain: TypeAlias = Literal['counts', 'amplitudes']


def check_domain(domain: str | None) -> None:
    """Raise a DataError unless `domain` is 'counts', 'amplitudes' or None.

    Raises
    ------
    DataError
        If it is another word.
    """
    if domain not in ('counts', 'amplitudes', None):
        raise DataError(f"domain must be 'counts' or 'amplitudes'; got {domain!r}.")


def infer_domain(patterns: RealArray, *, is_ptychodus_export: bool) -> tuple[Domain, str]:
    """Distinguish counts from amplitudes by the values, where the file leaves it open.

    The first that holds decides:

    1. Integers are counts.
    2. A file laid out as Ptychodus exports it (`bad_pixels`, or a probe of several modes)
       holds counts.
    3. Negative numbers, which no amplitude has, are counts with a dark field subtracted.
    4. Whole numbers are counts.
    5. Numbers whose squares are whole are amplitudes.
    6. Whole multiples of the least number, the largest of which is 1, are counts divided by it.
    7. Anything else is amplitudes, as in PtychoPINN's contract.

    Parameters
    ----------
    patterns : ndarray, shape (n_positions, height, width)
    is_ptychodus_export : bool

    Returns
    -------
    domain : 'counts' or 'amplitudes'
    reason : str
        Ends the sentence "taken as counts because ...".
    """
    if patterns.dtype.kind in 'ui':
        return 'counts', f'they are integers ({patterns.dtype})'
    if is_ptychodus_export:
        return 'counts', 'the file has the layout of an export by Ptychodus'
    if any((chunk < 0).any() for _, chunk in chunks(patterns, CHUNK_PATTERNS)):
        return 'counts', 'some are negative, as where a dark field was subtracted'
    if values_are_whole(patterns):
        return 'counts', 'they are whole numbers'
    if squares_are_whole(patterns):
        return 'amplitudes', 'their squares are whole numbers'
    sample = _sample(patterns, len(patterns))
    if _multiples(sample, patterns.dtype):
        return 'counts', 'they are whole multiples of the least, and the largest is 1'
    return 'amplitudes', "PtychoPINN's files hold amplitudes"


_LOGARITHMS = {'ln(1 + counts)': np.e, 'log10(1 + counts)': 10.0, 'log2(1 + counts)': 2.0}


def without_logarithm(
    patterns: RealArray, domain: Domain | None
) -> tuple[RealArray, tuple[str, ...]]:
    """Return counts in place of logarithms of one more than them, and a note; else the same.

    Their exponentials are whole numbers, as those of no other floats are.

    Parameters
    ----------
    patterns : ndarray, shape (n_positions, height, width)
    domain : 'counts' or 'amplitudes', optional
        Where the user gives it, patterns are left as they are.
    """
    sample = _sample(patterns) if patterns.dtype.kind == 'f' and domain is None else np.zeros(0)
    # No number of counts has a larger logarithm.
    if not sample.size or sample.min() < 0 or not 0 < sample.max() < np.log2(1e12):
        return patterns, ()
    if values_are_whole(patterns) or squares_are_whole(patterns):
        return patterns, ()
    for name, base in _LOGARITHMS.items():
        if sample.max() * np.log(base) > np.log(1e12):
            continue
        values = np.expm1(sample * np.log(base))
        if _nearly_whole(values, patterns.dtype) and values.max() > 2:
            counts = converted(patterns, functools.partial(_exponentials, base))
            note = f'The patterns were taken as {name}, because they then are whole numbers, and '
            note += 'were turned into counts; if that is wrong, use domain=NAME (--domain NAME).'
            return counts, (note,)
    return patterns, ()


def _exponentials(base: float, logarithms: RealArray) -> FloatArray:
    """Return the whole numbers of which logarithms of one more are given."""
    exponents = logarithms.astype(np.float64) * np.log(base)
    return np.asarray(np.rint(np.expm1(exponents)), dtype=np.float32)


def _multiples(sample: FloatArray, dtype: np.dtype[Any]) -> bool:
    """Return whether numbers, the largest 1, are whole multiples of the least, as divided counts.

    The least number is one count: in a sample of thousands, some pixel holds one.
    """
    lit = sample[sample > 0]
    # A few numbers, or numbers of nearly one size, are such multiples by chance.
    if lit.size < 100 or abs(float(lit.max()) - 1) > 1e-6 or lit.max() < 3 * lit.min():
        return False
    return _nearly_whole(lit / lit.min(), dtype)


def values_are_whole(patterns: RealArray) -> bool:
    """Return whether every value of a sample of the patterns is a whole number."""
    sample = _sample(patterns)
    return bool(sample.size) and bool((sample == np.rint(sample)).all())


def squares_are_whole(patterns: RealArray) -> bool:
    """Return whether nearly all squares of a sample are whole numbers, as the file rounded them."""
    return _nearly_whole(_sample(patterns) ** 2, patterns.dtype)


def _nearly_whole(values: FloatArray, dtype: np.dtype[Any]) -> bool:
    rounding = 8 * np.finfo(dtype).eps if dtype.kind == 'f' else 0.0
    tolerance = 1e-3 + rounding * values
    # Where rounding alone reaches a quarter, any number would pass; so would any that is tiny.
    decisive = (tolerance < 0.25) & (values > tolerance)
    if not decisive.any():
        return False
    near = np.abs(values - np.rint(values)) < tolerance
    return bool(near[decisive].mean() > 0.99)


def unit_note(counts: RealArray) -> tuple[str, ...]:
    """Return a note on counts that look normalized, few and not whole; else an empty text.

    Parameters
    ----------
    counts : ndarray, shape (n_positions, ...)
        Of good pixels.
    """
    sample = _sample(counts)
    mean = float(sample.mean())
    if counts.dtype.kind in 'ui' or mean >= 1 or _nearly_whole(sample, counts.dtype):
        return ()
    return (
        f'The counts, {mean * counts[0].size:.3g} in a pattern, are no whole numbers; if the '
        'patterns are normalized or in another unit, give the mean number of photons in a '
        'pattern: photons=N (--photons N).',
    )


def _sample(patterns: RealArray, count: int = 32) -> FloatArray:
    sample = patterns[:: max(1, len(patterns) // count)].astype(np.float64)
    return sample[np.isfinite(sample)]


def to_counts(patterns: RealArray, domain: Domain) -> RealArray:
    """Return patterns as counts: as they are, or the squares of amplitudes in float32.

    Parameters
    ----------
    patterns : ndarray, shape (n_positions, height, width)
        Where it is float32 and holds amplitudes, it is squared in place.
    domain : 'counts' or 'amplitudes'

    Returns
    -------
    ndarray, shape (n_positions, height, width)
        Counts in the type of the source, amplitudes squared as float32: to whole numbers, where
        they are the roots of such.

    Raises
    ------
    DataError
        If `domain` is unknown, or an amplitude is negative.
    """
    if domain == 'counts':
        if patterns.dtype != np.float16:
            return patterns
        return converted(patterns, lambda rows: rows.astype(np.float32))
    are_roots = squares_are_whole(patterns)
    # In place where the array is ours: amplitudes and counts of a large scan would not fit side by
    # side.
    own = patterns.dtype == np.float32 and patterns.flags.writeable
    counts = patterns if own else new_array(patterns.shape, np.float32, like=patterns)
    usage = Usage(counts)
    for where, chunk in chunks(patterns, CHUNK_PATTERNS):
        if chunk.dtype.kind != 'u' and (chunk < 0).any():
            raise DataError(
                f'Amplitudes must not be negative; got {chunk.min()}. '
                "Where the patterns hold counts, use domain='counts' (--domain counts)."
            )
        # They become floats first, as the square of an integer overflows its type.
        part = counts[where]
        np.square(chunk.astype(np.float32, copy=False), out=part)
        if are_roots:
            # What rounding in the file left would hide that they were counted.
            np.rint(part, out=part)
        usage.add(part.nbytes)
    return counts
