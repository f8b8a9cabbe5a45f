"""Where the seconds of a run go."""

import time
from collections.abc import Callable


class Stopwatch:
    """Adds up the seconds of named parts of a run.

    Parameters
    ----------
    finish : callable
        Waits until a device has done what it was given.
    """

    def __init__(self, finish: Callable[[], object]) -> None:
        self.finish = finish
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Give the time since the last lap to `name`."""
        self.finish()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
