"""The host's side of the process in which frameworks live: jobs go in, events come out.

The host never imports a framework. Its worker is started once and kept, so that the second run
finds the framework, the device and the model where the first left them.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ptychopinn_plugin import errors
from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import PtychoPinnError, WorkerError
from ptychopinn_plugin.host.worker.ipc import Message, SharedArrays, copy_shared
from ptychopinn_plugin.host.worker.process import WorkerProcess

SILENCE_S = 120.0
"""A worker that says nothing for so long, not even that it lives, is taken for stuck."""

logger = logging.getLogger('ptychopinn_plugin')


@dataclass(frozen=True)
class Event:
    """What a worker says of a run.

    Attributes
    ----------
    kind : str
        'progress' or 'done'.
    values : mapping
        Plain values.
    arrays : mapping of str to ndarray
    """

    kind: str
    values: Mapping[str, Any]
    arrays: Mapping[str, RealArray] = field(default_factory=dict)


class Worker:
    """A warm child process that runs one job at a time.

    Parameters
    ----------
    idle_s : float
        After so long without a job the process ends and frees its memory, the GPU's too; the next
        job starts another one.
    silence_s : float
        See `SILENCE_S`.
    wording : callable
        Puts log lines and errors into the words of who reads them.
    """

    def __init__(
        self,
        *,
        idle_s: float = 600.0,
        silence_s: float = SILENCE_S,
        wording: Callable[[str], str] = str,
    ) -> None:
        self._wording = wording
        self.idle_s = idle_s
        self.silence_s = silence_s
        self._process: WorkerProcess | None = None
        self._numbers = itertools.count(1)
        self._busy = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The process' number while it lives."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def run(self, job: Message, arrays: Mapping[str, RealArray] | None = None) -> 'Run':
        """Begin a job.

        Parameters
        ----------
        job : dict
            Plain values; 'do' says what, 'backend' with which one.
        arrays : mapping of str to ndarray, optional
            They travel in shared memory.

        Raises
        ------
        WorkerError
            If another job is under way, or the process does not start.
        """
        # An idle process that is just let go holds it for a moment.
        if not self._busy.acquire(timeout=0.5):
            raise WorkerError('The worker is busy with another run. Wait for it, or stop it.')
        lent = SharedArrays()
        try:
            process = self._ready_process(job.get('backend'))
            number = next(self._numbers)
            described = {name: lent.share(array) for name, array in (arrays or {}).items()}
            message = {**job, 'run': number, 'arrays': described, 'idle_s': self.idle_s}
            run = Run(process, number, lent, self._busy, self.silence_s)
            process.send(message)
        except BaseException:
            lent.release_all()
            self._busy.release()
            raise
        return run

    def _ready_process(self, backend: str | None) -> WorkerProcess:
        process = self._process
        if process is not None and process.is_alive() and process.serves(backend):
            return process
        if process is not None:
            process.end()
        process = WorkerProcess(backend, self._retire, self._wording)
        self._process = process
        return process

    def _retire(self, process: WorkerProcess) -> None:
        """Let an idle process go, and with it all memory that its framework holds."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            if process is self._process:
                self._process = None
                logger.debug('The worker was idle for %.0f s and is let go.', self.idle_s)
                # The caller is one of the threads that `end` waits for.
                threading.Thread(target=process.end, daemon=True).start()
        finally:
            self._busy.release()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = None


class Run:
    """One job of a worker: what it says, until it is done, fails or dies.

    Use it as a context; leaving it early ends the worker, so that nothing is left running.
    """

    def __init__(
        self,
        process: WorkerProcess,
        number: int,
        lent: SharedArrays,
        busy: threading.Lock,
        silence_s: float,
    ) -> None:
        self._process, self._number = process, number
        self._lent, self._busy, self._silence_s = lent, busy, silence_s
        self._is_over = False

    def __enter__(self) -> 'Run':
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_over:
            self._process.end()
            self._finish()

    def stop(self) -> None:
        """Ask the job to end soon with the best that it has."""
        with suppress(WorkerError):
            self._process.send({'do': 'stop', 'run': self._number})

    def events(self, tick_s: float = 0.5) -> Iterator[Event | None]:
        """Yield what the worker says, and None whenever it says nothing for `tick_s`.

        Raises
        ------
        PtychoPinnError
            What went wrong in the job, as the worker raised it.
        WorkerError
            If the worker died, or is stuck.
        """
        silent_s, heard = 0.0, self._process.last_heard
        while True:
            asked = time.monotonic()
            try:
                message = self._process.inbox.get(timeout=tick_s)
            except queue.Empty:
                if self._process.last_heard != heard:
                    silent_s, heard = 0.0, self._process.last_heard
                # Only time that was spent listening: this process may have been suspended, and
                # the worker with it.
                silent_s += min(time.monotonic() - asked, 2 * tick_s)
                self._check_silence(silent_s)
                yield None
                continue
            if message is None:
                self._finish()
                raise self._process.exit_error()
            if message.get('run') != self._number:
                continue
            if message['event'] == 'error':
                self._finish()
                raise _error_of(message)
            if message['event'] == 'taken':
                self._lent.release(message['values']['block'])
                continue
            event = self._receive(message)
            if event.kind == 'done':
                self._finish()
                yield event
                return
            yield event

    def _receive(self, message: Message) -> Event:
        arrays = {}
        for name, described in message.get('arrays', {}).items():
            try:
                arrays[name] = copy_shared(described)
            except FileNotFoundError:
                # The lender died; the end of its stream says so next.
                continue
            with suppress(WorkerError):
                self._process.send({'do': 'release', 'block': described['block']})
        return Event(message['event'], message.get('values', {}), arrays)

    def _check_silence(self, silent_s: float) -> None:
        if silent_s < self._silence_s:
            return
        self._process.end()
        self._finish()
        raise WorkerError(
            f'The worker has said nothing for {silent_s:.0f} s and was ended; the next run starts '
            'a new one. If this happens again, see: ptychopinn doctor.'
        )

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._lent.release_all()
            self._busy.release()


def _error_of(message: Message) -> PtychoPinnError:
    """Make the exception that the worker reports; one of no class of ours is a WorkerError."""
    kind = getattr(errors, message['type'], None)
    if isinstance(kind, type) and issubclass(kind, PtychoPinnError):
        return kind(message['text'])
    logger.debug('%s', message.get('traceback', ''))
    return WorkerError(f'{message["type"]}: {message["text"]}')
