"""What the line of status states about a training."""

import pytest

from ptychopinn_plugin.host.run_state import Activity
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
