"""What a training continues from, as a model file holds it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.backends.common.training_loop import EpochSoFar, LoopState, TrainingLoop
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.model_contents import TrainingState

_NEEDED = ('epoch', 'best_loss', 'epochs_without_gain', 'plateau_factor', 'history')

_ADVICE = 'Give another checkpoint, or fine-tune with --base-model.'


def save_state(
    loop: TrainingLoop, first_scale: float, fingerprints: Mapping[str, Sequence[str]]
) -> TrainingState:
    """Return what the next epoch, or the rest of one, starts from: the newest resume point."""
    point = loop.resume_point
    state = point.state
    arrays = {f'last/{name}': array for name, array in point.weights.items()}
    arrays |= {f'best/{name}': array for name, array in state.best_weights.items()}
    arrays |= {f'average/{name}': array for name, array in state.average.items()}
    arrays |= {f'optimizer/{name}': array for name, array in point.optimizer.items()}
    arrays |= {f'epoch/{name}': array for name, array in point.epoch_so_far.losses.items()}
    values: dict[str, Any] = {
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
    if point.epoch_so_far.parts:
        values |= {
            'epoch_parts': point.epoch_so_far.parts,
            'seconds': point.epoch_so_far.seconds,
        }
    return TrainingState(arrays, values)


def load_state(loop: TrainingLoop, saved: TrainingState) -> None:
    """Put a loop where `save_state` found one.

    Raises
    ------
    ArchiveError
        If the state is not one of the loop's network and optimizer.
    """

    def part(prefix: str) -> dict[str, RealArray]:
        return {
            # Frameworks take the byte order of this machine alone.
            name.removeprefix(prefix): np.array(array, array.dtype.newbyteorder('='))
            for name, array in saved.arrays.items()
            if name.startswith(prefix)
        }

    values = saved.values
    missing = [name for name in _NEEDED if name not in values]
    missing += ['seconds'] if any('seconds' not in row for row in values['history'][-1:]) else []
    if missing:
        raise ArchiveError(f'The training state lacks {missing[0]}. {_ADVICE}')
    _check_weights(part('last/'), loop, 'last')
    _check_weights(part('best/'), loop, 'best')
    if part('average/') or values['history']:
        _check_weights(part('average/'), loop, 'average')
    losses = part('epoch/')
    if 'epoch_parts' in values:
        _check_losses(losses, values)
    _check_optimizer(part('optimizer/'), loop.step.optimized_shapes())
    loop.step.load_state_dict(part('last/'))
    loop.step.load_optimizer_state(part('optimizer/'))
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
    seconds = loop.state.history[-1]['seconds'] if loop.state.history else None
    if 'epoch_parts' in values:
        seconds = values['seconds']
        loop.epoch_so_far = EpochSoFar(int(values['epoch_parts']), losses, seconds)
    if seconds is not None:
        # Time goes on from there as well, and with it what follows the clock.
        loop.started = loop.clock() - seconds
        loop.epochs_started = loop.started + values.get('seconds_before_epochs', 0.0)


def _check_weights(found: Mapping[str, RealArray], loop: TrainingLoop, which: str) -> None:
    expected = {name: np.shape(array) for name, array in loop.step.state_dict().items()}
    _check_arrays(found, expected, f'the {which} weights')


def _check_losses(losses: Mapping[str, RealArray], values: Mapping[str, Any]) -> None:
    n_batches = losses['loss'].size if 'loss' in losses else 0
    if not n_batches or 'seconds' not in values:
        raise ArchiveError(f'The training state lacks the losses of a begun epoch. {_ADVICE}')
    _check_arrays(losses, dict.fromkeys(losses, (n_batches,)), 'the losses of a begun epoch')


def _check_optimizer(found: Mapping[str, RealArray], shapes: Sequence[tuple[int, ...]]) -> None:
    """Check the slots of each parameter that has any; one without gradients has none."""
    moved = {name.partition('/')[0] for name in found if not name.endswith('/gradient')}
    expected: dict[str, tuple[int, ...]] = {}
    for number, shape in enumerate(shapes):
        if str(number) in moved:
            expected |= {f'{number}/{slot}': shape for slot in ('exp_avg', 'exp_avg_sq')}
            expected[f'{number}/step'] = ()
        if f'{number}/gradient' in found:
            # Gradients wait where several batches share a step.
            expected[f'{number}/gradient'] = shape
    _check_arrays(found, expected, "the optimizer's state")


def _check_arrays(
    found: Mapping[str, RealArray], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    for name in found.keys() ^ expected.keys():
        differs = 'lacks' if name in expected else 'has an unknown'
        raise ArchiveError(f'The training state does not fit: {what} {differs} {name}. {_ADVICE}')
    for name, shape in expected.items():
        array = found[name]
        if array.shape != shape or array.dtype.kind != 'f' or not np.isfinite(array).all():
            raise ArchiveError(
                f'The training state does not fit: {name} of {what} must be finite numbers of '
                f'shape {shape}; it is {array.dtype} of shape {array.shape}. {_ADVICE}'
            )
