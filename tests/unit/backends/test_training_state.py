"""The training loop goes on from what it saved as if it had never stopped."""

import itertools
from typing import Any, cast

import numpy as np
import pytest
from unit.backends.toy import (
    Clock,
    ToyData,
    ToyStep,
    at_end_of_epoch,
    column,
    make_loop,
    run,
    settings,
    weight,
)

from ptychopinn_plugin.backends.common.training_loop import (
    REPORT_SECONDS,
    RESUME_POINT_SECONDS,
    LoopState,
    TrainingLoop,
)
from ptychopinn_plugin.backends.common.training_state import load_state, save_state
from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.model_contents import TrainingState

RESUMED: list[dict[str, Any]] = [
    {},
    {'schedule': 'cosine', 'ema_decay': 0.8},
    {'schedule': 'plateau', 'gradient_accumulation_steps': 3},
    {'early_stop_patience': 4, 'learning_rate': 0.9},
]


def saved_and_loaded(loop: TrainingLoop, config: Config, clock: Clock) -> TrainingLoop:
    """Return a fresh loop that continues from what another one saved."""
    state = save_state(loop, 1.0, {'scans': [], 'validation': []})
    rest, _ = make_loop(config, clock=clock)
    load_state(rest, state)
    return rest


def numbers(state: LoopState) -> list[dict[str, float]]:
    clock = {'seconds', 'patterns_per_second'}
    return [{k: v for k, v in row.items() if k not in clock} for row in state.history]


def assert_same_end(rest: TrainingLoop, whole: TrainingLoop) -> None:
    assert numbers(rest.state) == numbers(whole.state)
    found, expected = (
        save_state(loop, 1.0, {'scans': [], 'validation': []}) for loop in (rest, whole)
    )
    assert set(found.arrays) == set(expected.arrays)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)
    timing = {'history', 'seconds_before_epochs'}
    for name in set(expected.values) - timing:
        assert found.values[name] == expected.values[name], name
    assert rest.state.stopped == whole.state.stopped


@pytest.mark.parametrize('training', RESUMED, ids=str)
@pytest.mark.parametrize('epochs', [1, 3])
def test_resume_continues_exactly(training: dict[str, Any], epochs: int) -> None:
    config = settings(epochs=8, **training)
    whole, _ = make_loop(config)
    run(whole)
    half, _ = make_loop(config, observer=at_end_of_epoch(epochs))
    assert run(half).stopped == 'request'
    rest = saved_and_loaded(half, config, Clock(1e-3))
    run(rest)
    assert_same_end(rest, whole)


@pytest.mark.parametrize('training', RESUMED, ids=str)
@pytest.mark.parametrize('at_batch', [2, 6, 12])
def test_resume_takes_up_an_epoch_from_its_start(training: dict[str, Any], at_batch: int) -> None:
    config = settings(epochs=8, **training)
    whole, _ = make_loop(config)
    run(whole)
    seen = itertools.count(1)

    def stop(progress: Progress) -> bool:
        return progress.make_model is None and next(seen) == at_batch

    half, _ = make_loop(
        config, data=ToyData(held_out=1), observer=stop, clock=Clock(REPORT_SECONDS)
    )
    assert run(half).stopped == 'request'
    rest = saved_and_loaded(half, config, Clock(1e-3))
    run(rest)
    assert_same_end(rest, whole)


@pytest.mark.parametrize('training', RESUMED, ids=str)
@pytest.mark.parametrize('at_part', [1, 2, 3, 4, 6, 11])
def test_resume_goes_on_inside_an_epoch(training: dict[str, Any], at_part: int) -> None:
    """From a model that was taken inside an epoch, gradients that wait for a step included."""
    config = settings(epochs=8, **training)
    whole, _ = make_loop(config)
    run(whole)
    offers = itertools.count(1)
    taken = []

    def take(progress: Progress) -> bool:
        if progress.make_model is None or 'validation_loss' in progress.losses:
            return False
        if next(offers) < at_part:
            return False
        progress.make_model()
        taken.append(half.resume_point)
        return True

    half, _ = make_loop(config, observer=take, clock=Clock(RESUME_POINT_SECONDS))
    assert run(half).stopped == 'request'
    point = taken[0]
    epoch, before = divmod(at_part - 1, 4)
    assert (point.state.epoch, point.epoch_so_far.parts) == (epoch, before + 1)
    assert len(point.epoch_so_far.losses['loss']) == point.epoch_so_far.parts
    rest = saved_and_loaded(half, config, Clock(1e-3))
    run(rest)
    assert_same_end(rest, whole)
    # It went on from the middle: the epoch's first batches were not drawn again.
    assert isinstance(rest.data, ToyData)
    assert len(rest.data.drawn[0]) == 2 * (4 - point.epoch_so_far.parts)


def test_a_model_is_offered_once_a_minute_where_an_epoch_takes_an_hour() -> None:
    clock, offered = Clock(), []

    def watch(progress: Progress) -> None:
        if progress.make_model is not None:
            offered.append(clock.now)

    loop, step = make_loop(
        settings(epochs=1), data=ToyData(batches=360), observer=watch, clock=clock
    )
    compute = step.accumulate_gradients

    def compute_slowly(batch: Any) -> dict[str, float]:
        clock.now += 10
        return compute(batch)

    step.accumulate_gradients = compute_slowly  # type: ignore[method-assign]
    began = clock.now
    run(loop)
    assert clock.now == began + 3600
    assert max(np.diff([began, *offered])) <= 10


def test_what_is_offered_inside_an_epoch_disturbs_nothing() -> None:
    def look(progress: Progress) -> None:
        if progress.make_model is not None:
            progress.make_model()

    config = settings(epochs=3, ema_decay=0.8, gradient_accumulation_steps=3)
    first, _ = make_loop(config)
    second, _ = make_loop(config, observer=look, clock=Clock(RESUME_POINT_SECONDS))
    run(first)
    run(second)
    assert_same_end(second, first)


def test_a_training_state_in_another_byte_order() -> None:
    config = settings(epochs=2)
    loop, _ = make_loop(config)
    run(loop)
    state = save_state(loop, 1.0, {'scans': [], 'validation': []})
    swapped = {
        name: np.asarray(array).astype(np.asarray(array).dtype.newbyteorder('S'))
        for name, array in state.arrays.items()
    }
    rest, step = make_loop(config)
    load_state(rest, TrainingState(swapped, state.values))
    assert step.weight.dtype.isnative
    assert weight(rest.state.best_weights) == weight(loop.state.best_weights)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda arrays, values: values.pop('plateau_factor'), 'lacks plateau_factor'),
        (lambda arrays, values: values['history'][-1].pop('seconds'), 'lacks seconds'),
        (lambda arrays, values: arrays.pop('last/weight'), 'last weights lacks weight'),
        (
            lambda arrays, values: arrays.update({'best/weight': np.zeros(2)}),
            r'weight of the best weights must be finite numbers of shape \(1,\); it is float64 of',
        ),
        (
            lambda arrays, values: arrays.update({'average/more': np.zeros(1)}),
            'average weights has an unknown more',
        ),
        (lambda arrays, values: arrays.pop('optimizer/0/step'), "optimizer's state lacks 0/step"),
        (
            lambda arrays, values: arrays.update({'optimizer/0/exp_avg': np.full(1, np.nan)}),
            '0/exp_avg of the optimizer',
        ),
        (lambda arrays, values: values.update(epoch_parts=2), 'losses of a begun epoch'),
    ],
)
def test_a_training_state_that_does_not_fit_is_refused(spoil: Any, message: str) -> None:
    config = settings(epochs=2)
    loop, _ = make_loop(config)
    run(loop)
    state = save_state(loop, 1.0, {'scans': [], 'validation': []})
    spoil(state.arrays, state.values)
    with pytest.raises(ArchiveError, match=message):
        load_state(make_loop(config)[0], state)


def test_resume_after_the_time_was_up_inside_an_epoch() -> None:
    config = settings(epochs=8, ema_decay=0.8)
    whole, _ = make_loop(config)
    run(whole)
    short = settings(epochs=8, ema_decay=0.8, max_minutes=1.0)
    half, step = make_loop(short, clock=Clock(1.1))
    assert run(half).stopped == 'max-minutes'
    assert step.n_batches % 4 != 0
    assert half.state.epoch > 0
    rest = saved_and_loaded(half, config, Clock(1e-3))
    run(rest)
    assert_same_end(rest, whole)


def test_a_broken_training_state_is_noticed_by_the_tests_above() -> None:
    """Without its momentum, training goes elsewhere: the toy would show it."""
    config = settings(epochs=8)
    whole, _ = make_loop(config)
    run(whole)
    half, _ = make_loop(config, observer=at_end_of_epoch(3))
    run(half)
    rest = saved_and_loaded(half, config, Clock(1e-3))
    cast('ToyStep', rest.step).momentum = np.zeros(1)
    run(rest)
    with pytest.raises(AssertionError):
        assert_same_end(rest, whole)


def test_time_goes_on_where_it_ended() -> None:
    config = settings(epochs=10**6, max_minutes=60.0, schedule='exponential')
    clock = Clock()

    def wait(progress: Progress) -> bool:
        clock.now += 1800
        return True

    half = TrainingLoop(ToyStep(config), ToyData(batches=1), config, wait, clock.now - 200, clock)
    run(half)
    assert column(half.state, 'seconds') == [200]
    later = Clock()
    later.now = 10**6
    rest = saved_and_loaded(half, config, later)
    # What the training state has seen is 200 s, whenever it is continued.
    assert rest.clock() - rest.started == 200
    assert rest.epochs_started - rest.started == 200
    assert not rest.is_time_up()
    later.now += 3400
    assert rest.is_time_up()
