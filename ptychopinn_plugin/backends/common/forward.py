"""Measured amplitudes as every backend keeps them."""

from collections.abc import Callable

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.data import Scan, inpaint
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.scan import CHUNK_PATTERNS
from ptychopinn_plugin.physics import normalize_probe
from ptychopinn_plugin.storage.scratch import Usage, chunks, new_array

JUDGED_PATTERNS = 256
"""Objects are compared on at least this number of patterns, from all over the scan. More would
decide nothing else, and an iteration compares up to four objects."""

STRIDES = (13, 11, 7, 5, 3, 2, 1)
"""One pattern in one of these numbers is compared. They are primes, as a number that divides the
length of a raster's rows would choose the same columns in each row; and of a large scan at least
one pattern in 13 is compared, so that no place is far from one that is."""

JUDGED_PIXELS = 1 << 20
"""A misfit of this number of pixels differs clearly from noise, in a tenth of a second."""

PROBE_CACHE_BYTES = 1 << 30
"""The shifted probes of all positions are kept while they take no more than this."""


def corner_amplitudes(patterns: RealArray, bad_pixels: BoolArray) -> FloatArray:
    """Return the square root of counts, zero frequency in the corner, bad pixels filled.

    Parameters
    ----------
    patterns : ndarray, shape (n_positions, height, width)
        Counts, zero frequency in the middle.
    bad_pixels : ndarray of bool, shape (height, width)

    Returns
    -------
    ndarray of float32, shape (n_positions, height, width)
        In a file where the patterns lie in one, or do not fit into memory: `storage.scratch`.
    """
    result = new_array(patterns.shape, np.float32, like=patterns)
    usage = Usage(result)
    for part, block in chunks(patterns, CHUNK_PATTERNS):
        counts = block.astype(np.float32)
        if bad_pixels.any():
            # Only the network sees these pixels: the loss leaves them out.
            counts = inpaint(counts, bad_pixels)
        result[part] = np.sqrt(np.fft.ifftshift(counts, axes=(1, 2)))
        usage.add(counts.nbytes)
    return result


def judged_stride(n_positions: int) -> int:
    """Return n where objects are compared on every n-th pattern."""
    largest = max(1, n_positions // JUDGED_PATTERNS)
    return next(stride for stride in STRIDES if stride <= largest)


def judged_positions(n_positions: int, shape: tuple[int, int]) -> IntArray:
    """Return positions from all over a scan, as many as it takes to judge a misfit."""
    count = min(n_positions, max(16, JUDGED_PIXELS // (shape[0] * shape[1])))
    return np.linspace(0, n_positions - 1, count).astype(np.int64)


def normalize_probe_of(scan: Scan, probe: ComplexArray, photons: float) -> ComplexArray:
    """Scale a probe so that over the patterns of a scan its mean energy is `photons`.

    Parameters
    ----------
    scan : Scan
        Its probe may vary from pattern to pattern.
    probe : ndarray of complex, shape (n_modes, height, width)
        Used in place of the scan's.
    photons : float

    Returns
    -------
    ndarray of complex64, shape (n_modes, height, width)
        In square root of photons per pixel.
    """
    probe = normalize_probe(probe, photons)
    if scan.probe_variation is None:
        return probe
    energies = variation_of(scan, lambda: float(np.linalg.norm(probe))).energies(probe)
    return normalize_probe(probe, photons * photons / float(energies.mean()))


def variation_of(scan: Scan, probe_norm: Callable[[], float]) -> ProbeVariation:
    """Return how the probe of a scan varies, on the scale of a probe of this norm.

    The norm is read only where it is needed, as a device would be waited for.
    """
    if scan.probe_variation is None:
        nothing = np.zeros((0, *scan.pattern_shape), dtype=np.complex64)
        return ProbeVariation(nothing, np.ones((len(scan), 1)))
    return scan.probe_variation.times(probe_norm() / float(np.linalg.norm(scan.probe)))
