"""Docs check: the page of the physics lists every symbol that it uses, and each of them once."""

import re
from collections import Counter
from pathlib import Path

PAGE = Path(__file__).parents[2] / 'docs' / 'physics.md'

NO_SYMBOLS = frozenset('iyxe')
"""These are the imaginary unit, the base of the logarithm, and the axes y and x."""

WORDS = re.compile(
    r'\\(?:mathrm|mathcal|operatorname|text)\{[^}]*\}'
    r'|\\(?:frac|tfrac|partial|sum|int|left|right|[Bb]ig|lvert|rvert|sqrt|log|arg|max|qquad|quad|cdot'
    r'|leftarrow|nabla|top|ge|le|times|infty|in)(?![A-Za-z])|\\[,;! ]'
)
"""LaTeX writes these with letters, and they stand for no quantity."""

SYMBOL = re.compile(
    r"(?:\\hat )?(?:\\[a-z]+|\\[A-Z][a-z]+|[A-Za-z])(?:')?(?:_(?:\{[^}]*\}|\\?[A-Za-z0-9]))?"
)


def symbols_in(formula: str) -> list[str]:
    """Return the symbols of a formula; `l` as the only index is `j`, as it counts the same."""
    formula = formula.replace(r'O_\text{before}', 'O').replace(r'\mathrm{d}', ' ')
    # Sums and maxima have an index below them that is no part of a name.
    formula = re.sub(r'\\(?:sum|max)_(?:\{([^}]*)\}|(\w))', r' \1 \2 ', formula)
    found = SYMBOL.findall(WORDS.sub(' ', formula))
    return [re.sub(r'_l$', '_j', name) for name in found if name not in NO_SYMBOLS]


def listed() -> list[str]:
    """Return the symbols of the table, row by row."""
    table = PAGE.read_text('utf-8').partition('## Symbols')[2].partition('## Forward model')[0]
    rows = [line.split('|')[1] for line in table.splitlines() if line.startswith('| $')]
    return [name for row in rows for name in re.findall(r'\$([^$]+)\$', row)]


def formulas() -> list[str]:
    """Return what the page has between dollars below the table."""
    text = PAGE.read_text('utf-8').partition('## Forward model')[2]
    text = re.sub(r'`[^`]*`', '', text)
    shown = re.findall(r'\$\$(.*?)\$\$', text, re.DOTALL)
    return shown + re.findall(r'\$([^$]+)\$', re.sub(r'\$\$.*?\$\$', '', text, flags=re.DOTALL))


def test_each_symbol_is_listed_once() -> None:
    counts = Counter(listed())
    assert [name for name, count in counts.items() if count > 1] == []
    assert len(counts) > 50


def test_each_row_has_a_meaning() -> None:
    table = PAGE.read_text('utf-8').partition('## Symbols')[2].partition('## Forward model')[0]
    rows = [line.strip('|').split('|') for line in table.splitlines() if line.startswith('| $')]
    for row in rows:
        # A symbol in the third column would be a bar in a formula, which ends a cell.
        assert len(row) == 3, row
        assert row[1].strip(), row


def test_the_table_has_the_symbols_of_the_page_and_no_others() -> None:
    names = {name.removesuffix('(I)') for name in listed()}
    used = {name for formula in formulas() for name in symbols_in(formula)}
    # Counts are k_j of a pattern and k of any; the eigenvector u has a component u_j.
    of_any = {name.removesuffix('_j') for name in names}
    components = {f'{name}_j' for name in names}
    assert used - names - of_any - components == set()
    assert names - used == set()


def test_no_letter_stands_for_another_thing_with_the_number_of_a_pattern() -> None:
    names = set(listed())
    # Only the object has patches, which are pieces of it.
    assert {name for name in names if f'{name}_j' in names} == {'O'}
