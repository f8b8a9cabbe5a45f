r"""Iterations over an object through the forward model.

Each batch of patterns moves the object by

.. math::
    V \leftarrow \mu V + \beta_s
        \frac{\sum_j \sum_m P_{jm}^* (\psi'_{jm} - \psi_{jm})}{(1 - \alpha) W + \alpha \max W},
    \qquad W = \sum_j \sum_m |P_{jm}|^2, \qquad O \leftarrow O + V,

where :math:`\psi'` is :math:`\psi` projected onto the measured amplitudes. It is rPIE's update
for a batch [1]_ with momentum [2]_, which carries slow phase gradients across the
field in few iterations. The step :math:`\beta_s` falls from iteration to iteration, so that the
last ones average the noise of all patterns that light a pixel instead of following the latest.

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

from ptychopinn_plugin.backends.common.refinement import (
    MOMENTUM,
    PROBE_STEP,
    REGULARISATION,
    corrects_phase_drift,
    iterate_keep_best,
    iteration_batches,
    step_size,
)
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.phase_drift import correct_phase_drift

IterationObserver = Callable[[int, float, Tensor], bool | None]


@dataclass
class IterationState:
    """What an iteration changes.

    Attributes
    ----------
    object_, velocity : Tensor of complex64, shape `forward.canvas_shape`
    probe : Tensor of complex64, shape (n_modes, height, width)
    """

    object_: Tensor
    velocity: Tensor
    probe: Tensor


def iterate_object(
    forward: ForwardModel,
    object_: Tensor,
    iterations: int,
    *,
    batch_size: int = 64,
    seed: int = 0,
    refine_probe: bool = False,
    observer: IterationObserver | None = None,
) -> tuple[Tensor, list[float]]:
    """Iterate over an object, and return the best object of all iterations.

    The first steps are long and noisy, so that a good start can get worse before it gets better.
    What is returned, and shown after each iteration, is the object with the lowest loss so far; see
    `iterate_keep_best`.

    Parameters
    ----------
    forward : ForwardModel
        Its probe changes with `refine_probe`.
    object_ : Tensor of complex64, shape `forward.canvas_shape`
        Where to start; left as it is.
    iterations : int
    batch_size : int
        Small scans use smaller batches, and large ones larger; see `iteration_batches`.
    seed : int
        Decides the order of the patterns.
    refine_probe : bool
        Correct the probe by the same differences.
    observer : callable, optional
        Called with the number of iterations done, the loss and the object; if it returns True,
        iterations end.

    Returns
    -------
    object_ : Tensor of complex64
    losses : list of float
        Poisson loss per pixel of the start and of the best object after each iteration; it never
        rises.
    """
    batches = iteration_batches(len(forward), batch_size, 8 * forward.probe.numel(), seed)
    energy = torch.linalg.vector_norm(forward.probe)
    if refine_probe:
        # Shifted copies of a probe that changes with each batch would be used once.
        forward.set_probe(forward.probe, cache=False)
    state = IterationState(object_.clone(), torch.zeros_like(object_), forward.probe.clone())

    def iterate_once(iteration: int) -> tuple[IterationState, float]:
        some = [torch.from_numpy(batch).to(forward.device) for batch in next(batches)]
        _iterate_once(forward, state, some, step_size(iteration, iterations), refine_probe)
        if corrects_phase_drift(iteration, iterations):
            state.object_ = correct_phase_drift(forward, state.object_)
        # `_iterate_once` makes a new object and probe, so nothing needs copying.
        newest = IterationState(state.object_, state.velocity, state.probe)
        return newest, forward.evaluate_fit(state.object_)[0]

    @contextmanager
    def using(probe: Tensor) -> Iterator[None]:
        if refine_probe:
            forward.set_probe_only(probe)
        yield
        if refine_probe:
            forward.set_probe_only(state.probe)

    def part_way(
        best: IterationState, newest: IterationState, share: float
    ) -> tuple[IterationState, float]:
        object_ = torch.lerp(best.object_, newest.object_, share)
        probe = torch.lerp(best.probe, newest.probe, share)
        with using(probe):
            loss = forward.evaluate_fit(object_)[0]
        return IterationState(object_, newest.velocity, probe), loss

    def step_of_all(best: IterationState) -> IterationState:
        with using(best.probe):
            update = mean_update(forward, best.object_)
        return IterationState(best.object_ + update, best.velocity, best.probe)

    def show(done: int, loss: float, best: IterationState) -> bool | None:
        return observer(done, loss, best.object_) if observer is not None else False

    start = IterationState(object_, state.velocity, forward.probe)
    loss = forward.evaluate_fit(object_)[0]
    best, losses = iterate_keep_best(
        iterations, start, loss, iterate_once, part_way, step_of_all, show
    )
    if refine_probe:
        # Only their product is measured: the probe keeps the energy that it came with.
        growth = torch.linalg.vector_norm(best.probe) / energy
        forward.set_probe(best.probe / growth)
        return best.object_ * growth, losses
    return best.object_, losses


def _iterate_once(
    forward: ForwardModel,
    state: IterationState,
    batches: Sequence[Tensor],
    step: float,
    refine_probe: bool,
) -> None:
    """Move the object, and the probe with `refine_probe`, batch by batch; `state` changes."""
    for indices in batches:
        patches = forward.extract_patches(state.object_, indices)  # (n, height, width)
        if refine_probe:
            update, probe_update = forward.project_amplitudes_with_probe(patches, indices)
        else:
            update = forward.project_amplitudes(patches, indices)
        weight = forward.place_patches((forward.probes(indices).abs() ** 2).sum(dim=1), indices)
        push = forward.place_patches(update, indices) / _regularised(weight)
        state.velocity.mul_(MOMENTUM).add_(step * push)
        # Not in place: the best object so far may be this very tensor.
        state.object_ = state.object_ + state.velocity
        if refine_probe:
            brightness = _regularised((patches.abs() ** 2).sum(dim=0))
            state.probe = state.probe + PROBE_STEP * probe_update / brightness
            forward.set_probe_only(state.probe)
    if refine_probe:
        forward.set_probe(state.probe, cache=False)


def mean_update(forward: ForwardModel, object_: Tensor) -> Tensor:
    r"""Return the update of all patterns as one batch with a step of 1, shape `canvas_shape`.

    :math:`\sum_j \sum_m P_{jm}^* (\psi'_{jm} - \psi_{jm}) / ((1 - \alpha) W + \alpha \max W)`.
    Patterns are taken 128 at a time; `object_` is complex64 of the same shape, as is the update.
    """
    update = torch.zeros_like(object_)
    for indices in torch.arange(len(forward), device=forward.device).split(128):
        canvas_window = forward.canvas_window(indices)
        changes = forward.project_amplitudes(forward.extract_patches(object_, indices), indices)
        update[canvas_window] += forward.place_patches(changes, indices, canvas_window)
    return update / _regularised(forward.coverage)


def _regularised(weight: Tensor) -> Tensor:
    r"""Return rPIE's denominator :math:`(1 - \alpha) W + \alpha \max W`: dim pixels move less."""
    return (1 - REGULARISATION) * weight + REGULARISATION * weight.max()
