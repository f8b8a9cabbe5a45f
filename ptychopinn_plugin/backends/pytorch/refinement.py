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

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.common.iteration_steps import MOMENTUM, PROBE_STEP, REGULARIZATION
from ptychopinn_plugin.backends.common.ranks import own_part
from ptychopinn_plugin.backends.common.refinement import IterationKernels, IterationState
from ptychopinn_plugin.backends.pytorch.constraints import constrain, object_variation
from ptychopinn_plugin.backends.pytorch.device import release_cache
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.intensities import pattern_photons
from ptychopinn_plugin.backends.pytorch.operators import intensity, times, to_numpy
from ptychopinn_plugin.backends.pytorch.opr import measure_variation, probe_residuals
from ptychopinn_plugin.backends.pytorch.phase_drift import correct_phase_drift, measure_moments
from ptychopinn_plugin.backends.pytorch.positions import position_forces


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
    ranks = forward.ranks
    if ranks.size > 1:
        # Batches are those of one process, and each rank has its own part of each.
        batches = [own_part(batch, forward.own) for batch in batches]
    # One copy to the device for all batches: each could wait for what is computed there.
    order = torch.from_numpy(np.concatenate(batches)).to(forward.device)
    for indices in order.split([len(batch) for batch in batches]):
        patches = forward.extract_patches(state.object_, indices)  # (n, height, width)
        probes = forward.probes(indices)
        if refine_probe:
            update, probe_update = forward.project_amplitudes_with_probe(patches, indices, probes)
        else:
            update = forward.project_amplitudes(patches, indices, probes)
        # W and the numerator of the update: sums over the batch on the canvas, of all ranks.
        weight, push = ranks.sums(
            forward.place_patches(intensity(probes), indices),
            forward.place_patches(update, indices),
        )
        # A division of complex numbers would take longer than the transforms.
        share = regularized(weight).reciprocal_().to(push.dtype)
        state.velocity.mul_(MOMENTUM).addcmul_(push, share, value=step)
        # Not in place: the best object so far may be this very tensor.
        state.object_ = state.object_ + state.velocity
        if refine_probe:
            light, probe_update = ranks.sums(intensity(patches[:, None]).sum(dim=0), probe_update)
            state.probe = state.probe + PROBE_STEP * probe_update / regularized(light)
            forward.set_probe_only(state.probe)
    # Machines of several kinds round differently, which would add up.
    state.object_, state.probe = ranks.broadcast(state.object_), ranks.broadcast(state.probe)
    state.velocity = ranks.broadcast(state.velocity)
    if refine_probe:
        # Coverage follows once an iteration. Shifted copies are not kept: the next batch changes
        # the probe of all positions.
        forward.set_probe(state.probe, cache=False)


def mean_update(forward: ForwardModel, object_: Tensor) -> Tensor:
    r"""Return the update of all patterns as one batch with a step of 1, shape `canvas_shape`.

    :math:`\sum_j \sum_m P_{jm}^* (\psi'_{jm} - \psi_{jm}) / ((1 - \alpha) W + \alpha \max W)`.
    Patterns are taken 128 at a time; `object_` is complex64 of the same shape, as is the update.
    """
    update = torch.zeros_like(object_)
    for part in forward.slices(128):
        canvas_window = forward.canvas_window(part)
        changes = forward.project_amplitudes(forward.extract_patches(object_, part), part)
        update[canvas_window] += forward.place_patches(changes, part, canvas_window)
    whole: Tensor = forward.ranks.sum(update)
    return whole / regularized(forward.coverage)


def regularized(weight: Tensor) -> Tensor:
    r"""Return rPIE's denominator :math:`(1 - \alpha) W + \alpha \max W`: dim pixels move less."""
    return (1 - REGULARIZATION) * weight + REGULARIZATION * weight.max()


def _divide_energy(object_: Tensor, probe: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    growth = torch.linalg.vector_norm(probe) / energy
    return object_ * growth, probe / growth


ITERATION_KERNELS = IterationKernels(
    zeros_like=torch.zeros_like,
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
    between=torch.lerp,
    norm=torch.linalg.vector_norm,
    constrain=constrain,
    object_variation=object_variation,
    divide_energy=_divide_energy,
    release=release_cache,
)
