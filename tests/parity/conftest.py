"""One backend at a time, or both."""

from typing import Any

import numpy as np
import pytest
from parity.frameworks import FRAMEWORKS, Framework, is_installed, load

from ptychopinn_plugin.data import Scan, fit_to_size
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate


@pytest.fixture(scope='session', params=FRAMEWORKS)
def fw(request: pytest.FixtureRequest) -> Framework:
    """Return a backend's parts."""
    if not is_installed(request.param):
        pytest.skip(f'{FRAMEWORKS[request.param]} is not installed.')
    return load(request.param)


@pytest.fixture(scope='session')
def both() -> tuple[Framework, Framework]:
    """Return PyTorch's and TensorFlow's parts."""
    for name, framework in FRAMEWORKS.items():
        if not is_installed(name):
            pytest.skip(f'Compares two backends; {framework} is not installed.')
    return load('pytorch'), load('tensorflow')


@pytest.fixture(scope='module', params=['one mode', 'modes and mask', 'padded'])
def scan(request: pytest.FixtureRequest) -> Scan:
    """Return a scan between pixels; with modes and dead pixels, and one with an odd side."""
    plain = request.param == 'one mode'
    scan = simulate(
        SimulationConfig(
            size=32,
            pupil_radius=0.12,
            defocus=100.0,
            rows=3,
            columns=5,
            step_px=4.0,
            n_modes=1 if plain else 3,
            dead_pixels=0 if plain else 12,
        )
    )
    return fit_to_size(scan, 37) if request.param == 'padded' else scan


@pytest.fixture
def forward(fw: Framework, scan: Scan) -> Any:
    """Return the scan's forward model."""
    return fw.build_forward(scan)


@pytest.fixture
def everyone(fw: Framework, forward: Any) -> Any:
    """Return the indices of all positions."""
    return fw.indices(np.arange(len(forward)))
