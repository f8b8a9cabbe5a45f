"""The curve of losses, drawn while a run's thread adds epochs."""

import pytest
from pytestqt.qtbot import QtBot

from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.view.header import TrainingCurve
from ptychopinn_plugin.host.wording import status_line
from ptychopinn_plugin.host.worker.messages import RunProgress


def _end_epoch(activity: Activity, number: int) -> None:
    losses = {'loss': 1 / number, 'validation_loss': 2 / number}
    activity.note(RunProgress('train', number, 9, losses, is_epoch_end=True))


@pytest.fixture
def activity() -> Activity:
    """Return a training with two epochs behind it."""
    activity = Activity()
    with activity.running('training', 'PINN'):
        _end_epoch(activity, 1)
        _end_epoch(activity, 2)
    return activity


def test_an_epoch_that_ends_amid_drawing_is_drawn_the_next_time(
    activity: Activity, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = TrainingCurve(activity, 'PINN')
    qtbot.addWidget(curve.get_widget())
    plot = curve.axes.plot

    def plot_late(*args: object, **options: object) -> object:
        _end_epoch(activity, len(activity.epochs) + 1)
        return plot(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(curve.axes, 'plot', plot_late)
        curve.refresh()
    assert [list(line.get_xdata()) for line in curve.axes.lines] == [[1, 2], [1, 2]]

    curve.refresh()
    assert [len(line.get_ydata()) for line in curve.axes.lines] == [4, 4]


def test_a_training_that_ends_early_shows_no_other_curve(activity: Activity, qtbot: QtBot) -> None:
    curve = TrainingCurve(activity, 'PINN')
    qtbot.addWidget(curve.get_widget())
    curve.refresh()
    assert status_line(activity, 0.0) == 'Training done.'
    assert curve.axes.lines
    with activity.running('inference'):
        curve.refresh()
    assert curve.axes.lines, 'the curve stays while its model infers'

    with activity.running('training', 'PINN'):
        curve.refresh()
        assert not curve.axes.lines
    curve.refresh()
    assert status_line(activity, 0.0) == 'Training done.'


def test_a_second_training_as_long_as_the_first_is_drawn(activity: Activity, qtbot: QtBot) -> None:
    curve = TrainingCurve(activity, 'PINN')
    qtbot.addWidget(curve.get_widget())
    curve.refresh()
    with activity.running('training', 'PINN'):
        _end_epoch(activity, 4)
        _end_epoch(activity, 8)

    curve.refresh()

    assert list(curve.axes.lines[0].get_ydata()) == [1 / 4, 1 / 8]
