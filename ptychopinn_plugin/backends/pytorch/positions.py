"""How the likelihood draws each scan position; see `backends.common.positions`."""

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.operators import intensity, to_detector


@torch.no_grad()
def position_forces(
    forward: ForwardModel, object_: Tensor, floor: float
) -> tuple[FloatArray, FloatArray]:
    r"""Compute how the likelihood draws each position, and how stiffly.

    Parameters
    ----------
    forward : ForwardModel
    object_ : Tensor of complex64, shape `forward.canvas_shape`
    floor : float
        :math:`\epsilon`, in photons.

    Returns
    -------
    forces : ndarray of float64, shape (n_positions, 2)
        :math:`\sum_q J (k - I) / 2a`, (y, x), in photons per pixel of the object.
    stiffnesses : ndarray of float64, shape (n_positions, 2, 2)
        :math:`\sum_q J J^T`.
    """
    # The roll wraps around in the margin of the canvas, where no patch lies.
    slopes = [(object_.roll(-1, axis) - object_.roll(1, axis)) / 2 for axis in (0, 1)]
    forces = [object_.real.new_empty((0, 2))]
    stiffnesses = [object_.real.new_empty((0, 2, 2))]
    for indices in forward.slices(128):
        probes, transfer = forward.probes(indices), forward.transfer_at(indices)
        waves = to_detector(probes * forward.extract_patches(object_, indices)[:, None], transfer)
        expected = intensity(waves)
        weights = 1 / torch.sqrt(expected + floor)  # 1 / a
        if forward.valid_mask is not None:
            weights = weights * forward.valid_mask
        missing = (forward.measured(indices) ** 2 - expected) * weights / 2
        # A move of the patch is, to first order, the slope of the object under the same probe.
        changes = [
            (waves.conj() * to_detector(probes * patches[:, None], transfer)).real
            for patches in (forward.extract_patches(slope, indices) for slope in slopes)
        ]
        jacobian = torch.stack([change.sum(dim=1) * weights for change in changes], dim=1)
        jacobian = jacobian.flatten(2)  # (n, 2, pixels)
        forces.append((jacobian * missing.flatten(1)[:, None]).sum(dim=2))
        stiffnesses.append(jacobian @ jacobian.transpose(1, 2))
    return (
        forward.ranks.gather(torch.cat(forces).cpu().numpy().astype(np.float64)),
        forward.ranks.gather(torch.cat(stiffnesses).cpu().numpy().astype(np.float64)),
    )
