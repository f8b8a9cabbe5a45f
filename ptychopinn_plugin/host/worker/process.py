"""The worker's process, seen from the host: how it starts, is heard, is ended, and died."""

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
from ptychopinn_plugin.host.worker.ipc import Message, Sender, read_message

GOODBYE_S = 2.0
"""A worker whose output has ended gets so long to be gone, and its last words to be read."""

LAST_WORDS = 12
"""Lines of its error output that are kept for the case that it dies."""

logger = logging.getLogger('ptychopinn_plugin')


class WorkerProcess:
    """The child process and the threads that listen to it.

    Parameters
    ----------
    backend : str, optional
        Which one it will run, if that is known.
    on_idle : callable
        Gets this object when the child has had nothing to do for a while.
    wording : callable
        Puts what it says into the user's words.

    Attributes
    ----------
    inbox : queue.Queue
        What the child says of its job; None when it says no more.
    last_heard : float
        When it last said anything, by `time.monotonic`.
    """

    def __init__(
        self,
        backend: str | None,
        on_idle: Callable[['WorkerProcess'], None],
        wording: Callable[[str], str],
    ) -> None:
        if not sys.executable:
            raise WorkerError(
                'A worker needs the path of the Python interpreter, which this program does not '
                'know. Start Ptychodus with: ptychodus-pinn.'
            )
        self.backend = backend
        self._on_idle, self._wording = on_idle, wording
        self.inbox: queue.Queue[Message | None] = queue.Queue()
        self.last_heard = time.monotonic()
        self._last_words: collections.deque[str] = collections.deque(maxlen=LAST_WORDS)
        # Not multiprocessing: that imports the host's main script once more in the child, which
        # costs a second and hangs where the script has no guard.
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
            threading.Thread(target=self._listen, daemon=True, name='worker messages'),
            threading.Thread(target=self._read_stderr, daemon=True, name='worker output'),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._popen.pid

    def is_alive(self) -> bool:
        """Tell whether it runs."""
        return self._popen.poll() is None

    def serves(self, backend: str | None) -> bool:
        """Tell whether it can run this backend: it loads one framework in its life."""
        return backend is None or self.backend in (None, backend)

    def send(self, message: Message) -> None:
        """Send a message, or raise the `WorkerError` that says how the child died."""
        self.backend = self.backend or message.get('backend')
        try:
            self._sender.send(message)
        except (OSError, ValueError) as error:
            raise self.exit_error() from error

    def end(self) -> None:
        """End it at once, whatever it does: what is to be kept it has handed over before.

        Asked to leave, it would not hear while it imports or computes. The memory that it lends
        goes with it, see `channel.SharedArrays`.
        """
        self._popen.kill()
        self._popen.wait()
        for thread in self._threads:
            thread.join(GOODBYE_S)
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            assert stream is not None
            # What the child did not read goes nowhere.
            with suppress(OSError):
                stream.close()

    def exit_error(self) -> WorkerError:
        """Return the error that says how it died."""
        try:
            code = self._popen.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        self._threads[1].join(GOODBYE_S)
        words = next((line for line in reversed(self._last_words) if line.strip()), '')
        said = f' Its last words: {words.strip()}' if words else ''
        return WorkerError(
            f'The worker died while it worked ({_cause(code)}); the next run starts a new one.'
            f'{said}'
        )

    def _listen(self) -> None:
        assert self._popen.stdout is not None
        with suppress(OSError, ValueError):
            while (message := read_message(self._popen.stdout)) is not None:
                self.last_heard = time.monotonic()
                if 'text' in message:
                    message['text'] = self._wording(message['text'])
                if message['event'] == 'log':
                    logger.log(message['level'], '%s', message['text'])
                elif message['event'] == 'idle':
                    self._on_idle(self)
                elif message['event'] != 'beat':
                    self.inbox.put(message)
        self.inbox.put(None)

    def _read_stderr(self) -> None:
        assert self._popen.stderr is not None
        with suppress(OSError, ValueError):
            for line in self._popen.stderr:
                text = line.decode('utf-8', 'replace').rstrip()
                self._last_words.append(text)
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
