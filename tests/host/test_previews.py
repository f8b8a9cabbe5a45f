"""The pace of the pictures: the window must find time to react to a click."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ptychodus.api.io import load_product

from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.host import previews
from ptychopinn_plugin.host.previews import InferenceWatch
from ptychopinn_plugin.host.resampling import Resampling
from ptychopinn_plugin.host.worker.arrays import ObjectPicture, ResultArrays
from ptychopinn_plugin.host.worker.client import Event
from ptychopinn_plugin.host.worker.messages import ReconstructionDone, RunProgress


class Clock:
    """Time that a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(previews, 'time', clock)
    return clock


@pytest.fixture
def make_watch(
    clock: Clock, small_scan: Scan, write_folder: Callable[..., Path], tmp_path: Path
) -> Callable[..., InferenceWatch]:
    """Return a function that makes one, of a number of passes."""
    product = load_product(write_folder(tmp_path / 'data') / 'product.h5')
    return partial(InferenceWatch, product, small_scan, Resampling(small_scan, small_scan))


@pytest.fixture
def watch(make_watch: Callable[..., InferenceWatch]) -> InferenceWatch:
    return make_watch(2)


@pytest.fixture
def picture(small_scan: Scan) -> Event:
    found = ObjectPicture(np.ones((70, 80), np.complex64), np.zeros(2))
    return Event(RunProgress('predict', 1, 2), found)


def test_a_window_gets_time_between_pictures(
    watch: InferenceWatch, picture: Event, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'PyQt5.QtWidgets', sys)
    waiting: list[Callable[[], None]] = []
    assert not watch.is_due(has_news=False, is_stop_known=True)
    assert watch.update(picture)
    assert watch.is_due(has_news=True, is_stop_known=True), 'the first one at once'
    watch.output()
    watch.note_handed_over(waiting.append)

    clock.now += 5
    assert not watch.is_due(has_news=True, is_stop_known=True), 'the last one is not drawn yet'
    waiting.pop()()
    assert not watch.is_due(has_news=True, is_stop_known=True), 'the window has not looked up since'
    clock.now += 5
    assert watch.is_due(has_news=True, is_stop_known=True)
    watch.note_handed_over(lambda call: call())

    # One that is drawn at once is followed by the next after two seconds.
    clock.now += 1
    assert not watch.is_due(has_news=True, is_stop_known=True)
    clock.now += 1
    assert watch.is_due(has_news=False, is_stop_known=True)


@pytest.mark.parametrize(
    ('step', 'iterations', 'likelihoods', 'reported'),
    [
        (1, 0, (0.5,), 'Stopped after 1 of 2 passes of the network, on 78 patterns and 2 left out'),
        (1, 30, (0.5,), 'Stopped after 1 of 2 passes of the network, '),
        (2, 30, (0.5,), 'Stopped after 0 of 30 iterations, '),
        (2, 30, (0.5, 0.4), 'Stopped after 1 of 30 iterations, '),
        (2, 1, (0.5, 0.4), '1 iteration, '),
        (2, 0, (0.5,), 'The network alone, '),
    ],
)
def test_a_run_that_was_stopped_is_not_told_as_whole(
    make_watch: Callable[..., InferenceWatch],
    picture: Event,
    small_scan: Scan,
    caplog: pytest.LogCaptureFixture,
    step: int,
    iterations: int,
    likelihoods: tuple[float, ...],
    reported: str,
) -> None:
    caplog.set_level(logging.INFO, 'ptychopinn_plugin')
    watch = make_watch(2, iterations=iterations)
    watch.update(replace(picture, report=RunProgress('predict', step, 2)))
    done = ReconstructionDone(
        *(likelihoods, {}, 0.1, 78, 2, 'The object fits.'),
        sure='It is sure to 0.1 rad.',
        unknown='Its slope is unknown.',
    )
    arrays = ResultArrays(
        object_=np.ones((70, 80), np.complex64), origin_px=np.zeros(2), probe=small_scan.probe
    )
    watch.finish(Event(done, arrays), is_stopped=True)
    (line,) = caplog.messages
    assert line.startswith(reported)
    fit = 'amplitude residual 0.1000. The object fits. It is sure to 0.1 rad.'
    assert line.endswith(f'{fit} Its slope is unknown.')


@pytest.mark.parametrize('blocks', [(10, 20), (40, 40, 40), (*[10] * 10, 20), (30,)])
def test_the_bar_of_a_learned_prior_counts_its_passes_and_iterations(
    make_watch: Callable[..., InferenceWatch], blocks: tuple[int, ...]
) -> None:
    watch, total, passes = make_watch(0), sum(blocks), len(blocks) - 1
    shares, done = [watch.progress / watch.goal], 0
    for number, block in enumerate(blocks):
        if number:
            watch.update(Event(RunProgress('pass', number, passes), {}))
            shares.append(watch.progress / watch.goal)
        for _ in range(block):
            done += 1
            watch.update(Event(RunProgress('refine', done, total), {}))
            shares.append(watch.progress / watch.goal)
            # The share is what is done, but for passes that are not known yet.
            assert shares[-1] == pytest.approx(done / total, abs=0.03)
    assert shares == sorted(shares), 'it never goes back'
    assert watch.progress == watch.goal == total + passes


def test_a_learned_prior_that_is_stopped_at_once_states_no_number(
    make_watch: Callable[..., InferenceWatch],
    picture: Event,
    small_scan: Scan,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, 'ptychopinn_plugin')
    watch = make_watch(0)
    arrays = ResultArrays(
        object_=np.ones((70, 80), np.complex64), origin_px=np.zeros(2), probe=small_scan.probe
    )
    watch.finish(Event(ReconstructionDone((0.5,), {}, 0.1, 78), arrays), is_stopped=True)
    assert caplog.messages[0].startswith('Stopped before the first iteration, on 78 patterns')


def test_batch_mode_writes_each_picture_and_no_more(
    watch: InferenceWatch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, 'PyQt5.QtWidgets', raising=False)
    watch.note_handed_over(lambda call: call())
    assert watch.is_due(has_news=True, is_stop_known=True)
    clock.now += 60
    assert not watch.is_due(has_news=False, is_stop_known=True)


def test_the_object_as_it_was_given_goes_to_a_host_that_acts_on_stop_at_outputs_alone(
    watch: InferenceWatch, picture: Event, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'PyQt5.QtWidgets', sys)
    clock.now += 60
    assert not watch.is_due(has_news=False, is_stop_known=True)
    assert watch.is_due(has_news=False, is_stop_known=False)
    assert watch.update(picture)
    assert watch.is_due(has_news=False, is_stop_known=True)
