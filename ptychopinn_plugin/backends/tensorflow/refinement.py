r"""Sweeps over an object through the forward model.

Each batch of patterns moves the object by

.. math::
    V \leftarrow \mu V + \beta_s
        \frac{\sum_j P_j^* (\psi'_j - \psi_j)}{(1 - \alpha) W + \alpha \max W},
    \qquad W = \sum_j |P_j|^2, \qquad O \leftarrow O + V,

rPIE's update for a batch [1]_ with momentum [2]_; see `backends.sweeps` for the steps.

References
----------
.. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
.. [2] N. Qian, Neural Networks 12 (1999) 145, doi:10.1016/S0893-6080(98)00116-6.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.arrays import IntArray
from ptychopinn_plugin.backends.sweeps import (
    MOMENTUM,
    PROBE_STEP,
    REGULARISATION,
    batches_of,
    corrects_slow_phase,
    step_of,
    sweep_for_the_best,
)
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.tilts import correct_slow_phase
from ptychopinn_plugin.backends.tensorflow.waves import (
    extract,
    intensity,
    place,
    probe_update,
    project,
    scaled,
    squared,
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
        Where to start.
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
    batches = batches_of(len(model), batch_size, 8 * int(tf.size(model.probe)), seed)
    energy = tf.norm(tf.abs(model.probe))
    if refine_probe:
        model.set_probe(model.probe, cache=False)
    state = SweepState(object_, tf.zeros_like(object_), model.probe)

    def sweep_once(sweep: int) -> tuple[SweepState, float]:
        _sweep_once(model, state, next(batches), step_of(sweep, sweeps), refine_probe)
        if corrects_slow_phase(sweep, sweeps):
            state.object_ = correct_slow_phase(model, state.object_)
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
        object_ = best.object_ + scaled(newest.object_ - best.object_, share)
        probe = best.probe + scaled(newest.probe - best.probe, share)
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
        growth = tf.norm(tf.abs(best.probe)) / energy
        model.set_probe(scaled(best.probe, 1 / growth))
        return scaled(best.object_, growth), losses
    return best.object_, losses


def _sweep_once(
    model: ForwardModel,
    state: SweepState,
    batches: Sequence[IntArray],
    step: float,
    refine_probe: bool,
) -> None:
    for indices in batches:
        corners = model.corners[indices]
        state.object_, state.velocity, patches, changes = _move_object(
            state.object_,
            state.velocity,
            corners,
            model.probes(indices),
            model.measured(indices),
            model.good,
            tf.constant(step, tf.float32),
        )
        if refine_probe:
            rests = tf.gather(model.rests, indices)
            state.probe = _move_probe(state.probe, changes, patches, rests)
            model.set_probe_only(state.probe)
    if refine_probe:
        model.set_probe(state.probe, cache=False)


@compiled
def _move_object(
    object_: Tensor,
    velocity: Tensor,
    corners: Tensor,
    probes: Tensor,
    measured: Tensor,
    good: Tensor | None,
    step: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the object and its velocity after a batch; and its patches and changed waves."""
    sides = tf.shape(measured)
    patches = extract(object_, corners, sides[1], sides[2])
    update, changes = project(probes, patches, measured, good)
    canvas_shape = tf.shape(object_, tf.int64)
    weight = _regularised(place(intensity(probes), corners, canvas_shape))
    push = scaled(place(update, corners, canvas_shape), step / weight)
    velocity = scaled(velocity, MOMENTUM) + push
    return object_ + velocity, velocity, patches, changes


@compiled
def _move_probe(probe: Tensor, changes: Tensor, patches: Tensor, rests_px: Tensor) -> Tensor:
    brightness = _regularised(tf.reduce_sum(squared(patches), axis=0))
    update = probe_update(changes, patches, rests_px)
    return probe + scaled(update, PROBE_STEP / brightness)


def mean_update(model: ForwardModel, object_: Tensor) -> Tensor:
    """Return the update of all patterns as one batch with a step of 1, shape `canvas_shape`.

    Patterns are taken 128 at a time; `object_` is complex64 of the same shape, as is the update.
    """
    update = np.zeros(model.canvas_shape, np.complex64)
    for indices in model.batches(128):
        frame = model.frame(indices)
        changes = model.correct(model.extract(object_, indices), indices)
        update[frame] += model.place(changes, indices, frame).numpy()
    return scaled(tf.constant(update), 1 / _regularised(model.coverage))


def _regularised(weight: Tensor) -> Tensor:
    return (1 - REGULARISATION) * weight + REGULARISATION * tf.reduce_max(weight)
