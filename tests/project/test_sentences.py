"""Texts in the code are whole sentences in plain words, as far as a program can see that."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ('ptychopinn_plugin', 'tests', 'benchmarks', 'examples', 'docs')

VERBS = """
add agree allow apply ask average be become begin belong bend blur bring call carry change collect
come compare compile compute concern contain continue convert correct correlate cost count cover cut
decide depend describe differ distinguish divide do double draw drift end exit expect explain fail
fall fill find fit flicker follow freeze gain get give go grow halve have hold import include keep
lead leave let lie link list load look lower make matter mean meet mend mix move name need number
obey offer open overlap pass predict promise publish put raise reach react read reconstruct redraw
refuse remain report return ring round run save see serve set share show shrink span stand start
state stay stop surround take test touch travel try turn use vary wait win work write yield
"""
FORMS = """
am are been came can cannot carries computed could did does goes got had has held is made may
misses mixes must passes reaches shall should stood stored took touches tries varies was were will
would
"""
"""These words may be verbs; the first may end in s as well."""

_VERBS = frozenset(VERBS.split())
_FORMS = frozenset(FORMS.split())
CLAUSES = frozenset(
    ('that', 'which', 'where', 'whose', 'how', 'while', 'when', 'if', 'what', 'until', 'because')
)
"""A sentence has a verb more than it has words of these, each of which begins a clause."""

NO_CLAUSE = re.compile(r'\bth(at|ose) (of|that)\b|\bso that\b|`[^`]*`')
"""In `that of` and `so that` the word begins none."""

SPEAKERS = re.compile(
    r'\b(says?|said|tells?|told|asks|asked|hears?|heard|talks?|speaks?|complains?|remembers?'
    r'|believes?|forgets?)\b',
    re.IGNORECASE,
)
"""Programs and files do nothing of that."""

PREDICATE = re.compile(r'(?<!there )\b(is|are|was|were|as) none\b(?! of )')
"""Nothing and nobody is a none."""

QUANTITIES = re.compile(r'\bso (many|often|few)\b(?! \w+ that| that| small)')


def constants(path: Path) -> Iterator[str]:
    """Yield the texts below assignments."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        body = getattr(node, 'body', None)
        for first, second in pairwise(body) if isinstance(body, list) else ():
            match second:
                case ast.Expr(ast.Constant(str(text))) if isinstance(
                    first, ast.Assign | ast.AnnAssign
                ):
                    yield ' '.join(text.split())


def is_verb(word: str) -> bool:
    """Return whether a word may be a verb; some of these are nouns as well."""
    return word in _VERBS | _FORMS or word.removesuffix('s') in _VERBS


def is_sentence(text: str) -> bool:
    """Return whether a text has a verb of its own besides those of its clauses."""
    words = re.findall("[a-z']+", NO_CLAUSE.sub('', text.lower()))
    return sum(map(is_verb, words)) > sum(word in CLAUSES for word in words)


def python_files() -> list[Path]:
    """Return the files of the package, the tests and the programs beside it, without this one."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')]
    assert len(paths) > 500
    return [path for path in paths if path != Path(__file__)]


def test_below_a_constant_stands_a_whole_sentence() -> None:
    texts = [(path, text) for path in python_files() for text in constants(path)]
    sentences = [
        (path.name, re.split(r'(?<=[;:])\s', sentence)[0])
        for path, text in texts
        for sentence in re.split(r'(?<=\.)\s+(?=[A-Z`])', text)
    ]
    assert len(sentences) > 600
    # A verb that is missing in the list goes there.
    assert [item for item in sentences if not is_sentence(item[1])] == []


def test_a_fragment_is_noticed() -> None:
    assert not is_sentence('The value of an index whose pattern is not written yet.')
    assert not is_sentence('Where the ranks meet.')
    assert is_sentence('An index has this value until its pattern is written.')


def texts() -> Iterator[tuple[str, str]]:
    """Yield the lines of the package and the documentation, with the file of each."""
    pages = [
        *ROOT.glob('*.md'),
        *(ROOT / 'docs').glob('*.md'),
        *(ROOT / 'docs').glob('decisions/*'),
    ]
    code = [path for path in python_files() if 'tests' not in path.relative_to(ROOT).parts]
    for path in (*pages, *code):
        for line in path.read_text(encoding='utf-8').splitlines():
            yield path.relative_to(ROOT).as_posix(), line


def test_programs_do_not_speak() -> None:
    found = [item for item in texts() if SPEAKERS.search(item[1]) and '.tell()' not in item[1]]
    assert found == []


def test_none_is_no_noun_and_numbers_are_numbers() -> None:
    assert [item for item in texts() if PREDICATE.search(item[1])] == []
    assert [item for item in texts() if QUANTITIES.search(item[1])] == []
