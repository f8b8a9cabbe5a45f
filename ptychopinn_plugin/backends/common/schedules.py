"""The learning rate over a training run."""

import math

from ptychopinn_plugin.config import TrainingConfig

PLATEAU_EPOCHS = 5
"""After this number of epochs without a better loss 'plateau' halves the learning rate."""


def schedule_factor(settings: TrainingConfig, progress: float) -> float:
    """Return the factor on the learning rate when `progress` (0 to 1) of training is done."""
    warm = settings.warmup_fraction
    if settings.schedule in ('cosine', 'one-cycle') and progress < warm:
        low = 0.04 if settings.schedule == 'one-cycle' else 0.0
        return low + (1 - low) * (progress / warm) + 1e-6
    if settings.schedule in ('cosine', 'one-cycle'):
        rest = (progress - warm) / (1 - warm)
        low = 1e-3 if settings.schedule == 'one-cycle' else 0.0
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * rest))
    if settings.schedule == 'exponential':
        return float(0.01**progress)
    return 1.0
