"""The worker's process, seen from the host: how it starts, what it sends, and how it ends."""

import collections
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ptychopinn_plugin.errors import WorkerError
from ptychopinn_plugin.host.worker.ipc import Sender, read_message
from ptychopinn_plugin.host.worker.messages import (
    BlockRead,
    Heartbeat,
    Idle,
    LogLine,
    RunFailed,
    RunReport,
    StartRun,
    ToHost,
    ToWorker,
)

EXIT_S = 2.0
"""Once its output has ended, a worker has at most this number of seconds to be gone."""

STDERR_LINES = 12
"""This many lines of its error output are kept, to explain why it died."""

logger = logging.getLogger('ptychopinn_plugin')

RunMessage = RunReport | RunFailed | BlockRead


class WorkerProcess:
    """The child process and the threads that read its output.

    Parameters
    ----------
    backend : str, optional
        Which one it will run, if that is known.
    on_idle : callable
        Gets this object when the child has had nothing to do for a while.

    Attributes
    ----------
    inbox : queue.Queue
        Messages about runs. The last item is the `WorkerError` that explains a message which was
        not understood, or None where the output of the child has ended.
    last_message : float
        When the last message of any kind came, by `time.monotonic`.

    Raises
    ------
    WorkerError
        If there is no path of the Python interpreter.
    """

    def __init__(
        self,
        backend: str | None,
        on_idle: Callable[['WorkerProcess'], None],
    ) -> None:
        if not sys.executable:
            raise WorkerError(
                'A worker needs the path of the Python interpreter, which this program does not '
                'know. Start Ptychodus with: ptychodus-pinn.'
            )
        self.backend = backend
        self._on_idle = on_idle
        self.inbox: queue.Queue[RunMessage | WorkerError | None] = queue.Queue()
        self.last_message = time.monotonic()
        self._stderr_lines: collections.deque[str] = collections.deque(maxlen=STDERR_LINES)
        # multiprocessing would import the host's main script once more in the child, which costs
        # a second and hangs where the script has no guard.
        self._popen = subprocess.Popen(
            # -P: nothing is imported from the folder that happens to be the current one.
            [sys.executable, '-P', '-m', 'ptychopinn_plugin.host.worker.server'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
        assert self._popen.stdin is not None
        self._sender = Sender(self._popen.stdin)
        self._threads = [
            threading.Thread(target=self._read_messages, daemon=True, name='worker messages'),
            threading.Thread(target=self._read_stderr, daemon=True, name='worker output'),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._popen.pid

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return self._popen.poll() is None

    def serves(self, backend: str) -> bool:
        """Return whether it can run this backend; it loads one framework in its life."""
        return self.backend in (None, backend)

    def send(self, message: ToWorker) -> None:
        """Send a message.

        Raises
        ------
        WorkerError
            If the child is gone; the text explains how it died.
        """
        if isinstance(message, StartRun):
            self.backend = message.job.backend
        try:
            self._sender.send(message)
        except (OSError, ValueError) as error:
            raise self.exit_error() from error

    def end(self) -> None:
        """Kill it, whatever it does: what is to be kept it has handed over before.

        A request to leave would wait while it imports or computes. The memory that it shares goes
        with it, see `ipc.SharedArrays`.
        """
        self._popen.kill()
        self._popen.wait()
        for thread in self._threads:
            thread.join(EXIT_S)
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            assert stream is not None
            # What the child did not read is lost.
            with suppress(OSError):
                stream.close()

    def exit_error(self) -> WorkerError:
        """Return the error that explains how it died, with the last line of its error output."""
        try:
            code = self._popen.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        self._threads[1].join(EXIT_S)
        lines = (line.strip() for line in reversed(self._stderr_lines))
        last = next(filter(None, lines), '')
        return WorkerError(
            f'The worker died while it worked ({_cause(code)}); the next run starts a new one.'
            + (f' The last line of its output: {last}' if last else '')
        )

    def _read_messages(self) -> None:
        assert self._popen.stdout is not None
        last: WorkerError | None = None
        try:
            while (message := read_message(self._popen.stdout, ToHost)) is not None:
                self.last_message = time.monotonic()
                self._take(message)
        except WorkerError as error:
            last = error
        except (OSError, ValueError):
            # `end` has closed the stream.
            pass
        self.inbox.put(last)

    def _take(self, message: ToHost) -> None:
        if isinstance(message, LogLine):
            logger.log(message.level, '%s', message.text)
        elif isinstance(message, Idle):
            self._on_idle(self)
        elif not isinstance(message, Heartbeat):
            self.inbox.put(message)

    def _read_stderr(self) -> None:
        assert self._popen.stderr is not None
        with suppress(OSError, ValueError):
            for line in self._popen.stderr:
                text = line.decode('utf-8', 'replace').rstrip()
                self._stderr_lines.append(text)
                logger.debug('worker: %s', text)


def _environment() -> dict[str, str]:
    """Return the environment of a worker: it imports from where its parent does."""
    folders = [path for path in sys.path if path and os.path.isdir(path)]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(folders), 'PYTHONUNBUFFERED': '1'}


def _cause(code: int) -> str:
    if code == -9:
        return 'killed; often because memory ran out: a smaller batch or fewer patterns need less'
    if code < 0:
        return f'by signal {-code}'
    return f'exit code {code}'
