"""The worker as a real process: warm, busy, stopped, and what it leaves."""

import errno
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends import checkpoints
from ptychopinn_plugin.config import (
    InferenceConfig,
    RefinementConfig,
)
from ptychopinn_plugin.data import Scan, write_scan
from ptychopinn_plugin.errors import ArchiveError, DataError, OutputError, WorkerError
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
from .workers import epochs_of, last_event, training_job, until_trained

pytestmark = needs('torch')


@pytest.fixture(scope='session')
def model_file(scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('model') / 'model.zip'
    worker = Worker()
    with worker.run(training_job(scan_file, path, 2)) as run:
        last_event(run.events())
    worker.close()
    return path


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


def _stage(event: Event) -> str:
    assert isinstance(event.report, RunProgress)
    return event.report.stage


def test_a_training_reports_progress_and_leaves_a_model(
    worker: Worker, training: Callable[..., TrainJob], tmp_path: Path
) -> None:
    worker.prepare('pytorch')
    pid = worker.pid
    assert pid is not None
    worker.prepare('pytorch')
    with worker.run(training(epochs=2)) as run:
        events = [event for event in run.events() if event is not None]
    assert epochs_of(events[-1]) == 2
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
                last_event(run.events())
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
            last_event(events)
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
        before = _result(last_event(run.events())).object_
    with worker.run(replace(training(epochs=6), output=path)) as run:
        last_event(run.events())
    with worker.run(job, arrays) as run:
        after = _result(last_event(run.events())).object_
    assert np.abs(after - before).max() > 1e-4
    # The model that was there before is kept.
    assert (tmp_path / 'changing.previous.zip').read_bytes() == model_file.read_bytes()


def test_a_stop_is_heard_soon_and_keeps_the_best(
    worker: Worker, training: Callable[..., TrainJob], tmp_path: Path
) -> None:
    with worker.run(training()) as run:
        events = run.events()
        until_trained(events)
        began = time.perf_counter()
        run.stop()
        done = last_event(events)
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
        done = last_event(run.events())
    assert epochs_of(done) == 0
    assert not (tmp_path / 'model.zip').exists()


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
        last_event(run.events())
    # It outlives them.
    assert worker.pid is not None


def test_the_current_folder_is_not_imported_from(
    worker: Worker,
    training: Callable[..., TrainJob],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / 'queue.py').write_text('raise SystemExit("foreign code ran")')
    monkeypatch.chdir(tmp_path)
    with worker.run(training(epochs=1)) as run:
        assert epochs_of(last_event(run.events())) == 1


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
            last_event(run.events())
    worker.close()
    # What goes to the host, what comes back, and a picture at least.
    assert len(blocks) >= 2 * (4 + 4 + 2)
    # Those that the worker still lends go with its resource tracker.
    deadline = time.monotonic() + 15.0
    while any(block.exists() for block in blocks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [block for block in blocks if block.exists()]
