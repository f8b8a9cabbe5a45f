"""Run Ptychodus' own tests without this plugin and with it: the same tests must pass.

For a virtual environment that has Ptychodus and pytest; the plugin is removed from it and
installed again. ``tox -e upstream`` makes one.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, '-m', 'pip']


def main() -> int:
    """Compare the two runs; 0 if no test ends otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--patch', type=Path, help='a patch to apply to Ptychodus for both runs')
    options = parser.parse_args()
    if sys.prefix == sys.base_prefix:
        print('This changes what is installed: run it in a virtual environment (tox -e upstream).')
        return 2
    with tempfile.TemporaryDirectory() as folder:
        source = fetch(Path(folder), version('ptychodus'))
        # The sources stand in for the installed package where they are patched.
        paths = patch(source, options.patch) if options.patch is not None else []
        subprocess.run([*PIP, 'uninstall', '-q', '-y', 'ptychopinn-plugin'], check=True)
        without = run_suite(source, 'without the plugin', paths)
        subprocess.run([*PIP, 'install', '-q', str(ROOT)], check=True)
        with_plugin = run_suite(source, 'with the plugin', paths)
    return report(without, with_plugin)


def fetch(folder: Path, release: str) -> Path:
    """Download and unpack the sources of a release, which hold its tests."""
    download = ['download', '-q', '--no-deps', '--no-binary', 'ptychodus', '-d', str(folder)]
    subprocess.run([*PIP, *download, f'ptychodus=={release}'], check=True)
    (archive,) = folder.glob('*.tar.gz')
    with tarfile.open(archive) as file:
        file.extractall(folder, filter='data')
    return folder / archive.name.removesuffix('.tar.gz')


def patch(source: Path, file: Path) -> list[Path]:
    """Patch the sources, and return the folder from which they are imported."""
    environment = {**os.environ, 'GIT_CEILING_DIRECTORIES': str(source.parent)}
    command = ['git', 'apply', str(file.resolve())]
    subprocess.run(command, cwd=source, env=environment, check=True)
    stub = ROOT / 'ptychopinn_plugin/host/stub/ptychopinn_plugin_bridge.py'
    (source / 'src/ptychodus/plugins' / stub.name).write_bytes(stub.read_bytes())
    return [source / 'src']


def run_suite(source: Path, name: str, paths: list[Path]) -> dict[str, str]:
    """Return how each test of the suite ended."""
    print(f'Ptychodus {version("ptychodus")}, {name} ...', flush=True)
    results = source / 'results.xml'
    # Its tests of the store need a server's packages, and have nothing to do with plugins.
    command = [sys.executable, '-m', 'pytest', '-q', '--tb=short', '--ignore=tests/ptychodus_store']
    subprocess.run(
        [*command, '-p', 'no:cacheprovider', f'--junitxml={results}', 'tests'],
        cwd=source,
        env={
            **os.environ,
            'QT_QPA_PLATFORM': 'offscreen',
            'PYTHONPATH': os.pathsep.join(map(str, paths)),
        },
        check=False,
    )
    ended = {}
    for case in ElementTree.parse(results).iter('testcase'):
        kinds = {child.tag for child in case} & {'failure', 'error', 'skipped'}
        key = f'{case.get("classname")}::{case.get("name")}'
        ended[key] = '+'.join(sorted(kinds)) or 'passed'
    return ended


def report(without: dict[str, str], with_plugin: dict[str, str]) -> int:
    """Say what differs."""
    for name, ended in (('without', without), ('with', with_plugin)):
        counts = ', '.join(f'{count} {how}' for how, count in Counter(ended.values()).items())
        print(f'{name} the plugin: {counts}')
    differing = [
        key for key in sorted({*without, *with_plugin}) if without.get(key) != with_plugin.get(key)
    ]
    for key in differing:
        print(f'{key}: {without.get(key)} without, {with_plugin.get(key)} with the plugin')
    is_empty = 'passed' not in without.values()
    print('the same' if not differing and not is_empty else 'NOT the same')
    return 1 if differing or is_empty else 0


if __name__ == '__main__':
    sys.exit(main())
