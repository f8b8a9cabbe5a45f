"""The state of a run, for the panel to show: written by the run, read by the window.

A run has its own thread. What the window reads is therefore replaced whole, never changed in place:
who has read it once may draw it in peace.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ptychopinn_plugin.host.worker.messages import RunProgress


class Activity:
    """The run under way, or the last one.

    Attributes
    ----------
    kind : str
        'training' or 'inference'; empty before the first run.
    progress : tuple of (str, int, int)
        Stage, step and total, as in `backends.protocol.Progress`.
    epochs : tuple of dict
        Losses of each epoch of the last training, by name.
    is_running : bool
    is_stop_pressed : callable
        Returns whether Stop was pressed or, in batch mode, Ctrl-C, where the host makes that known.
        By itself the host acts on Stop only between two outputs, and on Ctrl-C only after the run.
    when_drawn : callable
        Calls what it is given once the window has drawn all that it was handed over before, where
        the host makes that known; else at once.
    """

    def __init__(self) -> None:
        self.kind = ''
        self.progress = ('', 0, 0)
        self.epochs: tuple[dict[str, float], ...] = ()
        self.is_running = False
        self.is_stop_pressed: Callable[[], bool] = lambda: False
        self.when_drawn: Callable[[Callable[[], None]], None] = lambda call: call()
        self._closing = threading.Event()

    @property
    def stage(self) -> str:
        """The stage of `progress`."""
        return self.progress[0]

    @property
    def is_ending(self) -> bool:
        """Whether the run is to end with what it has, as Stop was pressed or the window closes."""
        return self._closing.is_set() or self.is_stop_pressed()

    def close(self) -> None:
        """Make runs end with what they have."""
        self._closing.set()

    @contextmanager
    def running(self, kind: str) -> Iterator[None]:
        """Show a run while the block lasts."""
        self.kind, self.progress = kind, ('load', 0, 0)
        if kind == 'training':
            self.epochs = ()
        self.is_running = True
        try:
            yield
        finally:
            self.is_running = False

    def note(self, progress: RunProgress) -> bool:
        """Take in a worker's progress; return whether a stage begins with it."""
        is_new = progress.stage != self.stage
        self.progress = (progress.stage, progress.step, progress.total)
        if progress.is_epoch_end:
            self.epochs = (*self.epochs, dict(progress.losses))
        return is_new
