"""What the tests of training share."""

from collections.abc import Callable

import numpy as np

from ptychopinn_plugin.backends.protocol import Backend, Progress, TrainingResult
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan

MakeBackend = Callable[[], Backend]
MakeScan = Callable[..., Scan]
MakeConfig = Callable[..., Config]

CPU = InferenceConfig(device='cpu')
ALONE = RefinementConfig(iterations=0)


def flat(result: TrainingResult) -> np.ndarray:
    """Return all weights in one row."""
    return np.concatenate([weight.ravel() for weight in result.model.weights.values()])


def losses(result: TrainingResult) -> list[float]:
    return [row['validation_loss'] for row in result.history]


def after_epochs(count: int) -> Callable[[Progress], bool]:
    """Return an observer that stops at the end of an epoch."""
    return lambda progress: (
        progress.stage == 'train'
        and progress.step >= count
        and 'validation_loss' in progress.losses
    )
