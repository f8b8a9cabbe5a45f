"""What `ptychopinn doctor` finds, prints and returns."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ptychopinn_plugin import ptychodus_diagnosis
from ptychopinn_plugin.backends import selection
from ptychopinn_plugin.backends.spec import BackendSpec
from ptychopinn_plugin.cli import doctor as module

app = typer.Typer()
app.command()(module.doctor_command)

# Frameworks that are surely there, or surely not, in place of the real ones.
PRESENT = BackendSpec('pytorch', 'wave', 'numpy', '1.0', 'fake:make', 'pytorch', ('torch',))
ABSENT = BackendSpec('tensorflow', 'no_such_framework', 'no', '2.16', 'fake:make', 'tensorflow')


@dataclass
class FakeEntryPoint:
    name: str
    target: BackendSpec
    value: str = 'module:spec'

    def load(self) -> BackendSpec:
        return self.target


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[FakeEntryPoint]:
    """Return the list of known backends: one that is installed, one that is not."""
    entries = [FakeEntryPoint('pytorch', PRESENT), FakeEntryPoint('tensorflow', ABSENT)]
    monkeypatch.setattr(selection, 'entry_points_of', lambda group: entries)
    monkeypatch.delenv('PTYCHOPINN_BACKEND', raising=False)
    return entries


@pytest.fixture
def run(known: list[FakeEntryPoint]) -> Any:
    """Return a function that runs the command with `--json`."""

    def apply(code: int) -> dict[str, Any]:
        result = CliRunner().invoke(app, ['--json'])
        assert result.exit_code == code, result.output
        return dict(json.loads(result.stdout))

    return apply


def test_ready_machine(run: Any) -> None:
    report = run(0)
    assert report['can_run_main_job'] is True
    assert report['choice'] == {'name': 'pytorch', 'source': 'auto', 'value': None}
    assert report['missing'] == []
    assert [item['installed'] for item in report['backends']] == [True, False]
    assert report['backends'][1]['mend'] == "pip install 'ptychopinn-plugin[tensorflow]'"
    assert report['cpu']['cores'] >= 1
    assert report['gpus'] == []
    assert 'the CPU computes' in report['gpu_note']


def test_environment_is_shown_with_its_value(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PTYCHOPINN_BACKEND', 'Torch')
    assert run(0)['choice'] == {'name': 'pytorch', 'source': 'environment', 'value': 'Torch'}


@pytest.mark.parametrize('name', ['tensorflow', 'jax'])
def test_environment_names_what_cannot_run(
    run: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv('PTYCHOPINN_BACKEND', name)
    report = run(1)
    assert report['choice'] == {'name': None, 'source': 'environment', 'value': name}
    assert name in report['missing'][0]['what']
    assert report['missing'][0]['command'] == 'unset PTYCHOPINN_BACKEND'


def test_no_framework(run: Any, known: list[FakeEntryPoint]) -> None:
    del known[0]
    report = run(1)
    assert report['choice']['name'] is None
    assert report['missing'][0]['command'] == "pip install 'ptychopinn-plugin[tensorflow]'"


def test_not_installed_at_all(run: Any, known: list[FakeEntryPoint]) -> None:
    known.clear()
    assert run(1)['missing'][0]['command'] == "pip install 'ptychopinn-plugin[pytorch]'"


def test_framework_that_does_not_import(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / 'wave.py').write_text('raise ImportError("libwater.so is missing")\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    report = run(1)
    assert report['can_run_main_job'] is False
    assert 'libwater.so is missing' in report['missing'][0]['what']
    assert report['missing'][0]['command'] == "pip install 'ptychopinn-plugin[pytorch]'"


def test_slow_framework_is_a_note(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(command: list[str], **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, options['timeout'])

    monkeypatch.setattr(module.subprocess, 'run', wait)
    report = run(0)
    assert 'did not answer within' in report['gpu_note']


def test_gpus_are_listed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    card = {'device': 'cuda:0', 'name': 'Card', 'memory_gb': 80.0}
    monkeypatch.setattr(module, '_probe', lambda framework: {'gpus': [card]})
    report = run(0)
    assert report['gpus'] == [{**card, 'backend': 'pytorch'}]
    assert report['gpu_note'] == ''
    text = CliRunner().invoke(app, []).stdout
    assert 'GPU: Card, 80.0 GB (cuda:0, pytorch)' in text


@pytest.mark.parametrize('installed', [True, False])
def test_ptychodus_warning(run: Any, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(ptychodus_diagnosis, 'is_importable', lambda name: installed)
    report = run(0)
    assert report['ptychodus']['installed'] is installed
    assert bool(report['notes']) is installed
    assert all('runs another algorithm' in note for note in report['notes'])


def test_text_is_plain_lines(known: list[FakeEntryPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert 'would run: pytorch: nothing names one, and it is the first installed' in result.stdout
    assert "backend tensorflow: is not installed; pip install 'ptychopinn-plugin[ten" in (
        result.stdout
    )
    assert result.stdout.endswith('verdict: training and reconstruction can run here\n')
    assert '\x1b' not in result.stdout


def test_table_on_a_terminal(
    known: list[FakeEntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    module._show_table(module.examine())
    text = capsys.readouterr().out
    # Square brackets of the command survive rich's markup.
    assert '[tensorflow]' in text.replace('\n', '')
    assert 'verdict' in text


def test_doctor_imports_no_framework() -> None:
    code = (
        'import sys; from ptychopinn_plugin.cli.doctor import examine; examine(); '
        'sys.exit(bool({"torch", "tensorflow", "matplotlib"} & set(sys.modules)))'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
