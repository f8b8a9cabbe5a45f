"""How far two halves of a scan agree: its resolution, without any truth.

The patterns are cut into two halves that both cover the field, each is reconstructed in the same
way, and the Fourier ring correlation of the two objects shows up to which spatial frequency
independent data agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.data import Geometry, Reconstruction, Scan
from ptychopinn_plugin.data.places import find_places
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.evaluation import Evaluation, evaluate, plot_evaluation
from ptychopinn_plugin.physics import cover, illumination_overlap

MIN_PATTERNS_TO_CUT = 8
"""Fewer patterns make no two halves that cover a field."""

LITTLE_OVERLAP_OF_HALVES = 4.0
"""Halves that overlap less are reconstructed worse than half of the counts explains."""

_NEIGHBOURS = 12
"""Among this number of nearest positions partners are looked for, and halves kept apart."""


@dataclass(frozen=True)
class Resolution:
    """Where a ring correlation falls below a threshold.

    Attributes
    ----------
    share_of_nyquist : float
        The spatial frequency; 1 where the curve stays above the threshold.
    half_period_px : float, optional
        Half a period of that frequency in object pixels; None where the curve starts below.
    half_period_m : float, optional
        The same in metres, where the size of a pixel is known.
    is_limit : bool
        Whether the curve stays above the threshold, so that the pixel is the limit.
    """

    share_of_nyquist: float
    half_period_px: float | None
    half_period_m: float | None
    is_limit: bool

    @classmethod
    def of(cls, share: float, geometry: Geometry) -> 'Resolution':
        """Return the resolution at a crossing, with the larger side of a pixel."""
        if share <= 0:
            return cls(share, None, None, False)
        sides = (geometry.pixel_height_m, geometry.pixel_width_m)
        pixel_m = max(sides) if sides[0] and sides[1] else None  # type: ignore[type-var]
        metres = None if pixel_m is None else pixel_m / share
        return cls(share, 1 / share, metres, share >= 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            'share_of_nyquist': self.share_of_nyquist,
            'half_period_px': self.half_period_px,
            'half_period_m': self.half_period_m,
            'is_limit_of_pixels': self.is_limit,
        }


@dataclass(frozen=True)
class HalfScans:
    """Two halves of a scan, compared.

    Attributes
    ----------
    evaluation : Evaluation
        Of the first half against the second.
    halves : (Reconstruction, Reconstruction)
    overlap : float
        Of the whole scan; see `physics.illumination_overlap`.
    half_overlap : float
        The smaller one of the halves.
    """

    evaluation: Evaluation
    halves: tuple[Reconstruction, Reconstruction]
    overlap: float
    half_overlap: float

    def resolutions(self) -> dict[str, Resolution]:
        """Return the resolution by threshold: '0.5', '1/7' and 'half-bit'."""
        geometry = self.halves[0].geometry
        crossings = self.evaluation.ring_correlation.crossings()
        return {name: Resolution.of(share, geometry) for name, share in crossings.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = self.evaluation.to_dict()
        return {
            'patterns': [len(half.positions_px) for half in self.halves],
            'overlap': {'scan': self.overlap, 'halves': self.half_overlap},
            'resolution': {name: r.to_dict() for name, r in self.resolutions().items()},
            'frc': values['frc'],
            'shift_px': values['shift_px'],
            'region_px': values['region_px'],
            'amplitude': values['amplitude'],
            'phase': values['phase'],
        }

    def in_words(self) -> list[str]:
        """Return a few plain lines."""
        counts = ' and '.join(str(len(half.positions_px)) for half in self.halves)
        lines = [
            f'halves of {counts} patterns, overlap {self.half_overlap:.1f} '
            f'(the scan: {self.overlap:.1f})',
            *(
                f'resolution by {name}: {_in_words(found)}'
                for name, found in self.resolutions().items()
            ),
        ]
        if self.half_overlap < LITTLE_OVERLAP_OF_HALVES:
            lines.append(
                'note: illuminations of a half overlap little, so that each half is reconstructed '
                'worse than half of the counts explains; the scan as a whole resolves more.'
            )
        return lines


def _in_words(found: Resolution) -> str:
    if found.half_period_px is None:
        return 'none, the halves do not agree'
    metres = ''
    if found.half_period_m is not None:
        metres = f' ({found.half_period_m * 1e9:.4g} nm)'
    limit = ', the limit of the pixels' if found.is_limit else ''
    return (
        f'{found.half_period_px:.2f} px{metres} half period, '
        f'{found.share_of_nyquist:.3f} of Nyquist{limit}'
    )


def split_scan(scan: Scan) -> tuple[Scan, Scan]:
    """Cut a scan into two halves that both cover its field.

    Neighbours are paired, each half gets one of a pair, and of both ways the one that keeps
    positions of a half apart: on a raster that is a checkerboard.

    Parameters
    ----------
    scan : Scan

    Returns
    -------
    (Scan, Scan)
        Of equal size, or one pattern apart, in the order of the scan.

    Raises
    ------
    DataError
        If the scan has too few patterns, or they share nothing.
    """
    if scan.is_single_shot:
        raise DataError(
            'Halves of a scan share their field; with --single-shot patterns share nothing. '
            'Read the scan without it.'
        )
    if len(scan) < MIN_PATTERNS_TO_CUT:
        raise DataError(
            f'Two halves need at least {MIN_PATTERNS_TO_CUT} patterns; the scan has {len(scan)}. '
            'Take a larger scan.'
        )
    half = _halves(scan)
    return scan.subset(np.flatnonzero(half == 0)), scan.subset(np.flatnonzero(half == 1))


def _halves(scan: Scan) -> IntArray:
    """Return the half of each position, 0 or 1."""
    positions = scan.positions_px
    n = len(scan)
    distances, near = cKDTree(positions).query(positions, min(n, _NEIGHBOURS + 1))
    half = np.full(n, -1, dtype=np.int64)
    alone = []

    def closeness(number: int, which: int) -> float:
        """Return how much a position would crowd those of a half that it joins."""
        others = near[number]
        # The fourth power lets the nearest decide; half a pixel keeps repeated places finite.
        return float(((distances[number] + 0.5) ** -4)[(half[others] == which)].sum())

    for number in range(n):
        if half[number] >= 0:
            continue
        partner = next(
            (other for other in near[number] if other != number and half[other] < 0), None
        )
        if partner is None:
            alone.append(number)
            continue
        crowded = [
            closeness(number, which) + closeness(int(partner), 1 - which) for which in (0, 1)
        ]
        half[number] = int(crowded[1] < crowded[0])
        half[partner] = 1 - half[number]
    left = [number for number in alone if half[number] < 0]
    # What has no free neighbour goes to both in turn, so that they stay of one size.
    half[left] = np.arange(len(left)) % 2
    return half


def compare_halves(
    scan: Scan,
    reconstruct: Callable[[Scan], Reconstruction],
    *,
    remove_ramp: bool = False,
) -> HalfScans:
    """Reconstruct two halves of a scan in the same way, and compare them.

    Parameters
    ----------
    scan : Scan
    reconstruct : callable
        Makes an object of each half.
    remove_ramp : bool
        Whether a linear phase between both is removed as well.

    Returns
    -------
    HalfScans

    Raises
    ------
    DataError
        If the scan cannot be cut, or its halves share too small a region.
    """
    parts = split_scan(scan)
    first, second = reconstruct(parts[0]), reconstruct(parts[1])
    # One probe for all of them, so that they can be compared.
    overlaps = [_overlap(part, first.probe) for part in (scan, *parts)]
    compared = evaluate(first, second, remove_ramp=remove_ramp)
    return HalfScans(compared, (first, second), overlaps[0], min(overlaps[1:]))


def _overlap(scan: Scan, probe: Any) -> float:
    positions_px = scan.positions_px[find_places(scan.positions_px)[0]]
    offsets_px = positions_px - positions_px.min(axis=0)
    extent = np.ceil(offsets_px.max(axis=0)).astype(int) + scan.pattern_shape + 2
    canvas = (int(extent[0]), int(extent[1]))
    return illumination_overlap(cover(probe, np.floor(offsets_px), canvas), probe)


def plot_halves(found: HalfScans, path: Path) -> None:
    """Draw both halves, their difference and the ring correlation.

    Parameters
    ----------
    found : HalfScans
    path : Path
        The picture to write; its suffix decides the format.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    notes = [f'{name:9s}{_in_words(r)}' for name, r in found.resolutions().items()]
    plot_evaluation(found.evaluation, path, names=('First half', 'Second half'), notes=['', *notes])
