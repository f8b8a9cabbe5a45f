"""What differs between the releases of Ptychodus that this plugin works in (1.5.1 to 1.7)."""

import importlib
import sys
from types import ModuleType
from typing import Any

from ptychopinn_plugin.backends.spec import installed_version
from ptychopinn_plugin.packages import release
from ptychopinn_plugin.ptychodus_compat import place_m

SUPPORTED = '1.5.1 to 1.7'
REQUIREMENT = '>=1.5.1,<1.8'
"""As in pyproject.toml."""

NATIVE_MARK = 'RECONSTRUCTOR_LIBRARIES_GROUP'
"""What a Ptychodus has in `ptychodus.api.plugins` that reads entry points itself."""


def host_version() -> str:
    """Return the installed release."""
    return installed_version('ptychodus') or 'of unknown version'


def has_native_entry_points() -> bool:
    """Tell whether this Ptychodus asks for reconstructor libraries itself (docs/upstream)."""
    api = sys.modules.get('ptychodus.api.plugins')
    return hasattr(api, NATIVE_MARK)


def is_supported(version: str) -> bool:
    """Tell whether a release is one of `SUPPORTED`."""
    lowest, below = (bound.strip('<>=') for bound in REQUIREMENT.split(','))
    return release(lowest) <= release(version) < release(below)


def parameter_views() -> ModuleType:
    """Return the module with the views of parameters; 1.5 names it otherwise."""
    try:
        return importlib.import_module('ptychodus.controller.parameters')
    except ModuleNotFoundError:
        return importlib.import_module('ptychodus.controller.parametric')


def has_center(object_: Any) -> bool:
    """Tell whether an object knows where it lies."""
    try:
        object_.get_center()
    except ValueError:
        return False
    return True


def center_m(object_: Any) -> tuple[float, float]:
    """Return where the middle of an object lies, (y, x) in metres."""
    return place_m(object_.get_center())
