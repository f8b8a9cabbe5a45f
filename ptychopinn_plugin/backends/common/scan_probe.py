"""The probe of a scan as every backend takes it: its scale, and how it varies on that scale."""

from collections.abc import Callable

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.physics import normalize_probe

PROBE_CACHE_BYTES = 1 << 30
"""The shifted probes of all positions are kept while they take no more than this."""


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
