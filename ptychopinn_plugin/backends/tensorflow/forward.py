"""The forward model of `ptychopinn_plugin.physics`, on a device and in batches."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.backends.common.amplitudes import detector_amplitudes
from ptychopinn_plugin.backends.common.canvas import (
    CanvasWindow,
    place_one_by_one,
    window_of,
    window_shape,
)
from ptychopinn_plugin.backends.common.judged_patterns import judged_positions
from ptychopinn_plugin.backends.common.scan_probe import variation_of
from ptychopinn_plugin.backends.tensorflow import operators
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, is_on_cpu, tf
from ptychopinn_plugin.backends.tensorflow.illumination import PositionProbes
from ptychopinn_plugin.backends.tensorflow.operators import intensity
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.physics import (
    LIT_COUNTS,
    LIT_FRACTION,
    Misfit,
    measure_misfit,
    split_positions,
)
from ptychopinn_plugin.physics.propagation import in_transform_order
from ptychopinn_plugin.storage.scratch import Usage, is_stored

AMPLITUDE_BYTES = 8 << 30
"""Amplitudes that take more stay in the computer's memory and come batch by batch."""


class ForwardModel(PositionProbes):
    """A scan on a device: measured amplitudes, and how an object would produce them.

    Patterns are kept with zero frequency in the corner, so that no transform needs a shift; those
    of the near field, which are images, as they are. The object lives on a canvas that holds every
    patch with a margin; canvas pixel [0, 0] lies at `origin_px` in the scan's coordinates. The
    device is that of the current `tf.device`.

    Parameters
    ----------
    scan : Scan
        Prepared: square patterns.
    probe : Tensor or ndarray of complex64, shape (n_modes, height, width)
        Scaled to the counts.
    photons : float, optional
        Energy per pattern that losses divide by; the scan's own where not given.
    reach_px : int
        How far `set_moves` may move positions.

    Attributes
    ----------
    transfer : Tensor of complex64, shape (height, width), or None
        The transfer function of free space in the near field; see `operators.to_detector`.
    """

    def __init__(
        self,
        scan: Scan,
        probe: Tensor | ComplexArray,
        photons: float | None = None,
        reach_px: int = 0,
    ) -> None:
        whole, subpixel_shifts = split_positions(scan.positions_px)
        self.shape, self.is_single_shot = scan.pattern_shape, scan.is_single_shot
        half = np.array([side // 2 for side in self.shape])
        # One pixel more than positions reach: slopes of the object are differences of neighbours,
        # which a patch at the edge must find on the canvas (`position_forces`).
        margin = 1 + reach_px
        self.reach_px = reach_px
        self.origin_px = whole.min(axis=0) - half - margin
        extent = whole.max(axis=0) - whole.min(axis=0) + np.array(self.shape) + 2 * margin
        self.canvas_shape = (int(extent[0]), int(extent[1]))
        # With their subpixel parts: moves are added to them before both are split again.
        self.given_origins_px = scan.positions_px - (half + self.origin_px)
        self.moves_px: FloatArray = np.zeros_like(scan.positions_px)
        self.set_intensities(np.ones(len(scan)))
        variation = variation_of(scan, lambda: float(np.linalg.norm(np.asarray(probe))))
        self.set_variation(variation.eigenmodes, variation.weights)
        self.patch_origins: IntArray = whole - half - self.origin_px
        self.subpixel_shifts = tf.constant(subpixel_shifts, tf.float32)
        assert scan.bad_pixels is not None
        transfer = scan.transfer_function()
        self.transfer = None if transfer is None else tf.constant(transfer)
        amplitudes = detector_amplitudes(scan.patterns, scan.bad_pixels, transfer)
        # Shifted probes take more memory than the amplitudes, for which there is too little.
        self._usage, self._keeps_probes = Usage(amplitudes), not is_stored(amplitudes)
        self.stays_outside = is_stored(amplitudes) or amplitudes.nbytes > AMPLITUDE_BYTES
        self.amplitudes = amplitudes if self.stays_outside else tf.convert_to_tensor(amplitudes)
        self.valid_mask: Tensor | None = None
        if scan.bad_pixels.any():
            valid_mask = in_transform_order(~scan.bad_pixels, transfer)
            self.valid_mask = tf.constant(valid_mask, tf.float32)
        # Bad pixels hide light that the probe's scale must count; see `Scan.mean_photons`.
        self.photons = scan.mean_photons() if photons is None else photons
        self.set_probe(probe)

    def set_probe(self, probe: Tensor | ComplexArray, *, cache: bool = True) -> None:
        """Use another probe; shifted copies (with `cache`) and the coverage are made again."""
        self.set_probe_only(probe)
        if cache:
            self.keep_shifted_probes()
        # An array, as a part of a tensor cannot be added to.
        coverage = np.zeros(self.canvas_shape, self.subpixel_shifts.dtype.as_numpy_dtype)
        for indices in self.batches(256):
            canvas_window = self.canvas_window(indices)
            coverage[canvas_window] += self.place_patches(
                intensity(self.probes(indices)), indices, canvas_window
            ).numpy()
        self.coverage = tf.constant(coverage)
        # The brightest pixel is found once: sub-scans look at a small part of the canvas each.
        self._brightest: Tensor | None = None

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
        self.moves_px, self.patch_origins = moves_px, whole
        self.subpixel_shifts = tf.constant(subpixel_shifts, self.subpixel_shifts.dtype)
        self._shifted = None

    def __len__(self) -> int:
        return len(self.patch_origins)

    @property
    def patch_origins_px(self) -> FloatArray:
        """Patch origins on the canvas with their subpixel parts, shape (n_positions, 2)."""
        return np.asarray(self.patch_origins.astype(np.float32) + self.subpixel_shifts.numpy())

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
        amplitudes : Tensor or ndarray of float32, optional
            To use in place of the measured ones, with the same order of pixels.
        exposure : float
            Their counts as a share of the measured ones; the probe follows.
        """
        # Not by the constructor, which would read and convert patterns: they are on the device, and
        # training cuts a part out of a scan many times a minute.
        part = object.__new__(ForwardModel)
        part.shape, part.valid_mask, part.stays_outside = self.shape, self.valid_mask, False
        part.transfer = self.transfer
        part._usage, part._keeps_probes = Usage(), True
        part.photons, part.is_single_shot = self.photons * exposure, self.is_single_shot
        patch_origins = self.patch_origins[indices]
        # The same margin of a pixel as around the whole canvas.
        lowest = patch_origins.min(axis=0) - 1
        part.patch_origins = patch_origins - lowest
        part.origin_px = self.origin_px + lowest
        part.reach_px, part.moves_px = 0, self.moves_px[indices]
        part.given_origins_px = self.given_origins_px[indices] - lowest
        highest = part.patch_origins.max(axis=0)
        part.canvas_shape = (
            int(highest[0]) + self.shape[0] + 1,
            int(highest[1]) + self.shape[1] + 1,
        )
        part.subpixel_shifts = tf.gather(self.subpixel_shifts, indices)
        if amplitudes is None:
            part.amplitudes = self.measured(indices)
        else:
            part.amplitudes = tf.convert_to_tensor(amplitudes)
        part.set_intensities(self.intensities[indices])
        eigenmodes = self.eigenmodes * np.float32(exposure**0.5)
        part.set_variation(eigenmodes, self.opr_weights[indices])
        # A shorter exposure is a weaker beam: the object stays what it is.
        if self._shifted is None or exposure != 1:
            part.set_probe(self.probe * tf.cast(exposure**0.5, self.probe.dtype))
        else:
            part.probe, part._shifted = self.probe, tf.gather(self._shifted, indices)
            part._brightest = None
            everyone = np.arange(len(part))
            part.coverage = part.place_patches(intensity(part.probes(everyone)), everyone)
        return part

    def to_tensor(self, array: ComplexArray) -> Tensor:
        """Return an array as a tensor on the device."""
        return tf.constant(array)

    def flat_object(self) -> Tensor:
        """Return an object that changes nothing, shape `canvas_shape`."""
        return tf.ones(self.canvas_shape, tf.complex64)

    def lit_area(self, canvas_window: CanvasWindow) -> Tensor:
        """Return 1 where light falls on a part of the canvas, and 0 elsewhere, as float32."""
        coverage = self.coverage[canvas_window]
        if self._brightest is None:
            self._brightest = tf.reduce_max(self.coverage)
        return tf.cast(coverage > LIT_FRACTION * self._brightest, tf.float32)

    def extract_patches(
        self, object_: Tensor, indices: IntArray, size: int | None = None
    ) -> Tensor:
        """Cut patches at whole pixels, the middle `size` pixels of each.

        Returns
        -------
        Tensor, shape (n_indices, size, size)
            Or (n_indices, height, width) where no size is given.
        """
        height, width = (size, size) if size else self.shape
        first_pixels = self._first_pixels(indices, height, width)
        if is_on_cpu(object_):
            rows, columns = first_pixels.T
            # `numpy()` would copy the whole canvas for each batch.
            canvas = np.asarray(object_)
            patches = sliding_window_view(canvas, (height, width))[rows, columns]
            return tf.convert_to_tensor(patches)
        return operators.extract_patches(object_, first_pixels, height, width)

    def measured(self, indices: IntArray) -> Tensor:
        """Return measured amplitudes, in the order of the transform, shape (n_indices, h, w)."""
        if self.stays_outside:
            found = self.amplitudes[indices]
            self._usage.add(found.nbytes)
            return tf.convert_to_tensor(found)
        return tf.gather(self.amplitudes, indices)

    def canvas_window(self, indices: IntArray, size: int | None = None) -> CanvasWindow:
        """Return the part of the canvas on which patches of `extract_patches` lie."""
        height, width = (size, size) if size else self.shape
        rows, columns = self._first_pixels(indices, height, width).T
        return window_of(rows, columns, height, width)

    def place_patches(
        self, patches: Tensor, indices: IntArray, canvas_window: CanvasWindow | None = None
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
        patch_origins, shape = self._first_pixels(indices, height, width), self.canvas_shape
        if canvas_window is not None:
            patch_origins, shape = (
                patch_origins - [side.start for side in canvas_window],
                window_shape(canvas_window),
            )
        # Slices are added much faster than TensorFlow scatters single pixels on a CPU.
        if is_on_cpu(patches):
            rows, columns = patch_origins.T.tolist()
            return tf.convert_to_tensor(place_one_by_one(np.asarray(patches), rows, columns, shape))
        return operators.place_patches(patches, patch_origins, tf.constant(shape, tf.int64))

    def _first_pixels(self, indices: IntArray, height: int, width: int) -> IntArray:
        inset = [self.shape[0] // 2 - height // 2, self.shape[1] // 2 - width // 2]
        return np.asarray(self.patch_origins[indices] + np.array(inset))

    def project_amplitudes(self, patches: Tensor, indices: IntArray) -> Tensor:
        r"""Project exit waves onto the measured amplitudes.

        With :math:`\Psi = \mathcal{F}[P O]` and
        :math:`\psi' = \mathcal{F}^{-1}[\sqrt{(k + \eta) / (I + \eta)}\, \Psi]`, where
        :math:`I = \sum_m |\Psi_m|^2` and bad pixels are kept as they are, the result is
        :math:`\sum_m P_m^* (\psi'_m - \psi_m)`.

        Parameters
        ----------
        patches : Tensor of complex64, shape (n_indices, height, width)
        indices : ndarray of int64

        Returns
        -------
        Tensor of complex64, shape (n_indices, height, width)

        References
        ----------
        .. [1] A. Maiden, D. Johnson, P. Li, Optica 4 (2017) 736, doi:10.1364/OPTICA.4.000736.
        """
        return operators.project_amplitudes(
            *(self.probes(indices), patches, self.measured(indices)),
            *(self.valid_mask, self.transfer_at(indices)),
        )[0]

    def predict_intensity(
        self, patches: Tensor, indices: IntArray, probes: Tensor | None = None
    ) -> Tensor:
        r"""Compute :math:`I = \sum_m |\mathcal{F}[P_m O]|^2`, shape (n_indices, height, width).

        In photons per pixel, in the order of the transform; `probes` (n_indices, n_modes,
        height, width) take the place of the scan's where they are given.
        """
        return operators.predict_intensity(
            self.probes(indices) if probes is None else probes, patches, self.transfer_at(indices)
        )

    def sum_of_losses(self, expected: Tensor, indices: IntArray) -> Tensor:
        """Sum the terms of the Poisson loss over the good pixels of some patterns."""
        return operators.sum_of_losses(expected, self.measured(indices), self.valid_mask)

    def n_valid_pixels(self, stride: int = 1) -> int:
        """Return the number of good pixels in every `stride`-th pattern together."""
        each = np.prod(self.shape) if self.valid_mask is None else tf.reduce_sum(self.valid_mask)
        return int(each) * len(range(0, len(self), stride))

    def transfer_at(self, indices: IntArray) -> Tensor | None:
        """Return the transfer function at each position; None in the far field."""
        if self.transfer is None:
            return None
        return operators.transfer_at(self.transfer, tf.gather(self.subpixel_shifts, indices))

    def evaluate_fit(self, object_: Tensor, batch_size: int = 128) -> tuple[float, float]:
        """Compute the Poisson loss per pixel and the relative amplitude residual of an object."""
        # In double precision: they are of millions of pixels.
        sums = np.zeros(3)
        for indices in self.batches(batch_size):
            patches = self.extract_patches(object_, indices)
            sums += operators.misfits(
                *(self.probes(indices), patches, self.measured(indices)),
                *(self.valid_mask, self.transfer_at(indices)),
            ).numpy()
        return float(sums[0]) / self.n_valid_pixels(), float(sums[1] / sums[2])

    def evaluate_loss(self, object_: Tensor, batch_size: int = 128, stride: int = 1) -> float:
        """Compute the Poisson loss per good pixel of an object, on every `stride`-th pattern."""
        total = 0.0
        for indices in self.batches(batch_size, stride):
            expected = self.predict_intensity(self.extract_patches(object_, indices), indices)
            total += float(self.sum_of_losses(expected, indices))
        return total / self.n_valid_pixels(stride)

    def expected_and_counted(
        self, object_: Tensor, indices: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return expected and measured counts, in the order of the transform, (n_indices, h, w)."""
        expected = self.predict_intensity(self.extract_patches(object_, indices), indices)
        return expected.numpy(), self.measured(indices).numpy() ** 2

    def misfit(self, object_: Tensor, lit_counts: float = LIT_COUNTS) -> Misfit | None:
        """Compute `physics.measure_misfit` of an object, on patterns from all over the scan."""
        sample = judged_positions(len(self), self.shape)
        expected = [
            self.predict_intensity(self.extract_patches(object_, some), some).numpy()
            for some in (sample[start : start + 64] for start in range(0, len(sample), 64))
        ]
        valid_mask = np.ones(self.shape) if self.valid_mask is None else self.valid_mask.numpy()
        return measure_misfit(
            np.concatenate(expected),
            self.measured(sample).numpy() ** 2,
            valid_mask > 0,
            lit_counts=lit_counts,
        )
