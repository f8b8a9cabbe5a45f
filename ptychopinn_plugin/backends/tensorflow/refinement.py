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

from collections.abc import Sequence

import numpy as np

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.common.iteration_steps import MOMENTUM, PROBE_STEP, REGULARIZATION
from ptychopinn_plugin.backends.common.refinement import IterationKernels, IterationState
from ptychopinn_plugin.backends.tensorflow.constraints import constrain, object_variation
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.intensities import pattern_photons
from ptychopinn_plugin.backends.tensorflow.operators import (
    intensity,
    probe_update,
    project_amplitudes,
    scaled,
    squared,
    times,
    to_numpy,
)
from ptychopinn_plugin.backends.tensorflow.opr import measure_variation, probe_residuals
from ptychopinn_plugin.backends.tensorflow.phase_drift import correct_phase_drift, measure_moments
from ptychopinn_plugin.backends.tensorflow.positions import position_forces


def iterate_once(
    forward: ForwardModel,
    state: IterationState[Tensor],
    batches: Sequence[IntArray],
    step: float,
    refine_probe: bool,
) -> None:
    r"""Move the object, and the probe with `refine_probe`, batch by batch; `state` changes.

    For each batch :math:`V \leftarrow \mu V + \beta U` and :math:`O \leftarrow O + V`, with the
    update :math:`U` of `project_amplitudes` over the light that falls on a pixel, regularized as in
    rPIE; see this module's head.

    Parameters
    ----------
    forward : ForwardModel
        Follows the probe.
    state : IterationState
        Its object and velocity are of shape `forward.canvas_shape`, its probe of shape
        (n_modes, height, width), in square root of photons per pixel.
    batches : sequence of ndarray of int64
        The positions of each batch.
    step : float
        :math:`\beta`, between 0 and 1.
    refine_probe : bool
    """
    for indices in batches:
        patches = forward.extract_patches(state.object_, indices)
        update, changes, brightness = _update_patches(
            *(forward.probes(indices), patches, forward.measured(indices)),
            *(forward.valid_mask, forward.transfer_at(indices)),
        )
        state.object_, state.velocity = _move_object(
            state.object_,
            state.velocity,
            forward.place_patches(update, indices),
            forward.place_patches(brightness, indices),
            # A tensor, as the step differs in each iteration, and each number of Python would
            # compile the graph again.
            tf.constant(step, tf.float32),
        )
        if refine_probe:
            subpixel_shifts = tf.gather(forward.subpixel_shifts, indices)
            # A pattern shows more of the common probe, the brighter its beam is.
            changes = forward.into_common(changes, indices)
            state.probe = _move_probe(state.probe, changes, patches, subpixel_shifts)
            forward.set_probe_only(state.probe)
    if refine_probe:
        # Coverage follows once an iteration. Shifted copies are not kept: the next batch changes
        # the probe of all positions.
        forward.set_probe(state.probe, cache=False)


@compiled
def _update_patches(
    probes: Tensor,
    patches: Tensor,
    measured: Tensor,
    valid_mask: Tensor | None,
    transfer: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `project_amplitudes` does, and the intensity of the light on each patch."""
    update, changes = project_amplitudes(probes, patches, measured, valid_mask, transfer)
    return update, changes, intensity(probes)


@compiled
def _move_object(
    object_: Tensor, velocity: Tensor, push: Tensor, weight: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the object and its velocity after a batch, from sums over it on the canvas."""
    velocity = scaled(velocity, MOMENTUM) + scaled(push, step / regularized(weight))
    return object_ + velocity, velocity


@compiled
def _move_probe(
    probe: Tensor, changes: Tensor, patches: Tensor, subpixel_shifts_px: Tensor
) -> Tensor:
    r"""Return the probe after a batch, :math:`P_m + 0.1 \sum_j O_j^* (\psi'_{jm} - \psi_{jm}) / U`.

    :math:`U` is the regularized sum of :math:`|O_j|^2`, and each term is shifted back.
    """
    brightness = regularized(tf.reduce_sum(squared(patches), axis=0))
    update = probe_update(changes, patches, subpixel_shifts_px)
    return probe + scaled(update, PROBE_STEP / brightness)


def mean_update(forward: ForwardModel, object_: Tensor) -> Tensor:
    r"""Return the update of all patterns as one batch with a step of 1, shape `canvas_shape`.

    :math:`\sum_j \sum_m P_{jm}^* (\psi'_{jm} - \psi_{jm}) / ((1 - \alpha) W + \alpha \max W)`.
    Patterns are taken 128 at a time; `object_` is complex64 of the same shape, as is the update.
    """
    # An array, as a part of a tensor cannot be added to.
    update = np.zeros(forward.canvas_shape, np.complex64)
    for indices in forward.batches(128):
        canvas_window = forward.canvas_window(indices)
        changes = forward.project_amplitudes(forward.extract_patches(object_, indices), indices)
        update[canvas_window] += forward.place_patches(changes, indices, canvas_window).numpy()
    return scaled(tf.constant(update), 1 / regularized(forward.coverage))


def regularized(weight: Tensor) -> Tensor:
    r"""Return rPIE's denominator :math:`(1 - \alpha) W + \alpha \max W`: dim pixels move less."""
    return (1 - REGULARIZATION) * weight + REGULARIZATION * tf.reduce_max(weight)


def _between(first: Tensor, second: Tensor, share: float) -> Tensor:
    return first + scaled(second - first, share)


def _norm(tensor: Tensor) -> Tensor:
    return tf.norm(tf.abs(tensor))


def _divide_energy(object_: Tensor, probe: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    growth = _norm(probe) / energy
    return scaled(object_, growth), scaled(probe, 1 / growth)


ITERATION_KERNELS = IterationKernels(
    zeros_like=tf.zeros_like,
    iterate_once=iterate_once,
    mean_update=mean_update,
    position_forces=position_forces,
    measure_variation=measure_variation,
    probe_residuals=probe_residuals,
    pattern_photons=pattern_photons,
    correct_phase_drift=correct_phase_drift,
    measure_moments=measure_moments,
    to_numpy=to_numpy,
    times=times,
    between=_between,
    norm=_norm,
    constrain=constrain,
    object_variation=object_variation,
    divide_energy=_divide_energy,
)
