"""Docs check: the names that the glossary gives are names of the code, and pages link to it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / 'docs' / 'glossary.md'

IMPORTANT = {
    'amplitude projection': r'amplitude\s+projections?',
    'back-projection': r'back-projections?',
    'backend': r'backends?',
    'bad pixel': r'bad\s+pixels?',
    'beam intensity': r'beam\s+intensit(?:y|ies)',
    'built-in model': r'built-in\s+model',
    'canvas': r'canvas',
    'checkpoint': r'checkpoints?',
    'coverage': r'coverage',
    'detector frame': r'detector\s+frames?',
    'deviance': r'deviances?',
    'EMA': r'EMA',
    'epoch': r'epochs?',
    'exit wave': r'exit\s+waves?',
    'fine-tune': r'fine-tun(?:e|es|ed|ing)',
    'flat start': r'flat\s+start',
    'FRC': r'FRC',
    'illuminated window': r'illuminated\s+windows?',
    'intensity scale': r'intensity\s+scale',
    'iteration': r'iterations?',
    'likelihood': r'likelihoods?',
    'misfit': r'misfit',
    'model': r'(?<!\()(?<!forward\s)models?',
    'object': r'objects?',
    'near field': r'near\s+field',
    'nominal positions': r'nominal\s+positions',
    'outlier': r'outliers?',
    'overlap': r'(?<!they\s)(?<!hardly\s)(?<!patterns\s)(?<!patches\s)overlap',
    'patch': r'patch(?:es)?',
    'patch centre': r'patch\s+centres?',
    'patch origin': r'patch\s+origins?',
    'pattern': r'patterns?',
    'phase drift': r'phase\s+drift',
    'phase synchronization': r'phase\s+synchronization',
    'photons': r'photons',
    'probe': r'probes?',
    'probe mode': r'probe\s+modes?',
    'scan': r'scans?',
    'scan position': r'scan\s+positions?',
    'shot noise': r'shot\s+noise',
    'SSIM': r'SSIM',
    'standard deviation': r'standard\s+deviations?',
    'stitching': r'stitch(?:ing|es|ed)',
    'sub-scan': r'sub-scans?',
    'test-time rotations': r'test-time\s+rotations',
    'worker': r'workers?',
}
"""A page links these words where it uses them first, in any of these forms."""

LONGER_FIRST = sorted(IMPORTANT, key=len, reverse=True)

LINK = re.compile(r'\{term\}`(?:[^`<]*<)?([^`>]*)>?`')

NO_PROSE = re.compile(
    r'^(`{3,}|:{3,})\{?(?!warning).*?^\1 *$'  # code and directives
    r'|^ {4}[^\n]*$'  # commands
    r'|^\|[^\n]*$|^#[^\n]*$|<!--.*?-->|\$\$.*?\$\$|\$[^$\n]+\$'
    r'|!?\[[^\]]*\]\([^)]*\)'
    r'|(?<!\*)\*(?!\*)[^*\n]+\*|\{\w+\}`[^`]*`|`[^`]*`',
    re.DOTALL | re.MULTILINE,
)
"""Here a link is impossible, or a word is the label of a button or a name in the code."""


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


def pages() -> list[str]:
    """Return the pages, and the decisions as `decisions/0001-...`, without the suffix."""
    docs = ROOT / 'docs'
    found = [*docs.glob('*.md'), *(docs / 'decisions').glob('0*.md')]
    return sorted(str(path.relative_to(docs).with_suffix('')) for path in found if path != GLOSSARY)


def prose_of(text: str) -> str:
    """Return a page with everything else blank, so that places stay where they are."""
    links = {place for link in LINK.finditer(text) for place in range(*link.span())}
    found = list(text)
    for part in NO_PROSE.finditer(text):
        for place in range(*part.span()):
            if place not in links and found[place] != '\n':
                found[place] = ' '
    return ''.join(found)


def unlinked_words(text: str) -> dict[str, tuple[int, int]]:
    """Return where a page uses an important word first, unless a link stands there or before."""
    prose = prose_of(text)
    links = [(*link.span(), link[1].lower()) for link in LINK.finditer(text)]
    found: dict[str, tuple[int, int]] = {}
    taken: list[tuple[int, int]] = []
    for term in LONGER_FIRST:
        form = r'(?<![\w-])' + IMPORTANT[term] + r'(?![\w-])'
        first = min((begin for begin, _, name in links if name == term.lower()), default=None)
        others = [(begin, end) for begin, end, name in links if name != term.lower()]
        for use in re.finditer(form, prose, 0 if term.isupper() else re.IGNORECASE):
            if any(begin <= use.start() < end for begin, end in taken + others):
                continue
            if first is None or use.end() < first:
                found[term] = use.span()
            break
        taken += [use.span() for use in re.finditer(form, prose, re.IGNORECASE)]
    return found


def test_important_words_are_in_the_glossary() -> None:
    assert set(IMPORTANT) <= set(entries())


@pytest.mark.parametrize('page', pages())
def test_each_page_links_important_words_where_it_uses_them_first(page: str) -> None:
    text = (ROOT / 'docs' / f'{page}.md').read_text('utf-8')
    known = {term.lower() for term in entries()}
    assert {term.lower() for term in LINK.findall(text)} <= known
    found = unlinked_words(text).items()
    lines = {term: text.count('\n', 0, begin) + 1 for term, (begin, _) in found}
    assert lines == {}, f'docs/{page}.md has to link these terms in these lines.'


def test_a_word_without_its_link_is_noticed() -> None:
    text = '# A scan\n\n`scan` *Scan* $scan$\n| scan |\n'
    text += 'One scan, {term}`scans <scan>`. A shot\nnoise.\n'
    places = unlinked_words(text)
    assert {term: text[slice(*place)] for term, place in places.items()} == {
        'scan': 'scan',
        'shot noise': 'shot\nnoise',
    }
    assert unlinked_words('| {term}`scan` |\nOne scan of the built-in model.').keys() == {
        'built-in model'
    }
