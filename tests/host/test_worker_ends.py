"""The worker's process ends: killed, stuck, left, idle, without its host."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ptychopinn_plugin.errors import WorkerError
from ptychopinn_plugin.host.worker import process
from ptychopinn_plugin.host.worker.client import Worker
from ptychopinn_plugin.host.worker.messages import TrainJob

from .conftest import needs
from .workers import epochs_of, last_event, until_trained

pytestmark = needs('torch')

LATE_S = 1e6
"""The clock of `parent` is put forward by this, as time goes on for a process that is stopped."""


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='There is no SIGKILL here.')
def test_a_killed_worker_is_an_error_and_the_next_run_works(
    worker: Worker, training: Callable[..., TrainJob]
) -> None:
    with worker.run(training()) as run:
        events = run.events()
        until_trained(events)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        began = time.perf_counter()
        with pytest.raises(WorkerError, match='memory ran out'):
            last_event(events)
    assert time.perf_counter() - began < 15.0
    assert worker.pid is None
    with worker.run(training(epochs=1)) as run:
        assert epochs_of(last_event(run.events())) == 1


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
            last_event(run.events())
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
            until_trained(events)
            assert worker.pid is not None
            # Not before: a busy machine may take as long to start it.
            run._silence_s = 3.0
            os.kill(worker.pid, signal.SIGSTOP)
            with pytest.raises(WorkerError, match='has sent nothing for'):
                last_event(events)
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
        assert epochs_of(last_event(run.events())) == 1


@pytest.mark.skipif(not hasattr(signal, 'SIGSTOP'), reason='There is no SIGSTOP here.')
def test_a_run_that_is_left_is_not_waited_for(
    worker: Worker, training: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker takes no message while it imports a framework, which can take long."""
    monkeypatch.setattr(process, 'EXIT_S', 30.0)
    with worker.run(training()) as run:
        until_trained(run.events())
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        left = time.perf_counter()
    assert time.perf_counter() - left < 15
    assert worker.pid is None


def test_an_idle_worker_goes_and_comes_back(training: Callable[..., TrainJob]) -> None:
    worker = Worker(idle_s=0.5)
    try:
        with worker.run(training(epochs=1)) as run:
            last_event(run.events())
        first = worker.pid
        deadline = time.monotonic() + 30.0
        while worker.pid is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert worker.pid is None
        with worker.run(training(epochs=1)) as run:
            assert epochs_of(last_event(run.events())) == 1
            assert worker.pid != first
    finally:
        worker.close()


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


def test_ctrl_c_in_the_terminal_is_for_the_host(
    worker: Worker, training: Callable[..., TrainJob]
) -> None:
    with worker.run(training(epochs=1)) as run:
        last_event(run.events())
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    with worker.run(training(epochs=1)) as run:
        assert epochs_of(last_event(run.events())) == 1
    assert worker.pid == pid
