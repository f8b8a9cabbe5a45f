"""What differs between the releases of Ptychodus that this plugin works in (1.5.1 to 1.7)."""

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np

from ptychopinn_plugin.arrays import FloatArray
from ptychopinn_plugin.backends.spec import installed_version

SUPPORTED = '1.5.1 to 1.7'


def host_version() -> str:
    """Return the installed release."""
    return installed_version('ptychodus') or 'of unknown version'


def has_native_entry_points() -> bool:
    """Tell whether this Ptychodus asks for reconstructor libraries itself (docs/upstream)."""
    api = sys.modules.get('ptychodus.api.plugins')
    return hasattr(api, 'RECONSTRUCTOR_LIBRARIES_GROUP')


def parameter_views() -> ModuleType:
    """Return the module with the views of parameters; 1.5 names it otherwise."""
    try:
        return importlib.import_module('ptychodus.controller.parameters')
    except ModuleNotFoundError:
        return importlib.import_module('ptychodus.controller.parametric')


def positions_m(positions: Any) -> FloatArray:
    """Return the scan positions, shape (n_positions, 2), (y, x) in metres."""
    if hasattr(positions, 'get_coordinates_x_m'):
        x_m, y_m = positions.get_coordinates_x_m(), positions.get_coordinates_y_m()
        return np.stack([y_m, x_m], axis=1).astype(np.float64)
    pairs = [(_of(point, 'y_m'), _of(point, 'x_m')) for point in positions]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def has_center(object_: Any) -> bool:
    """Tell whether an object knows where it lies."""
    try:
        object_.get_center()
    except ValueError:
        return False
    return True


def center_m(object_: Any) -> tuple[float, float]:
    """Return where the middle of an object lies, (y, x) in metres."""
    center = object_.get_center()
    return float(_of(center, 'y_m')), float(_of(center, 'x_m'))


def photon_energy_eV(metadata: Any) -> float:
    """Return the photon energy of a product."""
    name = 'photon_energy_eV' if hasattr(metadata, 'photon_energy_eV') else 'probe_energy_eV'
    return float(getattr(metadata, name))


def _of(place: Any, axis: str) -> Any:
    """Return a coordinate; 1.5 says coordinate_x_m where later releases say x_m."""
    return getattr(place, axis) if hasattr(place, axis) else getattr(place, f'coordinate_{axis}')
