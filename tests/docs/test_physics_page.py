"""Docs check: the page of the physics lists every symbol that it uses, and each of them once.

The page of the networks uses them with the same meaning, and lists what it adds.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).parents[2] / 'docs'
PAGE = DOCS / 'physics.md'
NETWORKS = DOCS / 'network.md'

NO_SYMBOLS = frozenset([*'iyxe', r'\pi'])
"""These are the imaginary unit, the base of the logarithm, and the axes y and x."""

WORDS = re.compile(
    r'\\(?:mathrm|mathcal|operatorname|text)\{[^}]*\}'
    r'|\\(?:frac|tfrac|partial|sum|int|left|right|[Bb]ig|lvert|rvert|sqrt|log|arg|max|qquad|quad|cdot'
    r'|leftarrow|[lr]angle|nabla|top|ge|le|times|infty|in)(?![A-Za-z])|\\[,;! ]'
)
"""LaTeX writes these with letters, and they stand for no quantity."""

SYMBOL = re.compile(
    r"(?:\\hat )?(?:\\[a-z]+|\\[A-Z][a-z]+|[A-Za-z])(?:')?(?:_(?:\{[^}]*\}|\\[a-z]+|[A-Za-z0-9]))?"
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


def formulas(text: str) -> list[str]:
    """Return what a text has between dollars."""
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


OF_WHAT = {r'\epsilon_A', r'\sigma_p', r'\sigma_b', r'\sigma_O', 'S_0', 'F_1', 'F_2'}
"""Below these stands what they belong to, or which of them it is, and no number that runs."""


def indexes(names: Iterable[str]) -> set[str]:
    """Return the letters that stand below symbols and count."""
    below = [re.sub(r'.*_|[{}]', '', name) for name in names if '_' in name and name not in OF_WHAT]
    return {letter for part in below for letter in re.findall(r'\\[a-z]+|[a-z]', part)}


def test_what_counts_stands_for_nothing_else() -> None:
    names = set(listed())
    found = indexes(names)
    assert found == {'j', 'l', 'm', r'\nu'}
    # Each has a row of its own, and none is the letter of a quantity.
    assert found <= names
    assert found & {re.sub('_.*', '', name) for name in names if '_' in name} == set()
    assert indexes([*names, 'E_k']) - names == {'k'}


def test_the_table_has_the_symbols_of_the_page_and_no_others() -> None:
    names = {name.removesuffix('(I)') for name in listed()}
    text = PAGE.read_text('utf-8').partition('## Forward model')[2]
    used = {name for formula in formulas(text) for name in symbols_in(formula)}
    # Counts are k_j of a pattern and k of any; the eigenvector u has a component u_j.
    of_any = {name.removesuffix('_j') for name in names}
    components = {f'{name}_j' for name in names}
    assert used - names - of_any - components == set()
    assert names - used == set()


def test_the_networks_use_the_same_symbols() -> None:
    text = NETWORKS.read_text('utf-8')
    table, _, rest = text.partition('## sweepnet')
    rows = [line.split('|')[1] for line in table.splitlines() if line.startswith('| $')]
    added = {name for row in rows for name in re.findall(r'\$([^$]+)\$', row)}
    assert added == {r'\theta', r'\chi', 'f_O', 'f_B'}
    # With or without the number of a pattern, a letter means the same.
    physics = {re.sub('_j$', '', name) for name in listed()}
    assert added & physics == set()
    rest = re.sub(r'\\text\{[^}]*\}', '', rest)
    used = {re.sub('_j$', '', name) for part in formulas(rest) for name in symbols_in(part)}
    assert used - physics - added == set()
    assert added <= used


def test_no_letter_stands_for_another_thing_with_the_number_of_a_pattern() -> None:
    names = set(listed())
    # Only the object has patches, which are pieces of it.
    assert {name for name in names if f'{name}_j' in names} == {'O'}
