"""Docs check: the guide for Ptychodus lists the settings of the panel and shows its pictures."""

import re
from pathlib import Path

import pytest

pytest.importorskip('ptychodus')

from ptychopinn_plugin.host.example_scans import WINDOW_STEPS
from ptychopinn_plugin.host.presets import BY_THE_OVERLAP, PRESETS
from ptychopinn_plugin.host.settings import ROWS

GUIDE = Path(__file__).parents[2] / 'docs' / 'ptychodus.md'


def _cell(value: object) -> str:
    """Return a value as the guide states it."""
    if value == BY_THE_OVERLAP:
        return 'by the overlap'
    return f'{value:g}' if isinstance(value, float) else str(value)


def settings_table() -> str:
    """Return the table of settings as the guide holds it."""
    head = ('| box | row | in the settings file | what it does |', '|---|---|---|---|')
    rows = (f'| {row.group} | {row.label} | `{row.key}` | {row.tool_tip} |' for row in ROWS)
    return '\n'.join((*head, *rows))


def test_the_guide_lists_the_settings_as_they_are() -> None:
    table = settings_table()
    assert table in GUIDE.read_text(encoding='utf-8'), f'Put this into {GUIDE.name}:\n{table}'


def test_the_guide_lists_the_values_of_the_presets() -> None:
    text = GUIDE.read_text(encoding='utf-8')
    for preset, values in PRESETS.items():
        cells = [_cell(value) for value in values.values()]
        row = f'| {preset} | {" | ".join(cells)} |'
        assert row in text, f'Put this row into {GUIDE.name}: {row}'


def test_the_guide_has_the_steps_that_the_example_scans_print() -> None:
    plain = ' '.join(
        re.sub(r'[*`]|^\d+\.', '', GUIDE.read_text(encoding='utf-8'), flags=re.M).split()
    )
    places = [plain.find(step.format(folder='trial')) for step in WINDOW_STEPS]
    missing = [step for step, place in zip(WINDOW_STEPS, places, strict=True) if place < 0]
    assert missing == [], f'{GUIDE.name} and host/example_scans.py differ'
    assert places == sorted(places), 'in the same order'


def test_the_pictures_of_the_guide_are_there_and_small() -> None:
    text = GUIDE.read_text(encoding='utf-8')
    for name in ('panel', 'inferred', 'training', 'result', 'check', 'failure'):
        picture = GUIDE.parent / 'images' / f'ptychodus-{name}.png'
        assert f'images/{picture.name}' in text
        assert 10_000 < picture.stat().st_size < 300_000
