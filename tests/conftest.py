"""What all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """Return the folder of experimental scans, which are not part of the project."""
    default = Path(__file__).parents[2] / 'shared' / 'data'
    folder = Path(os.environ.get('PTYCHOPINN_TEST_DATA', default))
    if not (folder / 'xray_siemens_128.npz').is_file():
        pytest.skip('No experimental scans here; set PTYCHOPINN_TEST_DATA to their folder.')
    return folder
