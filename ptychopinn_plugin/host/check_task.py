"""A check of a scan in the host's queue of runs."""

from dataclasses import dataclass
from typing import Any

CHECK_GOAL = 60
"""The progress bar has this number of steps; a right scan takes about half as many trials."""


@dataclass(frozen=True)
class CheckTask:
    """A check in the host's queue of runs.

    Attributes
    ----------
    task_monitor : ptychodus.model.processing.ProcessingTaskMonitor
    reconstructor : PinnReconstructor
    parameters : ptychodus.api.reconstruct.ReconstructInput
    """

    task_monitor: Any
    reconstructor: Any
    parameters: Any

    def __call__(self) -> None:
        """Do it, in the thread of the host's runs."""
        with self.task_monitor as monitor:
            monitor.update_progress(0, CHECK_GOAL)
            for n_trials in self.reconstructor.check(self.parameters):
                monitor.update_progress(min(n_trials, CHECK_GOAL - 1), CHECK_GOAL)
