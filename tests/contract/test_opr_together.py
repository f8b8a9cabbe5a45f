"""Probes that wobble, refined together with the probe and the positions, and in training."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan, read_reconstruction, write_reconstruction
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.simulation import (
    SimulationConfig,
    simulate,
    wobble_amounts,
    wobbling_probe,
)
from ptychopinn_plugin.physics import poisson_loss, predict_patterns

WOBBLE = 0.15
WOBBLING = SimulationConfig(
    size=32,
    rows=10,
    columns=10,
    step_px=3.0,
    pupil_radius=0.12,
    defocus=100.0,
    seed=1,
    probe_wobble=WOBBLE,
)
SETTINGS = RefinementConfig(iterations=30, opr_modes=2)


@pytest.fixture(scope='module')
def wobbling() -> Scan:
    return simulate(WOBBLING)


def true_probes(scan: Scan) -> np.ndarray:
    """Return each pattern's own probe, with the phase that is nearest to the common one."""
    amounts = wobble_amounts(WOBBLING, len(scan))
    true = wobbling_probe(scan.probe, WOBBLE, amounts)[:, 0]
    ahead = (true.conj() * scan.probe[0]).sum(axis=(1, 2))
    return np.asarray(true * (ahead / np.abs(ahead))[:, None, None])


def distance(probes: np.ndarray, true: np.ndarray) -> float:
    """Return how far probes are from others, whatever the phase of each and the scale of all."""
    overlaps = (probes.conj() * true).sum(axis=(1, 2))
    probes = probes * (overlaps / np.abs(overlaps))[:, None, None]
    probes = probes * (np.linalg.norm(true) / np.linalg.norm(probes))
    return float(np.linalg.norm(probes - true) / np.linalg.norm(true))


def error_px(found: np.ndarray, true: np.ndarray) -> float:
    rest = found - true - (found - true).mean(axis=0)
    return float(np.sqrt((rest**2).sum(axis=1).mean()))


def test_a_probe_that_was_a_guess_is_corrected_too(
    make_backend: Callable[[], Backend], wobbling: Scan, tmp_path: Path
) -> None:
    y, x = np.mgrid[-16:16, -16:16]
    curved = wobbling.probe * np.exp(0.01j * (y**2 + x**2)).astype(np.complex64)
    guess = dataclasses.replace(wobbling, probe=curved)
    probes, true = {}, true_probes(wobbling)
    for corrects in (False, True):
        found = make_backend().refine(guess, SETTINGS.replace(probe=corrects), device='cpu')
        variation, probe = found.probe_variation, found.probe
        assert variation is not None
        probes[corrects] = distance(variation.probes(probe)[:, 0].astype(complex), true)
        # It stays what it is: orthogonal to the probe, of its energy, the same in each pattern.
        energy = float((np.abs(probe.astype(complex)) ** 2).sum())
        inner = (variation.eigenmodes.astype(complex) * probe.conj()).sum(axis=(1, 2))
        np.testing.assert_allclose(np.abs(inner), 0, atol=2e-3 * energy)
        np.testing.assert_allclose(variation.energies(probe), energy, rtol=2e-3)
        # Files explain the patterns as the run did.
        write_reconstruction(tmp_path / 'found.npz', found)
        again = read_reconstruction(tmp_path / 'found.npz')
        assert again.probe_variation is not None
        object_ = np.pad(again.object_.astype(complex), 2, constant_values=1)
        own = again.probe_variation.probes(again.probe).astype(complex)
        expected = predict_patterns(object_, again.origin_px - 2, again.positions_px, own)
        assert wobbling.bad_pixels is not None
        loss = poisson_loss(expected, wobbling.patterns, ~wobbling.bad_pixels)
        assert loss == pytest.approx(found.likelihoods[-1], rel=0.05)
    assert probes[True] < 0.6 * probes[False]


def test_positions_come_right_under_a_probe_that_wobbles(
    make_backend: Callable[[], Backend], wobbling: Scan
) -> None:
    true, errors = wobbling.positions_px, {}
    moved = true + np.random.default_rng(4).normal(scale=1.0, size=true.shape)
    for name, given in (('wrong', moved), ('right', true)):
        scan = dataclasses.replace(wobbling, positions_px=given)
        for modes in (0, 2):
            settings = SETTINGS.replace(opr_modes=modes, positions=True)
            found = make_backend().refine(scan, settings, device='cpu')
            errors[name, modes] = error_px(found.positions_px, true)
    # A tilt of a curved beam looks much like a shift, so that neither is found as well as alone.
    assert errors['right', 2] < min(0.3, 0.25 * errors['right', 0])
    assert errors['wrong', 2] < 0.6 * error_px(moved, true)
    assert errors['wrong', 2] < 0.5 * errors['wrong', 0]


def test_training_uses_a_variation_that_is_given(
    make_backend: Callable[[], Backend], wobbling: Scan, brief: Callable[..., Config]
) -> None:
    probe, true = wobbling.probe[0].astype(complex), true_probes(wobbling)
    own = (true * probe.conj()).sum(axis=(1, 2)).real / (np.abs(probe) ** 2).sum()
    rest = (true - own[:, None, None] * probe).reshape(len(true), -1)
    _, vectors = np.linalg.eigh((rest @ rest.conj().T).real)
    images = (vectors[:, -4:].T @ rest).reshape(4, 32, 32)
    variation = ProbeVariation(images, np.column_stack([own, vectors[:, -4:]]))
    target = {}
    for name, given in (('varies', variation), ('steady', None)):
        scan = dataclasses.replace(wobbling, probe_variation=given)
        seen: list[float] = []
        backend = make_backend()
        backend.train(
            [scan],
            brief(epochs=1, target_iterations=30, probe_trainable=True),
            observer=lambda progress, seen=seen: (
                seen.append(progress.losses['poisson']) if progress.stage == 'target' else None
            ),
        )
        target[name] = seen[-1]
        alone = RefinementConfig(iterations=0)
        found = backend.reconstruct(scan, InferenceConfig(device='cpu'), alone)
        assert np.isfinite(found.object_).all()
        assert (found.probe_variation is None) is (given is None)
    assert target['varies'] < 0.8 * target['steady']
