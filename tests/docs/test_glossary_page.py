"""Docs check: the names that the glossary gives are names of the code, and pages link to it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / 'docs' / 'glossary.md'
PAGES = ('backends', 'benchmarks', 'command-line', 'formats', 'migrating', 'network', 'physics')


def entries() -> dict[str, str]:
    """Return the explanation of each term."""
    found: dict[str, str] = {}
    for block in re.findall(r'```\{glossary\}\n(.*?)```', GLOSSARY.read_text('utf-8'), re.DOTALL):
        for entry in block.strip().split('\n\n'):
            term, _, text = entry.partition('\n')
            found[term] = ' '.join(text.split())
    return found


def test_every_name_in_the_glossary_is_one_of_the_code() -> None:
    sources = (ROOT / 'ptychopinn_plugin').rglob('*.py')
    words = set(re.findall(r'\w+', ' '.join(path.read_text('utf-8') for path in sources)))
    named = 0
    for term, text in entries().items():
        names = re.findall(r'`([A-Za-z_][\w.]*)`', text)
        named += bool(names)
        for name in names:
            missing = set(name.split('.')) - words
            assert not missing, f'{term}: the code has no {name}.'
    assert named > 40


def test_each_entry_is_a_few_sentences() -> None:
    for term, text in entries().items():
        # `losses.csv` and the like hold full stops as well.
        sentences = re.findall(r'[.:;](?:\s|$)', re.sub(r'`[^`]*`', '', text))
        assert 1 <= len(sentences) <= 6, term
        assert len(text) < 420, term


@pytest.mark.parametrize('page', PAGES)
def test_each_page_links_the_words_that_it_uses(page: str) -> None:
    text = (ROOT / 'docs' / f'{page}.md').read_text('utf-8')
    linked = re.findall(r'\{term\}`(?:[^`<]*<)?([^`>]*)>?`', text)
    known = {term.lower() for term in entries()}
    assert len(linked) >= 4
    assert {term.lower() for term in linked} <= known
