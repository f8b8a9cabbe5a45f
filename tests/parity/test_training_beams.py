"""Trainings whose patterns have beams of their own: a probe that varies, and intensities."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from parity.frameworks import Framework

from ptychopinn_plugin.backends.common.training_loop import TrainingLoop
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model_file import Model


def settings(**training: Any) -> Config:
    values = {'epochs': 1, 'device': 'cpu', 'target': 'none', 'learning_rate': 0.0, **training}
    return Config.from_dict({'training': values, 'model': {'filters_scale': 0.25, 'passes': 2}})


@pytest.fixture(scope='module')
def steady() -> Scan:
    return simulate(
        SimulationConfig(
            size=32, pupil_radius=0.12, defocus=100.0, rows=5, columns=6, step_px=4.0, n_modes=2
        )
    )


@pytest.fixture(scope='module')
def varying(steady: Scan) -> Scan:
    rng = np.random.default_rng(7)
    images = rng.standard_normal((2, 32, 32, 2)) @ [1, 1j] * np.abs(steady.probe).max() / 5
    weights = np.column_stack([np.linspace(0.8, 1.2, 30), rng.normal(0, 0.3, (30, 2))])
    return dataclasses.replace(steady, probe_variation=ProbeVariation(images, weights))


@pytest.fixture(scope='module')
def base(both: tuple[Framework, Framework], steady: Scan) -> Model:
    """Return a model that corrects nothing, as it has not learned."""
    return create_backend('pytorch').train([steady], settings()).model


def first_likelihood(loop: TrainingLoop) -> float:
    """Return the likelihood of the first batch that begins with the flat object."""
    batches = next(iter(loop.data.parts([0, 0])))
    batch = next(batch for batch in batches if batch.is_flat)
    return loop.step.accumulate_gradients(batch)['poisson']


def test_each_pattern_keeps_its_own_beam(
    both: tuple[Framework, Framework], steady: Scan, varying: Scan, base: Model
) -> None:
    """Whether or not training corrects the probe, and with either framework."""
    intensities, found = np.linspace(0.6, 1.4, len(varying)), []
    for fw in both:
        for trains in (False, True):
            loop = fw.training_loop(varying, settings(probe_trainable=trains), base)
            # As a target leaves it.
            forward = loop.data.scans[0].forward
            forward.set_intensities(intensities)
            forward.set_probe(forward.probe)
            found.append(first_likelihood(loop))
    np.testing.assert_allclose(found, found[0], rtol=1e-4)
    plain = first_likelihood(both[0].training_loop(steady, settings(), base))
    assert abs(found[0] - plain) > 0.1 * plain
    alone = both[0].training_loop(varying, settings(), base)
    assert abs(found[0] - first_likelihood(alone)) > 0.01 * plain


def test_eigenmodes_follow_the_intensity_scale(fw: Framework, steady: Scan, base: Model) -> None:
    """An eigenmode like the probe is the same as a weight of it, at any scale."""
    one, weights = steady.probe[:1], np.linspace(-0.3, 0.3, len(steady))[:, np.newaxis]
    alike = ProbeVariation(one, np.column_stack([np.ones(len(steady)), weights]))
    plain = ProbeVariation(one[:0], 1 + weights)
    for in_step in (True, False):
        found = []
        for variation in (alike, plain):
            scan = dataclasses.replace(steady, probe_variation=variation)
            loop = fw.training_loop(scan, settings(intensity_scale_trainable=True), base)
            state = dict(loop.step.state_dict())
            state['illumination.log_scale'] = np.float32(np.log(1.5))
            loop.step.load_state_dict(state)
            if not in_step:
                loop.step.use_probes()
            found.append(first_likelihood(loop))
        assert found[0] == pytest.approx(found[1], rel=1e-4)
