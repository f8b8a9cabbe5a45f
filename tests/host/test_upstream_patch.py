"""The patch that is to be proposed to Ptychodus, applied to a copy of the installed one."""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from .conftest import needs
from .hosts import OURS, START, WINDOW, add_distribution, copy_host, run_host

PATCH = Path(__file__).parents[2] / 'docs/upstream/ptychodus-1.7.0-entry-points.patch'

pytestmark = [
    pytest.mark.skipif(shutil.which('git') is None, reason='git, which applies the patch'),
    pytest.mark.skipif(
        version('ptychodus') != '1.7.0', reason='the patch is for Ptychodus 1.7.0 and no other'
    ),
]


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """Return a folder with a Ptychodus that has entry points of its own."""
    copy_host(tmp_path)
    # a/src/ptychodus/...: two names less, and a folder that no repository surrounds.
    subprocess.run(
        ['git', 'apply', '-p2', str(PATCH)],
        cwd=tmp_path,
        env={'GIT_CEILING_DIRECTORIES': str(tmp_path.parent)},
        check=True,
    )
    return tmp_path


BRIDGE_STANDS_DOWN = """
from ptychodus.model.processing.core import ProcessingCore
report(
    model,
    extended=hasattr(ProcessingCore.__init__, '_is_extended'),
    stub='ptychodus.plugins.ptychopinn_plugin_bridge' in sys.modules,
)
"""


def test_our_algorithms_are_there_once_and_the_bridge_stands_down(patched: Path) -> None:
    code = f'{START.splitlines()[0]}\n{BRIDGE_STANDS_DOWN}'
    reported, warnings = run_host(code, patched)
    assert [name for name in reported['algorithms'] if 'plugin' in name] == OURS
    assert reported['stub']
    assert not reported['extended']
    assert reported['heavy'] == []
    assert not warnings


def test_a_library_that_fails_is_logged_and_the_others_are_there(patched: Path) -> None:
    entries = '[ptychodus.reconstructor_libraries]\nbroken = broken:make\n'
    code = 'def make(*arguments): raise OSError("no file")\n'
    add_distribution(patched, 'broken', code, entries)
    log = patched / 'log'
    keep = f'logging.getLogger("ptychodus").addHandler(logging.FileHandler({str(log)!r}))\n'
    reported, _ = run_host(keep + START, patched)
    assert [name for name in reported['algorithms'] if 'plugin' in name] == OURS
    text = log.read_text()
    assert 'Failed to load ptychodus.reconstructor_libraries: broken:make' in text
    assert 'OSError: no file' in text


@needs('PyQt5')
def test_the_window_has_the_panels_and_looks_again_when_a_run_ends(patched: Path) -> None:
    code = WINDOW.replace(
        '    report(',
        '    parameter = model.processing_core.algorithm_parameter\n'
        f'    parameter.set_value({OURS[0]!r})\n'
        '    reconstructor = parameter.get_current_reconstructor()\n'
        '    reconstructor.is_model_loaded = lambda: False\n'
        '    parameter.notify_observers()\n'
        '    button = controller._processing_controller._actions_view.reconstruct_button\n'
        '    before = button.isEnabled()\n'
        '    with model.processing_core.processing_api.task_monitor:\n'
        '        reconstructor.is_model_loaded = lambda: True\n'
        '    model.run_tasks()\n'
        '    report(before=before, after=button.isEnabled(), model=model,',
    ).replace('        model,\n', '')
    reported, warnings = run_host(code, patched)
    assert sum(label == 'Backend:' for label in reported['labels']) == len(OURS)
    assert not any('not found' in text and 'plugin' in text for text in reported['labels'])
    assert not reported['before']
    assert reported['after']
    assert not warnings
