"""Lines about a run in the window's log."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ptychopinn_plugin.backends.selection import Choice
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host.panel_wording import in_words_of_the_panel
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.wording import stage_line
from ptychopinn_plugin.host.worker.jobs import checkpoint_path
from ptychopinn_plugin.host.worker.messages import RunProgress

STAGE_LOG_S = 9.0
"""In batch mode this number of seconds lies between two lines on the same stage; it is looked at
twice a second, so that a line comes every ten seconds at the latest."""

logger = logging.getLogger('ptychopinn_plugin')


@contextmanager
def reported(what: str, afterwards: Callable[[], str] = str) -> Iterator[None]:
    """Log in one line why the block failed, for the window; the console shows the traceback.

    Parameters
    ----------
    what : str
        The action that failed, as the line begins.
    afterwards : callable
        Returns what else there is to report once it has failed, as a sentence.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, PtychoPinnError):
            # The host shows some errors in a dialog of its own.
            error.args = (in_words_of_the_panel(str(error)),)
        reason = ' '.join(str(error).split()) or type(error).__name__
        logger.error('%s failed: %s', what, f'{reason} {afterwards()}'.rstrip())
        raise


def kept_checkpoint(output: Path, begun: float) -> str:
    """Return where the model so far lies, as a sentence; empty where this run has left none.

    Parameters
    ----------
    output : Path
        Where the model was to lie.
    begun : float
        When the run began, by `time.time`; a checkpoint that is older belongs to another run.
    """
    path = checkpoint_path(output)
    if not path.is_file() or path.stat().st_mtime < begun:
        return ''
    until = time.strftime('%H:%M', time.localtime(path.stat().st_mtime))
    return (
        f'What was learned until {until} is kept in {path}; Load Model... opens it, and a training '
        'with Fine-tune ticked goes on from it.'
    )


class EpochLog:
    """A line for each epoch, as soon as it has ended."""

    def __init__(self) -> None:
        self._number = 0

    def note(self, progress: RunProgress) -> None:
        """Take in progress of a training."""
        if not progress.is_epoch_end:
            return
        self._number += 1
        losses = ', '.join(
            f'{_LOSSES.get(name, name)} {value:.5g}' for name, value in progress.losses.items()
        )
        rate = progress.patterns_per_second
        text = f'Epoch {self._number}: {losses}'
        if progress.is_cut:
            text += '; it was cut short, after a part of its patterns'
        elif rate is not None:
            text += f'; {rate:,.0f} patterns per second'
        logger.info('%s.', text)


_LOSSES = {'loss': 'training loss', 'validation_loss': 'validation loss'}


class StageLog:
    """Lines on where a run is, for batch mode, which has no panel.

    Parameters
    ----------
    activity : Activity
    """

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._stage, self._logged_s = '', time.monotonic()

    def note(self) -> None:
        """Write a line where a stage begins, and one every ten seconds at the latest."""
        now = time.monotonic()
        if self._activity.stage != self._stage or now - self._logged_s >= STAGE_LOG_S:
            self._stage, self._logged_s = self._activity.stage, now
            logger.info('%s.', stage_line(self._activity, now))


def described(choice: Choice) -> str:
    """Return the name of a backend and why it was chosen."""
    why = {
        'environment': 'chosen by PTYCHOPINN_BACKEND',
        'setting': 'chosen by the setting Backend',
        'model': 'it trained the model',
        'auto': 'the first that is installed',
        'argument': 'chosen by the caller',
    }
    return f'{choice.name} ({why[choice.source]})'


def log_notes(scan: Scan) -> None:
    """Log what was assumed of a scan, changed or left out."""
    for note in scan.notes:
        logger.info('%s: %s', scan.name, note)
