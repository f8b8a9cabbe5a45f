"""Install this package in several ways: each must make its algorithms appear in Ptychodus.

For a virtual environment that has Ptychodus and uv; the plugin is installed into it and removed
again. ``tox -e install`` makes one. No framework is needed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, '-m', 'pip']
UV = [sys.executable, '-m', 'uv', 'pip']
HERE = ['--python', sys.executable]

EXPECTED = ['ptychopinn-plugin_pinn', 'ptychopinn-plugin_supervised']

LIST = """
import json, sys
from ptychodus.model import ModelCore
parameter = ModelCore().processing_core.algorithm_parameter
names = [name for name in parameter.available_reconstructors() if 'plugin' in name]
sys.stdout.write('\\n' + json.dumps(names))
"""


def main() -> int:
    """Try each way; 0 if all work."""
    if sys.prefix == sys.base_prefix:
        print('This changes what is installed: run it in a virtual environment (tox -e install).')
        return 2
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder)
        subprocess.run([*PIP, 'wheel', '-q', '--no-deps', '-w', folder, str(ROOT)], check=True)
        (wheel,) = elsewhere.glob('ptychopinn_plugin-*.whl')
        ways = {
            'pip install, wheel': [*PIP, 'install', '-q', str(wheel)],
            'pip install --editable': [*PIP, 'install', '-q', '--editable', str(ROOT)],
            'uv pip install': [*UV, 'install', '-q', *HERE, str(ROOT)],
            'uv pip install --editable': [*UV, 'install', '-q', *HERE, '--editable', str(ROOT)],
        }
        remove(elsewhere)
        results = {way: is_added_by(command, elsewhere) for way, command in ways.items()}
    for way, is_good in results.items():
        print(f'{way}: {"both algorithms appear, and go" if is_good else "FAILED"}')
    return 0 if all(results.values()) else 1


def is_added_by(command: list[str], elsewhere: Path) -> bool:
    """Return whether an installation adds our algorithms, and its removal takes them away."""
    subprocess.run(command, check=True, cwd=elsewhere)
    there = algorithms(elsewhere)
    launcher = [str(Path(sys.executable).with_name('ptychodus-pinn')), '--version']
    launched = subprocess.run(launcher, cwd=elsewhere, check=False, stdout=subprocess.DEVNULL)
    remove(elsewhere)
    gone = algorithms(elsewhere)
    return there == EXPECTED and launched.returncode == 0 and gone == []


def remove(elsewhere: Path) -> None:
    """Remove the plugin, if it is there."""
    subprocess.run([*PIP, 'uninstall', '-q', '-y', 'ptychopinn-plugin'], cwd=elsewhere, check=True)


def algorithms(elsewhere: Path) -> list[str]:
    """Return our algorithms that a stock Ptychodus offers; not from the sources' own folder."""
    command = [sys.executable, '-c', LIST]
    run = subprocess.run(command, cwd=elsewhere, check=True, capture_output=True, text=True)
    return list(json.loads(run.stdout.splitlines()[-1]))


if __name__ == '__main__':
    sys.exit(main())
