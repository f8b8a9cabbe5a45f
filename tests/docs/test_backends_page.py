"""Docs check: the page of the backends holds what its script measures, for every setting."""

from pathlib import Path
from types import ModuleType

import pytest
from programs import load_program

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def script() -> ModuleType:
    return load_program('benchmarks/backends_page.py')


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


def test_every_setting_is_listed_and_honoured(script: ModuleType) -> None:
    rows = rows_of('settings')
    settings = {row[0].strip('`'): row for row in rows}
    assert set(settings) == {name for name, _ in script.all_settings()}
    for name, (_, pytorch, tensorflow, note) in settings.items():
        assert (pytorch, tensorflow) == ('yes', 'yes'), name
        assert note, name


def test_capabilities_are_those_that_the_script_tries(script: ModuleType) -> None:
    rows = rows_of('capabilities')
    assert [row[0] for row in rows] == [what for what, _, _ in script.CAPABILITIES]
    assert {cell for row in rows for cell in row[1:3]} == {'yes'}


def test_devices_that_were_not_there_are_not_tested(script: ModuleType) -> None:
    rows = {row[0]: row[1:3] for row in rows_of('devices')}
    assert list(rows) == [what for what, _, _ in script.DEVICES]
    assert rows['`cpu`'] == ['yes', 'yes']
    assert {cell for cells in rows.values() for cell in cells} <= {'yes', 'not tested'}


def test_what_cannot_be_measured_is_not_a_yes(script: ModuleType) -> None:
    measured = {'pytorch': True, 'tensorflow': None}
    assert script.row_of('it', measured.__getitem__, '') == '| it | yes | not tested |  |'
    measured['pytorch'] = False
    assert script.row_of('it', measured.__getitem__, '') == '| it | **no** | not tested |  |'


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
