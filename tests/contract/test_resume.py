"""Training that goes on: resumed exactly, or fine-tuned."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract.training import (
    MakeBackend,
    MakeConfig,
    MakeScan,
    after_epochs,
    flat,
    losses,
)

from ptychopinn_plugin import api
from ptychopinn_plugin.backends import checkpoints
from ptychopinn_plugin.backends.checkpoints import Checkpoints
from ptychopinn_plugin.backends.common import sampling, training_loop
from ptychopinn_plugin.backends.common.schedules import schedule_factor
from ptychopinn_plugin.backends.protocol import Backend, Progress, TrainingResult
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import ConfigError

RESUMED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({'schedule': 'plateau', 'optimizer': 'adam', 'gradient_accumulation_steps': 3}, {}),
    ({'probe_trainable': True, 'intensity_scale_trainable': True, 'learning_rate': 0.01}, {}),
    ({'target': 'none', 'n_subsample': 50}, {'gridsize': 2}),
    ({}, {'model_type': 'supervised'}),
    # Its gradients overflow at first, so that the scale falls from step to step.
    ({'precision': 'float16', 'poisson_weight': 1e3}, {}),
]


@pytest.mark.parametrize(('training', 'model'), RESUMED[:1], ids=str)
def test_resume_is_as_if_never_stopped(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    tmp_path: Path,
    training: dict[str, Any],
    model: dict[str, Any],
) -> None:
    config = brief(epochs=4, model=model, **training)
    whole = make_backend().train([tiny_scan], config)
    half = make_backend()
    stopped = half.train([tiny_scan], config, observer=after_epochs(2))
    assert stopped.stopped == 'request'
    assert len(stopped.history) == 2
    half.save_model(tmp_path / 'half.h5.zip')
    rest = make_backend()
    opened = rest.open_model(tmp_path / 'half.h5.zip')
    resumed = rest.train([tiny_scan], config, base_model=opened, resume=True)
    assert_same_run(resumed, whole)
    assert [row['epoch'] for row in resumed.history] == [1, 2, 3, 4]


@pytest.fixture
def checkpoint_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, 'MIN_SECONDS', 0.0)
    monkeypatch.setattr(checkpoints, 'MAX_WRITING_FRACTION', math.inf)


@pytest.mark.usefixtures('checkpoint_each_epoch')
@pytest.mark.parametrize(('training', 'model'), RESUMED, ids=str)
def test_resume_from_a_checkpoint(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    tmp_path: Path,
    training: dict[str, Any],
    model: dict[str, Any],
) -> None:
    """A checkpoint disturbs no training, and a training that breaks off continues from it."""
    config = brief(epochs=4, model=model, **training)
    whole = make_backend().train([tiny_scan], config)
    seen: list[float] = []

    def break_down(progress: Progress) -> None:
        if progress.make_model is not None:
            seen.append(progress.losses['validation_loss'])
            if len(seen) == 3:
                raise MemoryError

    path = tmp_path / 'checkpoint.zip'
    with pytest.raises(MemoryError):
        make_backend().train([tiny_scan], config, observer=Checkpoints(path).beside(break_down))
    assert seen == losses(whole)[:3]
    rest = make_backend()
    opened = rest.open_model(path)
    assert opened.provenance['epochs'] == 2
    assert opened.provenance['best_loss'] == min(seen[:2])
    assert_same_run(rest.train([tiny_scan], config, base_model=opened, resume=True), whole)


@pytest.mark.usefixtures('checkpoint_each_epoch')
@pytest.mark.parametrize('at_part', [1, 4])
@pytest.mark.parametrize(('training', 'model'), RESUMED, ids=str)
def test_resume_from_a_checkpoint_inside_an_epoch(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_part: int,
    training: dict[str, Any],
    model: dict[str, Any],
) -> None:
    """An epoch of three parts breaks off after one of them, and ends with the same bits."""
    monkeypatch.setattr(sampling, 'SUBSCAN_SIZE', 8)
    monkeypatch.setattr(training_loop, 'RESUME_POINT_SECONDS', -1.0)
    config = brief(epochs=2, model=model, **training)
    whole = make_backend().train([tiny_scan], config)
    offers = itertools.count(1)
    path = tmp_path / 'checkpoint.zip'
    write = Checkpoints(path).beside(lambda _: None)

    def break_down(progress: Progress) -> None:
        write(progress)
        is_inside = progress.make_model is not None and 'validation_loss' not in progress.losses
        if is_inside and next(offers) == at_part:
            raise MemoryError

    with pytest.raises(MemoryError):
        make_backend().train([tiny_scan], config, observer=break_down)
    rest = make_backend()
    opened = rest.open_model(path)
    assert opened.training_state is not None
    assert opened.training_state.values['epoch_parts'] in (1, 2)
    assert_same_run(rest.train([tiny_scan], config, base_model=opened, resume=True), whole)


def inside_epoch(number: int) -> Callable[[Progress], bool]:
    """Return an observer that stops after the second batch of an epoch."""
    seen = []

    def observe(progress: Progress) -> bool:
        if progress.stage == 'train' and progress.step == number - 1:
            seen.append(progress)
        return len(seen) == 2

    return observe


@pytest.fixture
def report_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loop, 'REPORT_SECONDS', -1.0)


@pytest.mark.usefixtures('report_each_batch')
@pytest.mark.parametrize('epoch', [1, 2])
@pytest.mark.parametrize(('training', 'model'), RESUMED, ids=str)
def test_resume_after_a_stop_inside_an_epoch(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    tmp_path: Path,
    epoch: int,
    training: dict[str, Any],
    model: dict[str, Any],
) -> None:
    """The epoch is taken up again from its start, with what it started from."""
    config = brief(epochs=3, batch_size=4, model=model, **training)
    whole = make_backend().train([tiny_scan], config)
    half = make_backend()
    stopped = half.train([tiny_scan], config, observer=inside_epoch(epoch))
    assert stopped.stopped == 'request'
    # What a first epoch has learned counts for the model; a later one is not waited for.
    assert len(stopped.history) == 1
    assert stopped.model.provenance['best_loss'] == min(losses(stopped))
    assert (stopped.history[0]['loss'] != whole.history[0]['loss']) == (epoch == 1)
    half.save_model(tmp_path / 'half.h5.zip')
    rest = make_backend()
    opened = rest.open_model(tmp_path / 'half.h5.zip')
    resumed = rest.train([tiny_scan], config, base_model=opened, resume=True)
    assert_same_run(resumed, whole)
    assert [row['epoch'] for row in resumed.history] == [1, 2, 3]


def test_resume_after_the_time_was_up_inside_an_epoch(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The target and other schedules go by the clock as well.
    config = brief(epochs=3, target='none', schedule='constant')
    whole = make_backend().train([tiny_scan], config)
    a_minute = config.replace(training=config.training.replace(max_minutes=1.0))
    hasty = make_backend()
    # Each look at the clock is half a minute later: one batch and it is over.
    monkeypatch.setattr(hasty, 'clock', itertools.count(0.0, 30.0).__next__)
    stopped = hasty.train([tiny_scan], a_minute)
    assert stopped.stopped == 'max-minutes'
    assert stopped.model.provenance['epochs'] == 0
    assert stopped.history[0]['loss'] != whole.history[0]['loss']
    rest = make_backend().train([tiny_scan], config, base_model=stopped.model, resume=True)
    assert_same_run(rest, whole)


def test_other_scans_are_not_the_same_run(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    begun = make_backend().train([tiny_scan], brief(epochs=1)).model
    other = tiny_scan.subset(np.arange(60))
    for scans in ([other], [tiny_scan, other]):
        with pytest.raises(ConfigError, match=r'the same scans.*--base-model MODEL'):
            make_backend().train(scans, brief(epochs=2), base_model=begun, resume=True)


def test_another_probe_is_not_the_same_run(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    begun = make_backend().train([tiny_scan], brief(epochs=1)).model
    other = dataclasses.replace(tiny_scan, probe=np.roll(tiny_scan.probe, 1, axis=-1))
    with pytest.raises(ConfigError, match=r'with the same probe.*--base-model MODEL'):
        make_backend().train([other], brief(epochs=2), base_model=begun, resume=True)


def test_another_validation_is_not_the_same_run(
    make_backend: MakeBackend, tiny_scan: Scan, tiny: MakeScan, brief: MakeConfig
) -> None:
    held_out = [tiny(seed=8)]
    begun = make_backend().train([tiny_scan], brief(epochs=1), validation=held_out).model
    for other in ([], [tiny_scan]):
        with pytest.raises(ConfigError, match=r'the same validation scans as before, 1 in number'):
            make_backend().train(
                [tiny_scan], brief(epochs=2), validation=other, base_model=begun, resume=True
            )
    rest = make_backend().train(
        [tiny_scan], brief(epochs=2), validation=held_out, base_model=begun, resume=True
    )
    assert len(rest.history) == 2


def test_time_goes_on_where_it_ended(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    """So a schedule that follows the clock does not begin anew."""

    def after_an_epoch(progress: Progress) -> bool:
        return 'validation_loss' in progress.losses

    def backend() -> Any:
        made: Any = make_backend()
        # Each look at the clock is a hundredth of a second later.
        made.clock = itertools.count(0.0, 0.01).__next__
        return made

    half = backend().train(
        [tiny_scan], brief(epochs=10**6, max_minutes=60.0), observer=after_an_epoch
    )
    state = half.model.training_state
    assert state is not None
    rows = [dict(row, seconds=2000.0) for row in state.values['history']]
    values = {**state.values, 'history': rows, 'seconds_before_epochs': 200.0}
    later = dataclasses.replace(
        half.model, training_state=dataclasses.replace(state, values=values)
    )
    config = brief(epochs=10**6, max_minutes=60.0)
    rest = backend().train(
        [tiny_scan], config, base_model=later, resume=True, observer=after_an_epoch
    )
    assert len(rest.history) == 2
    assert 2000 < rest.history[-1]['seconds'] < 2001
    expected = schedule_factor(config.training, 1800 / 3400) * config.training.learning_rate
    assert rest.history[-1]['learning_rate'] == pytest.approx(expected, rel=1e-3)

    spent = brief(epochs=10**6, max_minutes=30.0)
    with pytest.warns(UserWarning, match='has used the 30 minutes that are requested'):
        again = backend().train([tiny_scan], spent, base_model=later, resume=True)
    assert again.stopped == 'max-minutes'
    assert len(again.history) == 1


def assert_same_run(first: TrainingResult, second: TrainingResult) -> None:
    np.testing.assert_array_equal(flat(first), flat(second))
    np.testing.assert_array_equal(first.model.probe, second.model.probe)
    assert first.model.intensity_scale == second.model.intensity_scale
    assert [row['loss'] for row in first.history] == [row['loss'] for row in second.history]
    assert losses(first) == losses(second)
    states = first.model.training_state, second.model.training_state
    assert states[0] is not None
    assert states[1] is not None
    assert set(states[0].arrays) == set(states[1].arrays)
    for name, array in states[0].arrays.items():
        np.testing.assert_array_equal(array, states[1].arrays[name], err_msg=name)
    clock = {'history', 'seconds_before_epochs'}
    first_values, second_values = (
        {name: value for name, value in state.values.items() if name not in clock}
        for state in states
        if state is not None
    )
    assert first_values == second_values


def test_resume_of_a_fine_tuning(
    make_backend: MakeBackend, tiny_scan: Scan, tiny: MakeScan, brief: MakeConfig
) -> None:
    """It began at the intensity scale of another model."""
    trainable = {'intensity_scale_trainable': True, 'learning_rate': 0.02}
    base = make_backend().train([tiny(seed=9)], brief(**trainable)).model
    assert abs(base.intensity_scale - 1) > 1e-3
    config = brief(epochs=4, **trainable)
    whole = make_backend().train([tiny_scan], config, base_model=base)
    half = make_backend().train([tiny_scan], config, base_model=base, observer=after_epochs(2))
    rest = make_backend().train([tiny_scan], config, base_model=half.model, resume=True)
    assert_same_run(rest, whole)


def test_resume_knows_how_long_nothing_got_better(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig
) -> None:
    scan = tiny(rows=4, columns=5)
    config = brief(
        epochs=13, schedule='plateau', learning_rate=0.0, target='none', validation_fraction=0.25
    )
    half = make_backend().train([scan], config, observer=after_epochs(7))
    rest = make_backend().train([scan], config, base_model=half.model, resume=True)
    state = rest.model.training_state
    assert state is not None
    assert state.values['plateau_factor'] == 0.25
    assert state.values['epochs_without_gain'] == 12


def test_resume_with_nothing_left_to_do(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig, tmp_path: Path
) -> None:
    config = brief(epochs=2)
    backend = make_backend()
    done = backend.train([tiny_scan], config)
    with pytest.warns(UserWarning, match='has 2 epochs of the 2'):
        again = backend.train([tiny_scan], config, base_model=done.model, resume=True)
    assert_same_run(again, done)
    backend.save_model(tmp_path / 'wts.h5.zip')


def test_resume_needs_the_state(
    make_backend: MakeBackend,
    backend_name: str,
    tiny_model: Backend,
    tiny_scan: Scan,
    brief: MakeConfig,
) -> None:
    assert tiny_model.model is not None
    bare = dataclasses.replace(tiny_model.model, training_state=None)
    with pytest.raises(ConfigError, match=r'no training state.*train\(scans, base_model=model\)'):
        api.train(tiny_scan, brief(), resume=bare, backend=backend_name)
    # Who opens a model checks it, and no backend starts without a state.
    for base in (bare, None):
        with pytest.raises(AssertionError):
            make_backend().train([tiny_scan], brief(), base_model=base, resume=True)


def test_fine_tuning_keeps_the_network_and_starts_better(
    make_backend: MakeBackend, tiny_model: Backend, tiny: MakeScan, brief: MakeConfig
) -> None:
    assert tiny_model.model is not None
    other = tiny(seed=11)
    config = brief(epochs=1, learning_rate=1e-4, model={'filters_scale': 2.0, 'passes': 1})
    tuned = make_backend().train([other], config, base_model=tiny_model.model)
    assert tuned.model.network == tiny_model.model.network
    assert tuned.model.config.model == tiny_model.model.config.model
    assert tuned.model.photons == tiny_model.model.photons
    fresh = make_backend().train([other], brief(epochs=1, learning_rate=1e-4))
    assert losses(tuned)[0] < losses(fresh)[0]
