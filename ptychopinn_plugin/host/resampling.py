"""Results of a model of another pattern size, back on the pixels of the scan that was measured.

A product of Ptychodus has the pixels that its patterns give it; whatever continues from a product,
Infer included, relies on that.
"""

import math
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.preparation import fit_probe, fit_variation
from ptychopinn_plugin.data.probe_variation import ProbeVariation


@dataclass(frozen=True)
class Resampling:
    """The way back from the pixels of a model to those of a scan.

    Attributes
    ----------
    measured : Scan
        As it came.
    fitted : Scan
        The same in the size of the model, by `data.fit_to_size`.
    """

    measured: Scan
    fitted: Scan

    def object_back(
        self, object_: ComplexArray, origin_px: FloatArray
    ) -> tuple[ComplexArray, FloatArray]:
        """Return an object on the pixels of `measured`, and where its first pixel lies there.

        Parameters
        ----------
        object_ : ndarray of complex64, shape (height, width)
        origin_px : ndarray of float64, shape (2,)
            (y, x) of its pixel [0, 0], in the coordinates of the positions of `fitted`.
        """
        old, new = self.fitted.pattern_shape, self.measured.pattern_shape
        if old == new:
            return object_, origin_px
        is_near_field = self.measured.geometry.is_near_field
        scale = np.ones(2) if is_near_field else np.array(old) / np.array(new)
        # Both scans share their positions and not their zero, which fitting an object may have
        # moved.
        from_first = (origin_px - self.fitted.positions_px[0]) / scale
        result = object_
        # In the near field the pixels of both are of one size.
        for axis in () if is_near_field else (0, 1):
            result = _resample(result, axis, old[axis], new[axis])
        return result.astype(np.complex64), self.measured.positions_px[0] + from_first

    def moves_back(self, moves_px: FloatArray | None) -> FloatArray | None:
        """Return how far positions were moved, (y, x) in the pixels of `measured`."""
        if moves_px is None or self.measured.geometry.is_near_field:
            return moves_px
        scale = np.array(self.measured.pattern_shape) / np.array(self.fitted.pattern_shape)
        return np.asarray(moves_px * scale)

    def probe_back(self, probe: ComplexArray) -> ComplexArray:
        """Return a probe on the pixels of `measured`; the measured one where it was not changed."""
        shape, given = self.measured.pattern_shape, self.fitted.probe
        if self.fitted.pattern_shape == shape:
            return probe
        # What has only been to the worker and back must not lose what cropping took from it.
        tolerance = 1e-4 * float(np.abs(given).max())
        if probe.shape == given.shape and np.allclose(probe, given, atol=tolerance):
            return self.measured.probe
        return fit_probe(probe, shape, is_near_field=self.measured.geometry.is_near_field)

    def variation_back(self, variation: ProbeVariation | None) -> ProbeVariation | None:
        """Return how the probe varies on the pixels of `measured`."""
        shape = self.measured.pattern_shape
        if self.fitted.pattern_shape == shape:
            return variation
        is_near_field = self.measured.geometry.is_near_field
        return fit_variation(variation, shape, is_near_field=is_near_field)


def _resample(image: ComplexArray, axis: int, old: int, new: int) -> ComplexArray:
    """Sample an image at ``index * old / new`` along an axis."""
    if old == new:
        return image
    # This import takes half a second, and only scans of another size need it.
    from scipy import signal

    length = image.shape[axis]
    # Only a multiple of this many pixels becomes a whole number of new ones. Mirrored, the image
    # has no jump at its end, which would ring through all of it.
    multiple = old // math.gcd(old, new)
    padded = -(-2 * length // multiple) * multiple
    extra = [(0, 0), (0, 0)]
    extra[axis] = (0, padded - length)
    mirrored = np.pad(image, extra, mode='symmetric')
    kept = (length - 1) * new // old + 1
    resampled = signal.resample(mirrored, padded * new // old, axis=axis)
    result: ComplexArray = np.take(resampled, range(kept), axis=axis)
    return result
