"""The training loop on a network of one weight: no framework, no waiting."""

import math
from collections.abc import Sequence
from typing import Any

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

from ptychopinn_plugin.backends.common.schedules import schedule_factor
from ptychopinn_plugin.backends.common.training_loop import (
    REPORT_SECONDS,
    TrainingLoop,
    update_ema,
)
from ptychopinn_plugin.backends.protocol import Progress, ignore_progress
from ptychopinn_plugin.errors import DataError

# What is kept


def test_the_best_weights_and_not_the_last_are_kept() -> None:
    config = settings(epochs=5)
    loop, step = make_loop(config, data=ToyData(batches=1), path=[1, 2, 3, 4, 5], goal=2)
    state = run(loop)
    assert column(state, 'validation_loss') == [1, 0, 1, 4, 9]
    assert weight(state.best_weights) == 2
    assert state.best_loss == 0
    assert float(step.weight[0]) == 5
    assert state.stopped == 'epochs'
    assert state.epoch == 5


def test_a_loss_as_good_as_the_best_is_no_better() -> None:
    loop, _ = make_loop(settings(epochs=2), data=ToyData(batches=1), path=[1, 3], goal=2)
    state = run(loop)
    assert column(state, 'validation_loss') == [1, 1]
    assert weight(state.best_weights) == 1
    assert state.epochs_without_gain == 1


def test_the_average_over_epochs_is_validated_and_kept_and_training_goes_on_as_it_was() -> None:
    config = settings(epochs=3, ema_decay=0.9)
    loop, step = make_loop(config, data=ToyData(batches=1), path=[1, 2, 4], goal=10)
    state = run(loop)
    # Shares of the average before: (1 + epoch) / (10 + epoch), 3/12 and 4/13.
    second = 2 + 3 / 12 * (1 - 2)
    third = 4 + 4 / 13 * (second - 4)
    assert step.validated == pytest.approx([1, second, third])
    assert weight(state.average) == weight(state.best_weights) == pytest.approx(third)
    assert float(step.weight[0]) == 4
    # The probes are those of the weights that training goes on with.
    assert step.probe == 4


def test_an_average_forgets_at_most_as_slowly_as_its_decay() -> None:
    before, after = {'a': np.float32([1])}, {'a': np.float32([0])}
    assert update_ema({}, after, 0.9, 1) is after
    for epoch, share in ((1, 2 / 11), (2, 3 / 12), (10**6, 0.9)):
        found = update_ema(before, after, 0.9, epoch)['a']
        assert found == pytest.approx(share)
        assert found.dtype == np.float32


def test_without_held_out_patterns_the_training_loss_decides() -> None:
    loop, _ = make_loop(settings(epochs=3), data=ToyData(held_out=0))
    state = run(loop)
    assert column(state, 'validation_loss') == column(state, 'loss')
    assert state.best_loss == min(column(state, 'loss'))


def test_validation_is_the_mean_over_groups() -> None:
    class Uneven(ToyStep):
        def validation_loss(self, batch: Any) -> float:
            return float(len(batch.groups))

    config = settings(epochs=1)
    loop = TrainingLoop(Uneven(config), ToyData(held_out=3), config, clock=Clock(1e-3))
    # Losses of 1, 2 and 3 in batches of 1, 2 and 3 groups.
    assert column(run(loop), 'validation_loss') == [pytest.approx((1 + 4 + 9) / 6)]


def test_the_history_holds_means_and_the_clock() -> None:
    losses = dict(enumerate([1.0, 3.0, 5.0, 7.0]))
    clock = Clock(0.25)
    loop, _ = make_loop(
        settings(epochs=2), data=ToyData(batches=2, patterns=3), clock=clock, losses=losses
    )
    state = run(loop)
    assert column(state, 'epoch') == [1, 2]
    assert column(state, 'loss') == [2, 6]
    assert column(state, 'poisson') == [4, 12]
    assert column(state, 'learning_rate') == [0.1, 0.1]
    seconds = column(state, 'seconds')
    assert 0 < seconds[0] < seconds[1] <= clock.now - loop.started
    assert all(rate > 0 for rate in column(state, 'patterns_per_second'))


# Steps


@pytest.mark.parametrize(
    ('batches', 'together', 'expected'),
    [(4, 1, [1, 1, 1, 1]), (4, 2, [2, 2]), (5, 2, [2, 2, 1]), (3, 8, [3])],
)
def test_what_is_left_of_accumulation_is_stepped(
    batches: int, together: int, expected: list[int]
) -> None:
    config = settings(epochs=2, gradient_accumulation_steps=together)
    loop, step = make_loop(config, data=ToyData(batches=batches))
    run(loop)
    assert [count for count, _ in step.steps] == expected * 2


def test_each_epoch_draws_its_own_batches_which_the_seed_repeats() -> None:
    drawn = []
    for seed in (1, 1, 2):
        data = ToyData()
        run(make_loop(settings(epochs=3, seed=seed), data=data)[0])
        drawn.append(data.drawn)
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][1] != drawn[0][2]


# Learning rates


@pytest.mark.parametrize('schedule', ['constant', 'exponential', 'cosine', 'one-cycle'])
def test_the_schedule_follows_the_epochs(schedule: str) -> None:
    config = settings(epochs=4, schedule=schedule, warmup_fraction=0.25)
    loop, step = make_loop(config, data=ToyData(batches=2))
    run(loop)
    expected = [0.1 * schedule_factor(config.training, half / 8) for half in range(8)]
    assert [rate for _, rate in step.steps] == pytest.approx(expected)


def test_the_schedule_follows_the_clock_where_that_is_ahead() -> None:
    """It begins when the epochs do, after the target."""
    config = settings(epochs=1000, max_minutes=1.0, schedule='exponential')
    clock, step = Clock(), ToyStep(config)
    started = clock.now - 20

    def wait(progress: Progress) -> None:
        clock.now += 10

    loop = TrainingLoop(step, ToyData(batches=1), config, wait, started, clock)
    state = run(loop)
    assert state.stopped == 'max-minutes'
    assert column(state, 'seconds') == [20, 30, 40, 50]
    expected = [0.1 * schedule_factor(config.training, share / 40) for share in (0, 10, 20, 30)]
    assert column(state, 'learning_rate') == pytest.approx(expected)


def test_a_plateau_halves_the_learning_rate_after_every_five_epochs_in_vain() -> None:
    still = [0.0] * 40
    for schedule, factor in (('plateau', 0.25), ('constant', 1.0)):
        config = settings(epochs=13, schedule=schedule)
        loop, _ = make_loop(config, data=ToyData(batches=1), path=still)
        state = run(loop)
        assert state.plateau_factor == factor
        rates = [0.1] * 6 + [0.1 * math.sqrt(factor)] * 5 + [0.1 * factor] * 2
        assert column(state, 'learning_rate') == pytest.approx(rates)


# Ends


def test_early_stop_counts_epochs_since_the_best() -> None:
    path = [3.0, 3.0, 2.0, 4.0, 4.0, 4.0, 1.0]
    config = settings(epochs=7, early_stop_patience=3)
    loop, _ = make_loop(config, data=ToyData(batches=1), path=path, goal=0)
    state = run(loop)
    # A gain at the third epoch starts the count anew, and the gain of the seventh is not awaited.
    assert state.stopped == 'early-stop'
    assert column(state, 'validation_loss') == [9, 9, 4, 16, 16, 16]
    assert weight(state.best_weights) == 2


def test_the_time_is_up_inside_an_epoch() -> None:
    config = settings(epochs=100, max_minutes=1.0)
    clock, data = Clock(), ToyData(batches=10)

    class Slow(ToyStep):
        def accumulate_gradients(self, batch: Any) -> dict[str, float]:
            clock.now += 4
            return super().accumulate_gradients(batch)

    step = Slow(config)
    loop = TrainingLoop(step, data, config, clock=clock)
    state = run(loop)
    assert state.stopped == 'max-minutes'
    # Ten batches, and five of the next epoch: it counts for the model, and not as an epoch.
    assert step.n_batches == 15
    assert len(state.history) == 2
    assert state.epoch == 1
    assert column(state, 'seconds') == [40, 60]
    # To continue exactly, the epoch begins again.
    assert loop.resume_point.state.epoch == 1
    assert len(loop.resume_point.state.history) == 1


def test_a_first_epoch_cut_by_the_clock_leaves_a_model() -> None:
    config = settings(epochs=100, max_minutes=0.01)
    loop, step = make_loop(config, clock=Clock(10.0))
    state = run(loop)
    assert (state.stopped, state.epoch, len(state.history)) == ('max-minutes', 0, 1)
    assert step.n_batches == 1
    assert weight(state.best_weights) != 0
    assert math.isfinite(state.best_loss)


def test_no_epoch_begins_when_the_time_is_up() -> None:
    config = settings(epochs=100, max_minutes=1.0)
    clock = Clock()

    def wait(progress: Progress) -> None:
        if progress.make_model is not None:
            clock.now += 60

    loop, step = make_loop(config, observer=wait, clock=clock)
    state = run(loop)
    assert (state.stopped, state.epoch, step.n_batches) == ('max-minutes', 1, 4)


def test_an_observer_stops_at_the_end_of_an_epoch() -> None:
    loop, _ = make_loop(settings(epochs=9), observer=at_end_of_epoch(2))
    state = run(loop)
    assert (state.stopped, state.epoch, len(state.history)) == ('request', 2, 2)


@pytest.mark.parametrize(('epoch', 'rows'), [(0, 1), (1, 1), (2, 2)])
def test_an_observer_stops_inside_an_epoch(epoch: int, rows: int) -> None:
    """What a first epoch has learned counts for the model; a later one is not waited for."""
    seen: list[Progress] = []

    def stop(progress: Progress) -> bool:
        seen.append(progress)
        return progress.make_model is None and progress.step == epoch

    loop, step = make_loop(
        settings(epochs=9), data=ToyData(held_out=0), observer=stop, clock=Clock(1.0)
    )
    state = run(loop)
    assert (state.stopped, state.epoch, len(state.history)) == ('request', epoch, rows)
    assert step.n_batches == 4 * epoch + 1
    # Only a first epoch ends with a report that has a model.
    assert (seen[-1].make_model is not None) == (epoch == 0)


def test_an_observer_stops_while_an_epoch_is_validated_but_never_the_first() -> None:
    config = settings(epochs=9)
    clock = Clock()

    class SlowToJudge(ToyStep):
        def validation_loss(self, batch: Any) -> float:
            clock.now += 1
            return super().validation_loss(batch)

    step = SlowToJudge(config)
    loop = TrainingLoop(
        step, ToyData(held_out=5), config, lambda progress: progress.make_model is None, clock=clock
    )
    state = run(loop)
    # The five batches of the first epoch, and one of the second.
    assert len(step.validated) == 6
    assert (state.stopped, state.epoch, len(state.history)) == ('request', 1, 1)
    # The weights of training are back, and not the average that was judged.
    assert step.probe == float(step.weight[0])


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_a_loss_that_is_no_number_keeps_the_best_of_the_epochs_before(bad: float) -> None:
    loop, step = make_loop(settings(epochs=9), losses={9: bad}, observer=ignore_progress)
    with pytest.warns(UserWarning, match=f'became {bad} in epoch 3.*epochs before is kept'):
        state = run(loop)
    assert (state.stopped, state.epoch, len(state.history)) == ('diverged', 2, 2)
    assert state.best_loss == min(column(state, 'validation_loss'))
    usual = run(make_loop(settings(epochs=2))[0])
    assert weight(state.best_weights) == weight(usual.best_weights)
    assert step.n_batches == 10


def test_a_first_loss_that_is_no_number_is_an_error() -> None:
    loop, _ = make_loop(settings(epochs=9), losses={1: math.nan})
    with pytest.raises(DataError, match=r'became nan in epoch 1\. Lower the learning'):
        run(loop)


@pytest.mark.parametrize('epoch', [1, 3])
def test_a_validation_that_is_no_number_is_judged_alike(epoch: int) -> None:
    path = [1.0] * (epoch - 1) + [math.nan]
    loop, _ = make_loop(settings(epochs=9), data=ToyData(batches=1), path=path)
    if epoch == 1:
        with pytest.raises(DataError, match=r'became nan in epoch 1\. Lower the learning'):
            run(loop)
        return
    with pytest.warns(UserWarning, match='became nan in epoch 3.*epochs before is kept'):
        state = run(loop)
    assert (state.stopped, state.epoch) == ('diverged', 2)
    assert weight(state.best_weights) == 1
    assert column(state, 'validation_loss') == [0.25, 0.25]


# Observers


def test_observers_are_told_about_twice_a_second_and_after_each_epoch() -> None:
    seen: list[Progress] = []
    config = settings(epochs=2)
    clock = Clock()

    class Steady(ToyStep):
        def accumulate_gradients(self, batch: Any) -> dict[str, float]:
            clock.now += REPORT_SECONDS / 2
            return super().accumulate_gradients(batch)

    data = ToyData(batches=7, patterns=3)
    loop = TrainingLoop(Steady(config), data, config, seen.append, clock=clock)
    state = run(loop)
    # After the third batch and the sixth: more than the interval since the last time.
    assert [progress.make_model is not None for progress in seen] == [False, False, True] * 2
    assert [progress.step for progress in seen] == [0, 0, 1, 1, 1, 2]
    assert {progress.total for progress in seen} == {2}
    # Three patterns in each quarter of a second.
    assert {progress.patterns_per_second for progress in seen} == {12.0}
    assert seen[2].losses == {name: state.history[0][name] for name in ('loss', 'validation_loss')}


def test_progress_goes_by_the_clock_where_that_is_ahead() -> None:
    seen: list[tuple[int, int]] = []
    config = settings(epochs=10**6, max_minutes=1.0)
    clock = Clock()

    def wait(progress: Progress) -> None:
        seen.append((progress.step, progress.total))
        clock.now += 15

    run(TrainingLoop(ToyStep(config), ToyData(batches=1), config, wait, clock=clock))
    assert seen == [(1, 10**6), (250, 1000), (500, 1000), (750, 1000)]


def test_a_look_at_the_model_disturbs_nothing() -> None:
    def look(progress: Progress) -> None:
        if progress.make_model is not None:
            progress.make_model()

    config = settings(epochs=3, ema_decay=0.8)
    first, second = (run(make_loop(config, observer=o)[0]) for o in (ignore_progress, look))
    assert weight(first.average) == weight(second.average)


def test_an_epoch_without_batches_ends_training() -> None:
    loop, step = make_loop(settings(epochs=3), data=ToyData(batches=0))
    state = run(loop)
    assert state.history == []
    assert step.steps == []


def test_the_course_of_losses_is_told_in_order() -> None:
    def rows(seen: Sequence[Progress]) -> list[float]:
        return [p.losses['validation_loss'] for p in seen if p.make_model is not None]

    seen: list[Progress] = []
    state = run(make_loop(settings(epochs=4), observer=seen.append)[0])
    assert rows(seen) == column(state, 'validation_loss')
