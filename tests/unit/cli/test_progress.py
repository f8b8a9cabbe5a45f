"""Stopping a run, and what its log states."""

import logging
import signal

import pytest

from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.cli import signals
from ptychopinn_plugin.cli.log import LossLog
from ptychopinn_plugin.cli.progress import ProgressDisplay


def test_quiet_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as watch:
        for step in range(5):
            assert not watch(Progress('train', step, 5, {'loss': 1.0}, 10.0))
    captured = capfd.readouterr()
    assert captured.out == ''
    assert captured.err == ''


def test_shows_loss_and_rate_on_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FORCE_COLOR', '1')
    monkeypatch.setenv('COLUMNS', '100')
    with ProgressDisplay() as watch:
        watch(Progress('train', 1, 5, {'loss': 0.125, 'validation_loss': 0.25}, 1234.0))
        # The total changes where minutes, not epochs, end the training.
        watch(Progress('train', 500, 1000, {'loss': 0.125}, 1234.0))
    captured = capfd.readouterr()
    assert captured.out == ''
    assert '0.125' in captured.err
    assert '1,234 patterns/s' in captured.err
    assert '50%' in captured.err


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_stops_and_a_second_one_leaves(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(signals, 'SAME_S', 0.0)
    former = signal.getsignal(number)
    with ProgressDisplay() as watch:
        assert not watch(Progress('train', 1, 5))
        signal.raise_signal(number)
        assert watch(Progress('train', 2, 5))
        assert 'best so far is kept' in capfd.readouterr().err
        assert watch(Progress('train', 3, 5))
        assert capfd.readouterr().err == ''
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is former


def test_interrupt_while_there_is_nothing_to_keep(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as watch:
        assert not watch(Progress('target', 1, 5))
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            watch(Progress('target', 2, 5))
    assert 'no model is kept' in capfd.readouterr().err


def test_log_counts_epochs(caplog: pytest.LogCaptureFixture) -> None:
    log = LossLog(epochs_before=4)
    with caplog.at_level(logging.INFO, 'ptychopinn_plugin'):
        log(Progress('target', 1, 9, {'poisson': 1.0}))
        log(Progress('train', 0, 9, {'loss': 1.0}))
        log(Progress('train', 1, 9, {'loss': 0.5, 'validation_loss': 0.75}, 100.0))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == ['stage: target', 'stage: train']
    assert lines[2] == 'epoch 5: loss 0.5, validation_loss 0.75, 100 patterns/s'
