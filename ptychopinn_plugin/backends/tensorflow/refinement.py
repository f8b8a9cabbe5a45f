r"""Iterations over an object through the forward model.

Each batch of patterns moves the object by

.. math::
    V \leftarrow \mu V + \beta_s
        \frac{\sum_j \sum_m P_{jm}^* (\psi'_{jm} - \psi_{jm})}{(1 - \alpha) W + \alpha \max W},
    \qquad W = \sum_j \sum_m |P_{jm}|^2, \qquad O \leftarrow O + V,

where :math:`\psi'` is :math:`\psi` projected onto the measured amplitudes. It is rPIE's update
for a batch [1]_ with momentum [2]_; see `backends.common.refinement` for the steps.

References
----------
.. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
.. [2] N. Qian, Neural Networks 12 (1999) 145, doi:10.1016/S0893-6080(98)00116-6.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.common.refinement import (
    MOMENTUM,
    PROBE_STEP,
    REGULARISATION,
    corrects_phase_drift,
    iterate_keep_best,
    iteration_batches,
    step_size,
)
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.operators import (
    extract_patches,
    intensity,
    place_patches,
    probe_update,
    project_amplitudes,
    scaled,
    squared,
)
from ptychopinn_plugin.backends.tensorflow.phase_drift import correct_phase_drift

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
        Where to start.
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
    batches = iteration_batches(len(forward), batch_size, 8 * int(tf.size(forward.probe)), seed)
    energy = tf.norm(tf.abs(forward.probe))
    if refine_probe:
        # Shifted copies of a probe that changes with each batch would be used once.
        forward.set_probe(forward.probe, cache=False)
    state = IterationState(object_, tf.zeros_like(object_), forward.probe)

    def iterate_once(iteration: int) -> tuple[IterationState, float]:
        _iterate_once(forward, state, next(batches), step_size(iteration, iterations), refine_probe)
        if corrects_phase_drift(iteration, iterations):
            state.object_ = correct_phase_drift(forward, state.object_)
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
        object_ = best.object_ + scaled(newest.object_ - best.object_, share)
        probe = best.probe + scaled(newest.probe - best.probe, share)
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
        growth = tf.norm(tf.abs(best.probe)) / energy
        forward.set_probe(scaled(best.probe, 1 / growth))
        return scaled(best.object_, growth), losses
    return best.object_, losses


def _iterate_once(
    forward: ForwardModel,
    state: IterationState,
    batches: Sequence[IntArray],
    step: float,
    refine_probe: bool,
) -> None:
    """Move the object, and the probe with `refine_probe`, batch by batch; `state` changes."""
    for indices in batches:
        patch_origins = forward.patch_origins[indices]
        state.object_, state.velocity, patches, changes = _move_object(
            state.object_,
            state.velocity,
            patch_origins,
            forward.probes(indices),
            forward.measured(indices),
            forward.valid_mask,
            tf.constant(step, tf.float32),
        )
        if refine_probe:
            subpixel_shifts = tf.gather(forward.subpixel_shifts, indices)
            state.probe = _move_probe(state.probe, changes, patches, subpixel_shifts)
            forward.set_probe_only(state.probe)
    if refine_probe:
        forward.set_probe(state.probe, cache=False)


@compiled
def _move_object(
    object_: Tensor,
    velocity: Tensor,
    patch_origins: Tensor,
    probes: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    step: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the object and its velocity after a batch; and its patches and changed waves."""
    sides = tf.shape(measured)
    patches = extract_patches(object_, patch_origins, sides[1], sides[2])  # (n, height, width)
    update, changes = project_amplitudes(probes, patches, measured, valid_mask)
    canvas_shape = tf.shape(object_, tf.int64)
    weight = _regularised(place_patches(intensity(probes), patch_origins, canvas_shape))
    push = scaled(place_patches(update, patch_origins, canvas_shape), step / weight)
    velocity = scaled(velocity, MOMENTUM) + push
    return object_ + velocity, velocity, patches, changes


@compiled
def _move_probe(
    probe: Tensor, changes: Tensor, patches: Tensor, subpixel_shifts_px: Tensor
) -> Tensor:
    r"""Return the probe after a batch, :math:`P_m + 0.1 \sum_j O_j^* (\psi'_{jm} - \psi_{jm}) / U`.

    :math:`U` is the regularised sum of :math:`|O_j|^2`, and each term is shifted back.
    """
    brightness = _regularised(tf.reduce_sum(squared(patches), axis=0))
    update = probe_update(changes, patches, subpixel_shifts_px)
    return probe + scaled(update, PROBE_STEP / brightness)


def mean_update(forward: ForwardModel, object_: Tensor) -> Tensor:
    r"""Return the update of all patterns as one batch with a step of 1, shape `canvas_shape`.

    :math:`\sum_j \sum_m P_{jm}^* (\psi'_{jm} - \psi_{jm}) / ((1 - \alpha) W + \alpha \max W)`.
    Patterns are taken 128 at a time; `object_` is complex64 of the same shape, as is the update.
    """
    update = np.zeros(forward.canvas_shape, np.complex64)
    for indices in forward.batches(128):
        canvas_window = forward.canvas_window(indices)
        changes = forward.project_amplitudes(forward.extract_patches(object_, indices), indices)
        update[canvas_window] += forward.place_patches(changes, indices, canvas_window).numpy()
    return scaled(tf.constant(update), 1 / _regularised(forward.coverage))


def _regularised(weight: Tensor) -> Tensor:
    r"""Return rPIE's denominator :math:`(1 - \alpha) W + \alpha \max W`: dim pixels move less."""
    return (1 - REGULARISATION) * weight + REGULARISATION * tf.reduce_max(weight)
