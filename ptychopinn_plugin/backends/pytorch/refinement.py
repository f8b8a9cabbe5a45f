r"""Sweeps over an object through the forward model.

Each batch of patterns moves the object by

.. math::
    V \leftarrow \mu V + \beta_s
        \frac{\sum_j P_j^* (\psi'_j - \psi_j)}{(1 - \alpha) W + \alpha \max W},
    \qquad W = \sum_j |P_j|^2, \qquad O \leftarrow O + V,

rPIE's update for a batch [1]_ with momentum [2]_, which carries slow phase gradients across the
field in few sweeps. The step :math:`\beta_s` falls from sweep to sweep, so that the last ones
average the noise of all patterns that see a pixel instead of following the latest.

References
----------
.. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
.. [2] N. Qian, Neural Networks 12 (1999) 145, doi:10.1016/S0893-6080(98)00116-6.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.tilts import correct_slow_phase
from ptychopinn_plugin.backends.sweeps import (
    MOMENTUM,
    PROBE_STEP,
    REGULARISATION,
    batches_of,
    corrects_slow_phase,
    step_of,
    sweep_for_the_best,
)

SweepObserver = Callable[[int, float, Tensor], bool | None]


@dataclass
class SweepState:
    """What a sweep changes."""

    object_: Tensor
    velocity: Tensor
    probe: Tensor


def sweep_object(
    model: ForwardModel,
    object_: Tensor,
    sweeps: int,
    *,
    batch_size: int = 64,
    seed: int = 0,
    refine_probe: bool = False,
    observer: SweepObserver | None = None,
) -> tuple[Tensor, list[float]]:
    """Sweep an object, and return the best that the sweeps came through.

    The first steps are long and noisy, so that a good start can get worse before it gets better.
    What is returned, and shown after each sweep, is the object with the lowest loss so far; see
    `sweep_for_the_best`.

    Parameters
    ----------
    model : ForwardModel
        Its probe changes with `refine_probe`.
    object_ : Tensor of complex64, shape `model.canvas_shape`
        Where to start; left as it is.
    sweeps : int
    batch_size : int
        Small scans use smaller batches, and large ones larger; see `batches_of`.
    seed : int
        Order of the patterns.
    refine_probe : bool
    observer : callable, optional
        Gets the number of sweeps done, the loss and the object; True stops.

    Returns
    -------
    object_ : Tensor of complex64
    losses : list of float
        Poisson loss per pixel of the start and of the best object after each sweep; never rising.
    """
    batches = batches_of(len(model), batch_size, 8 * model.probe.numel(), seed)
    energy = torch.linalg.vector_norm(model.probe)
    if refine_probe:
        model.set_probe(model.probe, cache=False)
    state = SweepState(object_.clone(), torch.zeros_like(object_), model.probe.clone())

    def sweep_once(sweep: int) -> tuple[SweepState, float]:
        some = [torch.from_numpy(batch).to(model.device) for batch in next(batches)]
        _sweep_once(model, state, some, step_of(sweep, sweeps), refine_probe)
        if corrects_slow_phase(sweep, sweeps):
            state.object_ = correct_slow_phase(model, state.object_)
        # `_sweep_once` makes a new object and probe, so nothing needs copying.
        newest = SweepState(state.object_, state.velocity, state.probe)
        return newest, model.assess(state.object_)[0]

    @contextmanager
    def using(probe: Tensor) -> Iterator[None]:
        if refine_probe:
            model.set_probe_only(probe)
        yield
        if refine_probe:
            model.set_probe_only(state.probe)

    def part_way(best: SweepState, newest: SweepState, share: float) -> tuple[SweepState, float]:
        object_ = torch.lerp(best.object_, newest.object_, share)
        probe = torch.lerp(best.probe, newest.probe, share)
        with using(probe):
            loss = model.assess(object_)[0]
        return SweepState(object_, newest.velocity, probe), loss

    def step_of_all(best: SweepState) -> SweepState:
        with using(best.probe):
            update = mean_update(model, best.object_)
        return SweepState(best.object_ + update, best.velocity, best.probe)

    def show(done: int, loss: float, best: SweepState) -> bool | None:
        return observer(done, loss, best.object_) if observer is not None else False

    start = SweepState(object_, state.velocity, model.probe)
    loss = model.assess(object_)[0]
    best, losses = sweep_for_the_best(sweeps, start, loss, sweep_once, part_way, step_of_all, show)
    if refine_probe:
        # Only their product is measured: the probe keeps the energy that it came with.
        growth = torch.linalg.vector_norm(best.probe) / energy
        model.set_probe(best.probe / growth)
        return best.object_ * growth, losses
    return best.object_, losses


def _sweep_once(
    model: ForwardModel,
    state: SweepState,
    batches: Sequence[Tensor],
    step: float,
    refine_probe: bool,
) -> None:
    for indices in batches:
        patches = model.extract(state.object_, indices)
        if refine_probe:
            update, probe_update = model.correct_with_probe(patches, indices)
        else:
            update = model.correct(patches, indices)
        weight = model.place((model.probes(indices).abs() ** 2).sum(dim=1), indices)
        push = model.place(update, indices) / _regularised(weight)
        state.velocity.mul_(MOMENTUM).add_(step * push)
        state.object_ = state.object_ + state.velocity
        if refine_probe:
            brightness = _regularised((patches.abs() ** 2).sum(dim=0))
            state.probe = state.probe + PROBE_STEP * probe_update / brightness
            model.set_probe_only(state.probe)
    if refine_probe:
        model.set_probe(state.probe, cache=False)


def mean_update(model: ForwardModel, object_: Tensor) -> Tensor:
    """Return the update of all patterns as one batch with a step of 1, shape `canvas_shape`.

    Patterns are taken 128 at a time; `object_` is complex64 of the same shape, as is the update.
    """
    update = torch.zeros_like(object_)
    for indices in torch.arange(len(model), device=model.device).split(128):
        frame = model.frame(indices)
        changes = model.correct(model.extract(object_, indices), indices)
        update[frame] += model.place(changes, indices, frame)
    return update / _regularised(model.coverage)


def _regularised(weight: Tensor) -> Tensor:
    return (1 - REGULARISATION) * weight + REGULARISATION * weight.max()
