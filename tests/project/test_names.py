"""One word has one meaning: names that were given up are not in the code (docs/decisions, 12)."""

import ast
import io
import re
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / 'ptychopinn_plugin'

GIVEN_UP = """
turn Turn turns turned TURNED places_px rests good
Lesson LESSON_POSITIONS VISITS forget_gradients gather_gradients snapshot restore averaged
Illumination expect correct assess sweep_for_the_best settle agree_phases
Voice say ask asked told hear heard hears knows lend borrow obituary EpochJournal beam_place
validation_share warmup_share weight_average_decay accumulation sweeps teacher teacher_sweeps
teacher_weight phase_agreement orientations
"""
"""Names with several meanings, or that nobody in the field knows, which have better ones now."""

FORMER_CONSTANT = re.compile(r'_?(LARGEST|SMALLEST|MOST|FEWEST|LONGEST|SHORTEST|WIDEST)(_|$)')
"""Limits begin with MAX_ and MIN_."""

ORACLE = 'NumPy computes in physics/ what both frameworks are held to'
SHARED = {
    'logger': 'a module logs under its own name, or that of the package',
    'main': 'a program begins there',
    'extract_patches': ORACLE,
    'place_patches': ORACLE,
    'project_amplitudes': ORACLE,
    'shift_probe': ORACLE,
    'sweepnet_features': ORACLE,
    'Tensor': 'a variable for types in what both frameworks share, and that of each framework',
    'ACTIVATIONS': 'functions of a framework, and their names in what it exports',
}
"""These names have several homes, and why."""

NOT_SHARES = re.compile(r'_?[A-Z_]+_SHARES?$')
"""A part of a whole is a _FRACTION, as in the settings."""


def names_of(path: Path) -> list[str]:
    """Return every name in the code of a file; comments and texts are not looked at."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding='utf-8')).readline)
    return [token.string for token in tokens if token.type == tokenize.NAME]


def test_names_that_were_given_up_are_gone() -> None:
    found = {
        f'{path.relative_to(PACKAGE)}: {name}'
        for path in PACKAGE.rglob('*.py')
        for name in names_of(path)
        if name in GIVEN_UP.split() or FORMER_CONSTANT.match(name)
    }
    assert found == set()
    assert len(list(PACKAGE.rglob('*.py'))) > 100


def public_names(path: Path) -> set[str]:
    """Return the classes, functions and constants that a module defines for others."""
    found = set()
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        found |= {
            part.id
            for target in targets
            for part in ast.walk(target)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        }
    return {name for name in found if not name.startswith('_')}


def test_a_name_has_one_home_in_each_framework() -> None:
    homes: dict[str, set[str]] = {}
    for path in PACKAGE.rglob('*.py'):
        home = path.relative_to(PACKAGE).as_posix()
        home = re.sub('^backends/(pytorch|tensorflow)/', 'backends/FRAMEWORK/', home)
        for name in public_names(path):
            homes.setdefault(name, set()).add(home)
    shared = {name: sorted(where) for name, where in homes.items() if len(where) > 1}
    assert {name: where for name, where in shared.items() if name not in SHARED} == {}
    assert SHARED.keys() <= shared.keys(), 'names that have one home now need no reason'
    assert len(homes) > 1000


def test_a_part_of_a_whole_is_a_fraction() -> None:
    found = {
        f'{path.relative_to(PACKAGE)}: {name}'
        for path in PACKAGE.rglob('*.py')
        for name in names_of(path)
        if NOT_SHARES.match(name)
    }
    assert found == set()


def test_both_frameworks_keep_the_same_file_names() -> None:
    pytorch, tensorflow = (
        {path.name for path in (PACKAGE / 'backends' / name).glob('*.py')}
        for name in ('pytorch', 'tensorflow')
    )
    # Only PyTorch computes in several processes.
    assert pytorch - tensorflow == {'ranks.py'}
    assert tensorflow - pytorch == {'framework.py', 'optimizer.py'}
