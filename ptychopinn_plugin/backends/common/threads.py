"""How many threads compute: all of them on a quiet machine, fewer where they would wait.

Threads that share a computation wait for one another at its end, and where another program has
taken a core all of them wait for the one that lost it. What that costs is measured, not guessed.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController

from ptychopinn_plugin.backends.protocol import Observer, Progress

VARIABLE = 'OMP_NUM_THREADS'
"""This variable of the environment decides where no setting does."""

REVIEW_S = 10.0
"""At least this number of seconds lies between two trials within a stage, which cost about 0.05 s
on a quiet machine."""

TRIAL_PIECES = 8
"""One trial is this number of pieces of work; a neighbour does not disturb each."""

GAIN = 1.1
"""More threads are taken where they need at most this many times the time of fewer."""

logger = logging.getLogger(__name__)


def requested_threads(setting: int | None) -> int | None:
    """Return the number of threads that a setting or the environment gives; None for neither.

    Parameters
    ----------
    setting : int, optional
    """
    if setting is not None:
        return setting
    # OpenMP takes a list, with a number for each level of nesting.
    first = os.environ.get(VARIABLE, '').split(',')[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


class Threads:
    """The threads of a framework whose own scheduler shares a busy machine well."""

    count: int | None = None
    """This number of threads computes; with None the framework decides."""

    def __init__(self) -> None:
        self.used: set[int] = set()
        """These numbers of threads have computed; sums in another order round otherwise."""

    def beside(self, observer: Observer) -> Observer:
        """Return an observer that looks at the machine now and then."""
        return observer


class MeasuredThreads(Threads):
    """The threads of one computation, chosen by trials.

    Parameters
    ----------
    most : int
        As many as may compute.
    use : callable
        Lets this number compute from now on.
    work : callable
        Does a piece of work of the usual kind; a few milliseconds on a quiet machine.
    clock : callable
        Returns seconds.

    Attributes
    ----------
    count : int
        How many compute now.
    """

    def __init__(
        self,
        most: int,
        use: Callable[[int], object],
        work: Callable[[], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__()
        self._most, self._use, self._work, self._clock = most, use, work, clock
        self._stage, self._reviewed_s = '', float('-inf')
        self.count = most
        self._logged: int | None = None

    def review(self) -> None:
        """Try fewer and more threads, and take the most that do not wait for one another."""
        best_s, chosen = float('inf'), 1
        # One thread waits for no other and comes first, so that a trial of more is cut short where
        # it takes longer.
        for number in self._numbers():
            seconds = self._try(number, GAIN * best_s)
            if seconds <= GAIN * best_s:
                chosen = number
            best_s = min(best_s, seconds)
        self.count = chosen
        self.used.add(chosen)
        self._use(chosen)
        self._reviewed_s = self._clock()
        self._log()

    def beside(self, observer: Observer) -> Observer:
        """Return an observer that reviews the threads where a stage begins, and now and then."""

        def watch(progress: Progress) -> bool | None:
            is_due = self._clock() - self._reviewed_s >= REVIEW_S
            if is_due or progress.stage != self._stage:
                self._stage = progress.stage
                self.review()
            return observer(progress)

        return watch

    def _numbers(self) -> list[int]:
        """Return what is tried: one thread, and twice as many up to all."""
        numbers = [1]
        while numbers[-1] < self._most:
            numbers.append(min(2 * numbers[-1], self._most))
        return numbers

    def _try(self, number: int, limit_s: float) -> float:
        """Return the seconds of a trial, or more than the limit as soon as it is passed."""
        self._use(number)
        # The first piece of work wakes the threads.
        self._work()
        begun = self._clock()
        for _ in range(TRIAL_PIECES):
            self._work()
            if self._clock() - begun > limit_s:
                break
        return self._clock() - begun

    def _log(self) -> None:
        """Log the number where it is new."""
        if self.count == self._logged:
            return
        self._logged = self.count
        why = '' if self.count == self._most else ', as more would wait for other programs'
        logger.info('Computing with %d of %d threads%s.', self.count, self._most, why)


class _OneThread:
    """OpenBLAS's single thread, while at least one computation of this process needs it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._limiter: Any = None

    def begin(self) -> None:
        """Limit OpenBLAS, unless another computation has done so."""
        with self._lock:
            if self._users == 0:
                openblas = ThreadpoolController().select(internal_api='openblas')
                self._limiter = openblas.limit(limits=1)
            self._users += 1

    def end(self) -> None:
        """Restore the number of threads after the last computation."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._limiter.restore_original_limits()


_one_thread = _OneThread()


@contextmanager
def one_openblas_thread() -> Iterator[None]:
    """Let NumPy's and SciPy's OpenBLAS compute with one thread.

    After each product its threads look for the next one for some 30 ms, and a framework's threads
    wait meanwhile for the cores; the products between its batches are too small to need any. The
    limit holds for the whole process, so that the last of several computations at once lifts it.
    """
    _one_thread.begin()
    try:
        yield
    finally:
        _one_thread.end()


@contextmanager
def measured_threads(
    most: int,
    use: Callable[[int], object],
    work: Callable[[], object],
    requested: int | None,
) -> Iterator[Threads]:
    """Choose the threads of a computation, and leave their number as it was.

    Parameters
    ----------
    most, use, work
        As in `MeasuredThreads`.
    requested : int, optional
        Take this number and measure nothing; see `requested_threads`.
    """
    threads = Threads()
    try:
        if requested is not None or most == 1:
            threads.count = requested or 1
            threads.used.add(threads.count)
            use(threads.count)
        else:
            threads = MeasuredThreads(most, use, work)
            threads.review()
        yield threads
    finally:
        use(most)
