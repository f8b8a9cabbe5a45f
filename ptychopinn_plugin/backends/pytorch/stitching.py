r"""From patterns to an object: passes of the network, phase synchronization, stitching.

.. math:: O = \frac{\sum_j w_j\, e^{i \varphi_j} \hat O_j + \gamma\, O_\mathrm{before}}
    {\sum_j w_j + \gamma}

with the predicted patches :math:`\hat O_j`, the probe's intensity :math:`w_j` at their positions,
the phases :math:`\varphi_j` of `phase_synchronization`, and a small :math:`\gamma`, so that the
object stays as it was where no light falls.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.common.requests import InferenceRequest
from ptychopinn_plugin.backends.common.stitching import (
    STITCHING_FLOOR,
    UNIFORM_FRACTION,
    StitchingKernels,
)
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.phase_drift import correct_phase_drift
from ptychopinn_plugin.backends.pytorch.prediction import Patches, predict_patches
from ptychopinn_plugin.config import StitchingWeights
from ptychopinn_plugin.phase_synchronization import CELL_PX, synchronize_patches


@torch.no_grad()
def _predict_batches(
    network: Network,
    forward: ForwardModel,
    groups: IntArray,
    object_: Tensor,
    is_flat: bool,
    request: InferenceRequest,
) -> Iterator[Patches]:
    """Yield the patches of this rank's groups (n_groups, group_size); see `StitchingKernels`."""
    groups = groups[forward.ranks.share(len(groups))]
    where = torch.from_numpy(groups).to(forward.device)
    size = max(1, request.batch_size // groups.shape[1])
    for start in range(0, len(groups), size):
        part = slice(start, start + size)
        patches = predict_patches(
            network,
            forward,
            where[part],
            object_,
            is_flat=is_flat,
            rotations=request.rotations,
            host_groups=groups[part],
        )
        yield replace(patches, weights=_weigh(patches.weights, request.stitching_weights))


def _weigh(intensities: Tensor, rule: StitchingWeights) -> Tensor:
    """Return the weights of patches (n, window, window) from the probe's intensities there."""
    if rule == 'amplitude':
        return torch.sqrt(intensities)
    if rule == 'uniform':
        brightest = intensities.amax(dim=(-2, -1), keepdim=True)
        return (intensities > UNIFORM_FRACTION * brightest).to(intensities.dtype)
    return intensities


class Stitcher:
    """Adds blocks of weighted patches to a canvas; the equation is that of this module's head.

    Each rank adds its own patches of a block, and has the canvas of all.

    Parameters
    ----------
    forward : ForwardModel
    before : Tensor of complex64, shape `forward.canvas_shape`
        The object of the pass before, which stays where no light falls.
    """

    def __init__(self, forward: ForwardModel, before: Tensor) -> None:
        self.forward = forward
        self.before = before
        self.total = torch.zeros_like(before)
        self.weight = torch.zeros(before.shape, device=before.device)
        self._is_empty = True

    def add(self, parts: list[Patches], phase_synchronization: bool) -> None:
        """Add patches, after their global phases are synchronized where the request has that."""
        weighted = [part.values * part.weights for part in parts]  # each (n, window, window)
        phase_factors = self.total.new_ones(sum(map(len, weighted)))
        if phase_synchronization:
            phase_factors = self._agree(parts, weighted)
            # The first block decides the canvas' common phase; later ones follow it.
            if not self._is_empty:
                phase_factors = phase_factors * self._common_phase_factor(
                    parts, weighted, phase_factors
                )
        self._is_empty = False
        ranks, total, weight = self.forward.ranks, self.total, self.weight
        if ranks.size > 1:
            total, weight = torch.zeros_like(total), torch.zeros_like(weight)
        each = phase_factors.split([len(values) for values in weighted])
        for part, values, phase_factor in zip(parts, weighted, each, strict=True):
            # Patches predicted together are neighbours, and cover little of the canvas.
            canvas_window = self.forward.canvas_window(part.on_host(), values.shape[-1])
            aligned = values * phase_factor[:, None, None]
            total[canvas_window] += self.forward.place_patches(aligned, part.indices, canvas_window)
            weight[canvas_window] += self.forward.place_patches(
                part.weights, part.indices, canvas_window
            )
        if ranks.size > 1:
            self.total += ranks.sum(total)
            self.weight += ranks.sum(weight)

    def _common_phase_factor(
        self, parts: list[Patches], weighted: list[Tensor], phase_factors: Tensor
    ) -> Tensor:
        """Return the factor that brings a block's common phase, free as well, to the canvas'."""
        agreement = [self.total.new_empty(0)]
        for part, values in zip(parts, weighted, strict=True):
            there = self.forward.extract_patches(self.total, part.indices, values.shape[-1])
            agreement.append((values.conj() * there).sum(dim=(-2, -1)))
        common = self.forward.ranks.sum((phase_factors.conj() * torch.cat(agreement)).sum())
        return torch.where(common.abs() > 0, common / common.abs(), torch.ones_like(common))

    def object_(self) -> Tensor:
        """Return the weighted mean of all patches."""
        floor = STITCHING_FLOOR * self.weight.max()
        return (self.total + floor * self.before) / (self.weight + floor)

    def _agree(self, parts: list[Patches], weighted: list[Tensor]) -> Tensor:
        """Return a factor of modulus 1 for each patch, as `synchronize_patches` finds them.

        Rank 0 finds those of all ranks, from the few numbers of each patch that it takes.
        """
        forward, ranks = self.forward, self.forward.ranks
        each = [forward.patch_origins[part.indices] for part in parts]
        cells = [_cell_sums(*pair).cpu().numpy() for pair in zip(weighted, each, strict=True)]
        patch_origins = [forward.host_origins[part.on_host()] for part in parts]
        counts = ranks.gather(np.array([sum(map(len, weighted))]))
        all_cells = ranks.gather(np.concatenate([*cells] or [np.empty(0, np.complex64)]))
        all_origins = ranks.gather(np.concatenate([*patch_origins] or [np.empty(0, np.int64)]))
        found = np.empty(len(all_cells), np.complex64)
        if ranks.rank == 0:
            found[:] = synchronize_patches(all_cells, all_origins, weighted[0].shape[-1])
        own = slice(int(counts[: ranks.rank].sum()), int(counts[: ranks.rank + 1].sum()))
        phase_factors: Tensor = ranks.broadcast(torch.from_numpy(found).to(forward.device))
        return phase_factors[own]


def _cell_sums(values: Tensor, patch_origins: Tensor) -> Tensor:
    """Sum weighted patches over the cells of one grid; (n, window, window) to (n, side, side)."""
    window = values.shape[-1]
    # A window that begins inside a cell reaches into one cell more at its end.
    side = window // CELL_PX + 2
    inside = torch.arange(window, device=values.device)
    rows = (patch_origins[:, 0:1] % CELL_PX + inside) // CELL_PX
    columns = (patch_origins[:, 1:2] % CELL_PX + inside) // CELL_PX
    cells = (rows[:, :, None] * side + columns[:, None, :]).reshape(len(values), -1)
    empty = torch.zeros(len(values), side * side, device=values.device)
    real = empty.scatter_add(1, cells, values.real.reshape(len(values), -1))
    imaginary = empty.scatter_add(1, cells, values.imag.reshape(len(values), -1))
    return torch.complex(real, imaginary).view(-1, side, side)


STITCHING_KERNELS = StitchingKernels(
    predict_batches=_predict_batches,
    make_stitcher=Stitcher,
    correct_phase_drift=correct_phase_drift,
)
