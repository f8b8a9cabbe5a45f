"""Jobs that several ranks do together, and one process alone to compare with."""

import dataclasses
import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin import api
from ptychopinn_plugin.backends.common.ranks import Launch, current_ranks, using_ranks
from ptychopinn_plugin.backends.common.requests import TrainingRequest
from ptychopinn_plugin.backends.common.training_plan import plan_training
from ptychopinn_plugin.backends.common.training_run import TrainingRun
from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import (
    Config,
    InferenceConfig,
    RefinementConfig,
)
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model_file import Model

Results = dict[str, Any]


SCAN = {
    'size': 32,
    'rows': 8,
    'columns': 10,
    'step_px': 4.0,
    'jitter_px': 1.0,
    'pupil_radius': 0.12,
    'defocus': 100.0,
}
BRIEF = {'epochs': 2, 'target_iterations': 10, 'device': 'cpu', 'batch_size': 13}
SMALL = {'filters_scale': 0.25, 'passes': 2}
GROUPS = {'architecture': 'cnn', 'gridsize': 2}


def make_scan(n_positions: int = 77, **changes: Any) -> Scan:
    """Return a scan whose patterns no number of ranks here divides evenly."""
    return simulate(SimulationConfig.from_dict({**SCAN, **changes})).subset(np.arange(n_positions))


def refined(scan: Scan | None = None, **settings: Any) -> Results:
    """Iterate from a flat object."""
    scan = make_scan() if scan is None else scan
    return numbers(api.refine(scan, RefinementConfig(**settings), backend='pytorch', device='cpu'))


def numbers(result: Reconstruction) -> Results:
    """Return the arrays of a reconstruction, and what it found out about the patterns."""
    assert result.misfit is not None
    found = {
        'object': result.object_,
        'probe': result.probe,
        'coverage': result.coverage,
        'positions': result.positions_px,
        'losses': np.array(result.likelihoods),
        'misfit': np.array([result.misfit.share, result.amplitude_residual]),
        'dropped': np.array([outlier.pattern_index for outlier in result.dropped]),
    }
    if result.pattern_fit is not None:
        found['deviances'] = result.pattern_fit.deviances
        found['outliers'] = np.array([o.pattern_index for o in result.pattern_fit.outliers])
    if result.intensities is not None:
        found['intensities'] = result.intensities
    return found


def with_swapped_patterns() -> Scan:
    """Return a scan in which two patterns belong to other places."""
    scan = make_scan()
    patterns = scan.patterns.copy()
    patterns[[20, 55]] = patterns[[55, 20]]
    return dataclasses.replace(scan, patterns=patterns)


def displaced() -> Scan:
    """Return a scan whose positions are wrong by up to a pixel."""
    scan = make_scan()
    errors = np.random.default_rng(0).uniform(-1, 1, scan.positions_px.shape)
    return dataclasses.replace(scan, positions_px=scan.positions_px + errors)


def with_the_prior() -> Results:
    """Reconstruct with the built-in model."""
    settings = RefinementConfig(iterations=5)
    inference = InferenceConfig(device='cpu', prior_passes=1)
    scan = make_scan()
    return numbers(
        api.reconstruct(None, scan, inference=inference, refinement=settings, backend='pytorch')
    )


def scan_of(model: dict[str, Any] | None) -> Scan:
    """Return a scan of a size that a network takes."""
    return make_scan() if model is None else make_scan(size=64, pupil_radius=0.1, defocus=400.0)


def brief_config(model: dict[str, Any] | None, **settings: Any) -> Config:
    """Return the settings of a training of some seconds."""
    return Config.from_dict(
        {'training': {**BRIEF, **settings}, 'model': {**SMALL, **(model or {})}}
    )


def trained(model: dict[str, Any] | None = None, **settings: Any) -> tuple[Model, Results]:
    """Train, and return the model, its weights and the course of the losses."""
    result = api.train([scan_of(model)], brief_config(model, **settings), backend='pytorch')
    found = {f'weights/{name}': array for name, array in result.model.weights.items()}
    for column in ('loss', 'validation_loss', 'poisson'):
        found[column] = np.array([row[column] for row in result.history])
    assert result.model.training_state is not None
    found |= {f'state/{name}': a for name, a in result.model.training_state.arrays.items()}
    found['probe'] = result.model.probe
    return result.model, found


def predicted(model: dict[str, Any] | None = None, iterations: int = 0) -> Results:
    """Reconstruct with a network that has learned a little."""
    # All ranks draw the same first weights, of which training changes little.
    network, _ = trained(model, epochs=1)
    inference = InferenceConfig(device='cpu', batch_size=8)
    refinement = RefinementConfig(iterations=iterations)
    found = api.reconstruct(
        network, scan_of(model), inference=inference, refinement=refinement, backend='pytorch'
    )
    return numbers(found)


def stopped() -> Results:
    """Iterate until the observer of rank 0 has enough; the clocks of the ranks differ."""
    rank = current_ranks().rank

    def watch(progress: Progress) -> bool:
        assert rank == 0, 'only rank 0 has an observer'
        return progress.step >= 4

    found = api.refine(
        make_scan(), RefinementConfig(iterations=9), backend='pytorch', device='cpu', observer=watch
    )
    return {'losses': np.array(found.likelihoods)}


def limited() -> Results:
    """Iterate within a time, by clocks that run at another speed in each rank."""
    module = importlib.import_module('ptychopinn_plugin.backends.pytorch.adapter')
    clock = itertools.count(0.0, 0.01 * (1 + current_ranks().rank)).__next__
    refinement = RefinementConfig(max_seconds=0.2, probe=True)
    found = module.PyTorchBackend(clock=clock).refine(make_scan(), refinement, device='cpu')
    return {'losses': np.array(found.likelihoods)}


def smoothed(**settings: Any) -> Results:
    """Iterate over an object that is to keep to what is known, where patterns overlap little."""
    known = {'total_variation': 0.5, 'max_amplitude': 1.2, 'probe_radius': 11.0, 'probe': True}
    return refined(make_scan(step_px=10.0), **known, **settings)


def rounded() -> Results:
    """Iterate on machines that each find another variation of the same object, as by rounding."""
    engine = importlib.import_module('ptychopinn_plugin.backends.pytorch.adapter').PyTorchBackend
    kernels = engine.iteration_kernels

    def object_variation(object_: Any) -> Any:
        return (1 + 0.1 * current_ranks().rank) * kernels.object_variation(object_)

    engine.iteration_kernels = dataclasses.replace(kernels, object_variation=object_variation)
    try:
        return smoothed(iterations=12)
    finally:
        engine.iteration_kernels = kernels


def gradients(model: dict[str, Any] | None = None, **settings: Any) -> Results:
    """Return what three batches of an epoch leave for a step, and their losses."""
    config = brief_config(model, **settings)
    backend: Any = create_backend('pytorch')
    request = TrainingRequest(scans=[scan_of(model)], config=config)
    with backend.computing_on('cpu') as (device, _):
        loop = TrainingRun(backend, request, plan_training(request), device).prepare()
        part = next(iter(loop.data.parts([0, 0])))
        found: Results = {'validation': np.array(loop.step.validation_loss(part[-1]))}
        loop.step.zero_grad()
        for number, batch in enumerate(part[:3]):
            for name, value in loop.step.accumulate_gradients(batch).items():
                found[f'{number}/{name}'] = np.array(value)
        # Each rank has them all, whichever of them writes a checkpoint.
        own = loop.step.optimizer_state()
    for name, array in own.items():
        found[name] = current_ranks().gather(array[np.newaxis]).std(axis=0)
        assert not found[name].any(), name
        found[name] = array
    return found


ITERATING: dict[str, Callable[[], Results]] = {
    'one-iteration': lambda: refined(iterations=1),
    'iterations': lambda: refined(iterations=30),
    'smoothed-once': lambda: smoothed(iterations=1),
    'smoothed': lambda: smoothed(iterations=30),
    'rounded': rounded,
    'probe': lambda: refined(make_scan(n_modes=2), iterations=8, probe=True),
    'positions': lambda: refined(displaced(), iterations=12, positions=True),
    'intensities': lambda: refined(make_scan(beam_drift=0.2), iterations=12, intensities=True),
    'outliers': lambda: refined(with_swapped_patterns(), iterations=12, drop_outliers=True),
    'alone': lambda: refined(dataclasses.replace(make_scan(5), is_single_shot=True), iterations=3),
    'few': lambda: refined(make_scan(3), iterations=3),
    'prior': with_the_prior,
    'stopped': stopped,
    'limited': limited,
}
LEARNING: dict[str, Callable[[], Results]] = {
    'gradients': lambda: gradients(
        probe_trainable=True, intensity_scale_trainable=True, target='none'
    ),
    'gradients-of-groups': lambda: gradients(
        GROUPS, total_variation_weight=0.1, amplitude_mae_weight=0.1, target_weight=0.5
    ),
    'training': lambda: trained()[1],
    'training-by-small-steps': lambda: trained(
        gradient_accumulation_steps=3, batch_size=3, epochs=1
    )[1],
    'prediction': lambda: predicted(iterations=3),
    'prediction-of-groups': lambda: predicted(GROUPS),
}
JOBS = {**ITERATING, **LEARNING}


def main(folder: Path, names: list[str]) -> None:
    """Do jobs as one of several ranks; rank 0 writes the results."""
    launch = Launch.of_environment()
    join = importlib.import_module('ptychopinn_plugin.backends.pytorch.ranks').joined
    with join(launch, lambda: 'Start again.', 2) as ranks, using_ranks(ranks):
        for name in names:
            found = JOBS[name]()
            if launch.rank == 0:
                np.savez(folder / f'{name}.npz', **found)


if __name__ == '__main__':
    main(Path(sys.argv[1]), sys.argv[2:])
