"""The probe at each position of a scan: shifted, varied, and in a beam of its own intensity."""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.backends.common.scan_probe import PROBE_CACHE_BYTES
from ptychopinn_plugin.backends.tensorflow import operators
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, tf
from ptychopinn_plugin.backends.tensorflow.operators import scaled, shift_probe


class PositionProbes:
    """How light falls on the object at each position, before any object is looked at.

    Attributes
    ----------
    probe : Tensor of complex64, shape (n_modes, height, width)
        In square root of photons per pixel.
    subpixel_shifts : Tensor of float32, shape (n_positions, 2)
        By which the probe is moved, (y, x).
    intensities, eigenmodes, opr_weights : ndarray
        As `set_intensities` and `set_variation` have been given them.
    """

    probe: Tensor
    subpixel_shifts: Tensor
    _keeps_probes: bool

    def __len__(self) -> int:
        return len(self.subpixel_shifts)

    def batches(self, size: int, stride: int = 1) -> list[IntArray]:
        """Return every `stride`-th position in order, `size` at a time."""
        everyone = np.arange(0, len(self), stride)
        return [everyone[start : start + size] for start in range(0, len(everyone), size)]

    def set_probe_only(self, probe: Tensor | ComplexArray) -> None:
        """Use another probe from now on, and leave the coverage as it was."""
        self.probe = tf.convert_to_tensor(probe)
        self._shifted: Tensor | None = None

    def keep_shifted_probes(self) -> None:
        """Keep the probe of every position, where there is memory for that."""
        # A shift is a transform for each position and mode, half of a projection: it is worth
        # keeping as long as the probe stays what it is.
        n_bytes = len(self) * int(tf.size(self.probe)) * 8
        if self._keeps_probes and n_bytes <= PROBE_CACHE_BYTES:
            parts = [self._shifted_probes(indices) for indices in self.batches(256)]
            self._shifted = tf.concat(parts, axis=0)

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
            roots = np.sqrt(intensities).astype(np.float32)
            self._roots = tf.constant(roots[:, np.newaxis, np.newaxis, np.newaxis])

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
            self._opr = (tf.constant(eigenmodes), tf.constant(weights, tf.float32))

    def probes(self, indices: IntArray) -> Tensor:
        """Return the probe at each position, shape (n_indices, n_modes, height, width)."""
        if self._shifted is not None:
            shifted = tf.gather(self._shifted, indices)
        else:
            shifted = self._shifted_probes(indices)
        return self.in_own_beam(shifted, indices)

    def _shifted_probes(self, indices: IntArray) -> Tensor:
        """Return the probe at each position but for its beam's intensity, not those kept."""
        subpixel_shifts = tf.gather(self.subpixel_shifts, indices)
        return shift_probe(self.vary(self.probe, indices), subpixel_shifts)

    def vary(self, probe: Tensor, indices: IntArray) -> Tensor:
        """Return a probe as it varies from position to position, before sub-pixel shifts.

        Parameters
        ----------
        probe : Tensor of complex64, shape (n_modes, height, width)
        indices : ndarray of int64

        Returns
        -------
        Tensor of complex64, shape (n_indices, n_modes, height, width)
            Or `probe` itself where it does not vary.
        """
        found = self.variation_inputs(indices)
        return operators.vary_probe(probe, *found.values()) if found else probe

    def variation_inputs(self, indices: IntArray) -> dict[str, Tensor]:
        """Return what `operators.vary_probe` needs of some positions; nothing if none varies."""
        if self._opr is None:
            return {}
        eigenmodes, weights = self._opr
        return {'eigenmodes': eigenmodes, 'opr_weights': tf.gather(weights, indices)}

    def into_common(self, waves: Tensor, indices: IntArray) -> Tensor:
        """Scale waves by how much of the common probe each position has: for its update."""
        waves = self.in_own_beam(waves, indices)
        if self._opr is None:
            return waves
        # Only the first mode varies: the weight is its share of the common one.
        first = tf.gather(self._opr[1][:, 0], indices)[:, None, None, None]
        return tf.concat([scaled(waves[:, :1], first), waves[:, 1:]], axis=1)

    def in_own_beam(self, waves: Tensor, indices: IntArray) -> Tensor:
        """Scale waves (n_indices, n_modes, height, width) by the root of each beam's intensity."""
        return waves if self._roots is None else scaled(waves, tf.gather(self._roots, indices))
