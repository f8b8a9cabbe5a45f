"""One word has one meaning: names that were given up are not in the code (docs/decisions, 12)."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / 'ptychopinn_plugin'
FOLDERS = ('ptychopinn_plugin', 'tests', 'benchmarks', 'examples', 'docs')

GIVEN_UP = """
turn Turn turns turned TURNED places_px rests good
Lesson LESSON_POSITIONS VISITS forget_gradients gather_gradients snapshot restore averaged
Illumination expect correct assess sweep_for_the_best settle agree_phases
Voice say said ask asked tell told hear heard hears knows listen listener lend borrow obituary
EpochJournal beam_place
validation_share warmup_share weight_average_decay accumulation sweeps teacher teacher_sweeps
teacher_weight phase_agreement orientations centres_px
"""
"""These names have several meanings, or mean nothing in the field; they have better ones now."""

AMERICAN = re.compile(r'center|color|gray|neighbor|behavior|favor|honor|labeled|modeled')
OTHERS_SPELLING = re.compile('beam_center|neighbor_count|orthonormal')
"""Ptychodus has the center of the beam, and PtychoPINN the number of neighbors."""

WITH_S = re.compile(r'is(e|ed|es|ing|ation|ations|er|ers)$')
OTHER_WORDS = {
    *('advise', 'clockwise', 'noise', 'supervised'),
    *('raise', 'raised', 'raises', 'rise', 'rises', 'rising'),
}
"""Names are spelt as in Oxford: centre and colour, normalize and synchronize."""

FORMER_CONSTANT = re.compile(r'_?(LARGEST|SMALLEST|MOST|FEWEST|LONGEST|SHORTEST|WIDEST)(_|$)')
"""Limits begin with MAX_ and MIN_."""

ORACLE = 'NumPy computes in physics/ what both frameworks are held to'
SHARED = {
    'logger': 'a module logs under its own name, or that of the package',
    'main': 'a program begins there',
    'extract_patches': ORACLE,
    'from_detector': ORACLE,
    'to_detector': ORACLE,
    'place_patches': ORACLE,
    'project_amplitudes': ORACLE,
    'shift_probe': ORACLE,
    'sweepnet_features': ORACLE,
    'Tensor': 'a variable for types in what both frameworks share, and that of each framework',
    'ACTIVATIONS': 'functions of a framework, and their names in what it exports',
}
"""These names have several homes, and why."""

ARRAYS = r'Array|Tensor|Any|Image|Stitched\b'
MEANINGS = {
    'model': r'\b_?(Any)?Model(Config|Contents|View)?\b|Path',
    'object_': ARRAYS,
    'positions_px': ARRAYS,
    'patch_centres_px': ARRAYS,
    'patch_origins_px': ARRAYS,
    'patch_origins': ARRAYS,
    'detector_frames': ARRAYS,
    'frame': 'FrameType',
    'forward': 'Forward|Any|tuple',
    'inference': 'InferenceConfig',
    'rotations': 'Sequence|tuple|int',
    'stitching': 'never',
    'prediction': 'never',
}
"""Parameters, attributes and methods of a name are of this kind wherever they are annotated.

A model may be the file that holds it, as in the API and on the command line; `frame` alone is that
of Python's stack, which signals bring along.
"""

HOMES = {
    'stitch': ('stitching', 'engine', 'floor'),
    'synchroniz': ('phase_synchronization', 'stitching', 'config'),
}
"""Functions and classes with these words in their names stand in modules of these names."""

NOT_SHARES = re.compile(r'_?[A-Z_]+_SHARES?$')
"""A part of a whole is a _FRACTION, as in the settings."""


@cache
def tree_of(path: Path) -> ast.Module:
    """Return what a file holds, which several tests look at."""
    return ast.parse(path.read_text(encoding='utf-8'))


def our_names(path: Path) -> Iterator[str]:
    """Yield every name that a file gives to something, and its own; those of others are not."""
    yield path.stem
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.FunctionDef(name=str(name)) | ast.ClassDef(name=str(name)):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.alias(asname=str(name)):
                yield name
            case ast.ExceptHandler(name=str(name)):
                yield name


@cache
def all_names() -> dict[str, str]:
    """Return the names of the package, the tests and the programs beside it, each with a file."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')]
    assert len(paths) > 500
    return {name: path.relative_to(ROOT).as_posix() for path in paths for name in our_names(path)}


def test_names_that_were_given_up_are_gone() -> None:
    names = all_names()
    gone = set(GIVEN_UP.split())
    found = {name: path for name, path in names.items() if name.strip('_') in gone}
    assert found == {}
    assert {n: path for n, path in names.items() if FORMER_CONSTANT.match(n)} == {}
    assert len(names) > 5000


def annotations(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what is annotated in a file: parameters, attributes and what methods return."""
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.arg(arg=name, annotation=ast.expr() as kind):
                yield name, ast.unparse(kind)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind):
                yield name, ast.unparse(kind)
            case ast.AnnAssign(target=ast.Attribute(attr=name), annotation=kind):
                yield name, ast.unparse(kind)
            case ast.FunctionDef(name=name, returns=ast.expr() as kind):
                yield name, ast.unparse(kind)


def test_a_word_has_one_meaning_wherever_it_is_annotated() -> None:
    met: dict[str, set[str]] = {name: set() for name in MEANINGS}
    for path in PACKAGE.rglob('*.py'):
        for name, kind in annotations(path):
            if name in MEANINGS and kind != 'None':
                met[name].add(kind)
    others = {
        name: sorted(kind for kind in kinds if not re.search(MEANINGS[name], kind))
        for name, kinds in met.items()
    }
    assert {name: kinds for name, kinds in others.items() if kinds} == {}
    assert len([name for name, kinds in met.items() if kinds]) >= 9


def test_stitching_and_synchronization_are_where_their_names_are() -> None:
    found = {
        f'{path.relative_to(PACKAGE)}: {node.name}'
        for path in PACKAGE.rglob('*.py')
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        for word, homes in HOMES.items()
        if word in node.name.lower() and path.stem not in homes
    }
    assert found == set()


def test_names_have_one_spelling() -> None:
    names = all_names()
    american = {
        name: path
        for name, path in names.items()
        if AMERICAN.search(OTHERS_SPELLING.sub('', name).lower())
    }
    assert american == {}
    with_s = {
        name: path
        for name, path in names.items()
        for word in name.lower().split('_')
        if WITH_S.search(word) and word not in OTHER_WORDS
    }
    assert with_s == {}


def public_names(path: Path) -> set[str]:
    """Return the classes, functions and constants that a module defines for others."""
    found = set()
    for node in tree_of(path).body:
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


def test_no_private_class_has_the_name_of_a_public_one() -> None:
    classes = {
        (node.name, path.relative_to(PACKAGE).as_posix())
        for path in PACKAGE.rglob('*.py')
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef)
    }
    public = {name for name, _ in classes if not name.startswith('_')}
    assert {
        where for where in classes if where[0].startswith('_') and where[0][1:] in public
    } == set()
    assert len(public) > 200


def test_a_part_of_a_whole_is_a_fraction() -> None:
    found = {
        f'{path.relative_to(PACKAGE)}: {name}'
        for path in PACKAGE.rglob('*.py')
        for name in our_names(path)
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
