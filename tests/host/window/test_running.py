"""What the window shows of a training while it goes on, and what it states of its end."""

import re
from pathlib import Path

from .user import Window, check_picture

LONG = 100_000
"""No test waits for this number of epochs or iterations."""

TARGET = r'Target reconstruction, \d+ s of about 12 s, \d+ s left\.'
EPOCH = r'Epoch \d+; training (\d+) s of 1 min, at most (\d+) s left\.'
QUALITY = (
    r"Without iterations the network's object of 80 patterns of data (fits|misses) the counts .*"
    'shot noise'
)


def test_a_training_shows_its_phases_and_its_pictures_while_it_works(
    window: Window, tmp_path: Path
) -> None:
    window.set(TrainingEpochs=LONG, TrainingTargetIterations=LONG, TrainingMaxMinutes=1.0)
    window.train(tmp_path / 'data')
    # The target takes at most a fifth of the time.
    window.wait(lambda: re.fullmatch(TARGET, window.status) is not None)
    check_picture(window, 'Target')
    assert window.library.activity.stage == 'target'

    window.wait(lambda: re.fullmatch(EPOCH, window.status) is not None)
    reported = re.fullmatch(EPOCH, window.status)
    assert reported is not None
    spent, left = int(reported[1]), int(reported[2])
    assert spent + left in (59, 60, 61)
    assert spent >= 10, 'what the target took counts too'

    # The network's object comes with an epoch, some seconds later.
    window.wait(lambda: len(window.library.activity.pictures) == 2)
    check_picture(window, 'Target', 'Network')
    picture = window.header.picture
    before = picture.label.pixmap().cacheKey()
    window.wait(lambda: picture.label.pixmap().cacheKey() != before)
    assert window.is_running, 'a newer picture is drawn while it works'
    window.stop()


def test_an_epoch_that_the_time_limit_cuts_is_shown_as_cut(window: Window, tmp_path: Path) -> None:
    # The time is over in the first epoch, which one pattern at a time makes long.
    window.set(TrainingEpochs=LONG, TrainingBatchSize=1, TrainingMaxMinutes=0.01)
    window.train(tmp_path / 'data')
    window.wait_for_end()
    axes = window.curve.axes
    window.wait(lambda: axes.get_xlabel() == 'epoch (1 was cut short)')
    assert re.search(
        r'Epoch 1: training loss \S+, validation loss \S+; it was cut short, after a part of its '
        r'patterns\.',
        window.log,
    )
    assert 'patterns per second' not in window.log
    assert axes.get_xlim() == (0.5, 1.5), 'an axis of whole epochs'
    assert [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == 'o'] == [
        'white',
        'white',
    ]
    ended = (
        r'Trained a part of one epoch until the time limit of 1 s was reached; its best loss is '
        + r'\S+ '
        + QUALITY
    )
    window.wait(lambda: re.match(ended, window.message) is not None)
    assert ' 32 x 32 px, a part of one epoch, 80 patterns of 1 scan (data)' in window.model_line
