"""A reconstructed object and where it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.pattern_fit import Outlier, PatternFit
from ptychopinn_plugin.data.position_moves import PositionMoves, measure_moves
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.physics import Misfit
from ptychopinn_plugin.physics.uncertainty import LIT_FRACTION


@dataclass(frozen=True)
class Reconstruction:
    """What a backend makes of a scan.

    Attributes
    ----------
    object_ : ndarray of complex64, shape (height, width)
    origin_px : ndarray of float64, shape (2,)
        (y, x): where pixel [0, 0] of `object_` lies in the coordinates of the scan's positions.
    coverage : ndarray of float32, shape (height, width)
        Illumination summed over the scan, 1 where it is brightest; 0 is never seen.
    probe : ndarray of complex64, shape (n_modes, height, width)
        As used, scaled to the counts.
    positions_px : ndarray of float64, shape (n_positions, 2)
        As used, (y, x); where the iterations were to refine them, as refined.
    nominal_positions_px : ndarray of float64, shape (n_positions, 2), optional
        Where they were to refine them, the positions as given.
    intensities : ndarray of float64, shape (n_positions,), optional
        Where the iterations were to refine them, those of each pattern's beam, in times of their
        mean: `probe` times the root of its own explains a pattern.
    probe_variation : ProbeVariation, optional
        As used or as refined, where the probe varies from pattern to pattern; without intensities.
    pattern_indexes : ndarray of int64, shape (n_positions,)
        Which pattern each position belongs to, as in `Scan`; counted from 0 where not given.
    likelihoods : sequence of float
        Poisson loss per pixel of the start and of the best object after each iteration; empty where
        unknown.
    timing : mapping of str to float
        Seconds of 'predict', 'stitch', 'refine'.
    threads : int, optional
        How many threads of a CPU computed at the end, where that is known.
    backend : str
        Which backend made it.
    amplitude_residual : float
        sum (sqrt(expected) - sqrt(counts))² / sum counts, of the object as returned.
    is_single_shot : bool
        Whether each pattern was reconstructed alone, as in `Scan`.
    misfit : Misfit, optional
        The same over lit pixels, in times of shot noise where that is known.
    beam_variation : float, optional
        Standard deviation of the logarithm of the beam's intensity, where that was taken to be
        steady and is not.
    pattern_fit : PatternFit, optional
        How well it explains each pattern, and which patterns do not fit the others.
    dropped : tuple of Outlier
        Patterns that were left out because they do not fit the others.
    is_probe_known : bool
        False where the probe was made of the patterns, or was refined to one far from its start:
        then the patterns do not show whether the object's phase has a slope.
    amplitude_std, phase_std : ndarray of float32, shape (height, width), optional
        Standard deviation of each pixel of `object_`; see `physics.uncertainty`.
    provenance : mapping
        Plain values: software, device and settings, the SHA-256 of the model, and what the command
        line adds (`cli.provenance`).
    """

    object_: ComplexArray
    origin_px: FloatArray
    coverage: FloatArray
    probe: ComplexArray
    positions_px: FloatArray
    backend: str
    likelihoods: Sequence[float] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    amplitude_residual: float = float('nan')
    geometry: Geometry = field(default_factory=Geometry)
    name: str = 'scan'
    pattern_indexes: IntArray | None = None
    is_single_shot: bool = False
    misfit: Misfit | None = None
    beam_variation: float | None = None
    nominal_positions_px: FloatArray | None = None
    intensities: FloatArray | None = None
    probe_variation: ProbeVariation | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    pattern_fit: PatternFit | None = None
    dropped: tuple[Outlier, ...] = ()
    amplitude_std: FloatArray | None = None
    phase_std: FloatArray | None = None
    is_probe_known: bool = True

    def __post_init__(self) -> None:
        indexes = self.pattern_indexes
        if indexes is None:
            indexes = np.arange(len(self.positions_px))
        object.__setattr__(self, 'pattern_indexes', np.asarray(indexes, dtype=np.int64))

    def position_moves(self) -> PositionMoves | None:
        """Return how far the positions were moved; None where they were not to be refined."""
        if self.nominal_positions_px is None:
            return None
        return measure_moves(self.nominal_positions_px, self.positions_px)

    def typical_std(self) -> tuple[float, float] | None:
        """Return the median of both standard deviations over the lit part; None if unknown."""
        if self.amplitude_std is None or self.phase_std is None:
            return None
        lit = self.coverage > LIT_FRACTION
        return float(np.median(self.amplitude_std[lit])), float(np.median(self.phase_std[lit]))

    def covered_box(self, threshold: float = 0.05) -> tuple[slice, slice]:
        """Return the slices of the box where coverage reaches `threshold`."""
        rows, columns = np.nonzero(self.coverage >= threshold)
        return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
