"""Beams that drift or flicker: reported, and taken into account, against the truth."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.cli import app
from ptychopinn_plugin.config import Config, RefinementConfig
from ptychopinn_plugin.data import (
    Reconstruction,
    Scan,
    read_reconstruction,
    write_product,
    write_reconstruction,
    write_scan,
)
from ptychopinn_plugin.data.simulation import SimulationConfig, beam_intensities, simulate
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.evaluation import evaluate

STEADY = SimulationConfig(
    size=32, rows=12, columns=12, step_px=3.0, pupil_radius=0.12, defocus=100.0, seed=4
)
DRIFTING = STEADY.replace(beam_drift=0.5, beam_flicker=0.03)
SETTINGS = RefinementConfig(iterations=40)


@pytest.fixture(scope='module')
def drifting() -> Scan:
    return simulate(DRIFTING)


@pytest.fixture(scope='module')
def corrected(make_backend: Callable[[], Backend], drifting: Scan) -> Reconstruction:
    return make_backend().refine(drifting, SETTINGS.replace(intensities=True), device='cpu')


def test_a_drifting_beam_costs_nothing_where_it_is_refined(
    make_backend: Callable[[], Backend],
    drifting: Scan,
    corrected: Reconstruction,
    caplog: pytest.LogCaptureFixture,
) -> None:
    steady = simulate(STEADY)
    best = evaluate(make_backend().refine(steady, SETTINGS, device='cpu'), steady)
    assert not caplog.records
    plain = make_backend().refine(drifting, SETTINGS, device='cpu')
    reported = [record.message for record in caplog.records]
    assert len(reported) == 1
    assert "the beam's intensity seems to vary" in reported[0]
    assert '--refine-intensities (refinement.intensities)' in reported[0]
    assert plain.beam_variation is not None
    assert 0.05 < plain.beam_variation < 0.15
    spoilt, mended = evaluate(plain, drifting), evaluate(corrected, drifting)
    assert spoilt.phase.ssim < best.phase.ssim - 0.15
    assert mended.phase.ssim > best.phase.ssim - 0.05
    assert mended.amplitude.ssim > best.amplitude.ssim - 0.03
    assert corrected.likelihoods == sorted(corrected.likelihoods, reverse=True)
    assert corrected.beam_variation is None


def test_the_intensities_are_the_true_ones(corrected: Reconstruction) -> None:
    true = beam_intensities(DRIFTING, 144)
    assert np.std(np.log(true)) > 0.1
    assert corrected.intensities is not None
    assert np.std(np.log(corrected.intensities / true)) < 0.02


def test_a_steady_beam_stays_steady(
    make_backend: Callable[[], Backend], caplog: pytest.LogCaptureFixture
) -> None:
    found = make_backend().refine(
        simulate(STEADY), SETTINGS.replace(intensities=True), device='cpu'
    )
    assert found.intensities is not None
    assert np.std(np.log(found.intensities)) < 0.015
    assert not caplog.records


def test_patterns_alone_have_no_beams_of_their_own(
    make_backend: Callable[[], Backend], caplog: pytest.LogCaptureFixture
) -> None:
    apart = STEADY.replace(rows=2, columns=3, step_px=40.0)
    scan = dataclasses.replace(simulate(apart), is_single_shot=True)
    for probe in (False, True):
        settings = RefinementConfig(iterations=6, intensities=True, probe=probe)
        found = make_backend().refine(scan, settings, device='cpu')
        np.testing.assert_array_equal(found.intensities, 1)
        assert 'only patterns that overlap' in caplog.text
        caplog.clear()


def test_a_refined_probe_leaves_no_ramp_in_the_phase(make_backend: Callable[[], Backend]) -> None:
    """Probe and object exchange a ramp that nobody measures; the probe's light stays straight."""
    scan = simulate(STEADY)
    plain = evaluate(make_backend().refine(scan, SETTINGS, device='cpu'), scan)
    found = make_backend().refine(scan, SETTINGS.replace(probe=True), device='cpu')
    assert evaluate(found, scan).phase.ssim > plain.phase.ssim - 0.03
    across = [
        np.angle((wave * np.roll(wave, 1, axis).conj()).sum())
        for wave in (found.probe, scan.probe)
        for axis in (-2, -1)
    ]
    np.testing.assert_allclose(across[:2], across[2:], atol=1e-4)
    # What was exchanged fits the counts as well as before.
    assert found.misfit is not None
    assert found.misfit.over_noise is not None
    assert found.misfit.over_noise < 1.1


def test_probe_and_beams_together(make_backend: Callable[[], Backend], drifting: Scan) -> None:
    """A probe with a slope would make up for a drift; the one that came has none."""
    settings = SETTINGS.replace(intensities=True, probe=True)
    found = make_backend().refine(drifting, settings, device='cpu')
    true = beam_intensities(DRIFTING, 144)
    assert found.intensities is not None
    assert np.std(np.log(found.intensities / true)) < 0.04


def test_the_target_of_training_finds_them_or_names_the_beam(
    make_backend: Callable[[], Backend],
    drifting: Scan,
    brief: Callable[..., Config],
    caplog: pytest.LogCaptureFixture,
) -> None:
    target, training, logged = {}, {}, {}
    for refines in (False, True):
        caplog.clear()
        seen: list[float] = []
        config = brief(epochs=1, target_iterations=40, target_intensities=refines)
        result = make_backend().train(
            [drifting],
            config,
            observer=lambda progress, seen=seen: (
                seen.append(progress.losses['poisson']) if progress.stage == 'target' else None
            ),
        )
        target[refines], training[refines] = seen[-1], result.history[-1]['poisson']
        logged[refines] = caplog.text
    assert target[True] < 0.9 * target[False]
    assert training[True] < training[False]
    assert "the beam's intensity seems to vary" in logged[False]
    assert '--refine-intensities (training.target_intensities)' in logged[False]
    assert 'intensit' not in logged[True]


def test_no_target_refines_no_intensities(
    make_backend: Callable[[], Backend], drifting: Scan, brief: Callable[..., Config]
) -> None:
    for what in ('positions', 'intensities'):
        config = brief(target='none', **{f'target_{what}': True})
        with pytest.raises(
            ConfigError, match=rf'--refine-{what}\) refines {what} while the target'
        ):
            make_backend().train([drifting], config)


def test_every_file_has_them(corrected: Reconstruction, tmp_path: Path) -> None:
    write_reconstruction(tmp_path / 'reconstruction.npz', corrected)
    again = read_reconstruction(tmp_path / 'reconstruction.npz')
    np.testing.assert_array_equal(again.intensities, corrected.intensities)
    write_product(tmp_path / 'product.h5', corrected)
    with h5py.File(tmp_path / 'product.h5') as file:
        weights = file['opr_weights'][()]
        assert weights.shape == (144, 1)
        np.testing.assert_allclose(weights[:, 0] ** 2, corrected.intensities)


def test_the_command_line_tells_of_them(drifting: Scan, tmp_path: Path) -> None:
    write_scan(tmp_path / 'scan.npz', drifting)
    call = ['refine', str(tmp_path / 'scan.npz'), '-o', str(tmp_path / 'out'), '--iterations', '20']
    reported = CliRunner().invoke(app, call)
    assert reported.exit_code == 0
    assert "times shot noise: the beam's intensity varies by" in reported.output
    found = CliRunner().invoke(app, [*call, '--refine-intensities'])
    assert "the beam's intensity varies by" in found.output
    metrics = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert metrics['beam']['least'] < 0.9 < 1.1 < metrics['beam']['most']
