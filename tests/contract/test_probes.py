"""Probes that nobody knows, and modes that the iterations add."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from ptychopinn_plugin.backends.common import probe_search
from ptychopinn_plugin.backends.common.probe_gauge import level_object
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.data.starting_probe import root_mean_square_radius, starting_probe
from ptychopinn_plugin.physics import with_modes

MakeBackend = Callable[[], Backend]

TRUTH = {
    'size': 32,
    'rows': 6,
    'columns': 6,
    'step_px': 3.5,
    'pupil_radius': 0.12,
    'defocus': 150.0,
}


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate(SimulationConfig.from_dict(TRUTH))


def without_probe(scan: Scan) -> Scan:
    probe = starting_probe(scan.patterns, scan.bad_pixels)
    return dataclasses.replace(scan, probe=probe, probe_origin='patterns', object_=None)


def test_a_probe_is_found_from_nothing(
    make_backend: MakeBackend, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_search, 'PROBE_FINAL_ITERATIONS', 12)
    monkeypatch.setattr(probe_search, 'PATTERNS', 25)
    stages: list[Progress] = []
    iterations = RefinementConfig(iterations=15)
    found = make_backend().refine(
        without_probe(scan), iterations, device='cpu', observer=lambda p: stages.append(p)
    )
    known = make_backend().refine(scan, iterations.replace(probe=True), device='cpu')
    assert found.amplitude_residual < 1.1 * known.amplitude_residual
    # Nothing decides about a slope of the object's phase, which the light's direction is not.
    assert np.abs(level_object(found.object_, found.coverage).phase_slope).max() < 1e-4
    assert known.is_probe_known
    assert not found.is_probe_known
    truth, probe = scan.probe[0], found.probe[0]
    assert root_mean_square_radius(probe) == pytest.approx(root_mean_square_radius(truth), rel=0.1)
    # The same side of the focus: its mirror image correlates far less.
    norms = np.linalg.norm(truth) * np.linalg.norm(probe)
    far = [np.fft.fft2(each) for each in (truth, probe, probe.conj())]
    right, wrong = (np.abs(np.fft.ifft2(far[0].conj() * other)).max() for other in far[1:])
    assert right > 0.9 * norms
    assert wrong < 0.8 * norms
    search = [p for p in stages if p.stage == 'probe']
    assert 0 < search[0].step < search[-1].step <= search[-1].total
    assert stages[-1].stage == 'refine'


def test_stop_ends_the_search(make_backend: MakeBackend, scan: Scan) -> None:
    stages: list[str] = []

    def stop(progress: Progress) -> bool:
        stages.append(progress.stage)
        return len(stages) > 3

    found = make_backend().refine(
        without_probe(scan), RefinementConfig(iterations=20), device='cpu', observer=stop
    )
    assert set(stages) == {'probe'}
    assert len(stages) < 6
    assert np.isfinite(found.object_).all()


def test_added_modes_are_corrected(make_backend: MakeBackend) -> None:
    """Two modes explain what one does not; those that come out are orthogonal."""
    scan = simulate(
        SimulationConfig.from_dict({**TRUTH, 'n_modes': 2, 'mode_decay': 0.3, 'photons': 1e7})
    )
    iterations = RefinementConfig(iterations=20, probe=True)
    one = dataclasses.replace(scan, probe=scan.probe[:1], object_=None)
    two = dataclasses.replace(one, probe=with_modes(one.probe, 2), probe_origin='extended')
    alone = make_backend().refine(one, iterations, device='cpu')
    # The iterations correct them even where that was not requested.
    found = make_backend().refine(two, iterations.replace(probe=False), device='cpu')
    assert found.amplitude_residual < 0.7 * alone.amplitude_residual
    first, second = found.probe.reshape(2, -1)
    energies = np.linalg.norm(first) ** 2, np.linalg.norm(second) ** 2
    assert np.abs(np.vdot(first, second)) < 1e-3 * energies[0]
    assert energies[1] / sum(energies) > 0.06
