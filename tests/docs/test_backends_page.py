"""Docs check: the page of the backends holds what its script measures, for every setting."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def script() -> ModuleType:
    found = importlib.util.spec_from_file_location(
        'backends_page', ROOT / 'benchmarks' / 'backends_page.py'
    )
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def rows_of(name: str) -> list[list[str]]:
    """Return the cells of a table, without its head."""
    page = (ROOT / 'docs' / 'backends.md').read_text(encoding='utf-8')
    table = page.partition(f'<!-- {name} -->')[2].partition(f'<!-- end of {name} -->')[0]
    rows = [line.split('|')[1:-1] for line in table.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_script_changes_every_setting(script: ModuleType) -> None:
    names = {name for name, _ in script.all_settings()}
    assert names == set(script.CHANGES) | set(script.ELSEWHERE)
    assert not set(script.CHANGES) & set(script.ELSEWHERE)


def test_no_cell_is_empty_and_every_setting_is_honoured(script: ModuleType) -> None:
    rows = rows_of('settings')
    settings = {row[0].strip('`'): row for row in rows if row[0].startswith('`')}
    assert set(settings) == {name for name, _ in script.all_settings()}
    for name, (_, pytorch, tensorflow, note) in settings.items():
        assert (pytorch, tensorflow) == ('yes', 'yes'), name
        assert note, name
    assert all(row[1] and row[2] for row in rows)


def test_models_were_opened_both_ways_and_agree() -> None:
    rows = rows_of('models')
    assert len(rows) == 16
    assert {(row[3], row[4]) for row in rows} == {
        ('pytorch', 'tensorflow'),
        ('tensorflow', 'pytorch'),
    }
    for row in rows:
        assert float(row[5]) < 1e-4
        before, after = map(float, row[6].split(','))
        # A handful of epochs on thirty patterns; some models have nothing left to learn.
        assert after < 1.05 * before
