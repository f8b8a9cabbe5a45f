"""Every option of reading reaches what reads a scan."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin import data
from ptychopinn_plugin.cli.common import read_scans
from ptychopinn_plugin.cli.options import ScanReading

PAIRS = {'beam_center', 'scan_shape'}
OPTIONS = dataclasses.fields(ScanReading)
HINTS = typing.get_type_hints(ScanReading)


def another_value(name: str) -> Any:
    """Return a value of an option that is not its default."""
    if name in PAIRS:
        return '3,4'
    option = next(option for option in OPTIONS if option.name == name)
    # Of limits the lower one is a value that can be given.
    if (lowest := option.metadata.get('minimum')) is not None:
        return lowest
    kinds = [kind for kind in typing.get_args(HINTS[name]) if kind is not type(None)]
    kind = kinds[0] if kinds else HINTS[name]
    if choices := typing.get_args(kind):
        return choices[0]
    samples: dict[Any, Any] = {bool: True, float: 0.5, str: 'x', Path: Path('file.h5')}
    return samples[kind]


def keywords_of(monkeypatch: pytest.MonkeyPatch, **reading: Any) -> dict[str, Any]:
    """Return what `load_scan` is called with."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(data, 'load_scan', lambda path, **keywords: seen.update(keywords))
    read_scans([Path('scan.npz')], {'reading': reading})
    return seen


@pytest.mark.parametrize('name', [option.name for option in OPTIONS])
def test_each_option_changes_how_a_scan_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = keywords_of(monkeypatch)
    assert keywords_of(monkeypatch, **{name: another_value(name)}) != plain
