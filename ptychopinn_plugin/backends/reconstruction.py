"""What reconstruction is about in every backend: blocks, photons, and who holds the model."""

from ptychopinn_plugin.config import IntensityScale
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.network import NetworkDescription

BLOCK_BYTES = 1 << 30
"""Patches are held for so many bytes at a time; a larger scan is stitched block by block."""

PAIRS_TOGETHER = 4096
"""Overlaps that are compared at a time."""

STITCHING_FLOOR = 1e-3
"""Share of the brightest coverage below which a pixel stays as it was."""

SAME_EXPOSURE = 2.0
"""Mean counts within this factor count as the same exposure."""


def choose_photons(scan: Scan, reference: float, rule: IntensityScale) -> float:
    """Return the energy of the probe: as in training, or by this scan's own mean counts."""
    own = scan.mean_counts()
    same = reference / SAME_EXPOSURE <= own <= reference * SAME_EXPOSURE
    return reference if rule == 'model' or (rule == 'auto' and same) else own


def block_size(description: NetworkDescription, n_bytes: int) -> int:
    """Return how many patterns are stitched together."""
    # Twice a group: a block that is halved must still hold one.
    return max(2 * description.group_size, n_bytes // (8 * description.window_px**2))
