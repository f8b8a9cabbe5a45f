"""How many illuminations of a scan overlap, and how much light a pixel gets."""

from typing import Any, Protocol

import numpy as np

from ptychopinn_plugin.data.places import find_places
from ptychopinn_plugin.physics import cover, illumination_overlap


class HasToNumpy(Protocol):
    """What knows a framework's tensors, as an engine and its kernels do."""

    @property
    def to_numpy(self) -> Any:
        """Return what makes an array of a tensor."""
        ...


def measure_overlap(framework: HasToNumpy, forward: Any) -> float:
    """Return how many illuminations overlap; what is measured again and again counts once."""
    coverage, probe = framework.to_numpy(forward.coverage), framework.to_numpy(forward.probe)
    patch_origins_px = np.asarray(forward.patch_origins_px)
    first = find_places(patch_origins_px)[0]
    if len(first) < len(patch_origins_px):
        # Exposures of one place add photons, and nothing of what neighbours would show.
        coverage = cover(probe, patch_origins_px[first], coverage.shape)
    return illumination_overlap(coverage, probe)


def measure_dose(framework: HasToNumpy, forward: Any) -> float:
    """Return the photons in a lit pixel of the object, averaged over the light itself."""
    coverage = np.asarray(framework.to_numpy(forward.coverage), dtype=np.float64)
    return float((coverage**2).sum() / coverage.sum())
