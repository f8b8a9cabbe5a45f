"""What a release consists of: wheel, source archive, recipe, citation, and what describes them."""

import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip('yaml')

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
VERSION = re.findall(r"'(.+)'", (ROOT / 'ptychopinn_plugin' / '_version.py').read_text())[0]
CONDA_NAMES = {'matplotlib': 'matplotlib-base', 'torch': 'pytorch'}
RELATIVE = re.compile(r'\]\((?!https?://|#|mailto:)[^)]*\)|(?:src|href)="(?!https?://|#)')


def read(name: str) -> Any:
    """Read a YAML file of the project."""
    return yaml.safe_load((ROOT / name).read_text(encoding='utf-8'))


def as_conda(requirement: str) -> str:
    """Return a requirement of pyproject.toml as a recipe spells it."""
    match = re.match(r'([A-Za-z0-9_.-]+)\s*([^;]*)', requirement)
    assert match is not None
    return f'{CONDA_NAMES.get(match[1], match[1])} {match[2].strip()}'


@pytest.fixture(scope='module')
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the source archive, and the wheel from it, as `python -m build` does."""
    for module in ('build', 'hatchling', 'hatch_fancy_pypi_readme', 'twine'):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; pip install 'ptychopinn-plugin[package]'")
    target = tmp_path_factory.mktemp('dist')
    run('build', '--no-isolation', '--outdir', str(target), str(ROOT))
    return next(target.glob('*.whl')), next(target.glob('*.tar.gz'))


def run(module: str, *words: str) -> None:
    """Run a module of this Python."""
    child = subprocess.run(
        [sys.executable, '-m', module, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stdout + child.stderr


def test_the_page_of_a_package_index_has_no_relative_link(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[0]) as wheel:
        name = next(one for one in wheel.namelist() if one.endswith('.dist-info/METADATA'))
        page = wheel.read(name).decode()
    assert RELATIVE.findall(page) == []
    # The README itself keeps them, for the page of the repository.
    assert RELATIVE.findall((ROOT / 'README.md').read_text(encoding='utf-8'))
    raw = f'https://raw.githubusercontent.com/ptychopinn-plugin/ptychopinn-plugin/v{VERSION}/'
    assert f'({raw}docs/images/demo.png)' in page
    run('twine', 'check', '--strict', *map(str, archives))


def test_the_wheel_carries_the_guide_with_all_its_pictures(archives: tuple[Path, Path]) -> None:
    pages = 'ptychopinn_plugin/host/pages/'
    with zipfile.ZipFile(archives[0]) as wheel:
        names = set(wheel.namelist())
        page = wheel.read(f'{pages}ptychodus.md').decode()
    pictures = re.findall(r'!\[[^\]]*\]\(([^)]+)\)', page)
    assert len(pictures) == 6
    assert {f'{pages}{picture}' for picture in pictures} <= names


def test_the_source_archive_can_be_tested_documented_and_packaged(
    archives: tuple[Path, Path],
) -> None:
    with tarfile.open(archives[1]) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    for name in (
        'tests/conftest.py',
        'docs/conf.py',
        'docs/images/demo.png',
        'examples/own_scan.py',
        'benchmarks/quality.py',
        'requirements/constraints.txt',
        'recipe/recipe.yaml',
        'run-tests',
        'run-demo',
        'tox.ini',
        'CITATION.cff',
        'LICENSE',
    ):
        assert name in names
    left = [one for one in names if re.search(r'__pycache__|\.venv|_build|demo-output', one)]
    assert left == []


def test_the_wheel_holds_the_package_and_the_bridge_alone(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[0]) as wheel:
        tops = {name.partition('/')[0] for name in wheel.namelist()}
        assert 'ptychodus/plugins/ptychopinn_plugin_bridge.py' in wheel.namelist()
    assert tops == {'ptychopinn_plugin', 'ptychodus', f'ptychopinn_plugin-{VERSION}.dist-info'}


def test_the_recipe_asks_for_what_pyproject_asks_for() -> None:
    recipe = read('recipe/recipe.yaml')
    assert recipe['context']['version'] == VERSION
    python, *run_time = recipe['requirements']['run']
    assert python == 'python >=${{ python_min }}'
    assert PROJECT['requires-python'] == f'>={recipe["context"]["python_min"]}'
    assert run_time == [as_conda(one) for one in PROJECT['dependencies']]
    frameworks = [
        as_conda(one)
        for extra in ('pytorch', 'tensorflow')
        for one in PROJECT['optional-dependencies'][extra]
    ]
    assert recipe['requirements']['run_constraints'] == frameworks
    build = tomllib.loads((ROOT / 'pyproject.toml').read_text())['build-system']['requires']
    assert recipe['requirements']['host'][2:] == [as_conda(one) for one in build]
    scripts = [f'{name} = {place}' for name, place in PROJECT['scripts'].items()]
    assert recipe['build']['python']['entry_points'] == scripts
    # Those of the repository, as conda-forge wants at least one.
    owner = PROJECT['urls']['Source'].split('/')[-2]
    assert recipe['extra']['recipe-maintainers'] == [owner]


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = read('CITATION.cff')
    assert str(citation['version']) == VERSION
    assert citation['license'] == PROJECT['license']
    assert citation['repository-code'] == PROJECT['urls']['Source']
    doi = citation['references'][0]['doi']
    assert f'https://doi.org/{doi}' in (ROOT / 'README.md').read_text(encoding='utf-8')


def test_the_classifiers_name_the_pythons_that_the_workflow_runs() -> None:
    jobs = read('.github/workflows/tests.yml')['jobs']
    pythons = jobs['tests']['strategy']['matrix']['python']
    named = [one.rpartition(' :: ')[2] for one in PROJECT['classifiers'] if ':: 3.' in one]
    assert named == pythons == jobs['demo']['strategy']['matrix']['python']


def test_the_pre_commit_hooks_run_the_tools_that_pyproject_names() -> None:
    hooks = read('.pre-commit-config.yaml')['repos'][0]['hooks']
    assert {hook['language'] for hook in hooks} == {'system'}
    commands = {hook['entry'].split()[0] for hook in hooks}
    assert commands == {'ruff', 'mypy', 'lint-imports'}
    extras = PROJECT['optional-dependencies']
    named = {re.split(r'[^a-z-]', one)[0] for one in extras['lint'] + extras['types']}
    assert named == {'ruff', 'mypy', 'import-linter'}
