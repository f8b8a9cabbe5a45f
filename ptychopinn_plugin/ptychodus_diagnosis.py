"""What `ptychopinn doctor` reports on Ptychodus, which is looked at and not imported."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ptychopinn_plugin.backends.spec import entry_points_of, installed_version
from ptychopinn_plugin.packages import is_importable
from ptychopinn_plugin.ptychodus_compat import (
    LIBRARIES_GROUP,
    NATIVE_MARK,
    REQUIREMENT,
    SUPPORTED,
    VIEWS_GROUP,
    is_supported,
)

STUB = 'ptychopinn_plugin_bridge.py'
INSTALL = "pip install 'ptychopinn-plugin[ptychodus]'"
REINSTALL = 'pip install --force-reinstall --no-deps ptychopinn-plugin'


def examine_host() -> dict[str, Any]:
    """Find out whether Ptychodus is installed and will find this plugin.

    Returns
    -------
    dict
        'installed', 'version', 'supported', 'supported_versions', 'has_native_entry_points',
        'plugin_folders', 'stub' (where Ptychodus finds ours, or None), 'entry_points' (group to
        whether ours is in it), 'pyqt5' (version or None), 'problems' (what, command).
    """
    installed = is_importable('ptychodus')
    folders = _plugin_folders() if installed else []
    stubs = [str(folder / STUB) for folder in folders if (folder / STUB).is_file()]
    version = installed_version('ptychodus') if installed else None
    report: dict[str, Any] = {
        'installed': installed,
        'version': version,
        'supported': version is not None and is_supported(version),
        'supported_versions': SUPPORTED,
        'has_native_entry_points': _is_native(folders),
        'plugin_folders': [str(folder) for folder in folders],
        'stub': stubs[0] if stubs else None,
        'entry_points': {group: _is_declared(group) for group in (LIBRARIES_GROUP, VIEWS_GROUP)},
        'pyqt5': installed_version('PyQt5') if is_importable('PyQt5') else None,
    }
    report['problems'] = _problems(report) if installed else []
    return report


def host_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what `examine_host` found as lines: name and value."""
    if not report['installed']:
        return [('Ptychodus', f'is not installed; {INSTALL}')]
    version = report['version'] or 'of unknown version'
    known = 'supported' if report['supported'] else f'not among {report["supported_versions"]}'
    qt = f'PyQt5 {report["pyqt5"]}' if report['pyqt5'] else 'no PyQt5, batch mode only'
    rows = [('Ptychodus', f'{version} ({known}; {qt})')]
    if report['has_native_entry_points']:
        rows.append(('plugin found by', 'Ptychodus itself, by entry points'))
    elif report['stub']:
        rows.append(('plugin found by', report['stub']))
    for problem in report['problems']:
        rows += [('missing', problem['what']), ('mend it with', problem['command'])]
    return rows


def _plugin_folders() -> list[Path]:
    """Return where this Ptychodus looks for plugins: the folders of its namespace package."""
    package = find_spec('ptychodus')
    folders_of_package = (package.submodule_search_locations if package is not None else None) or ()
    folders = [Path(folder) / 'plugins' for folder in folders_of_package]
    return [folder for folder in folders if folder.is_dir()]


def _is_native(folders: list[Path]) -> bool:
    """Return whether Ptychodus reads entry points itself (docs/upstream)."""
    sources = [folder.parent / 'api' / 'plugins.py' for folder in folders]
    return any(
        NATIVE_MARK in source.read_text(encoding='utf-8') for source in sources if source.is_file()
    )


def _is_declared(group: str) -> bool:
    return any(entry.value.startswith('ptychopinn_plugin.') for entry in entry_points_of(group))


def _problems(report: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    if not report['supported']:
        what = f'Ptychodus {report["version"] or "of unknown version"} is not one that the plugin '
        found.append(
            (
                f'{what}is made for ({SUPPORTED})',
                f"pip install 'ptychodus[gui]{REQUIREMENT}'",
            )
        )
    absent = [group for group, is_there in report['entry_points'].items() if not is_there]
    if absent:
        found.append((f'the entry points of this package in {", ".join(absent)}', REINSTALL))
    if not report['stub'] and not report['has_native_entry_points']:
        where = ', '.join(report['plugin_folders']) or 'no folder at all'
        what = f'{STUB} is not where this Ptychodus looks for plugins ({where})'
        found.append((f'{what}; the launcher does without', 'ptychodus-pinn'))
    if report['pyqt5'] is None:
        found.append(('PyQt5, for the window', "pip install 'ptychodus[gui]'"))
    return [{'what': what, 'command': command} for what, command in found]
