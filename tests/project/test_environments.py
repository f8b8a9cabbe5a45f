"""The rule by which run-tests runs each test once: nothing may be lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import importlib.util
import subprocess
import sys

import pytest


@pytest.fixture(scope='module')
def shared():
    return importlib.util.find_spec('a_framework')


def test_alike():
    assert 1 + 1 == 2


def test_framework():
    pytest.importorskip('a_framework')


def test_asks():
    importlib.util.find_spec('a_framework.part') if importlib.util.find_spec('a_framework') else 0


def test_process():
    subprocess.run([sys.executable, '-c', ''], check=True)


def test_installed():
    import importlib.metadata
    list(importlib.metadata.distributions())


def test_elsewhere():
    assert importlib.util.find_spec('in_neither') is None


def test_fails():
    assert importlib.util.find_spec('a_framework')


@pytest.mark.xfail
def test_expected_to_fail():
    raise AssertionError
"""

SHARED = """
import importlib.util

import pytest


@pytest.fixture(scope='module')
def framework():
    return importlib.util.find_spec('a_framework')


def test_first(framework):
    pass


def test_second(framework):
    pass
"""

AT_IMPORT = """
import importlib.util

HAS = importlib.util.find_spec('a_framework') is not None


def test_that_uses_what_the_module_found():
    assert HAS or True
"""

HEAVY = {
    'test_framework',
    'test_asks',
    'test_process',
    'test_installed',
    'test_fails',
    'test_expected_to_fail',
    'test_first',
    'test_second',
    'test_that_uses_what_the_module_found',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of tests."""
    for name, text in {'one': TESTS, 'two': SHARED, 'three': AT_IMPORT}.items():
        (tmp_path / f'test_{name}.py').write_text(text)
    (tmp_path / 'pytest.ini').write_text('[pytest]\n')
    return tmp_path


def run(folder: Path, *options: str, path: tuple[Path, ...] = ()) -> str:
    """Run pytest with the plugin in a fresh process, and return what it prints."""
    plugins = Path(__file__).parents[1]
    paths = ', '.join(repr(str(one)) for one in (plugins, *path))
    code = f'import sys, pytest; sys.path[:0] = [{paths}]; sys.exit(pytest.main(sys.argv[1:]))'
    words = ['-p', 'environments', '-p', 'no:cacheprovider', '-v', *options]
    child = subprocess.run(
        [sys.executable, '-c', code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert child.returncode in {0, 1}, child.stdout + child.stderr
    return child.stdout


def names_run(output: str) -> set[str]:
    """Return the tests that a run shows."""
    lines = [line.split('::')[1] for line in output.splitlines() if '::' in line and '%]' in line]
    return {line.split()[0] for line in lines}


def test_a_test_is_left_out_only_where_it_would_do_the_same(folder: Path, tmp_path: Path) -> None:
    record = tmp_path / 'passed.json'
    assert len(names_run(run(folder, f'--record-passed={record}'))) == 11
    recorded = {name.partition('::')[2] for name in json.loads(record.read_text())}
    assert not recorded & {'test_framework', 'test_fails', 'test_expected_to_fail'}

    larger = tmp_path / 'larger'
    larger.mkdir()
    (larger / 'a_framework.py').write_text('')
    output = run(folder, f'--leave-out-passed={record}', path=(larger,))
    assert names_run(output) == HEAVY
    assert '2 deselected' in output

    # Where the larger environment lacks the framework too, looking for it makes no difference.
    again = names_run(run(folder, f'--leave-out-passed={record}'))
    assert HEAVY - again == {
        'test_asks',
        'test_first',
        'test_second',
        'test_that_uses_what_the_module_found',
    }


def test_without_the_options_nothing_is_left_out(folder: Path) -> None:
    assert len(names_run(run(folder))) == 11
