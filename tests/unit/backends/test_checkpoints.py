"""The model so far on disk: when it is written, what it replaces, and what stays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.backends import checkpoints
from ptychopinn_plugin.backends.checkpoints import Checkpoints
from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.config import Config, ModelConfig
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_file import read_model
from ptychopinn_plugin.network import describe_network

Clock = Callable[[float], None]


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return what moves the clock on."""
    now = [1000.0]
    monkeypatch.setattr(checkpoints.time, 'monotonic', lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def model(epoch: int) -> Model:
    config = Config(model=ModelConfig(pattern_size=32, filters_scale=0.25))
    network = describe_network(config.model, 16)
    shapes = network.weight_shapes()
    weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    probe = np.ones((1, 32, 32), dtype=np.complex64)
    made = {'epochs': epoch}
    return Model('blank', network, config, 1e4, weights, probe, provenance=made)


def end_of(epoch: int, make: Callable[[], Model] | None = None) -> Progress:
    return Progress('train', epoch, 9, {'loss': 1.0}, make_model=make or (lambda: model(epoch)))


def epoch_in(path: Path) -> int:
    return int(read_model(path).provenance['epochs'])


def test_a_checkpoint_a_minute(tmp_path: Path, tick: Clock) -> None:
    path = tmp_path / 'checkpoint.zip'
    seen: list[Progress] = []
    watch = Checkpoints(path).beside(lambda progress: bool(seen.append(progress)))
    for epoch in (1, 2):
        tick(25)
        watch(end_of(epoch))
    assert not path.exists()
    tick(25)
    watch(Progress('train', 2, 9, {'loss': 1.0}))
    assert not path.exists()
    watch(end_of(3))
    assert epoch_in(path) == 3
    tick(59)
    watch(end_of(4))
    assert epoch_in(path) == 3
    tick(1)
    watch(end_of(5))
    assert epoch_in(path) == 5
    assert len(seen) == 6


def test_the_answer_is_the_other_observers(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / 'a.zip').beside(lambda _: True)(Progress('train', 1, 9)) is True


def test_slow_writing_is_rare(tmp_path: Path, tick: Clock) -> None:
    """Of the time, it may take a hundredth."""
    path = tmp_path / 'checkpoint.zip'
    watch = Checkpoints(path).beside(lambda _: None)

    def slowly() -> Model:
        tick(3)
        return model(1)

    tick(60)
    watch(end_of(1, slowly))
    tick(299)
    watch(end_of(2))
    assert epoch_in(path) == 1
    tick(1)
    watch(end_of(3))
    assert epoch_in(path) == 3


def test_what_was_there_is_kept(tmp_path: Path, tick: Clock) -> None:
    path = tmp_path / 'checkpoint.h5.zip'
    path.write_bytes(b'hours of work')
    keeper = Checkpoints(path)
    keeper.remove()
    assert path.exists()
    for epoch in (1, 2):
        tick(60)
        keeper.beside(lambda _: None)(end_of(epoch))
    assert epoch_in(path) == 2
    assert (tmp_path / 'checkpoint.h5.previous.zip').read_bytes() == b'hours of work'
    keeper.remove()
    assert [path.name for path in tmp_path.iterdir()] == ['checkpoint.h5.previous.zip']


def test_what_is_continued_is_replaced(tmp_path: Path, tick: Clock) -> None:
    path = tmp_path / 'checkpoint.h5.zip'
    path.write_bytes(b'hours of work')
    keeper = Checkpoints(path, continues=True)
    tick(60)
    keeper.beside(lambda _: None)(end_of(1))
    # What was there cannot be read, so it is no predecessor worth keeping.
    assert [path.name for path in tmp_path.iterdir()] == ['checkpoint.h5.zip']
    keeper.remove()
    assert not list(tmp_path.iterdir())


def test_the_one_before_stays_and_is_read_where_the_newest_is_damaged(
    tmp_path: Path, tick: Clock
) -> None:
    path = tmp_path / 'checkpoint.h5.zip'
    keeper = Checkpoints(path)
    for epoch in (1, 2):
        tick(60)
        keeper.beside(lambda _: None)(end_of(epoch))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r'In its place.*checkpoint\.h5\.predecessor\.zip'):
        assert epoch_in(path) == 1
    resumed = Checkpoints(path, continues=True)
    tick(60)
    resumed.beside(lambda _: None)(end_of(3))
    assert epoch_in(path) == 3
    assert epoch_in(tmp_path / 'checkpoint.h5.predecessor.zip') == 1
    resumed.remove()
    assert not list(tmp_path.iterdir())


def test_a_predecessor_goes_with_the_training_that_is_moved_aside(
    tmp_path: Path, tick: Clock
) -> None:
    path = tmp_path / 'checkpoint.h5.zip'
    path.write_bytes(b'hours of work')
    (tmp_path / 'checkpoint.h5.predecessor.zip').write_bytes(b'the hour before')
    keeper = Checkpoints(path)
    tick(60)
    keeper.beside(lambda _: None)(end_of(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'checkpoint.h5.previous.predecessor.zip',
        'checkpoint.h5.previous.zip',
        'checkpoint.h5.zip',
    ]


def test_training_goes_on_where_none_can_be_written(tmp_path: Path, tick: Clock) -> None:
    folder = tmp_path / 'not yet'
    keeper = Checkpoints(folder / 'checkpoint.zip')
    watch = keeper.beside(lambda _: None)
    tick(60)
    with pytest.warns(UserWarning, match=r'No checkpoint: Cannot write.*Training goes on'):
        watch(end_of(1))
    folder.mkdir()
    tick(60)
    watch(end_of(2))
    assert epoch_in(folder / 'checkpoint.zip') == 2
