"""From patterns to an object: passes of the network, agreement of phases, stitching."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.arrays import IntArray
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.prediction import Patches, predict_patches
from ptychopinn_plugin.backends.pytorch.tilts import correct_slow_phase
from ptychopinn_plugin.backends.reconstruction import (
    PAIRS_TOGETHER,
    STITCHING_FLOOR,
    UNIFORM_SHARE,
    run_passes,
)
from ptychopinn_plugin.backends.timing import Stopwatch
from ptychopinn_plugin.config import StitchingWeights
from ptychopinn_plugin.stitching import CELL_PX, agree_phases, neighbour_pairs

PassObserver = Callable[[int, Tensor], bool | None]


def start_stopwatch(device: torch.device) -> Stopwatch:
    """Return a stopwatch that waits for a GPU."""

    def finish() -> None:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)

    return Stopwatch(finish)


@torch.no_grad()
def predict_object(
    network: Network,
    model: ForwardModel,
    *,
    passes: int | None = None,
    batch_size: int = 32,
    turns: Sequence[int] = (0,),
    phase_agreement: bool = True,
    stitching_weights: StitchingWeights = 'intensity',
    stopwatch: Stopwatch | None = None,
    observer: PassObserver | None = None,
) -> list[Tensor]:
    """Predict the object of a scan.

    Parameters
    ----------
    network : Network
    model : ForwardModel
    passes : int, optional
        Fewer than the network's, for lessons.
    batch_size : int
        Patterns in a batch.
    turns : sequence of int
        Quarter turns in which the network looks at each pattern; see `predict_patches`.
    phase_agreement : bool
        Bring the patches of each pass into phase, and at the end correct the slow drift.
    stitching_weights : 'intensity', 'amplitude' or 'uniform'
        See `InferenceConfig`.
    stopwatch : Stopwatch, optional
        Gets the seconds of 'predict' and 'stitch'.
    observer : callable, optional
        Gets the number of passes done and the object; True stops.

    Returns
    -------
    list of Tensor of complex64, shape `model.canvas_shape`
        The flat start and the object after each pass.
    """

    def predict(groups: IntArray, object_: Tensor, is_flat: bool) -> Iterator[Patches]:
        for part in _predict_batches(network, model, groups, object_, batch_size, is_flat, turns):
            yield replace(part, weights=_weigh(part.weights, stitching_weights))

    return run_passes(
        network.description,
        model.places_px,
        model.flat_object(),
        passes=passes,
        phase_agreement=phase_agreement,
        stitch=partial(Stitcher, model),
        predict=predict,
        settle=partial(correct_slow_phase, model),
        stopwatch=stopwatch or start_stopwatch(model.device),
        observer=observer,
    )


def _predict_batches(
    network: Network,
    model: ForwardModel,
    groups: IntArray,
    object_: Tensor,
    batch_size: int,
    is_flat: bool,
    turns: Sequence[int],
) -> Iterator[Patches]:
    where = torch.from_numpy(groups).to(model.device)
    for batch in where.split(max(1, batch_size // groups.shape[1])):
        yield predict_patches(network, model, batch, object_, is_flat=is_flat, turns=turns)


def _weigh(intensities: Tensor, rule: StitchingWeights) -> Tensor:
    if rule == 'amplitude':
        return torch.sqrt(intensities)
    if rule == 'uniform':
        brightest = intensities.amax(dim=(-2, -1), keepdim=True)
        return (intensities > UNIFORM_SHARE * brightest).to(intensities.dtype)
    return intensities


class Stitcher:
    """Adds blocks of weighted patches to a canvas.

    Parameters
    ----------
    model : ForwardModel
    before : Tensor of complex64, shape `model.canvas_shape`
        What stands where no light falls.
    """

    def __init__(self, model: ForwardModel, before: Tensor) -> None:
        self.model = model
        self.before = before
        self.total = torch.zeros_like(before)
        self.weight = torch.zeros(before.shape, device=before.device)
        self._is_empty = True

    def add(self, parts: list[Patches], phase_agreement: bool) -> None:
        """Add patches; with `phase_agreement` their global phases are brought together first."""
        weighted = [part.values * part.weights for part in parts]
        turns = weighted[0].new_ones(sum(map(len, weighted)))
        if phase_agreement:
            turns = self._agree(parts, weighted)
            if not self._is_empty:
                turns = turns * self._common_turn(parts, weighted, turns)
        self._is_empty = False
        each = turns.split([len(values) for values in weighted])
        for part, values, turn in zip(parts, weighted, each, strict=True):
            # Patches predicted together are neighbours, and cover little of the canvas.
            frame = self.model.frame(part.indices, values.shape[-1])
            turned = values * turn[:, None, None]
            self.total[frame] += self.model.place(turned, part.indices, frame)
            self.weight[frame] += self.model.place(part.weights, part.indices, frame)

    def _common_turn(self, parts: list[Patches], weighted: list[Tensor], turns: Tensor) -> Tensor:
        """Return what brings a block's own common phase, free as well, to that of the canvas."""
        agreement = []
        for part, values in zip(parts, weighted, strict=True):
            there = self.model.extract(self.total, part.indices, values.shape[-1])
            agreement.append((values.conj() * there).sum(dim=(-2, -1)))
        common = (turns.conj() * torch.cat(agreement)).sum()
        return common / common.abs() if common.abs() > 0 else torch.ones_like(common)

    def object_(self) -> Tensor:
        """Return the weighted mean of all patches."""
        floor = STITCHING_FLOOR * self.weight.max()
        return (self.total + floor * self.before) / (self.weight + floor)

    def _agree(self, parts: list[Patches], weighted: list[Tensor]) -> Tensor:
        each = [self.model.corners[part.indices] for part in parts]
        corners = torch.cat(each)
        cells = torch.cat([_cell_sums(*pair) for pair in zip(weighted, each, strict=True)])
        window = weighted[0].shape[-1]
        pairs = neighbour_pairs(corners.cpu().numpy().astype(np.float64), float(window))
        correlations = [
            _correlate(cells, torch.div(corners, CELL_PX, rounding_mode='floor'), some)
            for some in torch.from_numpy(pairs).to(self.model.device).split(PAIRS_TOGETHER)
        ]
        found = torch.cat(correlations).cpu().numpy() if correlations else np.empty(0, np.complex64)
        return torch.from_numpy(agree_phases(len(corners), pairs, found)).to(self.model.device)


def _cell_sums(values: Tensor, corners: Tensor) -> Tensor:
    """Sum weighted patches over the cells of one grid; (n, window, window) to (n, side, side)."""
    window = values.shape[-1]
    side = window // CELL_PX + 2
    inside = torch.arange(window, device=values.device)
    rows = (corners[:, 0:1] % CELL_PX + inside) // CELL_PX
    columns = (corners[:, 1:2] % CELL_PX + inside) // CELL_PX
    cells = (rows[:, :, None] * side + columns[:, None, :]).reshape(len(values), -1)
    empty = torch.zeros(len(values), side * side, device=values.device)
    real = empty.scatter_add(1, cells, values.real.reshape(len(values), -1))
    imaginary = empty.scatter_add(1, cells, values.imag.reshape(len(values), -1))
    return torch.complex(real, imaginary).view(-1, side, side)


def _correlate(cells: Tensor, corners: Tensor, pairs: Tensor) -> Tensor:
    """Return the sum of first times conjugate second over common cells, for each pair."""
    side = cells.shape[-1]
    offset = corners[pairs[:, 1]] - corners[pairs[:, 0]]
    inside = torch.arange(side, device=cells.device)
    rows, columns = inside[None] - offset[:, 0:1], inside[None] - offset[:, 1:2]
    common = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[
        :, None
    ]
    second = cells[
        pairs[:, 1][:, None, None],
        rows.clamp(0, side - 1)[:, :, None],
        columns.clamp(0, side - 1)[:, None, :],
    ]
    return (cells[pairs[:, 0]] * second.conj() * common).sum(dim=(1, 2))
