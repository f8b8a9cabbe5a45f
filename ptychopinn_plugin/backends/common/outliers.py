"""Patterns that do not fit: a look at all, a second one without those, and a run that drops them.

Each pattern is compared with what the object predicts for it (`data.pattern_fit`). Where some stand
out, a few iterations go on without them, from the object as it is: patterns that then fit, though
they were left out, were spoilt by a neighbour. Where none stands out, one look is all it costs.
"""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, IntArray
from ptychopinn_plugin.backends.common.constraints import ObjectConstraints
from ptychopinn_plugin.backends.common.diagnostics import LIT_COUNTS_FRACTION, MIN_ITERATIONS
from ptychopinn_plugin.backends.common.engine import Engine, Forward
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.judged_patterns import judged_positions
from ptychopinn_plugin.backends.common.memory import ran_out
from ptychopinn_plugin.backends.common.ranks import current_ranks
from ptychopinn_plugin.backends.common.requests import IterationRequest
from ptychopinn_plugin.backends.common.training_loop import Clock
from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.pattern_fit import (
    MAX_DEVIANCE_RATIO,
    MIN_JUDGED_PATTERNS,
    Deviances,
    PatternFit,
    as_outliers,
    find_outliers,
    find_suspects,
    light_diameter_px,
    measure_deviances,
)
from ptychopinn_plugin.physics import LIT_COUNTS
from ptychopinn_plugin.physics.propagation import in_transform_order

SECOND_LOOK_ITERATIONS = 6
"""This number of iterations without the suspects mends the object under them."""

MAX_OUTLIER_FRACTION = 0.1
"""Where more than this share of the patterns stands out, the scan is wrong and not its patterns."""

_BATCH = 64

_LOOK_UP = 8
"""After this number of batches a look finds out whether it is to stop."""

logger = logging.getLogger(__name__)

OneRun = Callable[[Scan, Observer, float | None], Reconstruction]
"""It reconstructs a scan, within a number of seconds where one is given."""


@dataclass(frozen=True)
class _Look:
    """Compares all patterns of a scan with what an object predicts for them.

    Attributes
    ----------
    scan : Scan
    forward : ForwardModel
    valid_mask : ndarray of bool, shape (height, width)
        In the order of the forward model's patterns.
    lit_counts : float
        What lit pixels expect at least.
    is_stopping : callable
    """

    scan: Scan
    forward: Any
    valid_mask: BoolArray
    lit_counts: float
    is_stopping: Callable[[], bool]

    @classmethod
    def of(cls, scan: Scan, forward: Any, is_stopping: Callable[[], bool]) -> '_Look':
        """Decide which pixels of a scan count."""
        # Where counts are no photons, their own scale alone shows which pixels are lit.
        counts = LIT_COUNTS if scan.is_countable() else LIT_COUNTS_FRACTION * scan.mean_counts()
        assert scan.bad_pixels is not None
        # In the far field forward models have zero frequency in the corner.
        valid_mask = in_transform_order(~scan.bad_pixels, scan.transfer_function())
        return cls(scan, forward, valid_mask, counts, is_stopping)

    def __call__(self, object_: Any) -> Deviances | None:
        """Return the deviances of all patterns; None where it was stopped."""
        n_patterns = len(self.scan)
        sample = judged_positions(n_patterns, self.scan.pattern_shape)[:_BATCH]
        # A few pixels far off, as cosmic rays leave, are not to decide on a pattern.
        typical = float(np.median(self._measure(object_, sample, np.inf).deviances))
        everywhere, found = np.arange(n_patterns), []
        for number, start in enumerate(range(0, n_patterns, _BATCH)):
            # Large scans take long to look through, and whoever stops a run waits.
            if number % _LOOK_UP == _LOOK_UP - 1 and self.is_stopping():
                return None
            batch = everywhere[start : start + _BATCH]
            found.append(self._measure(object_, batch, MAX_DEVIANCE_RATIO * typical))
        return Deviances.joined(found)

    def _measure(self, object_: Any, indices: IntArray, largest: float) -> Deviances:
        expected, counts = self.forward.expected_and_counted(object_, indices)
        return measure_deviances(
            expected, counts, self.valid_mask, lit_counts=self.lit_counts, largest=largest
        )


def judge_patterns(
    scan: Scan,
    forward: Any,
    object_: Any,
    iterate_without: Callable[[IntArray], Any] | None,
    is_stopping: Callable[[], bool],
) -> PatternFit | None:
    """Measure how well an object explains each pattern of its scan, and find those that stand out.

    Parameters
    ----------
    scan : Scan
    forward : ForwardModel
        Of the scan.
    object_ : tensor of complex64, shape `forward.canvas_shape`
    iterate_without : callable, optional
        Gets the indices of the patterns that stay; returns the object after a few iterations with
        them alone. Without it no outliers are looked for.
    is_stopping : callable
        Called now and then; returns whether the look is to be broken off.

    Returns
    -------
    PatternFit or None
        None where patterns are too few to be compared, or share nothing, and where it was stopped.
    """
    if len(scan) < MIN_JUDGED_PATTERNS or scan.is_single_shot:
        return None
    look = _Look.of(scan, forward, is_stopping)
    first = look(object_)
    if first is None:
        return None
    # Patterns with too little light to be judged have no number at all.
    deviances = np.where(first.is_judged, first.deviances, np.nan)
    fit = PatternFit(deviances, first.doses)
    # Neighbours are those of the refined positions.
    positions = scan.positions_px + forward.moves_px
    suspects = find_suspects(first, positions, light_diameter_px(scan.probe))
    if iterate_without is None or not len(suspects):
        return fit
    if len(suspects) > MAX_OUTLIER_FRACTION * len(scan):
        return dataclasses.replace(fit, n_suspects=len(suspects))
    try:
        # The suspects have pulled the object to themselves: it is judged without them.
        second = look(iterate_without(np.setdiff1d(np.arange(len(scan)), suspects)))
    # The object is there already, and a look that needs more memory does not cost it.
    except Exception as error:
        if not ran_out(error) or current_ranks().size > 1:
            raise
        logger.warning(
            '%s: memory ran out when patterns that may not fit were to be judged again; none is '
            'named. The object is complete.',
            scan.name,
        )
        return fit
    if second is None:
        return fit
    assert scan.pattern_indexes is not None
    reasons = find_outliers(first, second, suspects)
    return dataclasses.replace(
        fit, outliers=as_outliers(reasons, second, positions, scan.pattern_indexes)
    )


def iterate_without(
    engine: Engine[Any],
    forward: Forward,
    object_: Any,
    constraints: ObjectConstraints,
    is_stopping: Callable[[], bool],
    kept: IntArray,
) -> Any:
    """Return an object after a few iterations with some of the patterns alone.

    Parameters
    ----------
    engine : Engine
    forward : ForwardModel
    object_ : tensor of complex64, shape `forward.canvas_shape`
    constraints : ObjectConstraints
        Those that the object has kept to: a freer one would explain patterns that it cannot.
    is_stopping : callable
        Called after each iteration; returns whether it is to be the last.
    kept : ndarray of int64
        The indices of these patterns in the scan.
    """
    part = forward.subset(kept)
    # A copy, as on a CPU the array may share the memory of the tensor.
    whole = np.array(engine.to_numpy(object_))
    top, left = (int(side) for side in np.asarray(part.origin_px) - forward.origin_px)
    height, width = part.canvas_shape
    # Outside of it no pattern that stays has light, and the object stays as well.
    window = (slice(top, top + height), slice(left, left + width))

    def show(done: int, loss: float, newest: Any) -> bool | None:
        return is_stopping()

    schedule = IterationSchedule(SECOND_LOOK_ITERATIONS)
    request = IterationRequest(schedule, constraints=constraints)
    start = part.to_tensor(np.ascontiguousarray(whole[window]))
    whole[window] = engine.to_numpy(engine.iterate(part, start, request, show)[0])
    return forward.to_tensor(whole)


def reconstruct_without_outliers(
    scan: Scan,
    run: OneRun,
    observer: Observer,
    *,
    limit_s: float | None,
    clock: Clock,
) -> Reconstruction:
    """Reconstruct a scan, and where patterns do not fit, the rest of it again.

    Parameters
    ----------
    scan : Scan
    run : callable
        Reconstructs a scan within a time.
    observer : callable
        Where it stops a run, the first one is the result.
    limit_s : float, optional
        For both runs; the first gets a half.
    clock : callable

    Returns
    -------
    Reconstruction
        `dropped` holds the patterns that were left out.
    """
    stopped, started = False, clock()

    def watch(progress: Progress) -> bool:
        nonlocal stopped
        # The observer comes first: it is called for every step, after a stop too.
        stopped = bool(observer(progress)) or stopped
        return stopped

    # The other half is for a second run, whether or not one follows.
    first = run(scan, watch, None if limit_s is None else limit_s / 2)
    outliers = () if first.pattern_fit is None else first.pattern_fit.outliers
    if stopped or not outliers:
        if first.pattern_fit is not None and first.pattern_fit.n_suspects:
            logger.warning(
                '%s: %d of %d patterns do not fit, so that the scan may be wrong rather than its '
                'patterns, or takes more iterations; none is dropped. Try ptychopinn check.',
                *(scan.name, first.pattern_fit.n_suspects, len(first.positions_px)),
            )
        if first.pattern_fit is None or len(first.likelihoods) <= MIN_ITERATIONS:
            logger.warning(
                '%s: no outliers were looked for. That takes %d patterns that overlap, %d '
                'iterations, and a run that nobody stops.',
                *(scan.name, MIN_JUDGED_PATTERNS, MIN_ITERATIONS),
            )
        return first
    logger.info(
        '%s: %d of %d patterns do not fit the others and are dropped; the rest is reconstructed '
        'again.',
        *(scan.name, len(outliers), len(first.positions_px)),
    )
    assert scan.pattern_indexes is not None
    # Outliers have the numbers of the source, which are no indices where patterns were left out.
    indexes = [outlier.pattern_index for outlier in outliers]
    rest = scan.subset(np.flatnonzero(~np.isin(scan.pattern_indexes, indexes)))
    # What the first run leaves of the time is all for the second.
    second = run(rest, watch, None if limit_s is None else limit_s - (clock() - started))
    if stopped:
        logger.warning('%s: stopped; the object of all patterns is kept.', scan.name)
        return first
    # Both runs were waited for.
    seconds = {
        name: first.timing.get(name, 0.0) + second.timing.get(name, 0.0)
        for name in {**first.timing, **second.timing}
    }
    return dataclasses.replace(second, dropped=outliers, timing=seconds)
