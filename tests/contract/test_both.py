"""Both frameworks in one environment: in one process, or one without the other."""

import subprocess
import sys
from pathlib import Path

import pytest

from ptychopinn_plugin.backends.selection import find_backends

pytestmark = pytest.mark.skipif(
    any(find_backends()[name].problem() for name in ('pytorch', 'tensorflow')),
    reason='Needs both frameworks.',
)

SCAN = Path(__file__).parents[1] / 'fixtures' / 'minimal_scan.npz'

RUN = """
import os, sys
os.environ['KERAS_BACKEND'] = 'torch'   # A user's choice, which is not TensorFlow's.
from ptychopinn_plugin import api
from ptychopinn_plugin.config import Config, RefinementConfig

scan = api.load_scan(sys.argv[1])
config = Config.from_dict({
    'training': {'epochs': 1, 'target': 'none', 'device': 'cpu'},
    'model': {'filters_scale': 0.25, 'passes': 1},
})
for name in sys.argv[2:]:
    trained = api.train(scan, config, backend=name)
    found = api.reconstruct(trained.model, scan, refinement=RefinementConfig(iterations=2))
    assert found.backend == name
    loaded = ' '.join(name for name in ('torch', 'tensorflow') if name in sys.modules)
    for stream in (sys.stdout, sys.stderr):
        print(f'{name} is done: {loaded}', file=stream, flush=True)
"""


def run(*names: str) -> subprocess.CompletedProcess[str]:
    """Train and reconstruct in a fresh process, with one backend after the other."""
    child = subprocess.run(
        [sys.executable, '-W', 'error', '-c', RUN, str(SCAN), *names],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    return child


@pytest.mark.parametrize(
    ('first', 'framework', 'second'),
    [('pytorch', 'torch', 'tensorflow'), ('tensorflow', 'tensorflow', 'pytorch')],
)
def test_both_in_one_process_in_either_order(first: str, framework: str, second: str) -> None:
    """The first alone loads one framework; neither prints anything by itself."""
    child = run(first, second)
    reported = [f'{first} is done: {framework}', f'{second} is done: torch tensorflow']
    assert child.stdout.splitlines() == reported
    # Frameworks print lines about processors and missing GPUs; that is left to `doctor`.
    assert child.stderr.splitlines() == reported


@pytest.mark.parametrize('first', ['import tensorflow', 'import torch, tensorflow'])
def test_a_user_may_have_loaded_them_before(first: str) -> None:
    """Triton, which CUDA builds of PyTorch bring, must not be loaded after TensorFlow."""
    child = subprocess.run(
        [sys.executable, '-c', f'{first}\n{RUN}', str(SCAN), 'tensorflow', 'pytorch'],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
