"""Lines about a run in the window's log."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptychopinn_plugin.backends.selection import Choice
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.host.worker.jobs import checkpoint_path
from ptychopinn_plugin.host.worker.messages import RunProgress

logger = logging.getLogger('ptychopinn_plugin')


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Log in one line why the block failed, for the window; the console shows the traceback.

    Parameters
    ----------
    what : str
        The action that failed, as the line begins.
    """
    try:
        yield
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        logger.error('%s failed: %s', what, reason)
        raise


def note_checkpoint(output: Path, begun: float) -> None:
    """Log where the model so far lies, if this run has left one.

    Parameters
    ----------
    output : Path
        Where the model was to lie.
    begun : float
        When the run began, by `time.time`; a checkpoint that is older belongs to another run.
    """
    path = checkpoint_path(output)
    if path.is_file() and path.stat().st_mtime >= begun:
        logger.warning(
            'What was learned until %s is kept in %s; Load Model opens it, and ptychopinn train '
            '--resume continues it.',
            time.strftime('%H:%M', time.localtime(path.stat().st_mtime)),
            path,
        )


def log_epoch(number: int, progress: RunProgress) -> None:
    """Log the losses of an epoch, and the patterns per second where they are known."""
    losses = ', '.join(f'{name} {value:.5g}' for name, value in progress.losses.items())
    rate = progress.patterns_per_second
    speed = '' if rate is None else f', {rate:.0f} patterns/s'
    logger.info('epoch %d: %s%s', number, losses, speed)


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
