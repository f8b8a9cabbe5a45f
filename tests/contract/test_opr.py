"""Probes that wobble: described by eigenmodes, against the truth, and written for Ptychodus."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.cli import app
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import (
    Reconstruction,
    Scan,
    read_reconstruction,
    write_product,
    write_reconstruction,
    write_scan,
)
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.simulation import (
    SimulationConfig,
    simulate,
    wobble_amounts,
    wobbling_probe,
)
from ptychopinn_plugin.evaluation import evaluate
from ptychopinn_plugin.physics import poisson_loss, predict_patterns

STEADY = SimulationConfig(
    size=32, rows=14, columns=14, step_px=3.0, pupil_radius=0.12, defocus=100.0, seed=1
)
WOBBLE = 0.15
WOBBLING = STEADY.replace(probe_wobble=WOBBLE)
SETTINGS = RefinementConfig(iterations=30)


@pytest.fixture(scope='module')
def wobbling() -> Scan:
    return simulate(WOBBLING)


@pytest.fixture(scope='module')
def relaxed(make_backend: Callable[[], Backend], wobbling: Scan) -> Reconstruction:
    return make_backend().refine(wobbling, SETTINGS.replace(opr_modes=2), device='cpu')


def true_probes(scan: Scan) -> np.ndarray:
    amounts = wobble_amounts(WOBBLING, len(scan))
    return np.asarray(wobbling_probe(scan.probe, WOBBLE, amounts)[:, 0])


def distance(probes: np.ndarray, true: np.ndarray) -> float:
    """Return how far probes are from others, whatever the phase of each and the scale of all."""
    overlaps = (probes.conj() * true).sum(axis=(1, 2))
    probes = probes * (overlaps / np.abs(overlaps))[:, None, None]
    probes = probes * (np.linalg.norm(true) / np.linalg.norm(probes))
    return float(np.linalg.norm(probes - true) / np.linalg.norm(true))


def test_a_probe_that_wobbles_costs_less_where_it_is_relaxed(
    make_backend: Callable[[], Backend], wobbling: Scan, relaxed: Reconstruction
) -> None:
    plain = make_backend().refine(wobbling, SETTINGS, device='cpu')
    spoilt, mended = evaluate(plain, wobbling), evaluate(relaxed, wobbling)
    assert mended.phase.ssim > spoilt.phase.ssim + 0.03
    assert relaxed.likelihoods[-1] < 0.85 * plain.likelihoods[-1]
    assert plain.probe_variation is None
    variation = relaxed.probe_variation
    assert variation is not None
    true = true_probes(wobbling)
    steady = np.repeat(relaxed.probe, len(true), axis=0)
    assert distance(variation.probes(relaxed.probe)[:, 0], true) < 0.6 * distance(steady, true)


def test_eigenmodes_are_orthogonal_and_energy_stays(
    wobbling: Scan, relaxed: Reconstruction
) -> None:
    variation, probe = relaxed.probe_variation, relaxed.probe[0].astype(complex)
    assert variation is not None
    energy = float((np.abs(probe) ** 2).sum())
    basis = np.stack([probe, *variation.eigenmodes.astype(complex)]).reshape(3, -1)
    np.testing.assert_allclose(
        (basis.conj() @ basis.T).real, energy * np.eye(3), atol=1e-3 * energy
    )
    np.testing.assert_allclose(variation.energies(relaxed.probe), energy, rtol=1e-3)
    spreads = variation.weights[:, 1:].std(axis=0)
    assert spreads[0] > spreads[1] > 0.03
    assert energy == pytest.approx(wobbling.mean_counts(), rel=1e-3)


def test_a_steady_probe_is_not_worse_for_it(make_backend: Callable[[], Backend]) -> None:
    scan = simulate(STEADY)
    plain = make_backend().refine(scan, SETTINGS, device='cpu')
    relaxed = make_backend().refine(scan, SETTINGS.replace(opr_modes=2), device='cpu')
    assert evaluate(relaxed, scan).phase.ssim > evaluate(plain, scan).phase.ssim - 0.01
    assert evaluate(relaxed, scan).amplitude.ssim > evaluate(plain, scan).amplitude.ssim - 0.01
    if relaxed.probe_variation is not None:
        assert relaxed.probe_variation.rms(relaxed.probe) < 0.04


def loss_of(scan: Scan, found: Reconstruction) -> float:
    """Return the loss of a reconstruction, by NumPy alone."""
    assert scan.bad_pixels is not None
    variation = found.probe_variation
    assert variation is not None
    probes = variation.probes(found.probe).astype(complex)
    object_ = np.pad(found.object_.astype(complex), 2, constant_values=1)
    expected = predict_patterns(object_, found.origin_px - 2, found.positions_px, probes)
    return poisson_loss(expected, scan.patterns, ~scan.bad_pixels)


def test_written_products_explain_the_patterns_as_the_run_did(
    wobbling: Scan, relaxed: Reconstruction, tmp_path: Path
) -> None:
    geometry = dataclasses.replace(
        wobbling.geometry, pixel_height_m=1e-8, pixel_width_m=1e-8, photon_energy_eV=1e4
    )
    relaxed = dataclasses.replace(relaxed, geometry=geometry)
    write_product(tmp_path / 'product.h5', relaxed)
    write_reconstruction(tmp_path / 'reconstruction.npz', relaxed)
    of_run = loss_of(wobbling, relaxed)
    for name in ('product.h5', 'reconstruction.npz'):
        found = read_reconstruction(tmp_path / name)
        assert loss_of(wobbling, found) == pytest.approx(of_run, rel=1e-4)
    # A run that continues from the product begins where this one ended.
    assert of_run == pytest.approx(relaxed.likelihoods[-1], rel=0.05)


def test_a_given_variation_is_used_and_kept(
    make_backend: Callable[[], Backend], wobbling: Scan
) -> None:
    """Weights of any scale, as the counts give the energy; intensities go on top of them."""
    probe = wobbling.probe[0].astype(complex)
    true = true_probes(wobbling)
    ahead = (true.conj() * probe).sum(axis=(1, 2))
    true = true * (ahead / np.abs(ahead))[:, None, None]
    main = (true * probe.conj()).sum(axis=(1, 2)).real / (np.abs(probe) ** 2).sum()
    rest = (true - main[:, None, None] * probe).reshape(len(true), -1)
    _, vectors = np.linalg.eigh((rest @ rest.conj().T).real)
    images = vectors[:, -4:].T @ rest
    weights = np.column_stack([main, vectors[:, -4:]])
    shape = (4, *wobbling.pattern_shape)
    given = ProbeVariation(3 * images.reshape(shape), 0.7 * weights / [1, 3, 3, 3, 3])
    scan = dataclasses.replace(wobbling, probe_variation=given)
    found = make_backend().refine(scan, SETTINGS, device='cpu')
    plain = make_backend().refine(wobbling, SETTINGS, device='cpu')
    assert evaluate(found, scan).phase.ssim > evaluate(plain, scan).phase.ssim + 0.05
    assert found.probe_variation is not None
    assert distance(found.probe_variation.probes(found.probe)[:, 0], true) < 0.05
    # The energy of the mean pattern is that of the counts, whatever the weights are.
    energies = found.probe_variation.energies(found.probe)
    assert energies.mean() == pytest.approx(scan.mean_counts(), rel=1e-3)


def test_the_command_line_relaxes_the_probe(wobbling: Scan, tmp_path: Path) -> None:
    write_scan(tmp_path / 'scan.npz', wobbling)
    call = ['refine', str(tmp_path / 'scan.npz'), '-o', str(tmp_path / 'result')]
    options = ['--iterations', '20', '--opr-modes', '2', '--device', 'cpu']
    found = CliRunner().invoke(app, [*call, *options])
    assert found.exit_code == 0, found.output
    assert 'of its amplitude from pattern to pattern, in 2 eigenmodes' in found.output
    metrics = json.loads((tmp_path / 'result' / 'metrics.json').read_text(encoding='utf-8'))
    assert metrics['probe_variation']['eigenmodes'] == 2
    assert 0.02 < metrics['probe_variation']['rms'] < 0.3
    with np.load(tmp_path / 'result' / 'reconstruction.npz') as archive:
        assert archive['probe_eigenmodes'].shape == (2, 32, 32)
        assert archive['opr_weights'].shape == (196, 3)
