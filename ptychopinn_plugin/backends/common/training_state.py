"""What a training continues from, as a model file holds it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.backends.common.training_loop import LoopState, TrainingLoop
from ptychopinn_plugin.model import TrainingState


def save_state(
    loop: TrainingLoop, first_scale: float, fingerprints: Mapping[str, Sequence[str]]
) -> TrainingState:
    """Return what the next epoch starts from; of one that was stopped inside nothing is kept."""
    point = loop.resume_point
    state = point.state
    arrays = {f'last/{name}': array for name, array in point.weights.items()}
    arrays |= {f'best/{name}': array for name, array in state.best_weights.items()}
    arrays |= {f'average/{name}': array for name, array in state.average.items()}
    arrays |= {f'optimizer/{name}': array for name, array in point.optimizer.items()}
    values = {
        'epoch': state.epoch,
        # JSON has no infinity, which it is before the first epoch.
        'best_loss': state.best_loss if math.isfinite(state.best_loss) else None,
        'epochs_without_gain': state.epochs_without_gain,
        'plateau_factor': state.plateau_factor,
        'history': state.history,
        'first_scale': first_scale,
        'seconds_before_epochs': loop.epochs_started - loop.started,
        **{use: list(prints) for use, prints in fingerprints.items()},
        'scaler': dict(point.scaler),
    }
    return TrainingState(arrays, values)


def load_state(loop: TrainingLoop, saved: TrainingState) -> None:
    """Put a loop where `save_state` found one."""

    def part(prefix: str) -> dict[str, RealArray]:
        return {
            name.removeprefix(prefix): np.array(array)
            for name, array in saved.arrays.items()
            if name.startswith(prefix)
        }

    loop.step.load_state_dict(part('last/'))
    loop.step.load_optimizer_state(part('optimizer/'))
    values = saved.values
    if values.get('scaler'):
        loop.step.load_scaler_state(values['scaler'])
    best = values['best_loss']
    loop.state = LoopState(
        epoch=int(values['epoch']),
        best_loss=math.inf if best is None else float(best),
        best_weights=part('best/'),
        average=part('average/'),
        epochs_without_gain=int(values['epochs_without_gain']),
        plateau_factor=float(values['plateau_factor']),
        history=[dict(row) for row in values['history']],
    )
    if loop.state.history:
        # Time goes on from there as well, and with it what follows the clock.
        loop.started = loop.clock() - loop.state.history[-1]['seconds']
        loop.epochs_started = loop.started + values.get('seconds_before_epochs', 0.0)
