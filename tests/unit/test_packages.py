"""What is installed, found without importing it."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ptychopinn_plugin.packages import is_importable, release


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'hollow/plugins').mkdir(parents=True)
    (tmp_path / 'whole').mkdir()
    (tmp_path / 'whole/__init__.py').write_text('raise RuntimeError("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_importable('hollow')
    assert is_importable('whole')
    assert not is_importable('no_such_module')
    # Imported, it is still no package.
    __import__('hollow')
    assert not is_importable('hollow')
    monkeypatch.delitem(sys.modules, 'hollow')


def test_what_is_imported_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'made_by_hand', ModuleType('made_by_hand'))
    assert is_importable('made_by_hand')
    assert is_importable('json')


def test_release() -> None:
    assert release('2.13.0+cpu') == (2, 13, 0)
    assert release('none') == ()
