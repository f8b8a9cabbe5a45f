"""Docs check: files of the repository that a page names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('docs/decisions/*.md'))
)
FOLDERS = sorted(
    path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(('.', '_'))
)
MADE = frozenset({'docs/_build'})
"""A command of the page makes these."""


def paths_in(text: str) -> set[str]:
    """Return the words that begin with a folder of the repository."""
    beginning = '|'.join(map(re.escape, FOLDERS))
    found = re.findall(rf'(?<![\w./-])(?:{beginning})/[\w.*/-]*[\w*/]', text)
    return {path for path in found if path not in MADE}


@pytest.mark.parametrize('page', PAGES)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding='utf-8')
    missing = {path for path in paths_in(text) if not any(ROOT.glob(path.rstrip('/')))}
    assert missing == set()


def test_paths_are_found() -> None:
    text = 'See `tests/unit`, benchmarks/none.py, [docs](docs/api.md) and model/docs/x.'
    assert paths_in(text) == {'tests/unit', 'benchmarks/none.py', 'docs/api.md'}
