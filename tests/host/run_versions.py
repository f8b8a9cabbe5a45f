"""Run the tests of the host with several releases of Ptychodus, newest of each minor by default.

Each release is put, without what it depends on, into a folder that comes first on the path; the
environment gives the rest. ``tox -e hosts`` makes one. A release that is not supported must log
one line and start.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
STUB = HERE.parents[1] / 'ptychopinn_plugin/host/stub/ptychopinn_plugin_bridge.py'

VERSIONS = ['1.4.2', '1.5.1', '1.6.0', '1.7.0']
TESTS = ['test_versions.py', 'test_bridge.py', 'test_translation.py']
TOO_OLD = {'1.4.2'}


def main() -> int:
    """Run all, and print which releases failed; 0 if none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('versions', nargs='*', default=VERSIONS, help=f'default: {VERSIONS}')
    parser.add_argument('--tests', nargs='+', default=TESTS, help=f'default: {TESTS}')
    options = parser.parse_args()
    failed = []
    for version in options.versions:
        print(f'Ptychodus {version} ...', flush=True)
        with tempfile.TemporaryDirectory() as folder:
            put(version, Path(folder))
            tests = ['test_versions.py'] if version in TOO_OLD else options.tests
            if run_tests(Path(folder), tests) != 0:
                failed.append(version)
    print(f'failed: {", ".join(failed)}' if failed else f'passed: {", ".join(options.versions)}')
    return 1 if failed else 0


def put(version: str, folder: Path) -> None:
    """Install a release alone into a folder, with the module that our wheel adds to it."""
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(folder)]
    subprocess.run([*pip, f'ptychodus=={version}'], check=True)
    shutil.copy(STUB, folder / 'ptychodus' / 'plugins')


def run_tests(folder: Path, tests: list[str]) -> int:
    """Run pytest with the folder before all others."""
    paths = [str(folder), *filter(None, [os.environ.get('PYTHONPATH')])]
    command = [sys.executable, '-m', 'pytest', '-q', *(str(HERE / name) for name in tests)]
    return subprocess.run(
        command,
        cwd=HERE.parents[1],
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join(paths),
            'QT_QPA_PLATFORM': 'offscreen',
            'OMP_NUM_THREADS': '1',
        },
        check=False,
    ).returncode


if __name__ == '__main__':
    sys.exit(main())
