"""The forward model of `ptychopinn_plugin.physics`, on a device and in batches."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.array_types import FloatArray, IntArray, RealArray
from ptychopinn_plugin.backends.common.amplitudes import detector_amplitudes
from ptychopinn_plugin.backends.common.canvas import CanvasWindow, window_of, window_shape
from ptychopinn_plugin.backends.common.judged_patterns import judged_positions
from ptychopinn_plugin.backends.common.ranks import Ranks, own_part
from ptychopinn_plugin.backends.common.scan_probe import variation_of
from ptychopinn_plugin.backends.pytorch.illumination import PositionProbes, cut_slice, select
from ptychopinn_plugin.backends.pytorch.operators import (
    intensity,
    place_patches,
    poisson_terms,
    predict_intensity,
    probe_update,
    project_amplitudes,
    transfer_at,
)
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.physics import (
    LIT_COUNTS,
    LIT_FRACTION,
    POISSON_EPSILON,
    Misfit,
    measure_misfit,
    split_positions,
)
from ptychopinn_plugin.physics.propagation import in_transform_order
from ptychopinn_plugin.storage.scratch import Usage, is_stored


class ForwardModel(PositionProbes):
    """A scan on a device: measured amplitudes, and how an object would produce them.

    Patterns are kept with zero frequency in the corner, so that no transform needs a shift; those
    of the near field, which are images, as they are. The object lives on a canvas that holds every
    patch with a margin; canvas pixel [0, 0] lies at `origin_px` in the scan's coordinates.

    Parameters
    ----------
    scan : Scan
        Prepared: square patterns.
    probe : Tensor of complex64, shape (n_modes, height, width)
        Scaled to the counts, in square root of photons per pixel.
    device : torch.device
    photons : float, optional
        Energy per pattern that losses divide by; the scan's own where not given.
    reach_px : int
        How far `set_moves` may move positions.
    ranks : Ranks, optional
        Which compute the scan together: each holds a part of the patterns and goes through it, and
        sums over patterns are over all ranks.
    is_whole : bool
        Each rank holds all patterns all the same.

    Attributes
    ----------
    own, held : slice
        The positions that this rank goes through, and those of the patterns that it holds.
    transfer : Tensor of complex64, shape (height, width), or None
        The transfer function of free space in the near field; see `operators.to_detector`.
    """

    def __init__(
        self,
        scan: Scan,
        probe: Tensor,
        device: torch.device,
        photons: float | None = None,
        reach_px: int = 0,
        *,
        ranks: Ranks | None = None,
        is_whole: bool = False,
    ) -> None:
        self.ranks = Ranks() if ranks is None else ranks
        self._is_divided = self.ranks.size > 1 and not is_whole
        self.own = self.ranks.share(len(scan))
        self.held = self.own if self._is_divided else slice(0, len(scan))
        whole, subpixel_shifts = split_positions(scan.positions_px)
        self.shape, self.is_single_shot = scan.pattern_shape, scan.is_single_shot
        half = np.array([side // 2 for side in self.shape])
        # One pixel more than positions reach: slopes of the object are differences of neighbours,
        # which a patch at the edge must find on the canvas (`position_forces`).
        margin = 1 + reach_px
        self.device, self.reach_px = device, reach_px
        self.origin_px = whole.min(axis=0) - half - margin
        extent = whole.max(axis=0) - whole.min(axis=0) + np.array(self.shape) + 2 * margin
        self.canvas_shape = (int(extent[0]), int(extent[1]))
        # With their subpixel parts: moves are added to them before both are split again.
        self.given_origins_px = scan.positions_px - (half + self.origin_px)
        self.moves_px: FloatArray = np.zeros_like(scan.positions_px)
        self.set_intensities(np.ones(len(scan)))
        self.probe = probe
        variation = variation_of(scan, lambda: float(torch.linalg.vector_norm(probe)))
        self.set_variation(variation.eigenmodes, variation.weights)
        self._place(whole - half - self.origin_px, subpixel_shifts)
        assert scan.bad_pixels is not None
        transfer = scan.transfer_function()
        self.transfer = None if transfer is None else self.to_tensor(transfer)
        amplitudes = detector_amplitudes(scan.patterns[self.held], scan.bad_pixels, transfer)
        self.amplitudes, self._usage = torch.from_numpy(amplitudes), Usage(amplitudes)
        # Shifted probes take more memory than the amplitudes, for which there is too little.
        self._keeps_probes = not is_stored(amplitudes)
        if _fits(self.amplitudes, device):
            self.amplitudes = self.amplitudes.to(device)
        self.valid_mask: Tensor | None = None
        if scan.bad_pixels.any():
            valid_mask = in_transform_order(~scan.bad_pixels, transfer).astype(np.float32)
            self.valid_mask = torch.from_numpy(valid_mask).to(device)
        self._valid_pixels = int((~scan.bad_pixels).sum())
        # Bad pixels hide light that the probe's scale must count; see `Scan.mean_photons`.
        self.photons = scan.mean_photons() if photons is None else photons
        self.set_probe(probe)

    def set_probe(self, probe: Tensor, *, cache: bool = True) -> None:
        """Use another probe; shifted copies (with `cache`) and the coverage are made again."""
        self.set_probe_only(probe.detach().to(self.device))
        if cache:
            self.keep_shifted_probes()
        # The brightest pixel is found once: sub-scans look at a small part of the canvas each.
        self._brightest: Tensor | None = None
        coverage = torch.zeros(self.canvas_shape, device=self.device)
        for part in cut_slice(self.held, 256):
            canvas_window = self.canvas_window(part)
            coverage[canvas_window] += self.place_patches(
                intensity(self.probes(part)), part, canvas_window
            )
        self.coverage = self._sum_of_held(coverage)

    def set_moves(self, moves_px: FloatArray) -> None:
        """Move the positions from now on, and leave shifted probes and coverage to `set_probe`.

        Parameters
        ----------
        moves_px : ndarray of float64, shape (n_positions, 2)
            (y, x), from the given positions; `reach_px` at most.
        """
        if np.array_equal(moves_px, self.moves_px):
            return
        whole, subpixel_shifts = split_positions(self.given_origins_px + moves_px)
        self.moves_px = moves_px
        self._place(whole, subpixel_shifts)
        self._shifted = None

    def _place(self, patch_origins: IntArray, subpixel_shifts_px: FloatArray) -> None:
        """Keep positions on the device, and here: to read them back would wait for a GPU."""
        self.host_origins = patch_origins
        self.patch_origins = torch.from_numpy(patch_origins).to(self.device)
        self._host_shifts = subpixel_shifts_px.astype(np.float32)
        self.subpixel_shifts = torch.from_numpy(self._host_shifts).to(self.device)

    def __len__(self) -> int:
        return len(self.patch_origins)

    @property
    def patch_origins_px(self) -> FloatArray:
        """Patch origins on the canvas with their subpixel parts, shape (n_positions, 2)."""
        return np.asarray(self.host_origins.astype(np.float32) + self._host_shifts)

    def _sum_of_held(self, canvas: Tensor) -> Tensor:
        """Sum over all patterns what this rank has summed over those that it holds."""
        return self.ranks.sum(canvas) if self._is_divided else canvas

    def share(self, indices: IntArray) -> IntArray:
        """Return those of some positions, in ascending order, that this rank computes."""
        if self._is_divided:
            return own_part(indices, self.own)
        return indices[self.ranks.share(len(indices))]

    def subset(
        self,
        indices: IntArray,
        amplitudes: Tensor | RealArray | None = None,
        exposure: float = 1.0,
    ) -> 'ForwardModel':
        """Return the forward model of some positions, on its own smaller canvas.

        Parameters
        ----------
        indices : ndarray of int64
            In ascending order where the patterns are divided among ranks, as those of the part are.
        amplitudes : Tensor or ndarray of float32, optional
            To use in place of the measured ones, with the same order of pixels.
        exposure : float
            Their counts as a share of the measured ones; the probe follows.
        """
        # Not by the constructor, which would read and convert patterns: they are on the device, and
        # training cuts a part out of a scan many times a minute.
        part = object.__new__(ForwardModel)
        part.ranks, part._is_divided = self.ranks, self._is_divided
        part.own = part.held = slice(0, len(indices))
        if self._is_divided:
            first, stop = np.searchsorted(indices, [self.own.start, self.own.stop]).tolist()
            part.own = part.held = slice(first, stop)
        elif self.ranks.size > 1:
            part.own = self.ranks.share(len(indices))
        where = torch.from_numpy(indices[part.held]).to(self.device)
        part.shape, part.device, part.valid_mask = self.shape, self.device, self.valid_mask
        part.transfer = self.transfer
        part._valid_pixels, part.is_single_shot = self._valid_pixels, self.is_single_shot
        # A shorter exposure is a weaker beam: the object stays what it is.
        part.probe, part.photons = self.probe * exposure**0.5, self.photons * exposure
        # The same margin of a pixel as around the whole canvas.
        lowest = self.host_origins[indices].min(axis=0) - 1
        part.origin_px = self.origin_px + lowest
        part.reach_px, part.moves_px = 0, self.moves_px[indices]
        part.given_origins_px = self.given_origins_px[indices] - lowest
        part._place(self.host_origins[indices] - lowest, self._host_shifts[indices])
        height, width = (part.host_origins.max(axis=0) + np.array(self.shape) + 1).tolist()
        part.canvas_shape = (height, width)
        part._usage, part._keeps_probes = Usage(), True
        if amplitudes is None:
            part.amplitudes = self.measured(where)
        else:
            part.amplitudes = torch.as_tensor(amplitudes, device=self.device)
        part.set_intensities(self.intensities[indices])
        eigenmodes = self.eigenmodes * np.float32(exposure**0.5)
        part.set_variation(eigenmodes, self.opr_weights[indices])
        if self._shifted is None or exposure != 1:
            part.set_probe(part.probe)
        else:
            part._shifted, part._brightest = self._shifted[self._in_held(where)], None
            coverage = part.place_patches(intensity(part.probes(part.held)), part.held)
            part.coverage = part._sum_of_held(coverage)
        return part

    def flat_object(self) -> Tensor:
        """Return an object that changes nothing, shape `canvas_shape`."""
        return torch.ones(self.canvas_shape, dtype=torch.complex64, device=self.device)

    def lit_area(self, canvas_window: CanvasWindow) -> Tensor:
        """Return 1 where light falls on a part of the canvas, and 0 elsewhere, as float32."""
        coverage = self.coverage[canvas_window]
        if self._brightest is None:
            self._brightest = self.coverage.max()
        return (coverage > LIT_FRACTION * self._brightest).float()

    def extract_patches(
        self, object_: Tensor, indices: Tensor | slice, size: int | None = None
    ) -> Tensor:
        """Cut patches at whole pixels, the middle `size` pixels of each.

        Returns
        -------
        Tensor, shape (n_indices, size, size)
            Or (n_indices, height, width) where no size is given.
        """
        height, width = (size, size) if size else self.shape
        rows, columns = self._first_pixels(indices, height, width)
        # `unfold` is a view of the patches at every place; only those of `indices` are copied.
        return object_.unfold(0, height, 1).unfold(1, width, 1)[rows, columns]

    def measured(self, indices: Tensor | IntArray | slice) -> Tensor:
        """Return measured amplitudes, in the order of the transform, shape (n_indices, h, w)."""
        if isinstance(indices, slice):
            found = self.amplitudes[self._in_held(indices)]
        else:
            # Scans that do not fit stay in the computer's memory and come batch by batch.
            where = torch.as_tensor(self._in_held(indices), device=self.amplitudes.device)
            found = select(self.amplitudes, where)
        self._usage.add(found.numel() * found.element_size())
        return found.to(self.device)

    def canvas_window(self, indices: IntArray | slice, size: int | None = None) -> CanvasWindow:
        """Return the part of the canvas on which patches of `extract_patches` lie."""
        height, width = (size, size) if size else self.shape
        rows, columns = (self.host_origins[indices] + self._inset(height, width)).T
        return window_of(rows, columns, height, width)

    def place_patches(
        self,
        patches: Tensor,
        indices: Tensor | slice,
        canvas_window: CanvasWindow | None = None,
    ) -> Tensor:
        """Add patches to an empty canvas: the adjoint of `extract_patches`.

        Parameters
        ----------
        patches : Tensor, shape (n_indices, height, width)
            Their middles go where the positions are, whatever their size.
        canvas_window : CanvasWindow, optional
            Return this part of the canvas alone.
        """
        height, width = patches.shape[-2:]
        rows, columns = self._first_pixels(indices, height, width)
        shape = self.canvas_shape
        if canvas_window is not None:
            rows, columns = rows - canvas_window[0].start, columns - canvas_window[1].start
            shape = window_shape(canvas_window)
        return place_patches(patches, rows, columns, shape)

    def _first_pixels(
        self, indices: Tensor | slice, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        top, left = self._inset(height, width)
        patch_origins = self.patch_origins[indices]
        return patch_origins[:, 0] + top, patch_origins[:, 1] + left

    def _inset(self, height: int, width: int) -> tuple[int, int]:
        """Return where the middle of a patch, of this size, begins in it."""
        return self.shape[0] // 2 - height // 2, self.shape[1] // 2 - width // 2

    def project_amplitudes(
        self, patches: Tensor, indices: Tensor | slice, probes: Tensor | None = None
    ) -> Tensor:
        r"""Project exit waves onto the measured amplitudes.

        With :math:`\Psi = \mathcal{F}[P O]` and
        :math:`\psi' = \mathcal{F}^{-1}[\sqrt{(k + \eta) / (I + \eta)}\, \Psi]`, where
        :math:`I = \sum_m |\Psi_m|^2` and bad pixels are kept as they are, the result is
        :math:`\sum_m P_m^* (\psi'_m - \psi_m)`.

        Parameters
        ----------
        patches : Tensor of complex64, shape (n_indices, height, width)
        indices : Tensor of int64
        probes : Tensor of complex64, shape (n_indices, n_modes, height, width), optional
            Those of `probes`, where they are at hand.

        Returns
        -------
        Tensor of complex64, shape (n_indices, height, width)

        References
        ----------
        .. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
        """
        probes = self.probes(indices) if probes is None else probes
        return project_amplitudes(
            probes, patches, self.measured(indices), self.valid_mask, self.transfer_at(indices)
        )[0]

    def project_amplitudes_with_probe(
        self, patches: Tensor, indices: Tensor, probes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the updates of the patches and of the probe, (n_modes, height, width)."""
        probes = self.probes(indices) if probes is None else probes
        update, changes = project_amplitudes(
            probes, patches, self.measured(indices), self.valid_mask, self.transfer_at(indices)
        )
        changes = self.into_common(changes, indices)
        return update, probe_update(changes, patches, self.subpixel_shifts[indices])

    def predict_intensity(
        self, patches: Tensor, indices: Tensor | slice, probes: Tensor | None = None
    ) -> Tensor:
        r"""Compute :math:`I = \sum_m |\mathcal{F}[P_m O]|^2`, shape (n_indices, height, width).

        In photons per pixel, in the order of the transform; `probes` (n_indices, n_modes,
        height, width) take the place of the scan's where they are given.
        """
        probes = self.probes(indices) if probes is None else probes
        return predict_intensity(probes, patches, self.transfer_at(indices))

    def transfer_at(self, indices: Tensor | slice) -> Tensor | None:
        """Return the transfer function at each position; None in the far field."""
        if self.transfer is None:
            return None
        return transfer_at(self.transfer, self.subpixel_shifts[indices])

    @torch.no_grad()
    def evaluate_fit(self, object_: Tensor, batch_size: int = 128) -> tuple[float, float]:
        """Compute the Poisson loss per pixel and the relative amplitude residual of an object."""
        # Sums stay on the device until the last batch, as each look would wait for it; and they are
        # of millions of pixels, of which float32 would lose the small ones.
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for part in self.slices(batch_size):
            expected = self.predict_intensity(self.extract_patches(object_, part), part)
            measured = self.measured(part)
            sums[0] += self.sum_of_losses(expected, part)
            sums[1] += self.sum_over_good((expected.sqrt() - measured).square_())
            sums[2] += self.sum_over_good(measured.square())
        loss, misfit, total = self.ranks.sum(sums).tolist()
        return loss / self.n_valid_pixels(), misfit / total

    @torch.no_grad()
    def evaluate_loss(self, object_: Tensor, batch_size: int = 128, stride: int = 1) -> float:
        """Compute the Poisson loss per good pixel of an object, on every `stride`-th pattern."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in self.slices(batch_size, stride):
            expected = self.predict_intensity(self.extract_patches(object_, part), part)
            total += self.sum_of_losses(expected, part)
        return float(self.ranks.sum(total)) / self.n_valid_pixels(stride)

    def sum_of_losses(self, expected: Tensor, indices: Tensor | slice) -> Tensor:
        """Sum the terms of the Poisson loss over the good pixels of some patterns."""
        counts = self.measured(indices).square()
        return self.sum_over_good(poisson_terms(expected, counts, POISSON_EPSILON))

    def n_valid_pixels(self, stride: int = 1) -> int:
        """Return the number of good pixels in every `stride`-th pattern together."""
        return self._valid_pixels * len(range(0, len(self), stride))

    def slices(self, batch_size: int, stride: int = 1) -> Iterator[slice]:
        """Cut every `stride`-th pattern into slices: probes and amplitudes are views of them.

        Of all patterns, those that this rank goes through.
        """
        # The next multiple of the stride: all ranks together judge the patterns that one process
        # would, so that losses and the choice of the best do not depend on their number.
        first = -(-self.own.start // stride) * stride
        return cut_slice(slice(first, self.own.stop, stride), batch_size)

    def sum_over_good(self, images: Tensor) -> Tensor:
        """Sum images (n, height, width) over the good pixels."""
        return (images if self.valid_mask is None else images * self.valid_mask).sum()

    def expected_and_counted(
        self, object_: Tensor, indices: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return expected and measured counts, in the order of the transform, (n_indices, h, w)."""
        where = torch.from_numpy(self.share(indices)).to(self.device)
        expected = self.predict_intensity(self.extract_patches(object_, where), where)
        counted = self.measured(where).cpu().numpy() ** 2
        return self.ranks.gather(expected.cpu().numpy()), self.ranks.gather(counted)

    def misfit(self, object_: Tensor, lit_counts: float = LIT_COUNTS) -> Misfit | None:
        """Compute `physics.measure_misfit` of an object, on patterns from all over the scan."""
        positions = self.share(judged_positions(len(self), self.shape))
        sample = torch.from_numpy(positions).to(self.device)
        expected = [
            self.predict_intensity(self.extract_patches(object_, indices), indices).cpu()
            for indices in sample.split(64)
        ]
        valid_mask = torch.ones(self.shape) if self.valid_mask is None else self.valid_mask.cpu()
        counts = self.measured(sample).cpu() ** 2
        return measure_misfit(
            self.ranks.gather(torch.cat(expected).numpy()),
            self.ranks.gather(counts.numpy()),
            valid_mask.numpy() > 0,
            lit_counts=lit_counts,
        )


def _fits(amplitudes: Tensor, device: torch.device) -> bool:
    if device.type != 'cuda':
        return True
    free, _ = torch.cuda.mem_get_info(device)
    # The rest is for shifted probes, a canvas or two, and the waves of a batch.
    return amplitudes.numel() * amplitudes.element_size() < 0.6 * free
