"""A small training in a worker, and what comes of it."""

from collections.abc import Iterator
from pathlib import Path

from ptychopinn_plugin.config import Config, ModelConfig, TrainingConfig
from ptychopinn_plugin.host.worker.client import Event
from ptychopinn_plugin.host.worker.messages import RunProgress, TrainingDone, TrainJob


def training_job(scan: Path, output: Path, epochs: int) -> TrainJob:
    """Return a training of a small network on a scan."""
    return TrainJob(
        'pytorch',
        (scan,),
        Config(
            ModelConfig(filters_scale=0.25, passes=1),
            TrainingConfig(epochs=epochs, target_iterations=5, device='cpu'),
        ),
        output,
        keep_training_state=False,
    )


def last_event(events: Iterator[Event | None]) -> Event:
    """Read all events and return the last one."""
    last = None
    for event in events:
        last = event or last
    assert last is not None
    return last


def epochs_of(event: Event) -> int:
    """Return how many epochs a training took that has ended."""
    assert isinstance(event.report, TrainingDone)
    return event.report.epochs


def until_trained(events: Iterator[Event | None]) -> None:
    """Read events until some epochs are over."""
    epochs = 0
    for event in events:
        if event is not None and isinstance(event.report, RunProgress):
            epochs += event.report.is_epoch_end
        if epochs == 3:
            return
