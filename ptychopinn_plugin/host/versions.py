"""What differs between the releases of Ptychodus that this plugin works in (1.5.1 to 1.7)."""

import importlib
import sys
from types import ModuleType
from typing import Any

from ptychopinn_plugin.backends.spec import installed_version
from ptychopinn_plugin.ptychodus_compat import NATIVE_MARK, point_m


def host_version() -> str:
    """Return the installed release."""
    return installed_version('ptychodus') or 'of unknown version'


def has_native_entry_points() -> bool:
    """Return whether this Ptychodus looks for reconstructor libraries itself (docs/upstream)."""
    api = sys.modules.get('ptychodus.api.plugins')
    return hasattr(api, NATIVE_MARK)


def parameter_views() -> ModuleType:
    """Return the module with the views of parameters, which has another name in 1.5."""
    try:
        return importlib.import_module('ptychodus.controller.parameters')
    except ModuleNotFoundError:
        return importlib.import_module('ptychodus.controller.parametric')


def has_centre(host_object: Any) -> bool:
    """Return whether an object holds where it lies."""
    try:
        host_object.get_center()
    except ValueError:
        return False
    return True


def centre_m(host_object: Any) -> tuple[float, float]:
    """Return where the middle of an object lies, (y, x) in metres."""
    return point_m(host_object.get_center())
