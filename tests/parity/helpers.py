"""What the parity tests share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from parity.frameworks import Framework

Complex = NDArray[np.complex128]
Forward = Any
Patches = Any


def noise(shape: tuple[int, ...], seed: int = 0) -> Complex:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def canvas_object(forward: Forward, seed: int = 0) -> Complex:
    return 1 + 0.3 * noise(forward.canvas_shape, seed)


def make_groups(forward: Forward, n_groups: int, group_size: int, seed: int = 0) -> Any:
    """Return groups of neighbours, so that their patches overlap."""
    patch_origins = np.asarray(forward.patch_origins).astype(float)
    distance = ((patch_origins[:, None] - patch_origins[None]) ** 2).sum(axis=2)
    seeds = np.random.default_rng(seed).integers(len(forward), size=n_groups)
    return distance.argsort(axis=1, kind='stable')[seeds, :group_size]


def make_patches(
    fw: Framework, forward: Forward, groups: Any, window: int = 16, seed: int = 0
) -> Patches:
    indices = fw.indices(np.asarray(groups).reshape(-1))
    values = fw.tensor(noise((len(indices), window, window), seed))
    light = fw.operators.intensity(forward.probes(indices))
    return fw.prediction.Patches(indices, values, fw.prediction.cut_middle(light, window))
