"""What PtychoPINN wrote and expects: its model files, settings and data.

Written from the published contracts; nothing of what such a file holds is executed. Names are
imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptychopinn_plugin.legacy.configuration import (
        LegacySettings,
        from_legacy,
        to_legacy,
        to_legacy_dict,
        update_legacy_dict,
    )
    from ptychopinn_plugin.legacy.group_cache import cache_path
    from ptychopinn_plugin.legacy.groups import GroupOptions, group_scan
    from ptychopinn_plugin.legacy.models import read_legacy_model
    from ptychopinn_plugin.legacy.raw_data import scan_from_raw_data

_HOMES = {
    'GroupOptions': 'groups',
    'LegacySettings': 'configuration',
    'cache_path': 'group_cache',
    'from_legacy': 'configuration',
    'group_scan': 'groups',
    'read_legacy_model': 'models',
    'scan_from_raw_data': 'raw_data',
    'to_legacy': 'configuration',
    'to_legacy_dict': 'configuration',
    'update_legacy_dict': 'configuration',
}

__all__ = [
    'GroupOptions',
    'LegacySettings',
    'cache_path',
    'from_legacy',
    'group_scan',
    'read_legacy_model',
    'scan_from_raw_data',
    'to_legacy',
    'to_legacy_dict',
    'update_legacy_dict',
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
