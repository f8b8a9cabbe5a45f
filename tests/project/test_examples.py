"""The examples as a reader would start them, with small scans."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / 'examples'
# Ptychodus would import Pty-Chi, which takes longer than the example.
WITHOUT_PTYCHI = Path(__file__).parents[1] / 'fixtures' / 'without_ptychi'
FRAMEWORK = next(
    (name for name in ('torch', 'tensorflow') if importlib.util.find_spec(name) is not None), None
)

# Epochs end a training, as the speed of the machine shall not decide what is tested.
BRIEF = ('--epochs', '3')

pytestmark = pytest.mark.skipif(FRAMEWORK is None, reason='the examples need a framework')


def run(name: str, output: Path, *options: str) -> str:
    """Run an example and return what it prints."""
    paths = [str(WITHOUT_PTYCHI), os.environ.get('PYTHONPATH')]
    child = subprocess.run(
        [sys.executable, str(EXAMPLES / name), '--output', str(output), '--side', '8', *options],
        cwd=output,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


def test_train_and_reconstruct(tmp_path: Path) -> None:
    printed = run('train_and_reconstruct.py', tmp_path, *BRIEF, '--max-minutes', '30')
    assert 'epoch 1: loss ' in printed
    assert float(printed.split()[-1]) > 0.3
    assert {path.name for path in tmp_path.iterdir()} == {
        'losses.png',
        'object.png',
        'reconstruction.npz',
        'wts.h5.zip',
    }


def test_own_scan(tmp_path: Path) -> None:
    printed = run('own_scan.py', tmp_path)
    # Photon noise alone leaves a quarter of a count in each pixel that is lit.
    assert float(printed.split()[-1]) < 0.003
    with np.load(tmp_path / 'reconstruction.npz') as arrays:
        assert np.isfinite(arrays['object']).all()
    assert (tmp_path / 'object.png').stat().st_size > 10_000


def test_ptychodus_batch(tmp_path: Path) -> None:
    pytest.importorskip('ptychodus.api')
    printed = run('ptychodus_batch.py', tmp_path, *BRIEF)
    assert 'product.' in printed.splitlines()[-1]
    assert 'will reconstruct at the wrong scale' not in printed
    assert (tmp_path / 'trained' / 'model.zip').is_file()


@pytest.mark.parametrize('path', sorted(EXAMPLES.glob('*.py')), ids=lambda path: path.name)
def test_examples_are_short_and_on_their_page(path: Path) -> None:
    page = (EXAMPLES.parent / 'docs' / 'examples.md').read_text(encoding='utf-8')
    assert f'{{literalinclude}} ../examples/{path.name}' in page
    assert len(path.read_text(encoding='utf-8').splitlines()) <= 60
