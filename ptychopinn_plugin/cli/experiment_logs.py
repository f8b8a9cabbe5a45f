"""Losses and settings of a training, to a tracker of experiments beside losses.csv.

TensorBoard's event files are written by tensorboardX, which needs no framework, so that both
backends have the same; MLflow's client is in mlflow-skinny, which comes with Ptychodus.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from ptychopinn_plugin.errors import ConfigError, OutputError
from ptychopinn_plugin.packages import is_importable

LoggerName = Literal['tensorboard', 'mlflow']

EVENTS_FOLDER = 'tensorboard'
"""This folder lies in the output folder, where TensorBoard can read it while a training goes on."""

MLFLOW_VARIABLE = 'MLFLOW_TRACKING_URI'
MLFLOW_EXPERIMENT = 'ptychopinn'
"""Runs are in this experiment, where MLFLOW_EXPERIMENT_NAME names no other."""

_PACKAGES = {'tensorboard': ('tensorboardX', 'tensorboardX'), 'mlflow': ('mlflow', 'mlflow-skinny')}


class ExperimentLog(Protocol):
    """Where the losses of a training go."""

    def add(self, epoch: int, losses: Mapping[str, float]) -> None:
        """Add the losses of an epoch.

        Raises
        ------
        OSError, OutputError
            If the tracker cannot be reached or does not take them.
        """
        ...

    def add_files(self, paths: Sequence[Path]) -> None:
        """Add what the training has left."""
        ...


def check_logger(name: LoggerName) -> None:
    """Check that a logger can be used, before anything takes long.

    Raises
    ------
    ConfigError
        If its package is not installed, or MLflow has no server.
    """
    module, package = _PACKAGES[name]
    if not is_importable(module):
        raise ConfigError(
            f'--logger {name} needs the package {package}, which is not installed. Install it with '
            f"pip install 'ptychopinn-plugin[{name}]'."
        )
    if name == 'mlflow' and not os.environ.get(MLFLOW_VARIABLE):
        raise ConfigError(
            f'--logger mlflow needs the address of the tracking server in {MLFLOW_VARIABLE}; it '
            f'is not set. Set it, for example {MLFLOW_VARIABLE}=http://server:5000.'
        )


@contextmanager
def experiment_log(
    name: LoggerName, output: Path, title: str, settings: Mapping[str, Any]
) -> Iterator[ExperimentLog]:
    """Open a log for one training; it is closed with how the block ends.

    Parameters
    ----------
    name : 'tensorboard' or 'mlflow'
    output : Path
        The folder of the results.
    title : str
        Of the run.
    settings : mapping of str to plain values
        By 'section.field'.
    """
    if name == 'tensorboard':
        with _tensorboard(output / EVENTS_FOLDER, settings) as log:
            yield log
    else:
        with _mlflow(title, settings) as log:
            yield log


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add(self, epoch: int, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def add_files(self, paths: Sequence[Path]) -> None:
        # The files lie beside the events already.
        del paths


@contextmanager
def _tensorboard(folder: Path, settings: Mapping[str, Any]) -> Iterator[ExperimentLog]:
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        lines = '\n'.join(f'    {key} = {value}' for key, value in settings.items())
        writer.add_text('settings', lines)
        yield _TensorBoard(writer)


class _MLflow:
    def __init__(self, module: Any) -> None:
        self._mlflow = module

    def add(self, epoch: int, losses: Mapping[str, float]) -> None:
        try:
            self._mlflow.log_metrics(dict(losses), step=epoch)
        except self._mlflow.MlflowException as error:
            raise OutputError(f'MLflow does not take the losses: {error}') from error

    def add_files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._mlflow.log_artifact(str(path))


@contextmanager
def _mlflow(title: str, settings: Mapping[str, Any]) -> Iterator[ExperimentLog]:
    import mlflow

    try:
        if not os.environ.get('MLFLOW_EXPERIMENT_NAME'):
            mlflow.set_experiment(MLFLOW_EXPERIMENT)
        run = mlflow.start_run(run_name=title)
        # The server refuses longer values.
        mlflow.log_params({key: str(value)[:500] for key, value in settings.items()})
    except mlflow.MlflowException as error:
        raise ConfigError(
            f'MLflow at {os.environ[MLFLOW_VARIABLE]} ({MLFLOW_VARIABLE}) takes no run: {error}. '
            'Correct the address, or train without --logger.'
        ) from error
    # The run is marked as failed where the block fails.
    with run:
        yield _MLflow(mlflow)
