"""The way into an unmodified Ptychodus, and that whatever fails there costs the plugin only."""

import importlib
import sys
from pathlib import Path

import pytest

from ptychopinn_plugin.host import import_hook, versions

from .conftest import needs
from .hosts import OURS, START, WINDOW, add_distribution, copy_host, edit, run_host, run_python

LIBRARIES = '[ptychodus.reconstructor_libraries]\n'
VIEWS = '[ptychodus.view_controller_factories]\n'


def _assert_one_warning(warnings: list[str], *words: str) -> None:
    (line,) = warnings
    for word in (f'Ptychodus {versions.host_version()}', 'ptychopinn doctor', *words):
        assert word in line


def test_the_stock_host_has_our_algorithms_once() -> None:
    reported, warnings = run_host(START)
    assert [name for name in reported['algorithms'] if 'plugin' in name] == OURS
    assert not warnings
    # Neither a framework nor Qt until somebody needs one.
    assert reported['heavy'] == []


def test_installing_twice_changes_nothing() -> None:
    reported, warnings = run_host(
        'from ptychopinn_plugin.host import bridge, import_hook\n'
        'from ptychodus.model.processing.core import ProcessingCore as Core\n'
        'bridge.install()\n'
        'extended = Core.__init__\n'
        'bridge.install()\n'
        'model = ModelCore(log_level=logging.INFO)\n'
        'hooks = sum(isinstance(item, import_hook._Hook) for item in sys.meta_path)\n'
        'report(model, same=Core.__init__ is extended, hooks=hooks)'
    )
    assert [name for name in reported['algorithms'] if 'plugin' in name] == OURS
    assert reported['same']
    # The one that waits for the window.
    assert reported['hooks'] == 1
    assert not warnings


def test_two_models_in_one_process() -> None:
    reported, warnings = run_host(
        'first = ModelCore(log_level=logging.INFO)\n'
        'second = ModelCore(log_level=logging.INFO)\n'
        'settings = [model.settings_registry for model in (first, second)]\n'
        'cores = [model.processing_core for model in (first, second)]\n'
        'for core in cores:\n'
        f'    core.algorithm_parameter.set_value({OURS[0]!r})\n'
        'kept = [core.algorithm_parameter.get_current_reconstructor() for core in cores]\n'
        'report(second, first=list(cores[0].algorithm_parameter.available_reconstructors()),\n'
        '     apart=kept[0] is not kept[1], current=[item.name for item in kept])'
    )
    assert reported['first'] == reported['algorithms']
    assert set(OURS) <= set(reported['first'])
    assert reported['apart']
    assert reported['current'] == ['PINN', 'PINN']
    assert not warnings


@needs('PyQt5')
def test_the_stock_window_has_menu_and_panels() -> None:
    reported, warnings = run_host(WINDOW)
    assert any(set(OURS) <= set(menu) for menu in reported['menus'])
    assert sum(label == 'Backend:' for label in reported['labels']) == len(OURS)
    assert not any('not found' in text and 'plugin' in text for text in reported['labels'])
    assert not warnings


def _rename_argument(host: Path) -> None:
    edit(host / 'model/processing/core.py', 'algorithm_libraries', 'libraries')


def _rename_class(host: Path) -> None:
    for name in ('model/processing/core.py', 'model/processing/__init__.py', 'model/core.py'):
        edit(host / name, 'ProcessingCore', 'RunCore')


def _rename_module(host: Path) -> None:
    (host / 'model/processing/core.py').rename(host / 'model/processing/runs.py')
    edit(host / 'model/processing/__init__.py', 'from .core', 'from .runs')


@pytest.fixture(scope='module')
def host_algorithms() -> list[str]:
    """Return the algorithms that the host has without this package."""
    reported, _ = run_host(START)
    return [name for name in reported['algorithms'] if name not in OURS]


@pytest.mark.parametrize('damage', [_rename_argument, _rename_class, _rename_module])
def test_a_host_without_the_seam_starts(
    damage: object, host_algorithms: list[str], tmp_path: Path
) -> None:
    assert callable(damage)
    damage(copy_host(tmp_path))
    # Every model loads the plugins; the warning is one.
    reported, warnings = run_host(f'ModelCore(log_level=logging.INFO)\n{START}', tmp_path)
    assert reported['algorithms'] == host_algorithms
    # Ptychodus calls it so where it has no algorithm.
    assert (reported['current'] == 'none_none') == (host_algorithms == [])
    _assert_one_warning(warnings, 'ptychodus.model.processing.core', 'takes no algorithm_libraries')


@needs('PyQt5')
def test_a_window_without_the_seam_opens(tmp_path: Path) -> None:
    host = copy_host(tmp_path)
    edit(host / 'controller/processing/core.py', 'view_controller_factories', 'factories')
    reported, warnings = run_host(WINDOW, tmp_path)
    assert set(OURS) <= set(reported['algorithms'])
    assert 'ptychopinn-plugin not found!' in reported['labels']
    _assert_one_warning(warnings, 'takes no view_controller_factories')


def test_a_stub_without_its_package_raises_nothing(tmp_path: Path) -> None:
    copy_host(tmp_path)
    absent = "sys.modules['ptychopinn_plugin.host.bridge'] = None\n"
    reported, warnings = run_host(absent + START, tmp_path)
    assert not any('plugin' in name for name in reported['algorithms'])
    _assert_one_warning(warnings, 'ptychopinn_plugin.host.bridge')


@pytest.mark.parametrize(
    ('code', 'words'),
    [
        ('raise RuntimeError("no card")', 'RuntimeError: no card'),
        ('make = None', "'NoneType' object is not callable"),
        ('def make(*arguments): raise OSError("no file")', 'OSError: no file'),
        ('def make(*arguments): return object()', "no attribute 'name'"),
        ('import no_such_module', 'no_such_module'),
    ],
)
def test_a_library_that_fails_is_left_out(code: str, words: str, tmp_path: Path) -> None:
    add_distribution(tmp_path, 'broken', code, f'{LIBRARIES}broken = broken:make\n')
    reported, warnings = run_host(START, tmp_path)
    assert [name for name in reported['algorithms'] if 'plugin' in name] == OURS
    _assert_one_warning(warnings, 'broken = broken:make', words)


THIRD = """
import logging
from ptychodus.api.reconstruct import NullReconstructor, ReconstructorLibrary

class Library(ReconstructorLibrary):
    name = 'Third'
    def __init__(self, settings_registry, is_developer_mode_enabled):
        super().__init__('third')
    def __iter__(self):
        return iter([NullReconstructor('One')])

class Panels:
    name = 'Third'
    def __init__(self, library, dialogs):
        assert isinstance(library, Library)
    def create_view_controller(self, name):
        raise ZeroDivisionError('no panel')
"""


@needs('PyQt5')
def test_the_library_of_another_and_its_broken_panel(tmp_path: Path) -> None:
    entries = f'{LIBRARIES}third = third:Library\n{VIEWS}third = third:Panels\n'
    add_distribution(tmp_path, 'third', THIRD, entries)
    reported, warnings = run_host(WINDOW, tmp_path)
    assert {*OURS, 'third_one'} <= set(reported['algorithms'])
    assert sum(label == 'Backend:' for label in reported['labels']) == len(OURS)
    assert any('ZeroDivisionError: no panel' in label for label in reported['labels'])
    _assert_one_warning(warnings, 'The panel of Third', 'no panel')


def test_an_algorithm_is_selected_where_only_ours_are(tmp_path: Path) -> None:
    host = copy_host(tmp_path)
    for name in ('ptychi', 'ptychonn', 'ptychopinn', 'ptychopinn_torch', 'ptycho_fm'):
        library = f'                self.{name}_reconstructor_library,\n'
        if library in (host / 'model/core.py').read_text():
            edit(host / 'model/core.py', library, '')
    reported, warnings = run_host(START, tmp_path)
    assert reported['algorithms'] == OURS
    assert reported['current'] == OURS[0]
    assert not warnings


LAUNCH = 'import sys; from ptychopinn_plugin.host.launcher import main; sys.exit(main())'


def test_the_launcher_is_ptychodus() -> None:
    run = run_python(f'import sys; sys.argv[1:] = ["--version"]; {LAUNCH}')
    assert run.returncode == 0, run.stderr
    assert versions.host_version() in run.stdout


def test_the_launcher_reaches_a_host_without_the_stub(tmp_path: Path) -> None:
    (copy_host(tmp_path) / 'plugins/ptychopinn_plugin_bridge.py').unlink()
    reported, _ = run_host(START, tmp_path)
    assert not any('plugin' in name for name in reported['algorithms'])
    reported, warnings = run_host(
        'import ptychodus.__main__ as host\n'
        'from ptychopinn_plugin.host import launcher\n'
        f'def main():\n    {START.splitlines()[0]}\n    {START.splitlines()[1]}\n    return 0\n'
        'host.main = main\n'
        'launcher.main()\n',
        tmp_path,
    )
    assert [name for name in reported['algorithms'] if 'plugin' in name] == OURS
    assert not warnings


@pytest.fixture
def namespace_alone(tmp_path: Path) -> Path:
    """Return a folder after whose start-up file Ptychodus is only the folder that we bring."""
    (tmp_path / 'empty/ptychodus/plugins').mkdir(parents=True)
    (tmp_path / 'sitecustomize.py').write_text(
        'import sys\n'
        'from importlib.machinery import PathFinder\n'
        'class OnlyTheFolder:\n'
        '    @staticmethod\n'
        '    def find_spec(name, path=None, target=None):\n'
        "        if name == 'ptychodus':\n"
        f'            return PathFinder.find_spec(name, [{str(tmp_path / "empty")!r}])\n'
        'sys.meta_path.insert(0, OnlyTheFolder)\n'
    )
    return tmp_path


def test_the_launcher_without_ptychodus_says_what_to_do(namespace_alone: Path) -> None:
    run = run_python(LAUNCH, namespace_alone)
    assert run.returncode == 2
    assert "pip install 'ptychopinn-plugin[ptychodus]'" in run.stderr
    assert 'Traceback' not in run.stderr


def test_a_folder_is_no_ptychodus(namespace_alone: Path) -> None:
    run = run_python(
        'import importlib.util\n'
        'assert importlib.util.find_spec("ptychodus") is not None\n'
        'from ptychopinn_plugin.ptychodus_diagnosis import examine_host, host_rows\n'
        'report = examine_host()\n'
        'assert not report["installed"] and not report["problems"], report\n'
        'assert "is not installed" in host_rows(report)[0][1]\n'
        'from ptychopinn_plugin.data import reader_names\n'
        'from ptychopinn_plugin.errors import DataError\n'
        'import ptychodus\n'
        'try:\n'
        '    reader_names()\n'
        'except DataError as error:\n'
        '    assert "pip install ptychodus" in str(error)\n'
        'else:\n'
        '    raise AssertionError\n',
        namespace_alone,
    )
    assert run.returncode == 0, run.stderr


def test_a_hook_survives_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'late_module.py').write_text('VALUE = 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'late_module', raising=False)
    seen: list[int] = []

    def see() -> None:
        seen.append(sys.modules['late_module'].VALUE)

    import_hook.when_imported('late_module', see)
    import_hook.when_imported('late_module', see)
    assert importlib.util.find_spec('late_module') is not None
    assert seen == []
    module = importlib.import_module('late_module')
    assert seen == [1]
    assert type(module.__loader__).__name__ == 'SourceFileLoader'
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    import_hook.when_imported('late_module', see)
    assert seen == [1, 1]
    assert not any(isinstance(item, import_hook._Hook) for item in sys.meta_path)
