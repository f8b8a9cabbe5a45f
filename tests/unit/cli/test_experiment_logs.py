"""`train --logger`: what a tracker of experiments gets, from the trackers' own readers."""

from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin.cli import experiment_logs

TAGS = {'loss', 'validation_loss'}


def test_tensorboard_gets_each_epoch(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip('tensorboardX')

    done = run('train', scan_file, '-o', tmp_path / 'run', '--epochs', 2, '--logger', 'tensorboard')
    assert done.code == 0, done.err
    scalars = read_events(tmp_path / 'run' / 'tensorboard')
    assert scalars['loss'] == {1: 1.0, 2: 0.5}
    assert set(scalars) >= TAGS


def read_events(folder: Path) -> dict[str, dict[int, float]]:
    """Return the scalars of TensorBoard's event files: records of length, checksum, message."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for path in folder.glob('events.*'):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], 'little')
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.HasField('simple_value'):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_mlflow_gets_settings_losses_and_files(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip('mlflow')
    store = (tmp_path / 'store').as_uri()
    monkeypatch.setenv('MLFLOW_TRACKING_URI', store)
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    mlflow.set_tracking_uri(store)
    done = run(
        'train', scan_file, '-o', tmp_path / 'run', '--epochs', 2, '--seed', 3, '--logger', 'mlflow'
    )
    assert done.code == 0, done.err
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name('ptychopinn')
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == 'FINISHED'
    assert found.data.params['training.seed'] == '3'
    losses = client.get_metric_history(found.info.run_id, 'loss')
    assert [(item.step, item.value) for item in losses] == [(1, 1.0), (2, 0.5)]
    files = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert files == {'wts.h5.zip', 'losses.csv', 'training.png', 'config.toml'}


def test_a_tracker_that_fails_costs_no_training(
    run: Any, backend: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('tensorboardX')

    def fail(*arguments: object) -> None:
        raise ConnectionError('the tracker is away')

    monkeypatch.setattr(experiment_logs._TensorBoard, 'add', fail)
    done = run('train', scan_file, '-o', tmp_path / 'run', '--logger', 'tensorboard')
    assert done.code == 0, done.err
    assert (tmp_path / 'run' / 'wts.h5.zip').is_file()
    assert 'the tracker is away' in (tmp_path / 'run' / 'train.log').read_text()


def test_what_is_missing_is_told_before_anything_is_read(
    run: Any, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    command = ('train', scan_file, '-o', tmp_path / 'run', '--logger')
    if experiment_logs.is_importable('mlflow'):
        assert 'MLFLOW_TRACKING_URI=http://server:5000' in run(*command, 'mlflow').error()
    monkeypatch.setattr(experiment_logs, 'is_importable', lambda name: False)
    for name in ('tensorboard', 'mlflow'):
        message = run(*command, name).error()
        assert f"pip install 'ptychopinn-plugin[{name}]'" in message
    assert 'tensorboard' in run(*command, 'wandb').err
