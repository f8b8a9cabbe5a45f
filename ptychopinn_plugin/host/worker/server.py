"""The worker itself: ``python -m ptychopinn_plugin.host.worker.server`` reads jobs from its input.

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
from contextlib import suppress
from typing import IO

from ptychopinn_plugin.errors import WorkerError
from ptychopinn_plugin.host.worker.arrays import ReportArrays
from ptychopinn_plugin.host.worker.blocks import remove_orphans
from ptychopinn_plugin.host.worker.ipc import Sender, SharedArrays, read_message
from ptychopinn_plugin.host.worker.jobs import Jobs
from ptychopinn_plugin.host.worker.messages import (
    BlockRead,
    Heartbeat,
    Idle,
    LogLine,
    PrepareBackend,
    Report,
    RunFailed,
    RunReport,
    StartRun,
    StopRun,
    ToHost,
    ToWorker,
)
from ptychopinn_plugin.log import logging_warnings

HEARTBEAT_S = 1.0
"""The worker sends that it is alive once in this number of seconds."""


class HostConnection:
    """The way to the parent process, for the run under way.

    Attributes
    ----------
    run : int, optional
        Number of the run under way.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._shared = SharedArrays()
        self.run: int | None = None
        self._stopped_run: int | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the parent has requested the end of the run under way."""
        return self.run is not None and self._stopped_run == self.run

    @property
    def is_host_behind(self) -> bool:
        """Whether the parent has not copied all arrays yet."""
        return len(self._shared) > 0

    def stop(self, run: int) -> None:
        """Note that a run is to end; it may not have begun."""
        self._stopped_run = run

    def send(self, report: Report, arrays: ReportArrays | None = None) -> None:
        """Send a report on the run under way, with arrays beside it."""
        described = self._shared.share_fields(arrays)
        self.send_message(RunReport(self._number(), report, described))

    def confirm_read(self, block: str) -> None:
        """Send that an array of the job is copied, so that the parent may free it."""
        self.send_message(BlockRead(self._number(), block))

    def fail(self, error: BaseException) -> None:
        """Send that the run under way failed."""
        text = ' '.join(str(error).split()) or type(error).__name__
        trace = ''.join(traceback.format_exception(error))
        self.send_message(RunFailed(self._number(), type(error).__name__, text, trace))

    def release(self, block: str) -> None:
        """Free an array that the parent has copied."""
        self._shared.release(block)

    def leave(self, code: int) -> None:
        """End the process at once, whatever it computes."""
        self._shared.release_all()
        os._exit(code)

    def send_message(self, message: ToHost) -> None:
        """Send any message; where the parent is gone, the process ends."""
        try:
            self._sender.send(message)
        except (OSError, ValueError):
            self.leave(1)

    def _number(self) -> int:
        assert self.run is not None
        return self.run


class _Forwarder(logging.Handler):
    """Sends what this package logs to the parent."""

    def __init__(self, connection: HostConnection) -> None:
        super().__init__(logging.INFO)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        self._connection.send_message(LogLine(record.levelno, record.getMessage()))


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Run jobs as they come, and send `Idle` where none comes for a while; never returns."""
    connection = HostConnection(Sender(sink))
    remove_orphans()
    inbox: queue.Queue[StartRun | PrepareBackend] = queue.Queue()
    parent = os.getppid()
    _start(lambda: _read_messages(source, connection, inbox))
    _start(lambda: _send_heartbeats(connection, parent))
    logger = logging.getLogger('ptychopinn_plugin')
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Forwarder(connection))
    jobs = Jobs(connection)
    idle_s: float | None = None
    while True:
        try:
            start = inbox.get(timeout=idle_s)
        except queue.Empty:
            # The parent decides: a job may be on its way.
            connection.send_message(Idle())
            continue
        idle_s = start.idle_s or None
        if isinstance(start, PrepareBackend):
            # What goes wrong goes wrong again in the run, which reports it.
            with suppress(Exception):
                jobs.prepare(start.backend, start.model_path)
            continue
        connection.run = start.run
        _run(start, jobs, connection)
        connection.run = None


def _run(start: StartRun, jobs: Jobs, connection: HostConnection) -> None:
    try:
        jobs.do(start.job, start.arrays)
        return
    except MemoryError as error:
        connection.fail(MemoryError(f'memory ran out {error}'.strip()))
    except Exception as error:  # noqa: BLE001 - a worker outlives any failure of a job
        connection.fail(error)
    # Outside of the handlers, as an error holds all that was being computed.
    jobs.release_memory()


def _read_messages(
    source: IO[bytes], connection: HostConnection, inbox: 'queue.Queue[StartRun | PrepareBackend]'
) -> None:
    try:
        while (message := read_message(source, ToWorker)) is not None:
            if isinstance(message, StopRun):
                connection.stop(message.run)
            elif isinstance(message, StartRun | PrepareBackend):
                inbox.put(message)
            else:
                connection.release(message.block)
    except WorkerError as error:
        # The parent reads the last line of the error output when this process ends.
        sys.stderr.write(f'{error}\n')
        sys.stderr.flush()
        connection.leave(2)
    connection.leave(0)


def _send_heartbeats(connection: HostConnection, parent: int) -> None:
    pause = threading.Event()
    while not pause.wait(HEARTBEAT_S):
        if os.getppid() != parent:
            # The parent was killed while another child of it holds our input open.
            connection.leave(1)
        connection.send_message(Heartbeat())


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
