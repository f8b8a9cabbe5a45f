"""What the line of status states about a run: what it does, for how long, and how much is left."""

import pytest

from ptychopinn_plugin.host import run_state
from ptychopinn_plugin.host.run_state import Activity, ChosenProduct
from ptychopinn_plugin.host.wording import status_line
from ptychopinn_plugin.host.worker.messages import RunProgress


@pytest.mark.parametrize(
    ('done', 'limit_s', 'elapsed_s', 'expected'),
    [
        (4, 120.0, 84.0, 'Epoch 5; training 1 min 24 s of 2 min, at most 36 s left.'),
        (4, None, 84.0, 'Epoch 5 of 6; training 1 min 24 s, about 24 s left.'),
        (0, None, 84.0, 'Epoch 1 of 6; training 1 min 24 s.'),
        # Nothing is known of how long the last steps take.
        (4, 120.0, 125.0, 'The time limit of 2 min was reached; {last}, 2 min 5 s.'),
        (6, 120.0, 84.0, 'All 6 epochs are done; {last}, 1 min 24 s.'),
        (6, None, 84.0, 'All 6 epochs are done; {last}, 1 min 24 s.'),
    ],
)
def test_the_status_of_a_training_tells_whose_time_it_is(
    done: int, limit_s: float | None, elapsed_s: float, expected: str
) -> None:
    activity = Activity()
    with activity.running('training', 'PINN'):
        activity.plan(6, limit_s)
        activity.note(RunProgress('train', 0, 6, {}))
        for number in range(done):
            activity.note(RunProgress('train', number + 1, 6, {'loss': 1.0}, is_epoch_end=True))
        activity.computing_s = activity.stage_started_s = 0.0
        # Four epochs took 72 s, so that 36 s are left from there.
        activity.epoch_ended_s = 84.0 if limit_s is not None else 72.0
        line = status_line(activity, elapsed_s)
    assert line == expected.format(last='the network is judged and written')


class Clock:
    """Time that a test advances."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_state, 'time', clock)
    return clock


def note(activity: Activity, clock: Clock, seconds: float, stage: str, step: int, n: int) -> str:
    """Let a report come after some seconds, and return the line of status at once."""
    clock.now += seconds
    activity.note(RunProgress(stage, step, n))
    return status_line(activity, clock.now)


def test_each_stage_states_how_much_time_is_left(clock: Clock) -> None:
    activity = Activity()
    with activity.running('inference', 'PINN'):
        clock.now += 4
        starting = status_line(activity, clock.now)
        assert starting == 'Starting, 4 s; the time left is shown once it computes.'
        assert note(activity, clock, 0, 'predict', 1, 3) == 'Prediction, pass 2 of 3, 0 s.'
        line = note(activity, clock, 6, 'predict', 2, 3)
        assert line == 'Prediction, pass 3 of 3, 6 s of about 12 s, 6 s left.'
        # It goes down while nothing is reported, and not below nothing.
        assert '8 s of about 12 s, 4 s left' in status_line(activity, clock.now + 2)
        assert '9 s of about 12 s, 3 s left' in status_line(activity, clock.now + 3)
        assert '16 s of about 16 s, 0 s left' in status_line(activity, clock.now + 10)
        assert note(activity, clock, 6, 'refine', 1, 30) == 'Refinement, iteration 1 of 30, 0 s.'
        line = note(activity, clock, 2, 'refine', 11, 30)
        assert line == 'Refinement, iteration 11 of 30, 2 s of about 6 s, 4 s left.'


def test_iterations_after_a_pass_go_on_with_their_time(clock: Clock) -> None:
    activity = Activity()
    with activity.running('inference', 'PINN'):
        note(activity, clock, 1, 'refine', 1, 40)
        note(activity, clock, 9, 'refine', 10, 40)
        line = note(activity, clock, 1, 'pass', 1, 3)
        assert line == 'Pass 1 of 3 of the learned prior, 0 s.'
        # 10 iterations and a pass took 11 s, and so will each of the next.
        line = note(activity, clock, 1, 'refine', 11, 40)
        assert line == 'Refinement, iteration 11 of 40, 11 s of about 43 s, 32 s left.'


def test_each_target_has_its_own_time_and_all_of_them_one_limit(clock: Clock) -> None:
    activity = Activity()
    with activity.running('training', 'PINN'):
        activity.plan(100, 60.0)
        note(activity, clock, 0, 'target', 1, 11)
        assert '1 s of about 2 s, 1 s left' in note(activity, clock, 1, 'target', 6, 11)
        assert note(activity, clock, 1, 'target', 1, 1000) == 'Target reconstruction, 0 s.'
        # A fifth of the minute is for targets, 3 s of which have gone.
        line = note(activity, clock, 1, 'target', 2, 1000)
        assert line == 'Target reconstruction, 1 s of about 10 s, 9 s left.'


def test_the_first_line_states_what_a_click_does() -> None:
    activity = Activity()
    assert status_line(activity, 0.0).startswith('Choose a product with patterns above: Infer ')
    activity.chosen_product = lambda: ChosenProduct('unseen', 1024)
    assert status_line(activity, 0.0) == 'Infer reconstructs unseen; nothing needs to be trained.'
