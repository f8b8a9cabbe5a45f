"""What is installed beside this package, found without importing it."""

import importlib.util
import re
import sys


def is_importable(name: str) -> bool:
    """Return whether a package is there; it is not imported.

    A folder without ``__init__.py`` does not count. An uninstall can leave one, and this package's
    own wheel makes ``ptychodus/plugins`` in site-packages, with Ptychodus or without.
    """
    if name in sys.modules:
        module = sys.modules[name]
        is_folder = hasattr(module, '__path__') and getattr(module, '__file__', None) is None
        return module is not None and not is_folder
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


def release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2, 13, 0) of '2.13.0+cpu'."""
    leading = re.match(r'\d+(\.\d+)*', version)
    return tuple(int(part) for part in leading[0].split('.')) if leading else ()
