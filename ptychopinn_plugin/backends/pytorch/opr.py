"""What patterns show of a probe that varies; see `backends.common.opr`."""

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import ComplexArray, IntArray
from ptychopinn_plugin.backends.common.iteration_steps import REGULARIZATION
from ptychopinn_plugin.backends.common.opr import VariationMoments
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.operators import (
    intensity,
    project_amplitudes,
    shift_probe,
    shift_probe_back,
    to_detector,
)


@torch.no_grad()
def probe_residuals(forward: ForwardModel, object_: Tensor, indices: IntArray) -> ComplexArray:
    r"""Return what each of some patterns would change of the probe's first mode.

    :math:`O_j^* (\psi'_j - \psi_j) / ((1 - \alpha) |O_j|^2 + \alpha \max |O_j|^2)`, shifted back.

    Parameters
    ----------
    forward : ForwardModel
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    indices : ndarray of int64

    Returns
    -------
    ndarray of complex64, shape (n_indices, height, width)
    """
    found = []
    for some in torch.from_numpy(indices).to(forward.device).split(128):
        patches = forward.extract_patches(object_, some)
        _, changes = project_amplitudes(
            *(forward.probes(some), patches, forward.measured(some)),
            *(forward.valid_mask, forward.transfer_at(some)),
        )
        # As rPIE divides for the probe: what lies behind a dark part of the object shows little of
        # the probe there.
        brightness = patches.abs().square()
        brightest = brightness.amax(dim=(1, 2), keepdim=True)
        share = (1 - REGULARIZATION) * brightness + REGULARIZATION * brightest
        # The first mode alone varies; the others are the same at every position.
        wanted = changes[:, :1] * (patches.conj() / share)[:, None]
        found.append(shift_probe_back(wanted, forward.subpixel_shifts[some])[:, 0])
    return np.asarray(torch.cat(found).cpu().numpy())


@torch.no_grad()
def measure_variation(forward: ForwardModel, object_: Tensor, floor: float) -> VariationMoments:
    r"""Measure how the likelihood draws eigenmodes and their weights.

    Parameters
    ----------
    forward : ForwardModel
        With eigenmodes.
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    floor : float
        :math:`\epsilon`, in photons.
    """
    eigenmodes = forward.to_tensor(forward.eigenmodes)
    weights = torch.from_numpy(forward.opr_weights[:, 1:].astype(np.float32)).to(forward.device)
    forces, stiffnesses = [], []
    updates, light = torch.zeros_like(eigenmodes), torch.zeros_like(eigenmodes.real)
    for part in forward.slices(64):
        patches, probes = forward.extract_patches(object_, part), forward.probes(part)
        shifts, measured = forward.subpixel_shifts[part], forward.measured(part)
        transfer = forward.transfer_at(part)
        waves = to_detector(probes * patches[:, None], transfer)
        expected = intensity(waves)
        scale = (expected + floor).rsqrt()  # 1 / a
        if forward.valid_mask is not None:
            scale = scale * forward.valid_mask
        # An eigenmode is a change of the probe: it takes the probe's way, shift and beam included.
        shifted = forward.in_own_beam(shift_probe(eigenmodes, shifts), part)
        moved = to_detector(shifted * patches[:, None], transfer)
        # How the amplitude changes with a weight; weights are real, hence the real part.
        jacobian = (waves[:, :1].conj() * moved).real * scale[:, None]
        jacobian = jacobian.flatten(2)  # (n, n_eigenmodes, pixels)
        # The amplitude that is missing to first order, (k - I) / 2a.
        missing = (measured.square() - expected) * scale / 2
        forces.append((jacobian * missing.flatten(1)[:, None]).sum(dim=2))
        stiffnesses.append(jacobian @ jacobian.transpose(1, 2))
        _, changes = project_amplitudes(probes, patches, measured, forward.valid_mask, transfer)
        wanted = forward.in_own_beam(changes[:, :1] * patches.conj()[:, None], part)
        wanted = shift_probe_back(wanted, shifts)[:, 0]
        # Sums over patterns by their weights: the numerator of Gamma, and Upsilon.
        updates += torch.tensordot(weights[part].T.to(wanted.dtype), wanted, dims=1)
        bright = forward.in_own_beam(patches.abs()[:, None], part)[:, 0].square()
        light += torch.tensordot(weights[part].square().T, bright, dims=1)
    return VariationMoments(
        torch.cat(forces).double().cpu().numpy(),
        torch.cat(stiffnesses).double().cpu().numpy(),
        updates.cpu().numpy(),
        light.cpu().numpy(),
    )
