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

from ptychopinn_plugin.array_types import ComplexArray, IntArray
from ptychopinn_plugin.backends.common.requests import InferenceRequest
from ptychopinn_plugin.backends.common.stitching import (
    STITCHING_FLOOR,
    UNIFORM_FRACTION,
    StitchingKernels,
)
from ptychopinn_plugin.backends.tensorflow.forward import ForwardModel
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.network import Network
from ptychopinn_plugin.backends.tensorflow.operators import scaled
from ptychopinn_plugin.backends.tensorflow.phase_drift import correct_phase_drift
from ptychopinn_plugin.backends.tensorflow.prediction import Patches, predict_patches
from ptychopinn_plugin.config import StitchingWeights
from ptychopinn_plugin.phase_synchronization import CELL_PX, synchronize_patches


def _predict_batches(
    network: Network,
    forward: ForwardModel,
    groups: IntArray,
    object_: Tensor,
    is_flat: bool,
    request: InferenceRequest,
) -> Iterator[Patches]:
    """Yield the patches of groups (n_groups, group_size); see `StitchingKernels`."""
    # All rotations of a batch go through the network together.
    step = max(1, request.batch_size // (groups.shape[1] * len(request.rotations)))
    for start in range(0, len(groups), step):
        batch = groups[start : start + step]
        patches = predict_patches(
            network, forward, batch, object_, is_flat=is_flat, rotations=request.rotations
        )
        yield replace(patches, weights=_weigh(patches.weights, request.stitching_weights))


def _weigh(intensities: Tensor, rule: StitchingWeights) -> Tensor:
    """Return the weights of patches (n, window, window) from the probe's intensities there."""
    if rule == 'amplitude':
        return tf.sqrt(intensities)
    if rule == 'uniform':
        brightest = tf.reduce_max(intensities, axis=(-2, -1), keepdims=True)
        return tf.cast(intensities > UNIFORM_FRACTION * brightest, intensities.dtype)
    return intensities


class Stitcher:
    """Adds blocks of weighted patches to a canvas; the equation is that of this module's head.

    Parameters
    ----------
    forward : ForwardModel
    before : Tensor of complex64, shape `forward.canvas_shape`
        The object of the pass before, which stays where no light falls.
    """

    def __init__(self, forward: ForwardModel, before: Tensor) -> None:
        self.forward = forward
        self.before = before
        # These are arrays, as blocks are added to parts of them.
        self.total = np.zeros(before.shape, dtype=np.complex64)
        self.weight = np.zeros(before.shape, dtype=np.float32)
        self._is_empty = True

    def add(self, parts: list[Patches], phase_synchronization: bool) -> None:
        """Add patches, after their global phases are synchronized where the request has that."""
        weighted = [scaled(part.values, part.weights) for part in parts]  # each (n, window, window)
        sizes = [len(part.indices) for part in parts]
        phase_factors = np.ones(sum(sizes), dtype=np.complex64)
        if phase_synchronization:
            phase_factors = self._agree(parts, weighted)
            # The first block decides the canvas' common phase; later ones follow it.
            if not self._is_empty:
                phase_factors = phase_factors * self._common_phase_factor(
                    parts, weighted, phase_factors
                )
        self._is_empty = False
        each = np.split(phase_factors, np.cumsum(sizes)[:-1])
        for part, values, phase_factor in zip(parts, weighted, each, strict=True):
            # Patches predicted together are neighbours, and cover little of the canvas.
            canvas_window = self.forward.canvas_window(part.indices, part.values.shape[-1])
            aligned = values * phase_factor[:, None, None]
            self.total[canvas_window] += self.forward.place_patches(
                aligned, part.indices, canvas_window
            ).numpy()
            self.weight[canvas_window] += self.forward.place_patches(
                part.weights, part.indices, canvas_window
            ).numpy()

    def _common_phase_factor(
        self, parts: list[Patches], weighted: list[Tensor], phase_factors: ComplexArray
    ) -> np.complex64:
        """Return the factor that brings a block's common phase, free as well, to the canvas'."""
        so_far, agreement = tf.constant(self.total), []
        for part, values in zip(parts, weighted, strict=True):
            there = self.forward.extract_patches(so_far, part.indices, part.values.shape[-1])
            agreement.append(tf.reduce_sum(tf.math.conj(values) * there, axis=(-2, -1)).numpy())
        common = (phase_factors.conj() * np.concatenate(agreement)).sum()
        return np.complex64(common / abs(common) if abs(common) > 0 else 1)

    def object_(self) -> Tensor:
        """Return the weighted mean of all patches."""
        floor = STITCHING_FLOOR * self.weight.max()
        weight = tf.constant(self.weight)
        return scaled(tf.constant(self.total) + scaled(self.before, floor), 1 / (weight + floor))

    def _agree(self, parts: list[Patches], weighted: list[Tensor]) -> ComplexArray:
        """Return a factor of modulus 1 for each patch, as `synchronize_patches` finds them."""
        each = [self.forward.patch_origins[part.indices] for part in parts]
        cells = tf.concat([_cell_sums(*pair) for pair in zip(weighted, each, strict=True)], axis=0)
        return synchronize_patches(cells.numpy(), np.concatenate(each), parts[0].values.shape[-1])


@compiled
def _cell_sums(values: Tensor, patch_origins: Tensor) -> Tensor:
    """Sum weighted patches over the cells of one grid; (n, window, window) to (n, side, side)."""
    sides = tf.shape(values, tf.int64)
    # A window that begins inside a cell reaches into one cell more at its end.
    side = sides[-1] // CELL_PX + 2
    inside = tf.range(sides[-1])
    rows = (patch_origins[:, 0:1] % CELL_PX + inside) // CELL_PX
    columns = (patch_origins[:, 1:2] % CELL_PX + inside) // CELL_PX
    cells = rows[:, :, None] * side + columns[:, None, :]
    cells += tf.range(sides[0])[:, None, None] * side * side
    summed = tf.math.unsorted_segment_sum(values, cells, sides[0] * side * side)
    return tf.reshape(summed, [sides[0], side, side])


STITCHING_KERNELS = StitchingKernels(
    predict_batches=_predict_batches,
    make_stitcher=Stitcher,
    correct_phase_drift=correct_phase_drift,
)
