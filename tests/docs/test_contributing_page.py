"""Docs check: CONTRIBUTING.md names every program that makes a table or a picture of the docs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('benchmarks', 'docs')
    for path in (ROOT / folder).glob('*.py')
    if path.name != 'conf.py'
)


@pytest.mark.parametrize('program', PROGRAMS)
def test_every_program_is_named(program: str) -> None:
    assert program in CONTRIBUTING


@pytest.mark.parametrize(
    'picture', sorted(path.name for path in (ROOT / 'docs' / 'images').glob('*.png'))
)
def test_every_picture_has_a_program(picture: str) -> None:
    is_screenshot = picture.startswith('ptychodus-')
    assert is_screenshot or f'docs/images/{picture}' in CONTRIBUTING
