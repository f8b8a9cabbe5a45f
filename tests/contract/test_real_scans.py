"""Experimental scans: what a few epochs must already give."""

from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.config import Config, RefinementConfig, TrainingConfig
from ptychopinn_plugin.data import Scan, load_scan


@pytest.fixture(autouse=True)
def chosen(monkeypatch: pytest.MonkeyPatch, backend_name: str) -> None:
    """Let the backend under test be the one that is chosen."""
    monkeypatch.setenv('PTYCHOPINN_BACKEND', backend_name)


def few_epochs(**changes: object) -> Config:
    settings = {'epochs': 2, 'target_iterations': 15, 'device': 'cpu', **changes}
    return Config(training=TrainingConfig.from_dict(settings))


def middle(scan: Scan, count: int) -> Scan:
    """Return the positions nearest to the middle of a scan."""
    distance = ((scan.positions_px - np.median(scan.positions_px, axis=0)) ** 2).sum(axis=1)
    return scan.subset(np.sort(np.argsort(distance, kind='stable')[:count]))


def test_electron_scan_fits_better_than_an_empty_object(real_data: Path) -> None:
    scan = middle(load_scan(real_data / 'electron_64_a.npz'), 160)
    trained = api.train(scan, few_epochs())
    empty = api.refine(scan, RefinementConfig(iterations=0))
    result = api.reconstruct(trained.model, scan, refinement=RefinementConfig(iterations=10))
    assert result.amplitude_residual < empty.amplitude_residual


@pytest.mark.slow
def test_siemens_star_with_a_corrected_probe(real_data: Path) -> None:
    scan = middle(load_scan(real_data / 'xray_siemens_128.npz'), 64)
    trained = api.train(scan, few_epochs(probe_trainable=True))
    as_given = api.refine(scan, RefinementConfig(iterations=15))
    result = api.reconstruct(
        trained.model, scan, refinement=RefinementConfig(iterations=15, probe=True)
    )
    # The probe in the file is a guess: correcting it is worth a factor.
    assert result.amplitude_residual < 0.5 * as_given.amplitude_residual


@pytest.mark.parametrize('name', ['electron_64_a', 'xray_siemens_128'])
def test_probes_that_are_guesses_are_told(
    real_data: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    scan = middle(load_scan(real_data / f'{name}.npz'), 64)
    api.refine(scan, RefinementConfig(iterations=10))
    assert '--refine-probe' in caplog.text
