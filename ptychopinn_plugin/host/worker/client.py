"""The host's side of the process in which frameworks live: jobs go in, reports come out.

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
from dataclasses import dataclass
from pathlib import Path

from ptychopinn_plugin import errors
from ptychopinn_plugin.errors import PtychoPinnError, WorkerError
from ptychopinn_plugin.host.worker.arrays import (
    CheckPictures,
    ObjectPicture,
    ReportArrays,
    ResultArrays,
    ScanArrays,
)
from ptychopinn_plugin.host.worker.blocks import remove_orphans
from ptychopinn_plugin.host.worker.ipc import SharedArrays, copy_fields
from ptychopinn_plugin.host.worker.messages import (
    BlockRead,
    CheckDone,
    Job,
    PrepareBackend,
    ReconstructionDone,
    ReleaseBlock,
    Report,
    RunFailed,
    RunProgress,
    RunReport,
    StartRun,
    StopRun,
)
from ptychopinn_plugin.host.worker.process import WorkerProcess

SILENCE_S = 120.0
"""A worker that has sent nothing for this many seconds, no heartbeat either, counts as stuck."""

_BESIDE: Mapping[type[Report], type[ReportArrays]] = {
    RunProgress: ObjectPicture,
    ReconstructionDone: ResultArrays,
    CheckDone: CheckPictures,
}
"""The arrays that go beside such a report are of this class."""

logger = logging.getLogger('ptychopinn_plugin')


@dataclass(frozen=True)
class Event:
    """What came of a run.

    Attributes
    ----------
    report : RunProgress, TrainingDone, ReconstructionDone or CheckDone
    arrays : ObjectPicture, ResultArrays or CheckPictures, optional
        What came beside it.
    """

    report: Report
    arrays: ReportArrays | None = None

    @property
    def is_last(self) -> bool:
        """Whether the run has ended with this event."""
        return not isinstance(self.report, RunProgress)

    @property
    def picture(self) -> ObjectPicture | None:
        """The picture that came with progress, where one did."""
        return self.arrays if isinstance(self.arrays, ObjectPicture) else None


class Worker:
    """A warm child process that runs one job at a time.

    Parameters
    ----------
    idle_s : float
        After this many seconds without a job the process ends and frees its memory, the GPU's too;
        the next job starts another one.
    silence_s : float
        See `SILENCE_S`.
    """

    def __init__(
        self,
        *,
        idle_s: float = 600.0,
        silence_s: float = SILENCE_S,
    ) -> None:
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

    def run(self, job: Job, arrays: ScanArrays | None = None) -> 'Run':
        """Begin a job.

        Parameters
        ----------
        job : TrainJob, ReconstructJob or CheckJob
        arrays : ScanArrays, optional
            What a `ReconstructJob` or a `CheckJob` needs of its scan.

        Raises
        ------
        WorkerError
            If another job is under way, the process does not start, or shared memory is full.
        """
        # An idle process that is being ended holds it for a moment.
        if not self._busy.acquire(timeout=0.5):
            raise WorkerError('The worker is busy with another run. Wait for it, or stop it.')
        shared = SharedArrays()
        try:
            process = self._ready_process(job.backend)
            number = next(self._numbers)
            described = shared.share_fields(arrays)
            run = Run(process, number, shared, self._busy, self.silence_s)
            process.send(StartRun(number, job, float(self.idle_s), described))
        except BaseException:
            shared.release_all()
            self._busy.release()
            raise
        return run

    def prepare(self, backend: str, model_path: Path | None = None) -> None:
        """Start a process for a run that is expected, and let it import the framework.

        Nothing is done where a process is there already. It ends when it is idle, as any other.

        Parameters
        ----------
        backend : str
        model_path : Path, optional
            The file of the model that it is expected to need.
        """
        if self.pid is not None or not self._busy.acquire(blocking=False):
            return
        try:
            # The run that follows meets the same error, and reports it.
            with suppress(WorkerError, OSError):
                process = self._ready_process(backend)
                process.send(PrepareBackend(backend, model_path, float(self.idle_s)))
        finally:
            self._busy.release()

    def _ready_process(self, backend: str) -> WorkerProcess:
        process = self._process
        if process is not None and process.is_alive() and process.serves(backend):
            return process
        if process is not None:
            process.end()
        remove_orphans()
        process = WorkerProcess(backend, self._retire)
        self._process = process
        return process

    def _retire(self, process: WorkerProcess) -> None:
        """End an idle process, and free all memory that its framework holds."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            if process is self._process:
                self._process = None
                logger.debug('The worker was idle for %.0f s and is ended.', self.idle_s)
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
    """One job of a worker and its events, until it is done, fails or dies.

    Use it as a context; leaving it early ends the worker, so that nothing is left running.

    Attributes
    ----------
    end_error : str
        Why a run that was stopped has no last event, as a sentence; else empty.
    """

    def __init__(
        self,
        process: WorkerProcess,
        number: int,
        shared: SharedArrays,
        busy: threading.Lock,
        silence_s: float,
    ) -> None:
        self._process, self._number = process, number
        self._shared, self._busy, self._silence_s = shared, busy, silence_s
        self._is_over = False
        self.end_error = ''

    def __enter__(self) -> 'Run':
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_over:
            self._abandon()

    def stop(self) -> None:
        """Request that the job ends soon with the best that it has."""
        with suppress(WorkerError):
            self._process.send(StopRun(self._number))

    def events(self, tick_s: float = 0.5) -> Iterator[Event | None]:
        """Yield events as they come, and None whenever none came for `tick_s` seconds.

        Raises
        ------
        PtychoPinnError
            What went wrong in the job, as the worker raised it.
        WorkerError
            If the worker died, is stuck, or sent what is not a message.
        """
        silent_s, last_message = 0.0, self._process.last_message
        while True:
            began = time.monotonic()
            try:
                message = self._process.inbox.get(timeout=tick_s)
            except queue.Empty:
                if self._process.last_message != last_message:
                    silent_s, last_message = 0.0, self._process.last_message
                # Only time that was spent waiting: this process may have been suspended, and the
                # worker with it.
                silent_s += min(time.monotonic() - began, 2 * tick_s)
                self._check_silence(silent_s)
                yield None
                continue
            if isinstance(message, WorkerError):
                self._abandon()
                raise message
            if message is None:
                self._finish()
                raise self._process.exit_error()
            # It is left over from a run before this one.
            if message.run != self._number:
                continue
            if isinstance(message, RunFailed):
                self._finish()
                raise _error_of(message)
            if isinstance(message, BlockRead):
                self._shared.release(message.block)
                continue
            try:
                event = self._receive(message)
            except FileNotFoundError:
                # The worker died; the end of its output is the next item of the inbox.
                continue
            if event.is_last:
                self._finish()
                yield event
                return
            yield event

    def _receive(self, message: RunReport) -> Event:
        kind = _BESIDE.get(type(message.report))
        if kind is None or not message.arrays:
            return Event(message.report)
        return Event(message.report, copy_fields(kind, message.arrays, self._free))

    def _free(self, block: str) -> None:
        with suppress(WorkerError):
            self._process.send(ReleaseBlock(block))

    def _check_silence(self, silent_s: float) -> None:
        if silent_s < self._silence_s:
            return
        self._abandon()
        raise WorkerError(
            f'The worker has sent nothing for {silent_s:.0f} s and was ended; the next run starts '
            'a new one. If this happens again, see: ptychopinn doctor.'
        )

    def _abandon(self) -> None:
        """End the worker, and with it the run."""
        self._process.end()
        self._finish()

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._shared.release_all()
            self._busy.release()


def wait_for_end(
    run: Run,
    events: Iterator[Event | None],
    patience_s: float,
    note: Callable[[Event], object] = lambda event: None,
) -> Event | None:
    """Stop a run and return its last event; None where it fails or does not end in time.

    The reason of a None is then in `Run.end_error`, for the caller to log.
    `note` gets the others, which come while Stop is on its way.
    """
    run.stop()
    deadline = time.monotonic() + patience_s
    try:
        for event in events:
            if event is not None and event.is_last:
                return event
            if event is not None:
                note(event)
            if time.monotonic() >= deadline:
                run.end_error = f'The worker did not stop within {patience_s:.0f} s and was ended.'
                return None
    except PtychoPinnError as error:
        run.end_error = f'The run failed while it stopped: {error}'
    return None


def _error_of(message: RunFailed) -> PtychoPinnError:
    """Return the exception that the worker reports; one of no class of ours is a WorkerError."""
    kind = getattr(errors, message.error_type, None)
    if isinstance(kind, type) and issubclass(kind, PtychoPinnError):
        return kind(message.text)
    logger.debug('%s', message.trace)
    return WorkerError(f'{message.error_type}: {message.text}')
