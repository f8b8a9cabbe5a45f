"""The worker itself: ``python -m ptychopinn_plugin.host.worker.server`` obeys its standard input.

It ends when its parent does: with the end of the input, or when another process adopts it.
"""

import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any

from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host.worker.ipc import Message, Sender, SharedArrays, read_message
from ptychopinn_plugin.host.worker.jobs import Jobs
from ptychopinn_plugin.log import logging_warnings

BEAT_S = 1.0
"""How often it says that it lives."""


class HostConnection:
    """Everything that the worker says of the job under way, `run`, and hears of it."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._lent = SharedArrays()
        self.run: int | None = None
        self._stopped_run: int | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the parent asked the job under way to end."""
        return self.run is not None and self._stopped_run == self.run

    def stop(self, run: int) -> None:
        """Note that a job is to end; it may not have begun."""
        self._stopped_run = run

    def send(self, event: str, values: Message, arrays: dict[str, Any] | None = None) -> None:
        """Tell the parent something of the job under way."""
        described = {name: self._lent.share(array) for name, array in (arrays or {}).items()}
        self._send({'event': event, 'values': values, 'arrays': described})

    def fail(self, error: BaseException) -> None:
        """Tell the parent that the job failed."""
        text = ' '.join(str(error).split()) or type(error).__name__
        trace = ''.join(traceback.format_exception(error))
        self._send(
            {'event': 'error', 'type': type(error).__name__, 'text': text, 'traceback': trace}
        )

    def log(self, level: int, text: str) -> None:
        """Send a line to the parent's log."""
        self._send({'event': 'log', 'level': level, 'text': text})

    def heartbeat(self) -> None:
        """Say that the worker lives."""
        self._send({'event': 'beat'})

    def release(self, block: str) -> None:
        """Free an array that the parent has read."""
        self._lent.release(block)

    def leave(self, code: int) -> None:
        """End the process at once, whatever it computes."""
        self._lent.release_all()
        os._exit(code)

    def _send(self, message: Message) -> None:
        try:
            self._sender.send({**message, 'run': self.run})
        except (OSError, ValueError):
            # Nobody listens: the parent is gone.
            self.leave(1)


class _Forwarder(logging.Handler):
    """Sends what this package logs to the parent."""

    def __init__(self, voice: HostConnection) -> None:
        super().__init__(logging.INFO)
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        self._voice.log(record.levelno, record.getMessage())


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Obey messages until there are no more; say so where none comes for a while."""
    voice = HostConnection(Sender(sink))
    inbox: queue.Queue[Message] = queue.Queue()
    parent = os.getppid()
    _start(lambda: _listen(source, voice, inbox))
    _start(lambda: _beat(voice, parent))
    logger = logging.getLogger('ptychopinn_plugin')
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Forwarder(voice))
    jobs = Jobs(voice)
    idle_s: float | None = None
    while True:
        try:
            message = inbox.get(timeout=idle_s)
        except queue.Empty:
            # The parent decides: a job may be on its way.
            voice.send('idle', {})
            continue
        idle_s = float(message.get('idle_s') or 0) or None
        voice.run = message['run']
        _obey(message, jobs, voice)
        voice.run = None


def _obey(message: Message, jobs: Jobs, voice: HostConnection) -> None:
    try:
        jobs.do(message)
    except PtychoPinnError as error:
        voice.fail(error)
    except MemoryError as error:
        voice.fail(MemoryError(f'memory ran out {error}'.strip()))
    except Exception as error:  # noqa: BLE001 - a worker outlives any failure of a job
        voice.fail(error)


def _listen(source: IO[bytes], voice: HostConnection, inbox: queue.Queue[Message]) -> None:
    while (message := read_message(source)) is not None:
        if message['do'] == 'stop':
            voice.stop(message['run'])
        elif message['do'] == 'release':
            voice.release(message['block'])
        else:
            inbox.put(message)
    voice.leave(0)


def _beat(voice: HostConnection, parent: int) -> None:
    pause = threading.Event()
    while not pause.wait(BEAT_S):
        if os.getppid() != parent:
            # The parent was killed while another child of it holds our input open.
            voice.leave(1)
        voice.heartbeat()


def _start(target: Callable[[], None]) -> None:
    threading.Thread(target=target, daemon=True).start()


def main() -> None:
    """Keep the standard output for messages and send whatever libraries print elsewhere."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), 'wb')
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Ctrl-C in a terminal is for the host, whose end ends this process as well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with logging_warnings():
        serve(sys.stdin.buffer, sink)


if __name__ == '__main__':
    main()
