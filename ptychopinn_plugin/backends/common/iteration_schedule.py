"""How far iterations have come: by their number, by a clock, and by what they still gain.

Steps fall along the course of a run, from long ones that carry the phase across the field to
short ones that average noise. A run that must end early therefore has to take the rest of
its course faster, and not to break off.
"""

import math
import time
from collections.abc import Callable
from typing import Literal

Ended = Literal['planned', 'converged', 'time', 'stopped']
"""All iterations were done; they no longer gained; the time was over; somebody stopped them."""

STALL_ITERATIONS = 10
"""What this number of iterations gained decides whether more of the same can help."""

STALL_GAIN = 2e-3
"""A stretch that lowers the loss by less than this share of it hardly gains any more."""

COOLDOWN_FRACTION = 0.25
"""Iterations that no longer gain get this share of their number to let the steps fall."""

MIN_COOLDOWN = 5


class IterationSchedule:
    """Counts the iterations of a run.

    Parameters
    ----------
    iterations : int
        At most this number.
    limit_s : float, optional
        The last iteration ends at about this time after the first one begins; one is always done.
    stops_when_converged : bool
        End before where the likelihood hardly falls any more.
    clock : callable
        Returns seconds.

    Attributes
    ----------
    done : int
    fraction : float
        Share of the course that is done, which the next step goes by.
    """

    def __init__(
        self,
        iterations: int,
        *,
        limit_s: float | None = None,
        stops_when_converged: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.iterations, self.done, self.fraction = iterations, 0, 0.0
        self._limit_s, self._clock = limit_s, clock
        self._stops_when_converged = stops_when_converged
        self._planned = iterations
        self._left: float = iterations
        self._reason: Ended = 'planned'
        self._has_converged = False
        self._times_s: list[float] = []
        self._losses: list[float] = []

    @property
    def is_over(self) -> bool:
        """Whether no iteration is to follow."""
        return self._left <= 0

    @property
    def ended(self) -> Ended:
        """Why no iteration follows."""
        return self._reason

    @property
    def lowest(self) -> float:
        """The loss that the iterations have come to, with what the object's variation costs."""
        return self._losses[-1]

    def start(self, loss: float) -> None:
        """Begin, from an object with this loss."""
        self._times_s = [self._clock()]
        self._losses = [loss]

    def advance(self, loss: float) -> None:
        """Count an iteration, after which the lowest loss is `loss`."""
        self.done += 1
        self._losses.append(loss)
        self._times_s.append(self._clock())
        is_whole = self._left == self.iterations - self.done + 1
        # What is left of the course is spread over the iterations that are left: where these become
        # fewer, steps fall faster, and the last one is short in any case.
        self.fraction += (1 - self.fraction) / self._left
        if is_whole:
            # The same to the last bit, whatever was added up.
            self.fraction = self.done / self.iterations
        self._planned -= 1
        if self._stops_when_converged and not self._has_converged and self._has_stalled():
            share = max(MIN_COOLDOWN, math.ceil(COOLDOWN_FRACTION * self.iterations))
            if share < self._planned:
                self._planned, self._has_converged = share, True
        self._left, self._reason = self._planned, 'converged' if self._has_converged else 'planned'
        fitting = self._fitting()
        if fitting < self._left:
            self._left, self._reason = fitting, 'time'

    def stop(self) -> None:
        """End with the iteration that was just done, because the observer requests it."""
        if self._left > 0:
            self._left, self._reason = 0, 'stopped'

    def _fitting(self) -> float:
        """Return how many more iterations the clock leaves time for."""
        if self._limit_s is None:
            return math.inf
        rest = self._limit_s - (self._times_s[-1] - self._times_s[0])
        if rest <= 0:
            return 0
        if self.done == 1:
            # The first one may have compiled something; how long others take is not known yet.
            return math.inf
        return int(rest / max(1e-9, self._times_s[-1] - self._times_s[-2]))

    def _has_stalled(self) -> bool:
        if self.done < 2 * STALL_ITERATIONS:
            return False
        # Losses are those of the best so far, which never rise.
        then, now = self._losses[-1 - STALL_ITERATIONS], self._losses[-1]
        return then - now < STALL_GAIN * abs(now)
