"""Signals end a command in order, at whatever moment they come."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin.cli import signals
from ptychopinn_plugin.cli.signals import finishing, handling_signals, holding_signals

ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(('number', 'code'), ENDS)
@pytest.mark.parametrize(
    'moment',
    [
        'ptychopinn_plugin.data.load_scan',
        'ptychopinn_plugin.cli.train._log_start',
        'ptychopinn_plugin.storage.atomic.check_output_folder',
    ],
)
@pytest.mark.usefixtures('backend')
def test_a_signal_strands_nothing(
    run: Any,
    scan_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    number: signal.Signals,
    code: int,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(number)
        pytest.fail('the signal has ended nothing')

    monkeypatch.setattr(moment, interrupt)
    assert run('train', scan_file, '-o', tmp_path / 'run').code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ['scan.npz']


@pytest.mark.usefixtures('backend')
def test_results_are_written_to_their_end(
    run: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first signal waits for them; a second one leaves, and the model is kept all the same."""
    monkeypatch.setattr(signals, 'SAME_S', 0.0)
    from ptychopinn_plugin.cli import train

    write, numbers = train.write_text, [signal.SIGTERM]

    def interrupt(path: Path, text: str) -> None:
        for number in numbers:
            signal.raise_signal(number)
        write(path, text)

    monkeypatch.setattr(train, 'write_text', interrupt)
    done = run('train', scan_file, '-o', tmp_path / 'run')
    assert done.code == 0
    assert 'once more leaves at once' in done.err
    assert (tmp_path / 'run' / 'config.toml').exists()
    numbers.append(signal.SIGTERM)
    left = run('train', scan_file, '-o', tmp_path / 'left')
    assert left.code == 143
    assert [path.name for path in (tmp_path / 'left').iterdir()] == ['rescued-wts.h5.zip']


def test_names_are_given_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, 'SAME_S', 0.0)
    reached = []

    def move() -> None:
        with handling_signals(), holding_signals():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            reached.append(1)

    with pytest.raises(KeyboardInterrupt):
        move()
    assert reached


def test_two_signals_at_once_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` sends one to the process and one to its group."""
    monkeypatch.setattr(signals, 'SAME_S', 60.0)
    stop = threading.Event()
    with signals.stopping_at_signal(stop):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()


def test_what_nohup_ignores_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)


def test_other_threads_leave_signals_alone() -> None:
    former = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with finishing():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [former]
