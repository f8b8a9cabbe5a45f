"""What all tests share."""

import os
from pathlib import Path

import pytest

pytest_plugins = ['environments']

# Before any framework starts: its threads wait for each other where other programs need the cores,
# and what the tests compute is too small to be shared.
os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.fixture
def real_data() -> Path:
    """Return the folder of experimental scans, which are not part of the project."""
    default = Path(__file__).parents[2] / 'shared' / 'data'
    folder = Path(os.environ.get('PTYCHOPINN_TEST_DATA', default))
    if not (folder / 'xray_siemens_128.npz').is_file():
        pytest.skip('No experimental scans here; set PTYCHOPINN_TEST_DATA to their folder.')
    return folder
