"""Messages name rows and buttons of the window; options belong to the command line."""

import ast
import logging
import re
from pathlib import Path

import pytest
from ptychodus.api.settings import SettingsRegistry

import ptychopinn_plugin
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host import panel_wording
from ptychopinn_plugin.host.library import PtychoPinnLibrary
from ptychopinn_plugin.host.log_messages import reported
from ptychopinn_plugin.host.panel_wording import OF_OTHER_PROGRAMS, in_words_of_the_panel

PACKAGE = Path(ptychopinn_plugin.__file__).parent

NOT_IN_THE_WINDOW = (
    'bench',
    'cli',
    'evaluation.py',
    'export',
    'half_scans.py',
    'pretraining',
    'ptychodus_diagnosis.py',
    'host/panel_wording.py',
    'data/simulation',
)
"""What these modules write reaches no window; one of them holds patterns of what others write."""

SINGLE_SHOT = '"Single shot" in the box Run'


@pytest.fixture(autouse=True)
def in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a window, whose buttons messages may name."""
    monkeypatch.setattr(panel_wording, 'has_window', lambda: True)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('use --refine-probe (refinement.probe).', 'use "Refine probe" in the box Refinement.'),
        ('--probe-trainable (training.probe_trainable)', '"Probe trainable" in the box Training'),
        ('alone with --single-shot (reading.single_shot), or', f'alone with {SINGLE_SHOT}, or'),
        ('; --drop-outliers leaves', '; "Drop outliers" in the box Refinement leaves'),
        ('photons: photons=N (--photons N).', 'photons: "Photons" in the box Run.'),
        ('a smaller size (--batch-size)', 'a smaller size ("Batch size")'),
        (
            'Lower training.validation_fraction (--validation-fraction).',
            'Lower "Validation fraction" in the box Training.',
        ),
        ('inference.stitching_weights = x', '"Stitching weights" in the box Inference = x'),
        (
            "use domain='counts' (--domain counts).",
            'use the option "domain counts" of the command line.',
        ),
        (
            'use --beam-center 31,30 (beam_center_px=(31, 30)).',
            'use the option "beam-center 31,30" of the command line.',
        ),
        ('max_gib (--max-gib) allows', 'the option "max-gib" of the command line allows'),
        (
            'their unit: --scale-positions FACTOR, which ptychopinn check finds.',
            'their unit: the factors of x and y in the box Transformation of the editor under '
            'Positions, which "Check scan" finds.',
        ),
        (
            'Use --detector-distance, --detector-pixel (geometry=Geometry(...)), or',
            'Use the detector distance of the product, the pixel size of the detector under '
            'Diffraction, or',
        ),
        ('wrong; ptychopinn check SCAN tells', 'wrong; "Check scan" tells'),
        ('The command "ptychopinn check" on the scan tells.', '"Check scan" tells.'),
        (
            "another one: --backend pytorch, PTYCHOPINN_BACKEND=pytorch, or Backend in Ptychodus' "
            'panel',
            'another one: "Backend" in the box Run, or PTYCHOPINN_BACKEND=pytorch',
        ),
        ('Run: pip install --upgrade x.', 'Run: pip install --upgrade x.'),
        ('in /data/training.epochs/model.passes.zip', 'in /data/training.epochs/model.passes.zip'),
    ],
)
def test_the_window_names_rows_not_options(text: str, expected: str) -> None:
    assert in_words_of_the_panel(text) == expected
    assert in_words_of_the_panel(expected) == expected


def test_batch_mode_has_no_button(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_wording, 'has_window', lambda: False)
    text = 'ptychopinn check SCAN tells; --single-shot'
    assert in_words_of_the_panel(text) == f'ptychopinn check SCAN tells; {SINGLE_SHOT}'


def texts_of(path: Path) -> list[str]:
    """Return what a module may write: its texts, with 7 for each value, without docstrings."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    nodes = list(ast.walk(tree))
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    parts |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = []
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            values = [part.value if isinstance(part, ast.Constant) else 7 for part in node.values]
            texts.append(''.join(map(str, values)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts += [] if id(node) in parts else [node.value]
    return texts


def test_no_message_of_the_package_shows_an_option_in_the_window() -> None:
    option = re.compile(rf'--(?!(?:{"|".join(OF_OTHER_PROGRAMS)})\b)[a-z]')
    left_out = [PACKAGE / name for name in NOT_IN_THE_WINDOW]
    assert all(path.exists() for path in left_out)
    found = [
        text
        for path in PACKAGE.rglob('*.py')
        if not any(path.is_relative_to(other) for other in left_out)
        for text in texts_of(path)
        if option.search(text)
    ]
    assert len(found) > 40, 'they are looked for in the right place'
    worded = [in_words_of_the_panel(text) for text in found]
    assert [text for text in worded if option.search(text)] == []
    # Arguments of Python are none of the window's words either.
    assert [text for text in worded if 'Geometry(' in text or 'reading.' in text] == []


def test_every_handler_gets_the_words_of_the_panel(caplog: pytest.LogCaptureFixture) -> None:
    library = PtychoPinnLibrary(SettingsRegistry())
    pane: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: pane.append(record.getMessage())  # type: ignore[method-assign]
    library.get_logger().addHandler(handler)
    try:
        # As a backend does, whose lines pass on from a logger below.
        logging.getLogger('ptychopinn_plugin.backends.common').warning('%s: --drop-outliers', 'x')
    finally:
        library.get_logger().removeHandler(handler)
        library.close()
    worded = 'x: "Drop outliers" in the box Refinement'
    assert pane == [worded]
    assert library.activity.message.text == worded
    assert caplog.messages == [worded]


def test_an_error_that_the_host_shows_has_the_words_of_the_panel() -> None:
    with pytest.raises(DataError, match=f'^alone with {SINGLE_SHOT}$'), reported('Export'):
        raise DataError('alone with --single-shot (reading.single_shot)')
