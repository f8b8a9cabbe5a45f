"""Where iterations start, found by trials where data leave much open.

A pattern that shares little with others is nearly explained by many objects, and iterations from a
flat object end at one of them. An object that changes no phase has half as many unknowns, and so
has one that absorbs nothing: iterations that keep to such a kind find it, where it is of that kind.
Iterations that keep to nothing go on from there. They leave an object that is of the kind as it is,
correct one that is nearly so, and lead away from a wrong kind only as far as the data drive them.

A start is judged by both losses, as a share of those of a flat start after as many iterations: by
that of the object that keeps to the kind, and by that after the free iterations. Where counts are
many, the latter decides. Where noise hides the difference, a wrong kind may end as low as the right
one, and the former, which is large for a wrong kind, decides with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, IntArray
from ptychopinn_plugin.config import ObjectType

START_KINDS: tuple[ObjectType, ...] = ('amplitude', 'phase')
"""Objects of these kinds are tried beside a flat one."""

KEPT_ITERATIONS = 60
"""This number of iterations keeps to a kind."""

FREE_ITERATIONS = 40
"""This number follows that keeps to nothing, and shows whether the data agree with the kind."""

TRIAL_PIXELS = 16 * 64 * 64
"""Trials take as many patterns as have this number of pixels together, but `MIN_TRIAL_PATTERNS`."""

MIN_TRIAL_PATTERNS = 8

KEPT_EXPONENT = 0.2
"""The loss of the object that keeps to a kind counts with this exponent. A kind that is right but
for a little leaves many times the loss of a flat start, where counts are many."""

MAX_SCORE = 1.1
"""A kind is the better start up to this score. It may be worse by a little than the flat start,
which has twice the unknowns and fits more of the noise."""

Iterate = Callable[[Any, Any, ObjectType, int], tuple[Any, float]]
"""It iterates over a forward model's object, keeping to a kind, this number of times; returns the
object and its loss."""


@dataclass(frozen=True)
class TriedStart:
    """An object to go on from.

    Attributes
    ----------
    kind : 'complex', 'amplitude' or 'phase'
        What the iterations kept to at first; a flat object is where they began.
    object_ : tensor of complex64
        After all of the trial's iterations.
    kept_loss, loss : float
        After the iterations that keep to the kind, and at the end.
    """

    kind: ObjectType
    object_: Any
    kept_loss: float
    loss: float

    def score(self, flat: 'TriedStart') -> float:
        """Return how a kind does beside a flat start; the lower, the better."""
        kept: float = (self.kept_loss / flat.kept_loss) ** KEPT_EXPONENT
        return self.loss / flat.loss * kept


def trial_patterns(positions_px: FloatArray, shape: tuple[int, int]) -> IntArray:
    """Return the indices of patterns of `shape` to try with, those around the middle of the scan.

    Far apart they would need a canvas as large as that of the scan, and as much time.
    """
    wanted = max(MIN_TRIAL_PATTERNS, TRIAL_PIXELS // (shape[0] * shape[1]))
    middle = np.median(positions_px, axis=0)
    distances = np.square(positions_px - middle).sum(axis=1)
    return np.sort(np.argsort(distances, kind='stable')[:wanted])


def number_of_iterations(kinds: Sequence[ObjectType], *, repeats: bool) -> int:
    """Return how many iterations all trials take; the best may be repeated with all patterns."""
    return (KEPT_ITERATIONS + FREE_ITERATIONS) * (1 + len(kinds)) + KEPT_ITERATIONS * repeats


def try_start(forward: Any, kind: ObjectType, iterate: Iterate) -> TriedStart:
    """Iterate from a flat object, keeping to a kind at first."""
    object_, kept_loss = iterate(forward, forward.flat_object(), kind, KEPT_ITERATIONS)
    object_, loss = iterate(forward, object_, 'complex', FREE_ITERATIONS)
    return TriedStart(kind, object_, kept_loss, loss)


def choose_start(forward: Any, kinds: Sequence[ObjectType], iterate: Iterate) -> TriedStart:
    """Return the best start, which is the flat one unless a kind does as well.

    Parameters
    ----------
    forward : ForwardModel
        Of the patterns to try with.
    kinds : sequence of str
        To be tried beside the flat start.
    iterate : callable
        See `Iterate`.
    """
    flat = try_start(forward, 'complex', iterate)
    tried = [try_start(forward, kind, iterate) for kind in kinds]
    best = min(tried, key=lambda start: start.score(flat))
    return best if best.score(flat) < MAX_SCORE else flat
