"""Which trials are made, and which of them is taken for right."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.checking.trials import (
    Piece,
    Trial,
    cut_piece,
    run_trial,
    uninformed_residual,
)
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.reorientation import change_axes, orient_positions
from ptychopinn_plugin.data.summary import describe_scan
from ptychopinn_plugin.orientation import AxisChange, Orientation

Verdict = Literal['right', 'wrong', 'unclear']

MAX_EXCESS_RATIO = 0.8
"""What is clearly better leaves at most this share of the excess of held-out patterns."""

MAX_FIT_RATIO = 0.97
"""It also leaves at most this share of the residual of the fitted patterns."""

MIN_GAIN = 3.0
"""Its gain is at least this number of standard errors. On right scans nothing is clearly better;
`docs/benchmarks.md` has the figures."""

EXPLAINED = 0.7
"""Patterns are explained where the excess of held-out ones is at most this share of what is left
without an object: right scans come to 0.1 to 0.6, wrong ones to 0.9 and more."""

MUCH_OVER_NOISE, MUCH_EXCESS = 2.5, 0.4
"""Much is left of a right scan where the fitted patterns keep more than this number of times shot
noise, and the held-out ones more than this share of what is left without an object."""

TIE = 1.05
"""Of trials whose residuals are within this factor, the smaller change is taken."""

SAME_SCALE = 0.04
"""A factor on the positions that is nearer to 1 is left out: overlaps determine it to 1 to 2 %."""

NARROWER = (0.06, 0.03)
"""A factor that is taken is narrowed by steps of these shares."""

UNIT_FRACTION = 0.05
"""A factor that is nearer to a power of a thousand is one of units."""

SCALES: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4, 1.7, 2.0)
"""These factors on the positions are tried, as a wrong energy, distance or pixel size has them."""

STEPS: tuple[float, ...] = tuple(np.geomspace(0.06, 1.2, 14).tolist())
"""These steps of the scan, as shares of the probe's diameter, are tried in another unit."""

PLAUSIBLE_STEP = (0.03, 1.5)
"""Steps of a smaller or larger share of the probe's diameter are in another unit."""

SAME_PROBE = 0.98
"""A probe is symmetric where it correlates with its own picture by this much."""

MIN_ORDER = 0.9
"""Positions go row by row where one coordinate correlates by this much with their number."""

AMBIGUOUS_SCALES = 0.3, 3.0
"""Without a given probe, factors between these look like a curvature of the probe."""

ROTATION_BY_180 = AxisChange(reverse_y=True, reverse_x=True)
AXIS_CHANGES = tuple(AxisChange(*flags) for flags in itertools.product((False, True), repeat=3))


@dataclass(frozen=True)
class Check:
    """How a scan was judged.

    Attributes
    ----------
    verdict : 'right', 'wrong' or 'unclear'
        'right' where no change is clearly better and the patterns are explained; 'wrong' where
        `orientation` mends the scan; 'unclear' where nothing explains the patterns.
    orientation : Orientation
        What the scan needs in addition to how it was read; nothing where it is not 'wrong'.
    trials : tuple of Trial
        The best first.
    equals : tuple of Orientation
        Others that explain the patterns as well as the one that is taken.
    uninformed_residual : float
        What the pattern of an object of ones, or the mean pattern, leaves.
    given : Trial
        The scan as it is.
    best : Trial
        The trial of `orientation`.
    """

    verdict: Verdict
    orientation: Orientation
    trials: tuple[Trial, ...]
    equals: tuple[Orientation, ...]
    uninformed_residual: float
    given: Trial
    best: Trial

    @property
    def much_over_noise(self) -> float | None:
        """What the best trial leaves of the patterns it was made from, in times of shot noise.

        None where that is no more than a short trial leaves, or where shot noise is unknown.
        """
        noise = self.best.noise
        if self.verdict == 'unclear' or noise <= 0 or self.best.fit <= MUCH_OVER_NOISE * noise:
            return None
        is_much = self.best.excess > MUCH_EXCESS * (self.uninformed_residual - noise)
        return self.best.fit / noise if is_much else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the objects."""
        return {
            'verdict': self.verdict,
            'much_over_noise': self.much_over_noise,
            'options': self.orientation.to_words(),
            'equally_good': [other.to_words() for other in self.equals],
            'residual_as_given': self.given.residual,
            'residual': self.best.residual,
            'residual_without_object': self.uninformed_residual,
            'ranking': [
                {
                    'options': trial.orientation.to_words(),
                    'residual': trial.residual,
                    'excess': trial.excess,
                    'fit': trial.fit,
                    'probe_refined': trial.refines_probe,
                }
                for trial in self.trials
            ],
        }


def check_scan(
    scan: Scan,
    backend: Backend,
    *,
    device: str = 'auto',
    on_trial: Callable[[int, Trial], None] = lambda number, trial: None,
) -> Check:
    """Find out whether patterns and positions go together, by trial reconstructions.

    The eight orientations of the patterns and of the positions are tried, then factors on the
    positions, and the orientations again where a factor was found. Another orientation or factor is
    taken only where it is clearly better both on the patterns that the trial was made from and on
    those that it was not given: too small a step lets the second be predicted too well, and too
    large a step the first be fitted too well. Where nothing explains the patterns, trials that
    correct the probe follow.

    Parameters
    ----------
    scan : Scan
    backend : Backend
    device : str
    on_trial : callable, optional
        Called with the number of trials so far and the last of them.

    Returns
    -------
    Check

    Raises
    ------
    DataError
        If the scan has too few positions.
    """
    search = _Search(scan, cut_piece(scan), backend, device, on_trial)
    return search.conclude(search.run())


def is_clearly_less(scan: Scan, other: Scan, backend: Backend, *, device: str = 'auto') -> bool:
    """Return whether what is left unexplained of a scan is clearly less than that of another.

    Parameters
    ----------
    scan, other : Scan
        Two readings of one file.
    backend : Backend
    device : str
    """
    first, second = (
        run_trial(cut_piece(one), Orientation(), backend, device, refines_probe=False)
        for one in (scan, other)
    )
    return first.excess <= MAX_EXCESS_RATIO * second.excess


@dataclass
class _Search:
    """The trials so far."""

    scan: Scan
    piece: Piece
    backend: Backend
    device: str
    on_trial: Callable[[int, Trial], None]
    refines_probe: bool = False
    done: dict[tuple[Orientation, bool], Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uninformed = uninformed_residual(self.piece)
        self.symmetric = [
            change for change in AXIS_CHANGES if is_symmetric(self.piece.scan.probe, change)
        ]

    def run(self) -> Trial:
        """Make the trials, and return the one that is taken for right."""
        facts = describe_scan(self.piece.scan)
        share = (facts['step_px'] or 0.0) / facts['probe_diameter_px']
        low, high = PLAUSIBLE_STEP
        is_plausible = low < share < high
        # Where the unit is not known, plausible steps are tried, whatever factor leads to them.
        scales = SCALES if is_plausible else tuple(step / share for step in STEPS if share > 0)
        # The iterations correct a probe that was not given, whatever the settings are.
        origin = self.piece.scan.probe_origin
        corrections = (False, True) if origin == 'given' else (True,)
        self.refines_probe = corrections[0]
        best = self.trial(Orientation())
        for self.refines_probe in corrections:
            start = self.trial(Orientation())
            best = self.with_axis_changes(start) if is_plausible else start
            best = self.with_scales(best, scales)
            if self.explains(best):
                return best
            if not is_plausible:
                # The orientation cannot be determined before the scale is known.
                for change in AXIS_CHANGES[1:]:
                    best = self.with_scales(self.trial(Orientation.of(change)), scales[::2])
                    if self.explains(best):
                        return best
                break
        return best

    def with_axis_changes(self, start: Trial) -> Trial:
        """Return the best of the orientations, where one is clearly better than `start`."""
        # Behind a symmetric probe, turned positions do what turned patterns do; see `alternatives`.
        changes = [Orientation.of(change) for change in AXIS_CHANGES[1:]]
        changes += [
            Orientation.of(None, change)
            for change in AXIS_CHANGES[1:]
            if change not in self.symmetric
        ]
        return self.better(start, [change.after(start.orientation) for change in changes])

    def with_scales(self, start: Trial, scales: Iterable[float]) -> Trial:
        """Return the best of factors on the positions, where one is clearly better."""
        found = self.better(start, [_scaled(start, scale) for scale in scales])
        if found is start:
            return start
        if not self.explains(found):
            found = self.with_axis_changes(found)
        return self.narrowed(found) if self.explains(found) else found

    def better(self, start: Trial, candidates: Iterable[Orientation]) -> Trial:
        """Return the best trial of some that are clearly better than `start`, else `start`."""
        trials = [self.trial(orientation) for orientation in candidates]
        clear = [trial for trial in trials if self.is_clearly_better(trial, start)]
        if not clear:
            return start
        least = min(trial.excess for trial in clear)
        # Simulated patterns without noise leave nothing but rounding, which the small number
        # covers.
        equal = [trial for trial in clear if trial.excess <= TIE * max(least, 0) + 1e-12]
        return min(equal or clear, key=lambda trial: (trial.orientation.changes, trial.residual))

    def narrowed(self, found: Trial) -> Trial:
        """Return the trial at the factor where both residuals are least.

        Their product has its minimum there, as they lean to opposite sides.
        """
        for share in NARROWER:
            near = [self.trial(_scaled(found, factor)) for factor in (1 - share, 1 + share)]
            found = min((found, *near), key=lambda trial: trial.residual * trial.fit)
        scale = found.orientation.scale_positions or 1.0
        unit = 1000.0 ** round(math.log(scale, 1000))
        if unit != 1 and abs(scale / unit - 1) < UNIT_FRACTION:
            return self.trial(_scaled(found, unit / scale))
        return found

    def is_clearly_better(self, trial: Trial, other: Trial) -> bool:
        """Return whether a trial is better by a margin that no right scan reaches."""
        return (
            # On both kinds of patterns, as the residuals of a wrong factor lean to opposite sides
            # (decision 16).
            trial.excess <= MAX_EXCESS_RATIO * other.excess
            and trial.fit <= MAX_FIT_RATIO * other.fit
            and trial.gain_over(other) >= MIN_GAIN
        )

    def explains(self, trial: Trial) -> bool:
        """Return whether a trial predicts patterns that it was not given."""
        return trial.excess <= EXPLAINED * (self.uninformed - trial.noise)

    def trial(self, orientation: Orientation) -> Trial:
        """Return a trial, made where it was not made before."""
        key = (orientation, self.refines_probe)
        if key not in self.done:
            self.done[key] = run_trial(
                self.piece, orientation, self.backend, self.device, refines_probe=self.refines_probe
            )
            self.on_trial(len(self.done), self.done[key])
        return self.done[key]

    def conclude(self, best: Trial) -> Check:
        """Judge the trials."""
        scale = best.orientation.scale_positions or 1.0
        patterns, positions = best.orientation.of_patterns, best.orientation.of_positions
        kept = scale if abs(scale - 1) >= SAME_SCALE else None
        if self.piece.is_probe_made and AMBIGUOUS_SCALES[0] < scale < AMBIGUOUS_SCALES[1]:
            # A wrong curvature of the probe is like a factor, and this curvature is a guess.
            kept = None
        chosen = Orientation.of(patterns, positions, scale_positions=kept)
        if self.piece.is_probe_made:
            # With the other sign of the defocus and the conjugate object, patterns rotated
            # by 180 degrees fit as well, so that these trials decide nothing.
            oriented = Orientation.of(
                ROTATION_BY_180.after(patterns), positions, scale_positions=kept
            )
            chosen = min((chosen, oriented), key=lambda one: one.changes)
        given = self.done[Orientation(), best.refines_probe]
        trials = sorted(self.done.values(), key=lambda trial: trial.residual)
        others: list[Orientation] = []
        verdict: Verdict = 'right' if chosen == Orientation() else 'wrong'
        if not self.explains(best):
            verdict, chosen, best = 'unclear', Orientation(), given
        if verdict == 'wrong':
            chosen, others = self.alternatives(best, chosen)
        return Check(verdict, chosen, tuple(trials), tuple(others), self.uninformed, given, best)

    def alternatives(
        self, best: Trial, chosen: Orientation
    ) -> tuple[Orientation, list[Orientation]]:
        """Return which of equally good orientations is taken, and the others.

        Where the probe is symmetric, turned patterns and positions that are turned back give the
        same exit waves, and the object turned. Then it is assumed that a scan goes row by row from
        the top left, as most do; else the patterns are turned.
        """
        equal = [chosen]
        change = chosen.of_patterns
        if (
            change != AxisChange()
            and chosen.of_positions == AxisChange()
            and change in self.symmetric
        ):
            back = next(other for other in AXIS_CHANGES if other.after(change) == AxisChange())
            equal.append(Orientation.of(None, back, scale_positions=chosen.scale_positions))
        equal.sort(key=lambda one: -row_order(orient_positions(self.scan.positions_px, one)))
        for trial in self.done.values():
            same = trial.refines_probe == best.refines_probe and trial is not best
            same = same and trial.orientation.scale_positions == best.orientation.scale_positions
            if same and trial.orientation not in equal and trial.excess <= TIE * best.excess:
                equal.append(trial.orientation)
        return equal[0], equal[1:]


def _scaled(trial: Trial, factor: float) -> Orientation:
    return Orientation(scale_positions=factor).after(trial.orientation)


def is_symmetric(probe: ComplexArray, change: AxisChange) -> bool:
    """Return whether a probe is the same after a change of axes, but for a complex factor."""
    changed = change_axes(probe.real, change) + 1j * change_axes(probe.imag, change)
    if changed.shape != probe.shape:
        return False
    # The modulus, as a global phase of a probe shows in no pattern.
    overlap = abs(np.vdot(changed, probe))
    return bool(overlap >= SAME_PROBE * float(np.linalg.norm(probe)) ** 2)


def row_order(positions_px: FloatArray) -> int:
    """Return how much positions, in their order, go row by row from the top left: -1 to 3.

    It is 0 where they follow no rows and no columns.
    """
    number = np.arange(len(positions_px))
    spread = np.maximum(positions_px.std(axis=0), 1e-300)
    along = [
        float(np.mean((number - number.mean()) * (column - column.mean())) / number.std() / width)
        for column, width in zip(positions_px.T, spread, strict=True)
    ]
    slow = int(np.argmax(np.abs(along)))
    if abs(along[slow]) < MIN_ORDER:
        return 0
    fast = float(np.mean(np.sign(np.diff(positions_px[:, 1 - slow]))))
    return (slow == 0) + int(np.sign(along[slow])) + (abs(fast) > 0.5) * int(np.sign(fast))
