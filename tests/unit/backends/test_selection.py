"""Which backend is chosen, in which order, and the message when none can be."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin.backends import selection
from ptychopinn_plugin.backends.selection import Choice, choose, create_backend, find_backends
from ptychopinn_plugin.backends.spec import BackendSpec
from ptychopinn_plugin.errors import BackendUnavailableError, UnknownBackendError

PYTORCH = BackendSpec(
    'pytorch', 'torch', 'torch', '2.4', 'fake_pytorch:make', extra='pytorch', aliases=('torch',)
)
TENSORFLOW = BackendSpec(
    'tensorflow', 'tensorflow', 'tensorflow', '2.16', 'fake:make', 'tensorflow', ('tf',)
)
ABACUS = BackendSpec('abacus', 'abacus', 'abacus', '1.0', 'fake_abacus:make')
ZUSE = BackendSpec('zuse', 'zuse', 'zuse', '1.0', 'fake:make')
ALL = (ZUSE, TENSORFLOW, ABACUS, PYTORCH)

Install = Callable[..., None]


@dataclass
class FakeEntryPoint:
    name: str
    value: str
    target: object

    def load(self) -> object:
        if isinstance(self.target, Exception):
            raise self.target
        return self.target


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes these backends known, and those frameworks installed."""

    def apply(*known: object, installed: dict[str, str | None]) -> None:
        entries = [
            FakeEntryPoint(getattr(item, 'name', 'broken'), 'module:spec', item) for item in known
        ]
        monkeypatch.setattr(selection, 'entry_points_of', lambda group: entries)
        monkeypatch.setattr(BackendSpec, 'is_installed', lambda spec: spec.framework in installed)
        monkeypatch.setattr(BackendSpec, 'version', lambda spec: installed.get(spec.framework))

    monkeypatch.delenv('PTYCHOPINN_BACKEND', raising=False)
    selection._warn_once.cache_clear()
    return apply


BOTH = {'torch': '2.13.0+cpu', 'tensorflow': '2.20.0'}


@pytest.mark.parametrize(
    ('explicit', 'variable', 'setting', 'model', 'expected'),
    [
        # Each rank wins over all that come after it.
        ('tensorflow', 'pytorch', 'pytorch', 'pytorch', Choice('tensorflow', 'argument')),
        (None, 'tensorflow', 'pytorch', 'pytorch', Choice('tensorflow', 'environment')),
        (None, None, 'tensorflow', 'pytorch', Choice('tensorflow', 'setting')),
        (None, None, None, 'tensorflow', Choice('tensorflow', 'model')),
        (None, None, None, None, Choice('pytorch', 'auto')),
        # Empty and 'auto' name nothing, at every rank.
        ('', 'tensorflow', None, None, Choice('tensorflow', 'environment')),
        ('auto', '', 'tensorflow', None, Choice('tensorflow', 'setting')),
        (None, ' ', 'auto', 'tensorflow', Choice('tensorflow', 'model')),
        (None, 'AUTO', '', None, Choice('pytorch', 'auto')),
        # Case, blanks and aliases.
        ('TF', None, None, None, Choice('tensorflow', 'argument')),
        (None, ' Torch ', None, None, Choice('pytorch', 'environment')),
        (None, None, 'TensorFlow', None, Choice('tensorflow', 'setting')),
    ],
)
def test_precedence(
    install: Install,
    explicit: str | None,
    variable: str | None,
    setting: str | None,
    model: str | None,
    expected: Choice,
) -> None:
    install(*ALL, installed=BOTH)
    environment = {} if variable is None else {'PTYCHOPINN_BACKEND': variable}
    chosen = choose(explicit, setting=setting, model_backend=model, environment=environment)
    assert chosen == expected


def test_variable_of_the_process_is_read(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(*ALL, installed=BOTH)
    monkeypatch.setenv('PTYCHOPINN_BACKEND', 'tf')
    assert choose() == Choice('tensorflow', 'environment')


@pytest.mark.parametrize(
    ('installed', 'expected'),
    [
        ({'torch': '2.4.0', 'tensorflow': '2.16.1', 'abacus': '1.0'}, 'pytorch'),
        ({'tensorflow': '2.16.1', 'abacus': '1.0'}, 'tensorflow'),
        ({'torch': '2.3.1', 'tensorflow': '2.16.1'}, 'tensorflow'),
        ({'zuse': '3', 'abacus': '1.0'}, 'abacus'),
        # A framework without metadata is taken at its word.
        ({'torch': None}, 'pytorch'),
        ({'torch': '2.10.0a0+git1234'}, 'pytorch'),
    ],
)
def test_automatic_choice(
    install: Install, installed: dict[str, str | None], expected: str
) -> None:
    install(*ALL, installed=installed)
    assert choose() == Choice(expected, 'auto')


@pytest.mark.parametrize(
    ('arguments', 'installed', 'error', 'parts'),
    [
        (
            {'explicit': 'jax'},
            BOTH,
            UnknownBackendError,
            ["'jax'", 'valid: pytorch, tensorflow, abacus, zuse, auto', 'pytorch, tensorflow.'],
        ),
        (
            {'environment': {'PTYCHOPINN_BACKEND': 'jax'}},
            {},
            UnknownBackendError,
            ['PTYCHOPINN_BACKEND', 'installed: none'],
        ),
        (
            {'explicit': 'tf'},
            {'torch': '2.13'},
            BackendUnavailableError,
            [
                "'tensorflow' is not installed (installed: pytorch)",
                "pip install 'ptychopinn-plugin[tensorflow]'",
            ],
        ),
        (
            {'setting': 'pytorch'},
            {'torch': '1.13.1', 'tensorflow': '2.20'},
            BackendUnavailableError,
            ['saved setting', 'torch 2.4 or newer; found 1.13.1', 'ptychopinn-plugin[pytorch]'],
        ),
        (
            {'explicit': 'abacus'},
            {},
            BackendUnavailableError,
            ["pip install 'abacus>=1.0'"],
        ),
        # A model never runs on another backend unless that is set.
        (
            {'model_backend': 'tensorflow'},
            {'torch': '2.13'},
            BackendUnavailableError,
            [
                "'tensorflow'",
                'is not installed',
                '--backend pytorch',
                "Ptychodus' panel",
                'pip install',
            ],
        ),
        (
            {'model_backend': 'jax'},
            {'torch': '2.13'},
            BackendUnavailableError,
            ["'jax'", 'is not known here', '--backend pytorch'],
        ),
        (
            {},
            {'tensorflow': '2.1'},
            BackendUnavailableError,
            ['pytorch is not installed', 'found 2.1', "'ptychopinn-plugin[pytorch]'"],
        ),
    ],
)
def test_what_cannot_run_is_an_error(
    install: Install,
    arguments: dict[str, Any],
    installed: dict[str, str | None],
    error: type[Exception],
    parts: list[str],
) -> None:
    install(*ALL, installed=installed)
    with pytest.raises(error) as caught:
        choose(**{'environment': {}, **arguments})
    message = str(caught.value)
    assert '\n' not in message
    for part in parts:
        assert part in message


def test_no_entry_points(install: Install) -> None:
    install(installed=BOTH)
    with pytest.raises(BackendUnavailableError, match='entry points'):
        choose(environment={})


def test_broken_entry_points_are_left_out(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    twin = replace(PYTORCH, minimum_version='99')
    broken = (ImportError('no module x'), ZeroDivisionError('no reason'), 'not a spec')
    install(*broken, PYTORCH, twin, installed=BOTH)
    assert find_backends() == {'pytorch': PYTORCH}
    assert 'ImportError: no module x' in caplog.text
    assert 'ZeroDivisionError: no reason' in caplog.text
    assert 'no BackendSpec' in caplog.text
    assert 'Two backends' in caplog.text
    # Ptychodus calls it again and again.
    find_backends()
    assert len(caplog.records) == 4


def test_third_backend_is_created(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        make = dict

    monkeypatch.setitem(sys.modules, 'fake_abacus', Module)  # type: ignore[arg-type]
    install(*ALL, installed={'abacus': '1.0'})
    assert create_backend('abacus') == {}


def test_missing_backend_is_not_created(install: Install) -> None:
    install(*ALL, installed={})
    with pytest.raises(BackendUnavailableError, match='is not installed'):
        create_backend('pytorch')


@pytest.mark.parametrize('error', [ImportError, OSError, AttributeError])
def test_broken_framework(
    install: Install, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def load(spec: BackendSpec) -> None:
        raise error('libcudart.so.13 is missing\nand more lines')

    install(*ALL, installed=BOTH)
    monkeypatch.setattr(BackendSpec, 'load', load)
    with pytest.raises(BackendUnavailableError) as caught:
        create_backend('pytorch')
    message = str(caught.value)
    assert 'libcudart.so.13 is missing. Install it anew' in message
    assert '\n' not in message


def test_installed_means_found_and_not_imported() -> None:
    assert replace(PYTORCH, framework='wave').is_installed()
    assert not replace(PYTORCH, framework='no_such_framework').is_installed()
    assert 'wave' not in sys.modules


def test_blocked_and_left_over_frameworks_count_as_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(sys.modules, 'blocked_framework', None)  # type: ignore[arg-type]
    assert not replace(PYTORCH, framework='blocked_framework').is_installed()
    (tmp_path / 'left_over_framework').mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not replace(PYTORCH, framework='left_over_framework').is_installed()


def test_version_is_read_from_the_distribution() -> None:
    assert replace(PYTORCH, distribution='numpy').version() is not None
    assert replace(PYTORCH, distribution='no-such-distribution').version() is None


@pytest.mark.parametrize(
    ('name', 'class_', 'alias'),
    [('pytorch', 'PyTorchBackend', 'torch'), ('tensorflow', 'TensorFlowBackend', 'tf')],
)
def test_own_entry_points_are_declared(name: str, class_: str, alias: str) -> None:
    spec = find_backends()[name]
    assert spec.loader == f'ptychopinn_plugin.backends.{name}.adapter:{class_}'
    assert spec.aliases == (alias,)
    assert spec.extra == name


@pytest.mark.parametrize(
    ('name', 'framework'), [('pytorch', 'torch'), ('tensorflow', 'tensorflow')]
)
def test_a_framework_that_raises_while_it_is_imported(
    tmp_path: Path, name: str, framework: str
) -> None:
    """In a fresh process, with a package of that name that is broken inside."""
    package = tmp_path / framework
    package.mkdir()
    (package / '__init__.py').write_text('raise ImportError("libfast.so: undefined symbol")')
    code = f"""
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.errors import BackendUnavailableError
try:
    create_backend({name!r})
except BackendUnavailableError as error:
    print(error)
"""
    child = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    assert 'libfast.so: undefined symbol' in child.stdout
    assert f"pip install 'ptychopinn-plugin[{name}]'" in child.stdout
    assert child.stderr == ''
