"""Docs check: the table of PtychoPINN's settings is the one that the code holds."""

from pathlib import Path

from ptychopinn_plugin.legacy.configuration import field_table

PAGE = Path(__file__).parents[2] / 'docs' / 'migrating.md'


def test_the_documented_table_is_the_code() -> None:
    text = PAGE.read_text(encoding='utf-8')
    assert field_table() in text, 'The table there must be what field_table() returns.'
