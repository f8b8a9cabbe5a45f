"""What a user sees of a run while it goes on, and how it is stopped."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from ptychopinn_plugin.cli.signals import stopping_at_signal

if TYPE_CHECKING:
    from ptychopinn_plugin.backends.protocol import Progress

_STAGES = {
    'load': 'Load',
    'probe': 'Probe',
    'target': 'Target',
    'train': 'Train',
    'start': 'Start',
    'predict': 'Predict',
    'pass': 'Pass',
    'refine': 'Refine',
}
_SHORT_NAMES = {'loss': 'loss', 'validation_loss': 'validation', 'poisson': 'loss'}


class _Details(ProgressColumn):
    """The newest loss and the rate of a stage."""

    def render(self, task: Task) -> Text:
        """Return the text of one line."""
        return Text(str(task.fields.get('details', '')), style='progress.data.speed')


class ProgressDisplay:
    """Shows where a run is, on stderr and only where that is a terminal; an `Observer`.

    The first Ctrl-C lets the run stop and keep the best model so far, a second one ends it at
    once. While the target is being computed there is nothing to keep, and the first one ends it.

    Parameters
    ----------
    on_progress : callable, optional
        Called with every step as well.
    """

    def __init__(self, on_progress: Callable[['Progress'], None] | None = None) -> None:
        self._on_progress = on_progress
        self._stop = threading.Event()
        self._announced = False
        self._tasks: dict[str, TaskID] = {}
        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn('{task.description:8}'),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            _Details(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._signals = stopping_at_signal(self._stop)

    def __enter__(self) -> Self:
        self._signals.__enter__()
        self._bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bars.stop()
        self._signals.__exit__(*exception)

    def __call__(self, progress: 'Progress') -> bool:
        """Show a step; return whether the run is to stop."""
        if self._on_progress is not None:
            self._on_progress(progress)
        if not self._bars.disable:
            self._show(progress)
        if self._stop.is_set() and progress.stage == 'target':
            typer.echo('Stopped before the network learned anything; no model is kept.', err=True)
            raise KeyboardInterrupt
        if self._stop.is_set() and not self._announced:
            self._announced = True
            typer.echo('Stopping; the best so far is kept. Ctrl-C again leaves at once.', err=True)
        return self._stop.is_set()

    def _show(self, progress: 'Progress') -> None:
        # The bar shows a share, as the total can change on the way: epochs first, then minutes.
        done = progress.step / max(1, progress.total)
        stage = progress.stage
        if stage not in self._tasks:
            name = _STAGES.get(stage, stage.capitalize())
            self._tasks[stage] = self._bars.add_task(name, total=1.0)
        task = self._tasks[stage]
        if done < self._bars.tasks[task].completed:
            # The next scan of several begins.
            self._bars.reset(task)
        self._bars.update(task, completed=done, details=_describe_shortly(progress))


def _describe_shortly(progress: 'Progress') -> str:
    """Return the main losses and the rate of a step, to stand beside a bar."""
    parts = [
        f'{_SHORT_NAMES[name]} {value:.4g}'
        for name, value in progress.losses.items()
        if name in _SHORT_NAMES
    ]
    if progress.patterns_per_second is not None:
        parts.append(f'{progress.patterns_per_second:,.0f} patterns/s')
    return '  '.join(parts)
