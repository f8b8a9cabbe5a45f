"""Importing the package and reading the help must not import a framework: in fresh processes."""

import subprocess
import sys

import pytest

HEAVY = {'keras', 'matplotlib', 'ptychodus', 'PyQt5', 'tensorflow', 'torch'}


REPORT = """
import sys
sys.stdout.write('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))
"""


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh Python holds after `code`."""
    child = subprocess.run(
        [sys.executable, '-c', code + REPORT],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    return set(child.stdout.splitlines()[-1].split())


RUN = """
import sys
from ptychopinn_plugin.cli import main
sys.argv = ['ptychopinn', *{arguments}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_package_alone_imports_next_to_nothing() -> None:
    loaded = modules_after('import ptychopinn_plugin')
    assert 'ptychopinn_plugin' in loaded
    assert not loaded & (HEAVY | {'numpy', 'scipy', 'h5py'})


@pytest.mark.parametrize(
    'code',
    [
        'from ptychopinn_plugin import *',
        'from ptychopinn_plugin.backends.selection import choose, find_backends; find_backends()',
        'import ptychopinn_plugin.backends.pytorch',
        'import ptychopinn_plugin.backends.tensorflow',
        'import ptychopinn_plugin.backends.common.backend',
        'import ptychopinn_plugin.metrics, ptychopinn_plugin.phase_synchronization',
        RUN.format(arguments=['--help']),
        RUN.format(arguments=['train', '--help']),
        RUN.format(arguments=['doctor', '--help']),
    ],
)
def test_no_framework_is_imported(code: str) -> None:
    assert not modules_after(code) & HEAVY
