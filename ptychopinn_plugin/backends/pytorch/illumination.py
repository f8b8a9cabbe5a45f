"""The probe at each position of a scan: shifted, varied, and in a beam of its own intensity."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.common.scan_probe import PROBE_CACHE_BYTES
from ptychopinn_plugin.backends.pytorch.operators import shift_probe


class PositionProbes:
    """How light falls on the object at each position, before any object is looked at.

    Attributes
    ----------
    device : torch.device
    held : slice
        The positions whose patterns this rank holds, and whose shifted probes it may keep.
    probe : Tensor of complex64, shape (n_modes, height, width)
        In square root of photons per pixel.
    subpixel_shifts : Tensor of float32, shape (n_positions, 2)
        By which the probe is moved, (y, x).
    intensities, eigenmodes, opr_weights : ndarray
        As `set_intensities` and `set_variation` have been given them.
    """

    device: torch.device
    held: slice
    probe: Tensor
    subpixel_shifts: Tensor
    _keeps_probes: bool

    def set_probe_only(self, probe: Tensor) -> None:
        """Use another probe from now on, and leave the coverage as it was."""
        self.probe = probe
        self._shifted: Tensor | None = None

    def keep_shifted_probes(self) -> None:
        """Keep the probe of every position, where there is memory for that."""
        # A shift is a transform for each position and mode, half of a projection: it is worth
        # keeping as long as the probe stays what it is.
        n_held = self.held.stop - self.held.start
        n_bytes = n_held * self.probe.numel() * 8
        if self._keeps_probes and n_bytes <= PROBE_CACHE_BYTES:
            # Filled part by part: parts that are joined at the end would take twice the memory.
            shifted = self.probe.new_empty((n_held, *self.probe.shape))
            for part in cut_slice(self.held, 256):
                shifted[self._in_held(part)] = self._shifted_probes(part)
            self._shifted = shifted

    def set_intensities(self, intensities: FloatArray) -> None:
        """Let each pattern have a beam of its own intensity, and leave coverage to `set_probe`.

        Parameters
        ----------
        intensities : ndarray of float64, shape (n_positions,)
            In times of the probe's.
        """
        self.intensities = intensities
        self._roots: Tensor | None = None
        if (intensities != 1).any():
            roots = torch.from_numpy(np.sqrt(intensities).astype(np.float32))
            self._roots = roots.to(self.device)[:, None, None, None]

    def set_variation(self, eigenmodes: ComplexArray, weights: FloatArray) -> None:
        """Let the probe's first mode vary, and leave shifted probes and coverage to `set_probe`.

        Parameters
        ----------
        eigenmodes : ndarray of complex64, shape (n_eigenmodes, height, width)
            In square root of photons per pixel.
        weights : ndarray of float64, shape (n_positions, 1 + n_eigenmodes)
            Of the probe's first mode and of each eigenmode.
        """
        self.eigenmodes, self.opr_weights = eigenmodes, weights
        self._opr: tuple[Tensor, Tensor] | None = None
        self._shifted = None
        if len(eigenmodes) or (weights != 1).any():
            on_device = torch.from_numpy(weights.astype(np.float32)).to(self.device)
            self._opr = (self.to_tensor(eigenmodes), on_device)

    def to_tensor(self, array: ComplexArray) -> Tensor:
        """Return an array as a tensor on the device."""
        return torch.from_numpy(array).to(self.device)

    def probes(self, indices: Tensor | slice) -> Tensor:
        """Return the probe at each position, shape (n_indices, n_modes, height, width)."""
        if self._shifted is not None:
            shifted = select(self._shifted, self._in_held(indices))
        else:
            shifted = self._shifted_probes(indices)
        return self.in_own_beam(shifted, indices)

    def _shifted_probes(self, indices: Tensor | slice) -> Tensor:
        """Return the probe at each position but for its beam's intensity, not those kept."""
        return shift_probe(self.vary(self.probe, indices), self.subpixel_shifts[indices])

    @property
    def varies(self) -> bool:
        """Whether the probe differs from position to position by more than its shift and beam."""
        return self._opr is not None

    def vary(self, probe: Tensor, indices: Tensor | slice) -> Tensor:
        """Return a probe as it varies from position to position, before sub-pixel shifts.

        Parameters
        ----------
        probe : Tensor of complex64, shape (n_modes, height, width)
        indices : Tensor of int64 or slice

        Returns
        -------
        Tensor of complex64, shape (n_indices, n_modes, height, width)
            Or `probe` itself where it does not vary.
        """
        if self._opr is None:
            return probe
        eigenmodes, weights = self._opr
        basis = torch.cat([probe[:1], eigenmodes])
        first = torch.tensordot(weights[indices].to(basis.dtype), basis, dims=1)
        others = probe[1:].expand(len(first), -1, -1, -1)
        return torch.cat([first[:, None], others], dim=1)

    def in_own_beam(self, waves: Tensor, indices: Tensor | slice) -> Tensor:
        """Scale waves (n_indices, n_modes, height, width) by the root of each beam's intensity."""
        return waves if self._roots is None else waves * self._roots[indices]

    def into_common(self, waves: Tensor, indices: Tensor | slice) -> Tensor:
        """Scale waves by how much of the common probe each position has: for its update."""
        waves = self.in_own_beam(waves, indices)
        if self._opr is None:
            return waves
        # Only the first mode varies: the weight is its share of the common one.
        first = self._opr[1][indices][:, 0, None, None, None]
        return torch.cat([waves[:, :1] * first, waves[:, 1:]], dim=1)

    def _in_held(self, indices: Any) -> Any:
        """Return the places of some positions among the patterns that this rank holds."""
        first = self.held.start
        if first == 0:
            return indices
        if isinstance(indices, slice):
            return slice(indices.start - first, indices.stop - first, indices.step)
        return indices - first


def cut_slice(part: slice, batch_size: int) -> Iterator[slice]:
    """Cut a part into slices of this number of its positions."""
    step = part.step or 1
    for start in range(part.start, part.stop, batch_size * step):
        yield slice(start, min(start + batch_size * step, part.stop), step)


def select(images: Tensor, indices: Tensor | slice) -> Tensor:
    """Return some images: a view of a slice, or copies, which indices in brackets make slower."""
    return images[indices] if isinstance(indices, slice) else images.index_select(0, indices)
