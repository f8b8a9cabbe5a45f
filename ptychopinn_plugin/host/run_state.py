"""The state of a run, for the panel to show: written by the run, read by the window.

A run has its own thread. What the window reads is therefore replaced whole, never changed in place:
who has read it once may draw it in peace.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.host.worker.messages import RunProgress

PICTURES = {
    'target': 'Target',
    'train': 'Network',
    'predict': 'Network alone',
    'pass': 'After a pass',
    'refine': 'Refined',
    'check': 'Trial',
    'given': 'As loaded',
    'best': 'Mended',
    'trials': 'Best trials',
}
"""The object of each stage is called so."""

_PICTURE_ORDER = list(PICTURES.values())

MAX_PREVIEW_PX = 384
"""The panel's pictures have at most this side; it shows them smaller."""

ASIDE = {'is_aside': True}
"""Lines that are logged with this as `extra` reach the log pane, and leave the last message."""

Outcome = Literal['', 'done', 'stopped', 'diverged', 'failed']


@dataclass(frozen=True)
class Message:
    """The last line of the log that is about us.

    Attributes
    ----------
    level : int
        As in `logging`.
    text : str
    """

    level: int = logging.INFO
    text: str = ''


@dataclass(frozen=True)
class ChosenProduct:
    """The product that is chosen in the window.

    Attributes
    ----------
    name : str
    patterns : int
        How many it is bound to.
    product_folder : str
        The folder of its files; empty where that is unknown.
    """

    name: str
    patterns: int = 0
    product_folder: str = ''


class Activity:
    """The run under way, or the last one.

    Attributes
    ----------
    kind : str
        'training', 'inference' or 'check'; empty before the first run.
    algorithm : str
        Whose run it is, by the name of the reconstructor.
    outcome : str
        How the last run ended: 'done', 'stopped', 'failed', or 'diverged' for a training whose
        loss became no number after epochs that are kept; empty while one is under way.
    keeps_product : bool
        Whether an inference has left something that its product is to hold.
    message : Message
    progress : tuple of (str, int, int)
        Stage, step and total, as in `backends.protocol.Progress`.
    epochs : tuple of dict
        Losses of each epoch of a training, by name; empty where that training has nothing to do
        with the loaded model any more.
    curve_of : str
        The algorithm whose training `epochs` belongs to.
    is_last_cut : bool
        Whether the last of `epochs` ended amid its patterns.
    total_epochs : int
        How many epochs the training may have.
    limit_s : float, optional
        How long the training may take.
    started_s, computing_s, epoch_ended_s, reported_s : float
        When the run and the computation began, the newest epoch ended and the newest report came,
        by `time.monotonic`.
    stage_started_s : float
        When the first report of the stage came. A stage to which the run comes back, as iterations
        after a pass of a learned prior, goes on from its first time.
    stage_first_step : int
        How many steps were done then.
    is_running : bool
    pictures : tuple of (str, ndarray of complex64)
        Objects of the run by name, thinned for the panel; the newest kind last.
    takes_products_away : bool
        Whether the product of an inference that fails is removed.
    outputs : tuple of int
        The progress of each output of the inference; the host numbers the files of products by it.
    is_stop_known : bool
        Whether the host makes known, by `is_stop_pressed`, that Stop was pressed.
    is_stop_pressed : callable
        Returns whether Stop was pressed or, in batch mode, Ctrl-C, where the host makes that known.
        By itself the host acts on Stop only between two outputs, and on Ctrl-C only after the run.
    when_drawn : callable
        Calls what it is given once the window has drawn all that it was handed over before, where
        the host makes that known; else at once.
    runs_waiting : callable
        Returns how many runs wait for the end of this one, where the host makes that known.
    chosen_product : callable
        Returns the product that is chosen in the window; None where that is unknown.
    open_guide : callable
        Shows the guide, where there is a window.
    keep_log_end : callable
        Shows the end of the log pane, unless somebody has scrolled away from it.
    check_scan, train_on_product : callable
        Puts a check of the product that is chosen, or a training on it, into the queue of runs.
    measured : int, optional
        How many patterns the product of the run under way is bound to, where that is known.
    """

    def __init__(self) -> None:
        self.kind = self.algorithm = self.curve_of = ''
        self.outcome: Outcome = ''
        self.keeps_product = True
        self.message = Message()
        self.epochs: tuple[dict[str, float], ...] = ()
        self.is_last_cut = False
        self.is_running = False
        self.takes_products_away = False
        self._reset()
        self.is_stop_known = False
        self.is_stop_pressed: Callable[[], bool] = lambda: False
        self.when_drawn: Callable[[Callable[[], None]], None] = lambda call: call()
        self.runs_waiting: Callable[[], int] = lambda: 0
        self.chosen_product: Callable[[], ChosenProduct | None] = lambda: None
        self.open_guide: Callable[[], None] = lambda: None
        self.keep_log_end: Callable[[], None] = lambda: None
        self.check_scan: Callable[[], None] = lambda: None
        self.train_on_product: Callable[[], None] = lambda: None
        self.measured: int | None = None
        self._closing = threading.Event()

    @property
    def stage(self) -> str:
        """The stage of `progress`."""
        return self.progress[0]

    @property
    def is_bad_end(self) -> bool:
        """Whether the last run ended in a way that somebody has to mend."""
        return self.outcome in ('diverged', 'failed')

    @property
    def is_ending(self) -> bool:
        """Whether the run is to end with what it has, as Stop was pressed or the window closes."""
        return self._closing.is_set() or self.is_stop_pressed()

    def close(self) -> None:
        """Make runs end with what they have."""
        self._closing.set()

    def _reset(self) -> None:
        self.progress = ('', 0, 0)
        self.total_epochs = self.stage_first_step = 0
        self.limit_s: float | None = None
        self.outputs: tuple[int, ...] = ()
        self.pictures: tuple[tuple[str, ComplexArray], ...] = ()
        self._stages: dict[str, tuple[float, int]] = {}
        now = time.monotonic()
        self.started_s = self.computing_s = self.stage_started_s = self.epoch_ended_s = now
        self.reported_s = now

    def plan(self, total_epochs: int, limit_s: float | None) -> None:
        """Note how long a training may go on."""
        self.total_epochs, self.limit_s = total_epochs, limit_s

    @contextmanager
    def running(self, kind: str, algorithm: str = '') -> Iterator[None]:
        """Show a run while the block lasts, and how it ended: an exception is a failure."""
        if kind == 'training' or (self.outcome == 'failed' and self.kind == 'training'):
            # The curve of a training that left no model is not that of the model in use.
            self.forget_curve()
        if kind == 'training':
            self.curve_of = algorithm
        self.kind, self.algorithm = kind, algorithm
        self.outcome, self.keeps_product = '', kind == 'training'
        self.message = Message()
        self._reset()
        self.progress = ('load', 0, 0)
        self.is_running = True
        try:
            yield
        except GeneratorExit:
            self._end('stopped')
            raise
        except BaseException:
            # A run that was being stopped may still fail, and that is what counts.
            self.outcome = 'failed'
            self._end('failed')
            raise
        else:
            self._end('done')

    def refuse(self, kind: str, algorithm: str) -> None:
        """Show that a run was refused before it began, unless another one is under way."""
        if not self.is_running:
            self.kind, self.algorithm, self.outcome = kind, algorithm, 'failed'
            self._reset()

    def _end(self, outcome: Outcome) -> None:
        """End a run, unless it has reported how it ended."""
        self.outcome = self.outcome or outcome
        self.keeps_product = self.keeps_product and self.outcome != 'failed'
        self.is_running = False

    def forget_curve(self) -> None:
        """Show no losses: they belong to another model than the one in use."""
        self.epochs, self.is_last_cut = (), False

    def show(self, stage: str, object_: ComplexArray) -> None:
        """Take a picture of the object of a stage for the panel."""
        step = max(1, -(-max(object_.shape) // MAX_PREVIEW_PX))
        name = PICTURES.get(stage, stage)
        others = tuple(item for item in self.pictures if item[0] != name)
        # What is known comes before what becomes of it.
        thinned = (name, object_[::step, ::step].copy())
        both = (*others, thinned)
        self.pictures = tuple(sorted(both, key=lambda item: _PICTURE_ORDER.index(item[0])))

    def drop_pictures(self) -> None:
        """Show none of the pictures so far."""
        self.pictures = ()

    def note(self, progress: RunProgress) -> bool:
        """Take in a worker's progress; return whether a stage begins with it."""
        is_new = progress.stage != self.stage
        now = time.monotonic()
        if is_new:
            if self.stage == 'load':
                self.computing_s = now
            self.epoch_ended_s = now
        if progress.stage == 'target' and progress.step < self.progress[1]:
            # This is the target of the next scan.
            self._stages.pop('target', None)
        clock = self._stages.setdefault(progress.stage, (now, progress.step))
        self.stage_started_s, self.stage_first_step = clock
        self.reported_s = now
        self.progress = (progress.stage, progress.step, progress.total)
        if progress.is_epoch_end:
            self.epoch_ended_s = now
            # By a new tuple the curve notices that there is something to draw.
            self.epochs = (*self.epochs, dict(progress.losses))
            self.is_last_cut = progress.is_cut
        return is_new


class LastMessage(logging.Handler):
    """Keeps the last line of a logger for the panel; the log pane scrolls away.

    Parameters
    ----------
    activity : Activity
    """

    def __init__(self, activity: Activity) -> None:
        super().__init__(logging.INFO)
        self._activity = activity

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, unless it is about another run than that whose end is shown."""
        if getattr(record, 'is_aside', False):
            return
        self._activity.message = Message(record.levelno, record.getMessage())
