"""One scan in memory: patterns, where they were taken, and with what."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics.propagation import light_on_detector
from ptychopinn_plugin.storage.scratch import chunks, taken

MIN_VISIBLE_FRACTION = 0.05
"""At least this share of the light is taken as seen: the light of the probe, which it is
estimated from, is too uncertain for less."""

CHUNK_PATTERNS = 1024
"""Long scans are gone through in chunks of this number of patterns, so that copies stay small."""

MAX_PIXEL_COUNT = 2.0**53
"""Up to this count in a pixel, double precision holds every whole number."""


ProbeOrigin = Literal['given', 'extended', 'patterns', 'found']

MAX_DISTANCE = 20
"""Up to this many widths of the scan, a pattern's added, a few positions may lie away from it."""


MAX_POSITION_PX = 2**30
"""Positions have no larger coordinate: of two of them, one whole number is made (`places`)."""


def check_coordinates(
    name: str, positions_px: FloatArray, n_patterns: int, pattern_shape: tuple[int, int]
) -> None:
    """Check that there is a position for each pattern, and that all lie together.

    Parameters
    ----------
    name : str
        What the positions are called in messages.
    positions_px : ndarray of float64, shape (n_patterns, 2)
    n_patterns : int
    pattern_shape : (int, int)
        Height and width in pixels.

    Raises
    ------
    DataError
        If there is another number of them, or some are no numbers or far away from the others.
    """
    if positions_px.shape != (n_patterns, 2):
        raise DataError(
            f'{name} must have shape ({n_patterns}, 2), one (y, x) for each pattern; '
            f'got {positions_px.shape}.'
        )
    bad = np.flatnonzero(~np.isfinite(positions_px).all(axis=1))
    remedy = 'Correct them, or leave them and their patterns out.'
    if bad.size:
        raise DataError(f'{name} must be finite; {_listed(bad, positions_px)}. {remedy}')
    beyond = np.flatnonzero((np.abs(positions_px) > MAX_POSITION_PX).any(axis=1))
    if beyond.size:
        raise DataError(
            f'{name} must be at most {MAX_POSITION_PX:.2g} pixels of the object; '
            f'{_listed(beyond, positions_px)}. Divide them by the size of such a pixel, or write '
            'them relative to the first.'
        )
    # A few positions that are far away do not move quartiles.
    low, middle, high = np.quantile(positions_px, [0.25, 0.5, 0.75], axis=0)
    reach = MAX_DISTANCE * (high - low + max(pattern_shape))
    far = np.flatnonzero((np.abs(positions_px - middle) > reach).any(axis=1))
    # Where many lie far away, it is another kind of scan.
    if 0 < far.size <= len(positions_px) // 10:
        raise DataError(
            f'{name} must lie together; {_listed(far, positions_px)}, far away from the others '
            f'around {np.round(middle, 1).tolist()} (y, x), in pixels of the object. {remedy}'
        )


def check_probe(probe: ComplexArray, pattern_shape: tuple[int, int]) -> None:
    """Check that a probe has the size of the patterns, and light.

    Parameters
    ----------
    probe : ndarray of complex, shape (n_modes, height, width)
    pattern_shape : (int, int)
        Height and width in pixels.

    Raises
    ------
    DataError
        If it is of another size, not finite, or zero everywhere.
    """
    height, width = pattern_shape
    if probe.ndim != 3 or probe.shape[1:] != (height, width):
        raise DataError(
            f'probe must have shape (n_modes, {height}, {width}) as the patterns have; '
            f'got {probe.shape}. Resample it, or crop the patterns to its size.'
        )
    if not np.isfinite(probe).all() or not np.any(probe):
        raise DataError('probe must be finite and not zero everywhere.')


def _listed(numbers: IntArray, positions_px: FloatArray) -> str:
    shown = [
        f'{number} at {np.round(positions_px[number], 1).tolist()}'
        for number in numbers[:4].tolist()
    ]
    more = f' and {numbers.size - 4} more' if numbers.size > 4 else ''
    few = f'{numbers.size} of {len(positions_px)} are not: position' if more else 'position'
    return f'{few} {", ".join(shown)}{more}'


@dataclass(frozen=True, eq=False)
class _CheckedCounts:
    """The counts of patterns that were checked, with the arrays that they belong to."""

    patterns: RealArray
    bad_pixels: BoolArray
    totals: FloatArray


@dataclass(frozen=True)
class Scan:
    """A ptychographic scan.

    The model is ``counts[j] = sum over modes of |F(probe[mode](r) object(r + positions[j]))|²``;
    the first mode may vary from pattern to pattern. In the near field (`geometry`) free space takes
    the place of the Fourier transform F, and patterns are images of the sample.

    Attributes
    ----------
    patterns : ndarray, shape (n_positions, height, width)
        Counts in any real type, zero frequency at ``[height // 2, width // 2]``; in the near field
        that pixel is the middle of the patch. They are checked and added up once, so they and
        `bad_pixels` are not to be changed in place.
    positions_px : ndarray of float64, shape (n_positions, 2)
        Where the middle of the patch (pixel ``[height // 2, width // 2]``) lies, (y, x) in object
        pixels: with an object, pixel indices of `object_`.
    probe : ndarray of complex64, shape (n_modes, height, width)
        Of unknown scale: users normalize it to the counts.
    probe_variation : ProbeVariation, optional
        Eigenmodes and weights of a probe that varies from pattern to pattern; on its scale.
    object_ : ndarray of complex64, shape (object_height, object_width), optional
        The true or a known transmission.
    bad_pixels : ndarray of bool, shape (height, width)
        True where the detector does not count.
    nominal_positions_px : ndarray of float64, shape (n_positions, 2), optional
        Where the positions were meant to be.
    scan_index : ndarray of int64, shape (n_positions,)
        Which of several exposures a pattern belongs to.
    pattern_indexes : ndarray of int64, shape (n_positions,)
        The number by which the pattern is known where it comes from, so that results can be matched
        with it again; its place among the patterns where the source has no numbers.
    is_single_shot : bool
        Whether patterns share nothing and each is reconstructed alone; see `one_by_one`.
    probe_origin : 'given', 'extended', 'patterns' or 'found'
        Where the probe comes from: a file; a file, with modes added; the patterns alone
        (`starting_probe`), so that its defocus is unknown; the patterns and trial reconstructions
        (`backends.common.probe_search`). All but the first are for iterations to correct.
    geometry : Geometry
        Pixel sizes, where known, and whether the detector is in the near field.
    name : str
        For messages and plots.
    notes : tuple of str
        What a reader changed or assumed, a sentence each.
    """

    patterns: RealArray
    positions_px: FloatArray
    probe: ComplexArray
    object_: ComplexArray | None = None
    bad_pixels: BoolArray | None = None
    nominal_positions_px: FloatArray | None = None
    scan_index: IntArray | None = None
    pattern_indexes: IntArray | None = None
    is_single_shot: bool = False
    probe_origin: ProbeOrigin = 'given'
    geometry: Geometry = field(default_factory=Geometry)
    name: str = 'scan'
    notes: tuple[str, ...] = ()
    probe_variation: ProbeVariation | None = None
    # It is an argument, so that `dataclasses.replace` passes it on and the patterns, which may be
    # many gigabytes, are gone through once and not again for each note and each probe.
    _checked: _CheckedCounts | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if self.probe.ndim == 2:
            put('probe', self.probe[np.newaxis])
        put('probe', np.ascontiguousarray(self.probe, dtype=np.complex64))
        put('positions_px', np.asarray(self.positions_px, dtype=np.float64))
        if self.bad_pixels is None:
            put('bad_pixels', np.zeros(self.patterns.shape[1:], dtype=bool))
        if self.scan_index is None:
            put('scan_index', np.zeros(len(self.patterns), dtype=np.int64))
        if self.pattern_indexes is None:
            put('pattern_indexes', np.arange(len(self.patterns), dtype=np.int64))
        self._check()
        put('_checked', self._with_checked_counts())

    def _check(self) -> None:
        patterns = self.patterns
        if patterns.ndim != 3:
            raise DataError(
                f'patterns must have shape (n_positions, height, width); got {patterns.shape}.'
            )
        n_positions, height, width = patterns.shape
        if n_positions == 0:
            raise DataError('The scan holds no pattern; at least one is needed.')
        for name, array in (
            ('positions_px', self.positions_px),
            ('nominal_positions_px', self.nominal_positions_px),
        ):
            if array is not None:
                check_coordinates(name, array, n_positions, (height, width))
        assert self.pattern_indexes is not None
        if self.pattern_indexes.shape != (n_positions,):
            raise DataError(
                f'pattern_indexes must have shape ({n_positions},), one number for each pattern; '
                f'got {self.pattern_indexes.shape}.'
            )
        check_probe(self.probe, (height, width))
        if self.probe_variation is not None:
            self.probe_variation.check(n_positions, (height, width))
        if self.bad_pixels is None or self.bad_pixels.shape != (height, width):
            raise DataError(f'bad_pixels must have shape ({height}, {width}).')
        if self.bad_pixels.all():
            raise DataError('bad_pixels marks every pixel; nothing is left to learn from.')
        # What the near field needs shows here, before anything is computed.
        self.transfer_function()

    def _with_checked_counts(self) -> _CheckedCounts:
        """Check the counts, unless that was done with these very arrays."""
        assert self.bad_pixels is not None
        checked = self._checked
        if (
            checked is None
            or checked.patterns is not self.patterns
            or checked.bad_pixels is not self.bad_pixels
        ):
            checked = _CheckedCounts(self.patterns, self.bad_pixels, self._add_up_counts())
        if not checked.totals.any():
            raise DataError('Every pattern is empty; at least one count is needed.')
        return checked

    def _add_up_counts(self) -> FloatArray:
        """Return the counts of each pattern, bad pixels left out, in one pass that checks them."""
        totals = []
        valid = self._valid_pixels()
        # It goes in slices, as a boolean copy of a million patterns would not fit.
        for part, block in chunks(self.patterns, CHUNK_PATTERNS):
            start = part.start
            counts = block[:, valid].reshape(len(block), -1)
            if counts.dtype.kind == 'f' and not np.isfinite(counts).all():
                where = start + int(np.flatnonzero(~np.isfinite(counts).all(axis=1))[0])
                raise DataError(
                    f'Counts must be finite; pattern {where} holds NaN or infinity. '
                    'Mark such pixels in bad_pixels, or leave the pattern out.'
                )
            if counts.dtype.kind in 'if' and counts.min() < 0:
                where = start + int(np.flatnonzero((counts < 0).any(axis=1))[0])
                raise DataError(
                    f'Counts must not be negative; pattern {where} holds {counts.min()}. '
                    'Subtract less background, or mark such pixels in bad_pixels.'
                )
            if counts.max() > MAX_PIXEL_COUNT:
                where = start + int(np.flatnonzero((counts > MAX_PIXEL_COUNT).any(axis=1))[0])
                raise DataError(
                    f'Counts must be at most {MAX_PIXEL_COUNT:.2g}; pattern {where} holds '
                    f'{counts.max():.2g}. Mark such pixels in bad_pixels, or divide the patterns.'
                )
            totals.append(counts.sum(axis=1, dtype=np.float64))
        return np.concatenate(totals)

    def _valid_pixels(self) -> BoolArray | slice:
        """Return what picks the good pixels; without bad ones nothing is copied."""
        if self.bad_pixels is None or not self.bad_pixels.any():
            return slice(None)
        return ~self.bad_pixels

    def __len__(self) -> int:
        return len(self.patterns)

    @property
    def pattern_shape(self) -> tuple[int, int]:
        """Height and width of a pattern, in pixels."""
        return (int(self.patterns.shape[1]), int(self.patterns.shape[2]))

    def transfer_function(self) -> ComplexArray | None:
        """Return what takes waves to the detector; see `Geometry.transfer_function`."""
        return self.geometry.transfer_function(self.pattern_shape)

    def subset(self, indices: IntArray) -> Self:
        """Return the scan of these positions alone, in this order."""
        assert self.scan_index is not None
        assert self.pattern_indexes is not None
        assert self.bad_pixels is not None
        nominal, patterns = self.nominal_positions_px, taken(self.patterns, indices)
        variation = self.probe_variation
        return dataclasses.replace(
            self,
            patterns=patterns,
            positions_px=self.positions_px[indices],
            scan_index=self.scan_index[indices],
            pattern_indexes=self.pattern_indexes[indices],
            nominal_positions_px=None if nominal is None else nominal[indices],
            probe_variation=None if variation is None else variation.subset(indices),
            # What holds for every pattern holds for some of them.
            _checked=_CheckedCounts(patterns, self.bad_pixels, self.counts()[indices]),
        )

    @property
    def has_probe_of_file(self) -> bool:
        """Whether the probe came from a file, and was not made of the patterns."""
        return self.probe_origin in ('given', 'extended')

    def is_countable(self) -> bool:
        """Return whether counts are whole numbers, as photons are; some patterns are looked at."""
        some = self.patterns[:: max(1, len(self) // 64)]
        if some.dtype.kind in 'iu':
            return True
        valid = self._valid_pixels()
        return bool(np.array_equal(some[:, valid], np.rint(some[:, valid])))

    def mean_counts(self) -> float:
        """Return the mean number of counts in a pattern, bad pixels left out."""
        return float(self.counts().mean())

    def counts(self) -> FloatArray:
        """Return the counts of each pattern, bad pixels left out, shape (n_positions,)."""
        assert self._checked is not None
        return self._checked.totals.copy()

    def mean_photons(self) -> float:
        """Return the mean number of photons in a pattern, those on bad pixels included.

        What falls on them is judged by the light of the probe alone: a beamstop hides most of it,
        and a probe scaled to the rest would make the object too bright.
        """
        if self.bad_pixels is None or not self.bad_pixels.any():
            return self.mean_counts()
        light = light_on_detector(self.probe, self.transfer_function())
        share = float(light[~self.bad_pixels].sum() / light.sum())
        return self.mean_counts() / max(share, MIN_VISIBLE_FRACTION)
