"""What is known of Ptychodus without importing it: releases, entry points, names of its objects."""

import dataclasses
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.packages import release

SUPPORTED = '1.5.1 to 1.7'
REQUIREMENT = '>=1.5.1,<1.8'
"""These are the supported releases, as in pyproject.toml."""

LIBRARIES_GROUP = 'ptychodus.reconstructor_libraries'
VIEWS_GROUP = 'ptychodus.view_controller_factories'
"""These groups of entry points name reconstructor libraries and the panels that belong to them."""

NATIVE_MARK = 'RECONSTRUCTOR_LIBRARIES_GROUP'
"""A Ptychodus that reads entry points itself has this name in `ptychodus.api.plugins`."""

PRODUCT_NAMES = ('product.h5', 'product-in.h5')
"""The product of a folder has one of these names; 1.5 writes the second in batch mode."""


def is_supported(version: str) -> bool:
    """Return whether a release is one of `SUPPORTED`."""
    lowest, below = (bound.strip('<>=') for bound in REQUIREMENT.split(','))
    return release(lowest) <= release(version) < release(below)


def positions_m(positions: Any) -> FloatArray:
    """Return the scan positions, shape (n_positions, 2), (y, x) in metres."""
    if hasattr(positions, 'get_coordinates_x_m'):
        x_m, y_m = positions.get_coordinates_x_m(), positions.get_coordinates_y_m()
        return np.stack([y_m, x_m], axis=1).astype(np.float64)
    pairs = [point_m(point) for point in positions]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def position_indexes(positions: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the number of the pattern that belongs to each position."""
    if hasattr(positions, 'get_indexes'):
        return np.asarray(positions.get_indexes(), dtype=np.int64)
    return np.array([point.index for point in positions], dtype=np.int64)


def moved(positions: Any, moves_m: FloatArray) -> Any:
    """Return scan positions of the same type that are moved, (y, x) in metres."""
    points = []
    for point, moved_m in zip(positions, positions_m(positions) + moves_m, strict=True):
        names = ('y_m', 'x_m') if hasattr(point, 'y_m') else ('coordinate_y_m', 'coordinate_x_m')
        changes = dict(zip(names, map(float, moved_m), strict=True))
        points.append(dataclasses.replace(point, **changes))
    return type(positions)(points)


def point_m(point: Any) -> tuple[float, float]:
    """Return where a position, or the centre of an object, lies: (y, x) in metres."""
    if hasattr(point, 'y_m'):
        return float(point.y_m), float(point.x_m)
    return float(point.coordinate_y_m), float(point.coordinate_x_m)


def photon_energy_eV(metadata: Any) -> float | None:
    """Return the photon energy of a product or of patterns in eV; None where it is unknown."""
    name = 'photon_energy_eV' if hasattr(metadata, 'photon_energy_eV') else 'probe_energy_eV'
    value = getattr(metadata, name)
    return None if value is None else float(value)


def opr_weights(probes: Any) -> FloatArray | None:
    """Return the weights of a probe's variations, (n_positions, n_variations); None without."""
    if hasattr(probes, 'get_opr_weights_or_none'):
        found = probes.get_opr_weights_or_none()
    else:
        try:
            found = probes.get_opr_weights()
        except ValueError:
            # What the releases before 1.7 raise where there are none.
            found = None
    return None if found is None else np.asarray(found, dtype=np.float64)


def is_near_field(metadata: Any) -> bool:
    """Return whether a product is of the near field; before 1.7 all are of the far field."""
    return not getattr(metadata, 'far_field', True)


def focus_distance_m(metadata: Any) -> float | None:
    """Return where the focus of a product's beam lies behind the sample; None if it is parallel."""
    return float(getattr(metadata, 'focus_object_distance_m', 0.0)) or None


def beam_center_px(metadata: Any) -> tuple[int, int] | None:
    """Return where the beam meets the detector, (y, x) in pixels, if the patterns hold it."""
    if hasattr(metadata, 'beam_center'):
        centre = metadata.beam_center
        return None if centre is None else (int(centre.y_px), int(centre.x_px))
    centre = metadata.crop_center
    return None if centre is None else (int(centre.position_y_px), int(centre.position_x_px))
