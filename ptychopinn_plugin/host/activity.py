"""What the plugin is doing, for the panel to show: written by a run, read by the window."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Activity:
    """The run under way, or the last one.

    Attributes
    ----------
    kind : str
        'training' or 'inference'; empty before the first run.
    stage : str
        As in `backends.protocol.Progress`.
    step, total : int
        Of the stage.
    epochs : list of dict
        Losses of each epoch of the last training, by name.
    is_running : bool
    is_stop_pressed : callable
        Tells whether Stop was pressed, where the host lets us ask: it hears of it only between
        two outputs.
    when_drawn : callable
        Calls what it is given once the window has drawn all that it was handed over before, where
        the host lets us know; else at once.
    """

    def __init__(self) -> None:
        self.kind = self.stage = ''
        self.step = self.total = 0
        self.epochs: list[dict[str, float]] = []
        self.is_running = False
        self.is_stop_pressed: Callable[[], bool] = lambda: False
        self.when_drawn: Callable[[Callable[[], None]], None] = lambda call: call()
        self._closing = threading.Event()

    @property
    def is_ending(self) -> bool:
        """Whether the run is to end with what it has: Stop was pressed, or the window closes."""
        return self._closing.is_set() or self.is_stop_pressed()

    @property
    def has_begun(self) -> bool:
        """Whether the run has come past its preparations, so that there is something to keep."""
        return self.stage != 'load'

    def close(self) -> None:
        """Ask runs to end."""
        self._closing.set()

    @contextmanager
    def running(self, kind: str) -> Iterator[None]:
        """Show a run while the block lasts."""
        self.kind, self.stage, self.step, self.total = kind, 'load', 0, 0
        if kind == 'training':
            self.epochs = []
        self.is_running = True
        try:
            yield
        finally:
            self.is_running = False

    def note(self, values: Mapping[str, Any]) -> bool:
        """Take in a worker's progress; True where a stage begins."""
        is_new: bool = values['stage'] != self.stage
        self.stage, self.step, self.total = values['stage'], values['step'], values['total']
        if values['is_epoch_end']:
            self.epochs.append(dict(values['losses']))
        return is_new
