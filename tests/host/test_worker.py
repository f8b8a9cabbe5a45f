"""The worker as a real process: warm, stopped, killed, stuck, idle, orphaned."""

import errno
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends import checkpoints
from ptychopinn_plugin.config import (
    Config,
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
)
from ptychopinn_plugin.data import Scan, write_scan
from ptychopinn_plugin.errors import ArchiveError, DataError, OutputError, WorkerError
from ptychopinn_plugin.host.worker import process
from ptychopinn_plugin.host.worker.arrays import ReportArrays, ResultArrays, ScanArrays
from ptychopinn_plugin.host.worker.client import Event, Worker
from ptychopinn_plugin.host.worker.ipc import SharedArrays
from ptychopinn_plugin.host.worker.jobs import Jobs
from ptychopinn_plugin.host.worker.messages import (
    ReconstructionDone,
    ReconstructJob,
    Report,
    RunProgress,
    TrainingDone,
    TrainJob,
)
from ptychopinn_plugin.model_file import read_model
from ptychopinn_plugin.storage.lock import locked_folder

from .conftest import needs

pytestmark = needs('torch')


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture(scope='session')
def scan_file(small_scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('scan') / 'train_data.npz'
    write_scan(path, small_scan)
    return path


def _training(scan: Path, output: Path, epochs: int) -> TrainJob:
    return TrainJob(
        'pytorch',
        (scan,),
        Config(
            ModelConfig(filters_scale=0.25, passes=1),
            TrainingConfig(epochs=epochs, target_iterations=5, device='cpu'),
        ),
        output,
        keep_training_state=False,
    )


@pytest.fixture
def training(scan_file: Path, tmp_path: Path) -> Callable[..., TrainJob]:
    """Return a function that describes a training of some seconds or, by default, of hours."""

    def describe(epochs: int = 100_000) -> TrainJob:
        return _training(scan_file, tmp_path / 'model.zip', epochs)

    return describe


@pytest.fixture(scope='session')
def model_file(scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('model') / 'model.zip'
    worker = Worker()
    with worker.run(_training(scan_file, path, 2)) as run:
        _last(run.events())
    worker.close()
    return path


def _last(events: Iterator[Event | None]) -> Event:
    last = None
    for event in events:
        last = event or last
    assert last is not None
    return last


def _inference(
    model_path: Path, scan: Scan, iterations: int = 2
) -> tuple[ReconstructJob, ScanArrays]:
    job = ReconstructJob(
        'pytorch',
        model_path,
        InferenceConfig(device='cpu'),
        RefinementConfig(iterations=iterations),
    )
    return job, ScanArrays.of(scan)


def _result(event: Event) -> ResultArrays:
    assert isinstance(event.arrays, ResultArrays)
    return event.arrays


def _epochs(event: Event) -> int:
    """Return how many epochs a training took that has ended."""
    assert isinstance(event.report, TrainingDone)
    return event.report.epochs


def _stage(event: Event) -> str:
    assert isinstance(event.report, RunProgress)
    return event.report.stage


def _until_trained(events: Iterator[Event | None]) -> None:
    """Read events until some epochs are over."""
    epochs = 0
    for event in events:
        if event is not None and isinstance(event.report, RunProgress):
            epochs += event.report.is_epoch_end
        if epochs == 3:
            return


def test_a_training_reports_progress_and_leaves_a_model(
    worker: Worker, training: Callable[..., TrainJob], tmp_path: Path
) -> None:
    worker.prepare('pytorch')
    pid = worker.pid
    assert pid is not None
    worker.prepare('pytorch')
    with worker.run(training(epochs=2)) as run:
        events = [event for event in run.events() if event is not None]
    assert _epochs(events[-1]) == 2
    assert worker.pid == pid, 'the one that was started for it'
    assert {'target', 'train'} <= {_stage(event) for event in events[:-1]}
    assert (tmp_path / 'model.zip').is_file()


def test_a_training_keeps_the_model_so_far(
    training: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, 'MIN_SECONDS', 0.0)
    monkeypatch.setattr(checkpoints, 'MAX_WRITING_FRACTION', math.inf)
    checkpoint = tmp_path / 'model.checkpoint.zip'
    epochs: list[int] = []

    class Listener:
        is_stopping = False
        is_host_behind = False

        def send(self, report: Report, arrays: ReportArrays | None = None) -> None:
            if checkpoint.exists():
                epochs.append(read_model(checkpoint).provenance['epochs'])

        def confirm_read(self, block: str) -> None:
            pytest.fail('A training has no arrays.')

    Jobs(Listener()).do(training(epochs=3), {})
    assert set(epochs) == {1, 2}
    assert [path.name for path in tmp_path.iterdir()] == ['model.zip']


def test_a_folder_that_another_training_owns(
    training: Callable[..., TrainJob], tmp_path: Path
) -> None:
    (tmp_path / '.unfinished-0a1b2c3d-model.checkpoint.zip').write_bytes(b'of a killed worker')
    with (
        locked_folder(tmp_path),
        pytest.raises(OutputError, match='another run: process'),
    ):
        Jobs(_Silent()).do(training(), {})
    Jobs(_Silent()).do(training(epochs=1), {})
    assert [path.name for path in tmp_path.iterdir()] == ['model.zip']


class _Silent:
    """A host that wants nothing."""

    is_stopping = False
    is_host_behind = False

    def send(self, report: Report, arrays: ReportArrays | None = None) -> None:
        """Take a report."""

    def confirm_read(self, block: str) -> None:
        """Take a confirmation."""


def test_what_the_package_warns_of_is_logged_in_every_run(
    worker: Worker,
    training: Callable[..., TrainJob],
    small_scan: Scan,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pattern without light is left out with a word, which belongs into the window's log."""
    patterns = small_scan.patterns.copy()
    patterns[5] = 0
    path = tmp_path / 'dark.npz'
    write_scan(path, replace(small_scan, patterns=patterns))
    with caplog.at_level(logging.INFO, 'ptychopinn_plugin'):
        for number in (1, 2):
            with worker.run(replace(training(epochs=1), scans=(path,))) as run:
                _last(run.events())
            lines = [line for line in caplog.messages if 'left out' in line]
            assert len(lines) == number
            assert lines[-1].startswith('small: left out 1 of 80 patterns')


def test_an_inference_sends_pictures_and_the_object(
    worker: Worker, model_file: Path, small_scan: Scan
) -> None:
    job, arrays = _inference(model_file, small_scan)
    with worker.run(job, arrays) as run:
        events = []
        for event in run.events():
            if event is not None:
                # The worker has its own copy by then.
                assert not run._shared._blocks
                events.append(event)
    first = next(event for event in events if event.picture is not None)
    assert _stage(first) == 'predict'
    done, picture = events[-1], first.picture
    assert picture is not None
    assert picture.origin_px is not None
    found = _result(done)
    assert found.object_.dtype == np.complex64
    assert found.object_.shape == picture.object_.shape
    np.testing.assert_array_equal(found.origin_px, picture.origin_px)
    assert isinstance(done.report, ReconstructionDone)
    assert len(done.report.likelihoods) == 3


def test_the_second_inference_starts_at_once(
    worker: Worker, model_file: Path, small_scan: Scan
) -> None:
    job, arrays = _inference(model_file, small_scan)
    pids, seconds = [], []
    for _ in range(4):
        began = time.perf_counter()
        with worker.run(job, arrays) as run:
            events = run.events(tick_s=30.0)
            next(events)
            seconds.append(time.perf_counter() - began)
            _last(events)
        pids.append(worker.pid)
    assert len(set(pids)) == 1
    cold, *warm = seconds
    # A busy machine slows both down.
    assert min(warm) < max(0.6, cold / 10)


def test_neither_inference_nor_fine_tuning_reads_the_training_state(
    training: Callable[..., TrainJob],
    tmp_path: Path,
    damage_training_state: Callable[[Path], None],
) -> None:
    job = replace(training(epochs=1), keep_training_state=True)
    Jobs(_Silent()).do(job, {})
    damage_training_state(job.output)
    with pytest.raises(ArchiveError, match=r'training_state\.h5 is damaged'):
        read_model(job.output)
    jobs = Jobs(_Silent())
    jobs.prepare('pytorch', job.output)
    tuned = tmp_path / 'tuned' / 'model.zip'
    tuned.parent.mkdir()
    jobs.do(replace(job, base_model=job.output, output=tuned), {})
    assert read_model(tuned).provenance['epochs'] == 1


def test_a_changed_model_file_is_read_again(
    worker: Worker,
    model_file: Path,
    small_scan: Scan,
    training: Callable[..., TrainJob],
    tmp_path: Path,
) -> None:
    path = tmp_path / 'changing.zip'
    path.write_bytes(model_file.read_bytes())
    job, arrays = _inference(path, small_scan, iterations=0)
    with worker.run(job, arrays) as run:
        before = _result(_last(run.events())).object_
    with worker.run(replace(training(epochs=6), output=path)) as run:
        _last(run.events())
    with worker.run(job, arrays) as run:
        after = _result(_last(run.events())).object_
    assert np.abs(after - before).max() > 1e-4
    # The model that was there before is kept.
    assert (tmp_path / 'changing.previous.zip').read_bytes() == model_file.read_bytes()


def test_a_stop_is_heard_soon_and_keeps_the_best(
    worker: Worker, training: Callable[..., TrainJob], tmp_path: Path
) -> None:
    with worker.run(training()) as run:
        events = run.events()
        _until_trained(events)
        began = time.perf_counter()
        run.stop()
        done = _last(events)
    assert time.perf_counter() - began < 6.0
    assert isinstance(done.report, TrainingDone)
    assert done.report.reason == 'request'
    assert done.report.epochs >= 3
    assert (tmp_path / 'model.zip').is_file()


def test_a_stop_that_comes_before_the_job_begins_is_heard(
    worker: Worker, training: Callable[..., TrainJob], tmp_path: Path
) -> None:
    with worker.run(training()) as run:
        run.stop()
        done = _last(run.events())
    assert _epochs(done) == 0
    assert not (tmp_path / 'model.zip').exists()


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='There is no SIGKILL here.')
def test_a_killed_worker_is_an_error_and_the_next_run_works(
    worker: Worker, training: Callable[..., TrainJob]
) -> None:
    with worker.run(training()) as run:
        events = run.events()
        _until_trained(events)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        began = time.perf_counter()
        with pytest.raises(WorkerError, match='memory ran out'):
            _last(events)
    assert time.perf_counter() - began < 15.0
    assert worker.pid is None
    with worker.run(training(epochs=1)) as run:
        assert _epochs(_last(run.events())) == 1


def test_a_worker_that_leaves_without_a_word_is_an_error(
    worker: Worker, training: Callable[..., TrainJob], tmp_path: Path
) -> None:
    # A backend that ends the process as soon as its framework is imported.
    package = tmp_path / 'torch'
    package.mkdir()
    (package / '__init__.py').write_text(
        "import os, sys\nprint('out of patience', file=sys.stderr, flush=True)\nos._exit(7)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        began = time.perf_counter()
        with worker.run(training()) as run, pytest.raises(WorkerError) as caught:
            _last(run.events())
    finally:
        sys.path.remove(str(tmp_path))
    assert time.perf_counter() - began < 15.0
    assert 'exit code 7' in str(caught.value)
    assert 'out of patience' in str(caught.value)


@pytest.mark.skipif(not hasattr(signal, 'SIGSTOP'), reason='There is no SIGSTOP here.')
def test_a_stuck_worker_is_ended(training: Callable[..., TrainJob]) -> None:
    worker = Worker()
    try:
        with worker.run(training()) as run:
            events = run.events()
            _until_trained(events)
            assert worker.pid is not None
            # Not before: a busy machine may take as long to start it.
            run._silence_s = 3.0
            os.kill(worker.pid, signal.SIGSTOP)
            with pytest.raises(WorkerError, match='has sent nothing for'):
                _last(events)
        assert worker.pid is None
    finally:
        worker.close()


def test_a_run_that_is_left_ends_the_worker(
    worker: Worker, training: Callable[..., TrainJob]
) -> None:
    with worker.run(training()) as run:
        next(run.events())
        pid = worker.pid
    assert pid is not None
    assert worker.pid is None
    assert not _is_running(pid)
    with worker.run(training(epochs=1)) as run:
        assert _epochs(_last(run.events())) == 1


@pytest.mark.skipif(not hasattr(signal, 'SIGSTOP'), reason='There is no SIGSTOP here.')
def test_a_run_that_is_left_is_not_waited_for(
    worker: Worker, training: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker takes no message while it imports a framework, which can take long."""
    monkeypatch.setattr(process, 'EXIT_S', 30.0)
    with worker.run(training()) as run:
        _until_trained(run.events())
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        left = time.perf_counter()
    assert time.perf_counter() - left < 15
    assert worker.pid is None


def test_one_run_at_a_time(worker: Worker, training: Callable[..., TrainJob]) -> None:
    with worker.run(training()), pytest.raises(WorkerError, match='busy'):
        worker.run(training())


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        ({'scans': (Path('/no/such/scan.npz'),)}, DataError, 'no file'),
        ({'base_model': Path(__file__)}, ArchiveError, 'test_worker'),
    ],
)
def test_errors_keep_their_class_and_words(
    worker: Worker,
    training: Callable[..., TrainJob],
    change: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with worker.run(replace(training(), **change)) as run, pytest.raises(error, match=words):
        _last(run.events())
    # It outlives them.
    assert worker.pid is not None


def test_an_idle_worker_goes_and_comes_back(training: Callable[..., TrainJob]) -> None:
    worker = Worker(idle_s=0.5)
    try:
        with worker.run(training(epochs=1)) as run:
            _last(run.events())
        first = worker.pid
        deadline = time.monotonic() + 30.0
        while worker.pid is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert worker.pid is None
        with worker.run(training(epochs=1)) as run:
            assert _epochs(_last(run.events())) == 1
            assert worker.pid != first
    finally:
        worker.close()


LATE_S = 1e6
"""The clock of `parent` is put forward by this, as time goes on for a process that is stopped."""


@pytest.fixture
def parent(tmp_path: Path, scan_file: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Return a process that trains and reports its progress, and the number of its worker."""
    # No `if __name__ == '__main__'`: a worker does not import its parent's script.
    script = tmp_path / 'parent.py'
    script.write_text(
        textwrap.dedent(
            f"""
            import time
            from pathlib import Path
            from types import SimpleNamespace
            from ptychopinn_plugin.config import Config, TrainingConfig
            from ptychopinn_plugin.host.worker import client
            from ptychopinn_plugin.host.worker.messages import TrainJob
            late = Path({str(tmp_path / 'late')!r})
            def clock():
                return time.monotonic() + {LATE_S} * late.exists()
            client.time = SimpleNamespace(monotonic=clock)
            worker = client.Worker()
            config = Config(training=TrainingConfig(epochs=100000, device='cpu'))
            run = worker.run(TrainJob(
                'pytorch', (Path({str(scan_file)!r}),), config,
                Path({str(tmp_path / 'model.zip')!r}), keep_training_state=False,
            ))
            print(worker.pid, flush=True)
            for event in run.events():
                if event is None:
                    print('silence', clock(), flush=True)
                elif event.report.stage == 'train':
                    print('progress', clock(), flush=True)
            """
        )
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        yield made, int(made.stdout.readline())
        made.kill()


@pytest.mark.skipif(not hasattr(signal, 'SIGSTOP'), reason='There is no SIGSTOP here.')
def test_a_worker_that_was_suspended_with_its_host_goes_on(
    parent: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    """As by Ctrl-Z in a terminal, for much longer than the host waits for a message."""
    host, pid = parent
    _await(host, 'progress')
    for number in (pid, host.pid):
        os.kill(number, signal.SIGSTOP)
    (tmp_path / 'late').touch()
    # The host first: it finds that its worker sent nothing for longer than it waits.
    os.kill(host.pid, signal.SIGCONT)
    _await(host, 'silence', after=LATE_S)
    os.kill(pid, signal.SIGCONT)
    # Nothing was left to read, so this is what the worker computed since.
    _await(host, 'progress', after=LATE_S)
    assert _is_running(pid)


def _await(host: subprocess.Popen[str], word: str, *, after: float = 0.0) -> None:
    """Read the lines of `parent` up to one that begins with a word and has a later time."""
    assert host.stdout is not None
    for line in host.stdout:
        found, when = line.split()
        if found == word and float(when) > after:
            return
    pytest.fail('The host has ended.')


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='Processes are looked up in /proc.')
def test_the_worker_dies_with_a_killed_parent(parent: tuple[subprocess.Popen[str], int]) -> None:
    host, pid = parent
    _await(host, 'progress')
    host.kill()
    host.wait()
    deadline = time.monotonic() + 15.0
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    # A zombie has ended and waits for whoever adopted it.
    return state != 'Z'


def test_the_current_folder_is_not_imported_from(
    worker: Worker,
    training: Callable[..., TrainJob],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / 'queue.py').write_text('raise SystemExit("foreign code ran")')
    monkeypatch.chdir(tmp_path)
    with worker.run(training(epochs=1)) as run:
        assert _epochs(_last(run.events())) == 1


def test_ctrl_c_in_the_terminal_is_for_the_host(
    worker: Worker, training: Callable[..., TrainJob]
) -> None:
    with worker.run(training(epochs=1)) as run:
        _last(run.events())
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    with worker.run(training(epochs=1)) as run:
        assert _epochs(_last(run.events())) == 1
    assert worker.pid == pid


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the files of the shared memory that this process makes or opens.

    Not all that are there: other processes have some, too.
    """
    if not Path('/dev/shm').is_dir():
        pytest.skip('Shared memory is looked up in /dev/shm.')
    files = []

    class Recorded(shared_memory.SharedMemory):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            files.append(Path('/dev/shm') / self.name)

    monkeypatch.setattr(shared_memory, 'SharedMemory', Recorded)
    return files


@pytest.mark.skipif(not hasattr(os, 'posix_fallocate'), reason='Memory is not reserved here.')
def test_shared_memory_that_is_full_is_an_error(
    monkeypatch: pytest.MonkeyPatch, blocks: list[Path]
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'posix_fallocate', refuse)
    with pytest.raises(WorkerError, match=r'must hold 8 MiB more: No space.*--shm-size'):
        SharedArrays().share(np.zeros(2**20))
    (block,) = blocks
    assert not block.exists()


def test_no_shared_memory_stays_behind(
    worker: Worker, model_file: Path, small_scan: Scan, blocks: list[Path]
) -> None:
    job, arrays = _inference(model_file, small_scan)
    for _ in range(2):
        with worker.run(job, arrays) as run:
            _last(run.events())
    worker.close()
    # What goes to the host, what comes back, and a picture at least.
    assert len(blocks) >= 2 * (4 + 4 + 2)
    # Those that the worker still lends go with its resource tracker.
    deadline = time.monotonic() + 15.0
    while any(block.exists() for block in blocks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [block for block in blocks if block.exists()]
