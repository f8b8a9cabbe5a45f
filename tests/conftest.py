"""What all tests share."""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest_plugins = ['environments']

# Before any framework starts: its threads wait for each other where other programs need the cores,
# and what the tests compute is too small to be shared.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# Neither this process nor one that it starts reaches a network.
NO_NETWORK = Path(__file__).parent / 'no_network'
NETWORK_LOG = Path(tempfile.mkdtemp(prefix='network-')) / 'log'
os.environ['PTYCHOPINN_NETWORK_LOG'] = str(NETWORK_LOG)
os.environ['PYTHONPATH'] = os.pathsep.join(
    part for part in (str(NO_NETWORK), os.environ.get('PYTHONPATH')) if part
)
runpy.run_path(str(NO_NETWORK / 'sitecustomize.py'))


@pytest.fixture(autouse=True)
def no_network() -> Iterator[Path]:
    """Fail a test that tries to reach a network, whatever becomes of the attempt."""
    yield NETWORK_LOG
    attempts = NETWORK_LOG.read_text(encoding='utf-8') if NETWORK_LOG.exists() else ''
    NETWORK_LOG.unlink(missing_ok=True)
    assert not attempts, f'A test reached for the network: {attempts}'


@pytest.fixture
def real_data() -> Path:
    """Return the folder of experimental scans, which are not part of the project."""
    default = Path(__file__).parents[2] / 'shared' / 'data'
    folder = Path(os.environ.get('PTYCHOPINN_TEST_DATA', default))
    if not (folder / 'xray_siemens_128.npz').is_file():
        pytest.skip('No experimental scans here; set PTYCHOPINN_TEST_DATA to their folder.')
    return folder


@pytest.fixture(scope='session')
def write_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes scans with a fault that people report, and gives their folder.

    What writes them is not part of the project; `base.npz` beside it holds the true object.
    """
    default = Path(__file__).parents[2] / 'shared' / 'cases'
    script = Path(os.environ.get('PTYCHOPINN_TEST_CASES', default)) / 'make_cases.py'

    def write(name: str) -> Path:
        if not script.is_file():
            pytest.skip('No reported cases here; set PTYCHOPINN_TEST_CASES to their folder.')
        folder = tmp_path_factory.getbasetemp() / 'cases'
        if not (folder / name).is_dir():
            command = [sys.executable, str(script), str(folder), name]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            shutil.copy(script.with_name('base.npz'), folder)
        return folder / name

    return write


@pytest.fixture
def damage_training_state() -> Callable[[Path], None]:
    """Return a function that spoils what only `train --resume` needs of a model file."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members['training_state.h5'] = members['training_state.h5'][:-1]
        with zipfile.ZipFile(path, 'w') as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return damage
