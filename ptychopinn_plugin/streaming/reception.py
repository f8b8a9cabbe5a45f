"""Threads that receive from the sources of a scan, and when the scan is over."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from ptychopinn_plugin.errors import DataError, OutputError
from ptychopinn_plugin.streaming.matching import MatchedBatch, PatternMatcher
from ptychopinn_plugin.streaming.messages import (
    Ending,
    Opening,
    PatternBatch,
    PositionBatch,
    StreamMessage,
)
from ptychopinn_plugin.streaming.sources import OnFault, StreamSource
from ptychopinn_plugin.streaming.store import PatternStore

logger = logging.getLogger('ptychopinn_plugin')

_POLL_S = 0.1
"""A thread checks once in this number of seconds whether it is to end."""

MAX_REPORTED_FAULTS = 3
"""This many messages that were left out are named; the others are counted."""

End = Literal['complete', 'closed', 'idle', 'no-start', 'interrupted', 'no-space']
"""Receiving ended because the scan is complete, the sources are closed, nothing came any more or at
all, it was stopped, or no further pattern could be kept."""


@dataclass(frozen=True)
class Patience:
    """How long receiving waits, in seconds.

    Attributes
    ----------
    start_s : float, optional
        For the first message; None is for ever.
    idle_s : float
        For the next message.
    """

    start_s: float | None = None
    idle_s: float = 60.0


class Reception:
    """Receives a scan from its sources, as a context, until it is over.

    Parameters
    ----------
    matcher : PatternMatcher
    store : PatternStore
        Gets the patterns with their positions.
    patience : Patience
    opening : Opening
        What the user gave; it comes before what the sources send.

    Attributes
    ----------
    opening : Opening
        What is known so far.
    ended : End, optional
        Why it is over; None while it runs.
    first_fault : str, optional
        What was wrong with the first message that was left out.
    """

    def __init__(
        self,
        matcher: PatternMatcher,
        store: PatternStore,
        patience: Patience,
        opening: Opening | None = None,
    ) -> None:
        self.matcher, self.store, self._patience = matcher, store, patience
        self.opening = Opening() if opening is None else opening
        self.ended: End | None = None
        self.first_fault: str | None = None
        self.n_faults = 0
        self._sources: list[StreamSource] = []
        self._futures: list[Future[None]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._stop, self._is_abandoned = threading.Event(), threading.Event()
        self._ending: Ending | None = None
        self._began_s = time.monotonic()
        self._last_s: float | None = None
        self._n_handing_over = 0

    def begin(self, sources: Sequence[AbstractContextManager[StreamSource]]) -> None:
        """Start a thread for each source."""
        self._began_s = time.monotonic()
        self._pool = ThreadPoolExecutor(len(sources), thread_name_prefix='stream')
        self._futures = [self._pool.submit(self._receive, source) for source in sources]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._is_abandoned.set()
        self.store.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    @property
    def on_fault(self) -> OnFault:
        """What a source calls with a message that it leaves out."""
        return self._note_fault

    def stop(self) -> None:
        """End receiving at the wish of the user; what has come is still to be taken."""
        if self.ended is None:
            self._end('interrupted')

    def is_over(self) -> bool:
        """Return whether nothing more will come into the store.

        Raises
        ------
        PtychoPinnError
            If a source has failed.
        """
        for future in self._futures:
            if future.done():
                # What a thread has raised is raised here.
                future.result()
        if self.ended is None:
            with self._lock:
                self.matcher.expire()
                why = self._reason_to_end()
            if why is not None:
                self._end(why)
        # A thread may still wait for a place in the queue.
        if self.ended is None or not all(future.done() for future in self._futures):
            return False
        with self._lock:
            self.matcher.close()
        self.store.close()
        return True

    def _end(self, why: End) -> None:
        if self.ended is None:
            self.ended = why
        self._stop.set()

    def _reason_to_end(self) -> End | None:
        counts, now = self.matcher.counts, time.monotonic()
        expected = self.opening.n_patterns
        waited_for = counts.matched + counts.without_position + counts.over_window
        if expected is not None and waited_for >= expected and not self.matcher.waiting:
            return 'complete'
        if self._last_s is None:
            start_s = self._patience.start_s
            return 'no-start' if start_s is not None and now - self._began_s > start_s else None
        if self._n_handing_over:
            # It is the receiver that is late, and not the source.
            return None
        is_quiet = now - self._last_s > self.matcher.wait_s
        if all(future.done() for future in self._futures):
            return 'closed'
        if self._ending is not None and (is_quiet or self._is_settled()):
            return 'complete'
        return 'idle' if now - self._last_s > self._patience.idle_s else None

    def _is_settled(self) -> bool:
        """Return whether, after the end, nothing waits for anything."""
        return not (self.matcher.waiting or self.matcher.waiting_positions) and (
            self.opening.n_patterns is None
        )

    def _receive(self, opened: AbstractContextManager[StreamSource]) -> None:
        with opened as source:
            with self._lock:
                self._sources.append(source)
            while not self._stop.is_set():
                for message in source.receive(_POLL_S):
                    self._take(message)
                if source.is_done:
                    return

    def _take(self, message: StreamMessage) -> None:
        matched: MatchedBatch | None = None
        with self._lock:
            self._last_s = time.monotonic()
            try:
                if isinstance(message, PatternBatch):
                    matched = self.matcher.add_patterns(message)
                elif isinstance(message, PositionBatch):
                    matched = self.matcher.add_positions(message)
                elif isinstance(message, Opening):
                    self.opening = completed(self.opening, message)
                else:
                    self._ending = message
                    if message.n_patterns is not None:
                        # A scan that was cut short has fewer than were announced.
                        self.opening = replace(self.opening, n_patterns=message.n_patterns)
            except DataError as error:
                fault: str | None = str(error)
            else:
                fault = None
        if fault is not None:
            self._note_fault(fault)
        if matched is not None:
            self._hand_over(matched)

    def _hand_over(self, matched: MatchedBatch) -> None:
        """Give patterns to the store; while its queue is full, this and the source wait."""
        with self._lock:
            self._n_handing_over += 1
        try:
            # The lock is free meanwhile.
            self.store.append(matched, self._is_abandoned.is_set)
        except OutputError as error:
            # What has come before is worth an object.
            logger.warning('The scan ends here: %s', error)
            self._end('no-space')
        finally:
            with self._lock:
                self._n_handing_over -= 1
                self._last_s = time.monotonic()

    def _note_fault(self, fault: str) -> None:
        with self._lock:
            self.n_faults += 1
            number = self.n_faults
            if self.first_fault is None:
                self.first_fault = fault
        if number <= MAX_REPORTED_FAULTS:
            logger.warning('%s', fault)
        if number == MAX_REPORTED_FAULTS:
            logger.warning('Further faults of messages are counted, and not named.')

    def counts(self) -> dict[str, Any]:
        """Return what became of the patterns so far, as plain values.

        'lost' are those that never came: of the expected number, or, where that is unknown, the
        gaps in the indexes.
        """
        with self._lock:
            counts, expected = self.matcher.counts, self.opening.n_patterns
            lost = self.matcher.met.gaps()
            if expected is not None:
                lost = max(0, expected - counts.received)
            return {
                'expected': expected,
                **asdict(counts),
                'lost': lost,
                'queue_full': self.store.dropped,
                'unreadable': self.n_faults,
                'overrun': sum(source.overrun for source in self._sources),
            }


def completed(known: Opening, more: Opening) -> Opening:
    """Return an opening, completed by another one; what the first has stays."""
    geometry = {name: value for name, value in vars(known.geometry).items() if value is not None}
    return Opening(
        probe=more.probe if known.probe is None else known.probe,
        bad_pixels=more.bad_pixels if known.bad_pixels is None else known.bad_pixels,
        geometry=replace(more.geometry, **geometry),
        n_patterns=more.n_patterns if known.n_patterns is None else known.n_patterns,
        name=more.name if known.name is None else known.name,
    )
