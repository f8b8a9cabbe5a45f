"""Trial reconstructions of a piece of a scan, judged on patterns that they were not given.

An object that is found from some patterns predicts those in between, where illuminations overlap,
only if positions, patterns and probe go together. Patterns that it was made from prove nothing:
positions that lie too far apart share nothing, and fit whatever was measured.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, IntArray
from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, fit_to_size
from ptychopinn_plugin.data.grouping import check_positions
from ptychopinn_plugin.data.places import thin_positions
from ptychopinn_plugin.data.reorientation import reorient
from ptychopinn_plugin.data.starting_probe import starting_probe
from ptychopinn_plugin.data.summary import describe_scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.orientation import Orientation
from ptychopinn_plugin.physics import normalize_probe, predict_patterns, shot_noise, with_modes

TRIAL_ITERATIONS = 9
"""A trial has this number of iterations: right scans of 10⁵ counts end within 1.3 of their best."""

POSITIONS = 49
"""A trial uses this number of positions, close to each other."""

MIN_TRIAL_POSITIONS = 12
"""Of fewer positions, too few lie between others."""

MIN_STEP = 0.15
"""Positions nearer than this share of the probe's diameter are thinned, so that a trial covers
more of the object."""

INNER_FRACTION = 0.7
"""The patterns to predict are every third of this share of the positions, the innermost."""

MAX_TRIAL_FIELD_PX = 4096
"""Positions over more than this are in another unit, and nothing is computed."""


MIN_CROP_PX, LIGHT_FRACTION = 64, 0.98
"""Larger patterns are cropped to a square that holds this share of the light, for speed."""


@dataclass(frozen=True)
class Piece:
    """A compact part of a scan.

    Attributes
    ----------
    scan : Scan
    held_out : ndarray of int64
        Numbers of the patterns in it that are to be predicted.
    is_probe_made : bool
        Whether its probe is made of the patterns; then so is that of each trial, as turned.
    """

    scan: Scan
    held_out: IntArray
    is_probe_made: bool = False

    @property
    def fitted(self) -> IntArray:
        """Numbers of the patterns that a trial is made from."""
        return np.setdiff1d(np.arange(len(self.scan)), self.held_out)


@dataclass(frozen=True)
class Trial:
    """One reconstruction of a piece.

    Attributes
    ----------
    orientation : Orientation
        How the scan as given was turned.
    refines_probe : bool
    residuals : ndarray of float64, shape (n_held_out,)
        :math:`\\sum(\\sqrt I - \\sqrt k)^2` of each pattern that was held out, over the mean of
        their :math:`\\sum k`. Infinite where nothing could be computed.
    noise : float
        What shot noise adds to their mean; 0 where counts are in another unit than photons.
    reconstruction : Reconstruction, optional
    """

    orientation: Orientation
    refines_probe: bool
    residuals: FloatArray
    noise: float = 0.0
    reconstruction: Reconstruction | None = None

    @property
    def residual(self) -> float:
        """The mean of the residuals."""
        return float(self.residuals.mean())

    @property
    def excess(self) -> float:
        """The mean of the residuals without that of shot noise, at least 0."""
        return max(self.residual - self.noise, 0.0)

    @property
    def fit(self) -> float:
        """The amplitude residual of the patterns that it was made from."""
        return math.inf if self.reconstruction is None else self.reconstruction.amplitude_residual

    def gain_over(self, other: 'Trial') -> float:
        """Return by how many standard errors it predicts better than another trial.

        The logarithms of the residuals are compared pattern by pattern, so that what is hard to
        predict counts for both, and none counts more than others.
        """
        if not math.isfinite(self.residual):
            return 0.0
        if not math.isfinite(other.residual):
            return math.inf
        gains = np.log(np.maximum(other.residuals, 1e-30) / np.maximum(self.residuals, 1e-30))
        error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
        return float(gains.mean()) / error if error > 0 else 0.0


def check_field(scan: Scan) -> None:
    """Raise a DataError for a scan of the near field, for which no trials are known."""
    if scan.geometry.is_near_field:
        raise DataError(
            'Orientations are tried on diffraction patterns of the far field; the scan '
            f'{scan.name} is of the near field. Compare likelihoods of ptychopinn refine with '
            '--flip, --transpose or --swap-positions yourself.'
        )


def cut_piece(scan: Scan) -> Piece:
    """Choose the positions of the trials, and those among them that are held out.

    Parameters
    ----------
    scan : Scan

    Raises
    ------
    DataError
        If there are fewer than `MIN_TRIAL_POSITIONS` positions, or they are all the same, or the
        patterns are of the near field.
    """
    check_field(scan)
    distinct = np.unique(scan.positions_px, axis=0)
    if scan.is_single_shot or len(distinct) < MIN_TRIAL_POSITIONS:
        raise DataError(
            f'At least {MIN_TRIAL_POSITIONS} positions with overlapping illuminations are needed '
            f'to check a scan; {scan.name} has {len(distinct)}'
            f'{", reconstructed one by one" if scan.is_single_shot else ""}.'
        )
    scan = _with_less_dark(scan)
    facts = describe_scan(scan)
    # Positions in another unit may all lie within a pixel.
    step, diameter = facts['step_px'] or 0.0, facts['probe_diameter_px']
    # Of repeated exposures one is taken: what is held out must not have been fitted.
    numbers = _one_of_each_place(scan.positions_px, step)
    # A scan that is narrow beside the spacing would be thinned to a handful.
    wide = np.ptp(distinct, axis=0).max() / 8
    if 0 < step < MIN_STEP * diameter < wide:
        # With a fixed seed the same scan is judged by the same patterns.
        rng = np.random.default_rng(0)
        numbers = numbers[thin_positions(scan.positions_px[numbers], MIN_STEP * diameter, rng)]
    positions_px = scan.positions_px[numbers]
    middle = np.median(positions_px, axis=0)
    # A few positions far away do not move the median.
    near = numbers[np.sort(_nearest(positions_px, middle)[:POSITIONS])]
    positions_px = scan.positions_px[near]
    inner = np.sort(
        _nearest(positions_px, positions_px.mean(axis=0))[: math.ceil(INNER_FRACTION * len(near))]
    )
    piece = dataclasses.replace(scan.subset(near), object_=None, nominal_positions_px=None)
    # Its defocus cannot be found before the orientation is known; the iterations correct it.
    is_made = piece.probe_origin == 'patterns'
    if is_made:
        piece = dataclasses.replace(piece, probe_origin='found')
    # Of three neighbours one is held out, so that the two others light what it shows.
    return Piece(piece, inner[1::3], is_made)


def _one_of_each_place(positions_px: FloatArray, step_px: float) -> IntArray:
    """Return the first pattern of each place, whatever the unit of the positions."""
    # Repeats of a place differ by far less than the step, or not at all.
    grain = step_px / 16 if step_px > 0 else float(np.ptp(positions_px, axis=0).max()) * 1e-6
    rounded = np.rint(positions_px / grain) if grain > 0 else positions_px
    return np.sort(np.unique(rounded, axis=0, return_index=True)[1]).astype(np.int64)


def _with_less_dark(scan: Scan) -> Scan:
    """Crop patterns whose light lies around zero frequency, and make squares of them."""
    assert scan.bad_pixels is not None
    some = scan.patterns[:: max(1, len(scan) // 128)]
    mean = np.where(scan.bad_pixels, 0.0, some.mean(axis=0, dtype=np.float64))
    middle, total = np.array(scan.pattern_shape) // 2, mean.sum()
    size = MIN_CROP_PX
    while size < max(scan.pattern_shape):
        first = np.maximum(middle - size // 2, 0)
        last = middle + size - size // 2
        if mean[first[0] : last[0], first[1] : last[1]].sum() >= LIGHT_FRACTION * total:
            break
        size += 16
    return fit_to_size(scan, min(size, max(scan.pattern_shape)))


def _nearest(positions_px: FloatArray, point: FloatArray) -> IntArray:
    distance = ((positions_px - point) ** 2).sum(axis=1)
    return np.argsort(distance, kind='stable')


def run_trial(
    piece: Piece, orientation: Orientation, backend: Backend, device: str, *, refines_probe: bool
) -> Trial:
    """Reconstruct a piece after turning it, and judge what was held out.

    Parameters
    ----------
    piece : Piece
    orientation : Orientation
    backend : Backend
    device : str
    refines_probe : bool
    """
    oriented = reorient(piece.scan, orientation)
    if piece.is_probe_made:
        made = starting_probe(oriented.patterns, oriented.bad_pixels)
        oriented = dataclasses.replace(oriented, probe=with_modes(made, len(oriented.probe)))
    fitted = oriented.subset(piece.fitted)
    if not _is_possible(fitted):
        return Trial(orientation, refines_probe, np.full(len(piece.held_out), np.inf))
    # Positions that are scaled overlap differently, and the plan would smooth some trials alone.
    refinement = RefinementConfig(
        iterations=TRIAL_ITERATIONS, probe=refines_probe, total_variation=0.0
    )
    with without_notes():
        found = backend.refine(fitted, refinement, device=device)
    residuals, noise = _residuals(oriented.subset(piece.held_out), found)
    return Trial(orientation, refines_probe, residuals, noise, found)


def _is_possible(scan: Scan) -> bool:
    """Return whether positions lie in a field that can be reconstructed, and neighbours overlap."""
    if np.ptp(scan.positions_px, axis=0).max() > MAX_TRIAL_FIELD_PX:
        return False
    try:
        check_positions(scan)
    except DataError:
        # A factor that is tried may be as wrong as this; the search goes on with others.
        return False
    return True


def uninformed_residual(piece: Piece) -> float:
    """Return the mean residual of held-out patterns that are predicted without an object.

    They are the pattern of an object of ones or, where the probe is a guess and that is worse, the
    mean of the other patterns.
    """
    held = piece.scan.subset(piece.held_out)
    flat = Reconstruction(
        object_=np.ones(piece.scan.pattern_shape, dtype=np.complex64),
        origin_px=np.zeros(2),
        coverage=np.ones(piece.scan.pattern_shape, dtype=np.float32),
        probe=normalize_probe(piece.scan.probe, piece.scan.mean_photons()),
        positions_px=held.positions_px,
        backend='',
    )
    # Wherever a probe lies on it, its pattern is the same.
    flat_residual = float(_residuals(held, flat)[0].mean())
    assert held.bad_pixels is not None
    valid_mask = ~held.bad_pixels
    mean = piece.scan.patterns[piece.fitted][:, valid_mask].mean(axis=0, dtype=np.float64)
    counts = held.patterns[:, valid_mask].astype(np.float64)
    missed = ((np.sqrt(mean) - np.sqrt(counts)) ** 2).sum(axis=1).mean()
    return min(flat_residual, float(missed / max(counts.sum(axis=1).mean(), 1e-30)))


def _residuals(held: Scan, found: Reconstruction) -> tuple[FloatArray, float]:
    r"""Return how far an object is from patterns that were held out, and what shot noise explains.

    That is :math:`\sum_q (\sqrt I - \sqrt k)^2` of each pattern over the mean counts of a pattern.

    Parameters
    ----------
    held : Scan
    found : Reconstruction
        Of other patterns of the same field.

    Returns
    -------
    residuals : ndarray, shape (n_patterns,)
    noise : float
        The mean residual of the true object; 0 where counts are in another unit than photons.
    """
    assert held.bad_pixels is not None
    origin = np.rint(found.origin_px).astype(np.int64)
    # Those at the edge may lie half a pixel beyond the canvas.
    size = np.array(held.pattern_shape)
    first = origin + size // 2
    last = origin + np.array(found.object_.shape) - size + size // 2
    positions_px = np.clip(held.positions_px, first, last)
    valid_mask = ~held.bad_pixels
    expected = predict_patterns(found.object_, origin, positions_px, found.probe)[:, valid_mask]
    counts = held.patterns[:, valid_mask].astype(np.float64)
    total = max(float(counts.sum(axis=1).mean()), 1e-30)
    noise = float(shot_noise(expected).sum()) / len(held) / total if held.is_countable() else 0.0
    return np.asarray(((np.sqrt(expected) - np.sqrt(counts)) ** 2).sum(axis=1) / total), noise


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Keep back what trials would warn of: most of them are wrong on purpose."""
    logger = logging.getLogger('ptychopinn_plugin.backends')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
