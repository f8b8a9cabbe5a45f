"""What `ptychopinn doctor` reports on the Ptychodus that is installed."""

import json
import tomllib
from pathlib import Path

import pytest

from ptychopinn_plugin import ptychodus_compat
from ptychopinn_plugin import ptychodus_diagnosis as diagnosis
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.ptychodus_diagnosis import examine_host, host_rows

from .conftest import needs
from .hosts import copy_host, run_python

LOOK = (
    'import json, sys\n'
    'from ptychopinn_plugin.ptychodus_diagnosis import examine_host\n'
    'report = examine_host()\n'
    'assert not any(name.startswith(("ptychodus", "PyQt5")) for name in sys.modules)\n'
    'sys.stdout.write(json.dumps(report))'
)


@needs('PyQt5')
def test_all_is_well_here() -> None:
    report = examine_host()
    assert report['installed']
    assert report['version'] == versions.host_version()
    assert report['supported']
    assert report['problems'] == []
    assert Path(report['stub']).is_file()
    assert all(report['entry_points'].values())
    assert ('plugin found by', report['stub']) in host_rows(report)


def test_a_stub_elsewhere_names_the_launcher(tmp_path: Path) -> None:
    (copy_host(tmp_path) / 'plugins' / diagnosis.STUB).unlink()
    run = run_python(LOOK, tmp_path)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report['stub'] is None
    assert report['plugin_folders'] == [str(tmp_path / 'ptychodus/plugins')]
    (problem,) = report['problems']
    assert problem['command'] == 'ptychodus-pinn'
    assert str(tmp_path) in problem['what']
    assert ('mend it with', 'ptychodus-pinn') in host_rows(report)


def test_an_old_release_is_not_supported(tmp_path: Path) -> None:
    copy_host(tmp_path)
    information = tmp_path / 'ptychodus-1.4.2.dist-info'
    information.mkdir()
    (information / 'METADATA').write_text(
        'Metadata-Version: 2.1\nName: ptychodus\nVersion: 1.4.2\n'
    )
    report = json.loads(run_python(LOOK, tmp_path).stdout)
    assert report['version'] == '1.4.2'
    assert not report['supported']
    assert "'ptychodus[gui]>=1.5.1,<1.8'" in report['problems'][0]['command']
    assert 'not among 1.5.1 to 1.7' in host_rows(report)[0][1]


def test_missing_entry_points_and_qt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, 'entry_points_of', lambda group: [])
    monkeypatch.setattr(diagnosis, 'is_importable', lambda name: name != 'PyQt5')
    commands = [problem['command'] for problem in examine_host()['problems']]
    assert diagnosis.REINSTALL in commands
    assert "pip install 'ptychodus[gui]'" in commands
    assert 'batch mode only' in host_rows(examine_host())[0][1]


def test_a_host_with_entry_points_needs_no_stub(tmp_path: Path) -> None:
    host = copy_host(tmp_path)
    (host / 'plugins' / diagnosis.STUB).unlink()
    with (host / 'api/plugins.py').open('a') as file:
        file.write(f'\n{ptychodus_compat.NATIVE_MARK} = "ptychodus.reconstructor_libraries"\n')
    report = json.loads(run_python(LOOK, tmp_path).stdout)
    assert report['has_native_entry_points']
    assert not any('launcher' in problem['what'] for problem in report['problems'])
    assert host_rows(report)[1][1] == 'Ptychodus itself, by entry points'


@pytest.mark.parametrize(
    ('version', 'is_supported'),
    [('1.4.2', False), ('1.5.0', False), ('1.5.1', True), ('1.7.12', True), ('1.8.0', False)],
)
def test_supported(version: str, is_supported: bool) -> None:
    assert ptychodus_compat.is_supported(version) is is_supported


def test_the_requirement_is_that_of_the_package() -> None:
    text = (Path(__file__).parents[2] / 'pyproject.toml').read_text()
    extras = tomllib.loads(text)['project']['optional-dependencies']
    assert extras['ptychodus'] == [f'ptychodus[gui]{ptychodus_compat.REQUIREMENT}']
