"""Signals, from the first line of a command to its last.

Ctrl-C, the SIGTERM of a batch system and the SIGHUP of a closed terminal end a command in order:
what it has begun to write goes again. A run that has something to keep is given the chance first.
"""

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SAME_S = 0.2
"""Signals that follow within this time are one: `timeout` and batch systems send two at once."""

_NAMES = ('SIGINT', 'SIGTERM', 'SIGHUP')
_WRITING = b'The results are being written; once more leaves at once.\n'


class _State:
    """What a signal does now; there is one for the process, as there is one set of handlers."""

    def __init__(self) -> None:
        self.installed = False
        self.number = int(signal.SIGINT)
        self.last = float('-inf')
        self.stop: threading.Event | None = None
        self.announcement = b''
        self.holds = 0
        self.is_pending = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Make the run stop, wait until files have their names, or leave."""
        if number == getattr(signal, 'SIGHUP', None):
            _leave_terminal()
        now = time.monotonic()
        is_same, self.last = now - self.last < SAME_S, now
        if is_same:
            return
        self.number = number
        if self.holds:
            self.is_pending = True
        elif self.stop is not None and not self.stop.is_set():
            self.stop.set()
            if self.announcement:
                # Not through a stream: the signal may come in the middle of a write to it.
                with suppress(OSError):
                    os.write(2, self.announcement)
        else:
            raise KeyboardInterrupt


def _leave_terminal() -> None:
    """Let what is written to a terminal that was closed go nowhere, as writing to it would fail."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(null, descriptor)
        os.close(null)


_state = _State()


@contextmanager
def handling_signals() -> Iterator[None]:
    """Let signals end the block with KeyboardInterrupt, unless the contexts below handle them.

    Inside another such block it changes nothing.
    """
    if _state.installed or threading.current_thread() is not threading.main_thread():
        # Only the main thread may install handlers.
        yield
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    former = {}
    for number in numbers:
        # `nohup` ignores it, which is to stay so.
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            former[number] = signal.signal(number, _state.handle)
    _state.installed, _state.is_pending = True, False
    _state.number, _state.last = int(signal.SIGINT), float('-inf')
    try:
        yield
    finally:
        _state.installed = False
        for number, before in former.items():
            signal.signal(number, before)


@contextmanager
def stopping_at_signal(stop: threading.Event, announcement: bytes = b'') -> Iterator[None]:
    """Let the first signal set `stop`, and the second one leave.

    Parameters
    ----------
    stop : threading.Event
    announcement : bytes
        Written to stderr at the first signal.
    """
    with handling_signals():
        former = _state.stop, _state.announcement
        _state.stop, _state.announcement = stop, announcement
        try:
            yield
        finally:
            _state.stop, _state.announcement = former


@contextmanager
def finishing() -> Iterator[None]:
    """Let results be written to their end at the first signal; the second one leaves."""
    with stopping_at_signal(threading.Event(), _WRITING):
        yield


@contextmanager
def holding_signals() -> Iterator[None]:
    """Put a signal off to the end of the block, where files are moved or removed.

    Where the block fails, or something has failed before it, the command is ending anyhow.
    """
    _state.holds += 1
    try:
        yield
    finally:
        _state.holds -= 1
    if _state.is_pending and not _state.holds:
        _state.is_pending = False
        raise KeyboardInterrupt


def exit_code() -> int:
    """Return the code of a command that a signal has ended: 128 and the signal's number."""
    return 128 + _state.number
