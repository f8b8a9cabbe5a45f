"""One word has one meaning: names that were given up are not in the code (docs/decisions, 12)."""

import io
import re
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / 'ptychopinn_plugin'

GIVEN_UP = """
turn Turn turns places_px rests good
Lesson LESSON_POSITIONS VISITS forget_gradients gather_gradients snapshot restore averaged
Illumination expect correct assess sweep_for_the_best settle agree_phases
Voice say ask hear lend borrow obituary
validation_share warmup_share weight_average_decay accumulation sweeps teacher teacher_sweeps
teacher_weight phase_agreement orientations
"""
"""Names with several meanings, or that nobody in the field knows, which have better ones now."""

FORMER_CONSTANT = re.compile(r'_?(LARGEST|SMALLEST|MOST|FEWEST|LONGEST|SHORTEST)(_|$)')
"""Limits begin with MAX_ and MIN_."""

ONCE = frozenset({'Stopwatch', 'Stitcher', 'synchronize_phases'})
"""These had several homes or several names."""


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


def test_a_thing_has_one_home_in_each_framework() -> None:
    homes: dict[str, list[str]] = {name: [] for name in ONCE}
    for path in PACKAGE.rglob('*.py'):
        names = names_of(path)
        for before, name in zip(['', *names], names, strict=False):
            if before in ('class', 'def') and name in homes:
                homes[name].append(path.relative_to(PACKAGE).as_posix())
    assert homes['Stopwatch'] == ['backends/common/timing.py']
    assert homes['synchronize_phases'] == ['phase_synchronization.py']
    assert sorted(homes['Stitcher']) == [
        'backends/pytorch/stitching.py',
        'backends/tensorflow/stitching.py',
    ]


def test_both_frameworks_keep_the_same_file_names() -> None:
    pytorch, tensorflow = (
        {path.name for path in (PACKAGE / 'backends' / name).glob('*.py')}
        for name in ('pytorch', 'tensorflow')
    )
    assert pytorch <= tensorflow
    assert tensorflow - pytorch == {'framework.py', 'optimizer.py'}
