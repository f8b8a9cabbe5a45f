"""Texts in the code are plain: programs do not speak."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ('ptychopinn_plugin', 'tests', 'benchmarks', 'examples', 'docs')

SPEAKERS = re.compile(
    r'\b(says?|said|tells?|told|asks|asked|hears?|heard|talks?|speaks?|complains?|remembers?'
    r'|believes?|forgets?)\b',
    re.IGNORECASE,
)
"""Programs and files do nothing of that."""

PREDICATE = re.compile(r'(?<!there )\b(is|are|was|were|as) none\b(?! of )')
"""Nothing and nobody is a none."""

QUANTITIES = re.compile(r'\bso (many|often|few)\b(?! \w+ that| that| small)')


def python_files() -> list[Path]:
    """Return the files of the package, the tests and the programs beside it, without this one."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')]
    assert len(paths) > 500
    return [path for path in paths if path != Path(__file__)]


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
