"""The pictures of an inference, in the host's form and at the host's pace."""

import logging
import sys
import time
from collections.abc import Callable

import numpy as np
from ptychodus.api.product import Product
from ptychodus.api.reconstruct import ReconstructOutput

from ptychopinn_plugin.backends.common.iteration_plan import USUAL_ITERATIONS
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.host.resampling import Resampling
from ptychopinn_plugin.host.translation import to_product
from ptychopinn_plugin.host.worker.arrays import ResultArrays
from ptychopinn_plugin.host.worker.client import Event, Run
from ptychopinn_plugin.host.worker.messages import ReconstructionDone, RunProgress
from ptychopinn_plugin.text import count

REDRAW_S = 2.0
"""At least this number of seconds lies between two pictures.

The window can stop a run only where it yields, and draws whatever is yielded. It reacts to no click
while it draws. So the next picture waits until the last one is drawn, and once more as long.
"""

logger = logging.getLogger('ptychopinn_plugin')


def has_window() -> bool:
    """Return whether this Ptychodus has a window; batch mode never imports Qt."""
    return 'PyQt5.QtWidgets' in sys.modules


class InferenceWatch:
    """The newest picture of an inference, in the form that the host takes.

    Parameters
    ----------
    before : Product
    given : Scan
        What the product holds, with its positions.
    resampling : Resampling
        The same as it is reconstructed: patterns that share nothing may lie elsewhere.
    passes : int
        Of a trained network, after which the iterations come. Those of a learned prior come between
        the iterations, and their number is known from the first one on.
    iterations : int, optional
        How many are wanted; None where the worker plans them, whose first report has it.
    n_measured : int, optional
        How many patterns there are, those included that the host did not hand over.
    """

    def __init__(
        self,
        before: Product,
        given: Scan,
        resampling: Resampling,
        passes: int,
        *,
        iterations: int | None = None,
        n_measured: int | None = None,
    ) -> None:
        self._before, self._resampling = before, resampling
        self._passes, self._prior_passes, self._iterations = passes, 0, iterations
        self._passes_done = self._prior_passes_done = self._iterations_done = 0
        self._given = given
        self._n_without_position = max(0, (n_measured or 0) - len(given))
        placed = resampling.measured.positions_px
        is_as_given = np.array_equal(given.positions_px, placed)
        self._placed_px = None if is_as_given else placed - given.positions_px
        self._product = before
        self._losses: dict[int, float] = {}
        self._is_finished = False
        self._handed_over = time.monotonic()
        self._has_shown = self._is_drawing = False
        self._drawing_s = 0.0

    @property
    def goal(self) -> int:
        """The passes and iterations of the whole run, as far as they are known."""
        iterations = USUAL_ITERATIONS if self._iterations is None else self._iterations
        return self._passes + self._prior_passes + iterations

    @property
    def progress(self) -> int:
        """How many of `goal` are done."""
        if self._is_finished:
            return self.goal
        return self._passes_done + self._prior_passes_done + self._iterations_done

    @property
    def has_picture(self) -> bool:
        """Whether the worker has sent one."""
        return self._product is not self._before

    def is_due(self, *, has_news: bool, is_stop_known: bool) -> bool:
        """Return whether it is time to yield.

        Parameters
        ----------
        has_news : bool
            Whether there is a picture that was not handed over yet.
        is_stop_known : bool
            As in `Activity`. A host that does not make Stop known acts on it only where a run
            yields, so that a window needs that also before the first picture. Batch mode has no
            Stop.
        """
        if not has_window():
            return has_news
        # A host that writes products to files would write the object as it was given.
        if is_stop_known and not self.has_picture:
            return False
        # The first picture is what somebody is waiting for.
        if has_news and not self._has_shown:
            return True
        pause = max(REDRAW_S, 2 * self._drawing_s)
        return not self._is_drawing and time.monotonic() - self._handed_over >= pause

    def note_handed_over(self, when_drawn: Callable[[Callable[[], None]], None]) -> None:
        """Note that the host has the newest picture; `when_drawn` as in `Activity`."""
        self._handed_over = time.monotonic()
        self._is_drawing = True
        self._has_shown |= self.has_picture
        when_drawn(self._note_drawn)

    def _note_drawn(self) -> None:
        self._drawing_s = time.monotonic() - self._handed_over
        self._is_drawing = False

    def update(self, event: Event) -> bool:
        """Take in progress; return whether it brought a picture."""
        progress = event.report
        assert isinstance(progress, RunProgress)
        if progress.stage == 'refine':
            self._iterations_done, self._iterations = progress.step, progress.total
            if 'poisson' in progress.losses:
                self._losses[progress.step] = progress.losses['poisson']
        elif progress.stage == 'predict':
            self._passes_done, self._passes = progress.step, progress.total
        elif progress.stage == 'pass':
            self._prior_passes_done, self._prior_passes = progress.step, progress.total
        picture = event.picture
        if picture is None or picture.origin_px is None:
            return False
        self._product = to_product(
            self._before,
            self._given,
            *self._resampling.object_back(picture.object_, picture.origin_px),
            moves_px=self._placed_px,
            losses=self._losses,
        )
        return True

    def finish(self, event: Event, *, is_stopped: bool) -> None:
        """Take in the result, and log it in one line.

        Parameters
        ----------
        event : Event
            A `ReconstructionDone` with its `ResultArrays`.
        is_stopped : bool
            Whether the run was stopped before its end.
        """
        done, found = event.report, event.arrays
        assert isinstance(done, ReconstructionDone)
        assert isinstance(found, ResultArrays)
        self._is_finished = True
        moves = self._resampling.moves_back(found.moves_px)
        self._product = to_product(
            self._before,
            self._given,
            *self._resampling.object_back(found.object_, found.origin_px),
            probe=self._resampling.probe_back(found.probe),
            moves_px=self._placed_px if moves is None else moves,
            intensities=found.intensities,
            variation=self._resampling.variation_back(found.probe_variation),
            losses=dict(enumerate(done.likelihoods)),
        )
        how = self._how(len(done.likelihoods) - 1, is_stopped)
        spent = ', '.join(f'{name} {seconds:.2f} s' for name, seconds in done.timing.items())
        patterns = count(done.patterns, 'pattern') + self._left_out(done)
        # A run that was stopped has the numbers at its beginning.
        course = ''
        if done.course and not is_stopped:
            course = f'{done.course[:1].upper()}{done.course[1:]}.'
        # The panel shows what comes last.
        if done.unfit:
            logger.warning('%s', done.unfit)
        logger.log(
            logging.WARNING if done.points_to_a_fault else logging.INFO,
            '%s, on %s (%s); amplitude residual %.4f. %s',
            *(how, patterns, spent, done.amplitude_residual),
            ' '.join(filter(None, (course, done.fit, done.sure, done.unknown))),
        )

    def _how(self, iterations: int, is_stopped: bool) -> str:
        """Return how far the run has come, as the beginning of a sentence."""
        wanted = self._iterations or 0
        if is_stopped and iterations == 0 and self._passes_done < self._passes:
            passes = count(self._passes, 'pass', 'es')
            return f'Stopped after {self._passes_done} of {passes} of the network'
        if is_stopped and iterations == 0 and self._iterations is None:
            return 'Stopped before the first iteration'
        if is_stopped and iterations < wanted:
            return f'Stopped after {iterations} of {count(wanted, "iteration")}'
        if iterations == 0:
            return 'The network alone'
        if iterations < wanted:
            return f'{iterations:,} of {count(wanted, "iteration")}'
        return count(iterations, 'iteration')

    def _left_out(self, done: ReconstructionDone) -> str:
        """Return how many patterns the object is not made of, and why, to be appended."""
        by_worker = 'without light or unlike the others' if done.dropped else 'without light'
        reasons = {by_worker: done.left_out, 'without a position': self._n_without_position}
        parts = [f'{number} {reason}' for reason, number in reasons.items() if number]
        return f' and {sum(reasons.values())} left out ({", ".join(parts)})' if parts else ''

    def output(self) -> ReconstructOutput:
        """Return what the host is to draw."""
        return ReconstructOutput(self._product, self.progress)


def log_stopped(run: Run, *, has_picture: bool) -> None:
    """Log what becomes of an inference that was stopped and has handed over no result."""
    what = 'Stopped before there was a picture: there is no new product.'
    if has_picture:
        what = 'Stopped: the object is that of the last picture.'
    logger.warning('%s', f'{what} {run.end_error}'.rstrip())
