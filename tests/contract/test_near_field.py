"""The near field in both backends: iterations, training, results, commands, and what is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.cli import app
from ptychopinn_plugin.config import Config, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, fit_to_size, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.data.starting_probe import made_probe
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.evaluation import evaluate
from ptychopinn_plugin.model import Model

NEAR = SimulationConfig(
    size=32,
    rows=8,
    columns=8,
    step_px=4.0,
    fresnel_number=0.06,
    probe_kind='diffuser',
    photons=3e5,
)


@pytest.fixture(scope='module')
def near() -> Scan:
    return simulate(NEAR)


@pytest.fixture(scope='module')
def refined(make_backend: Callable[[], Backend], near: Scan) -> Reconstruction:
    return make_backend().refine(near, RefinementConfig(iterations=40), device='cpu')


def test_iterations_find_the_object_at_the_level_of_noise(
    refined: Reconstruction, near: Scan
) -> None:
    assert refined.misfit is not None
    assert refined.misfit.over_noise == pytest.approx(1, abs=0.15)
    found = evaluate(refined, near)
    assert found.amplitude.ssim > 0.9
    assert found.phase.ssim > 0.9
    assert refined.geometry == near.geometry


def test_it_is_not_the_far_field(make_backend: Callable[[], Backend], near: Scan) -> None:
    far = dataclasses.replace(near, geometry=dataclasses.replace(near.geometry, near_field=None))
    found = make_backend().refine(far, RefinementConfig(iterations=20), device='cpu')
    assert evaluate(found, near).amplitude.ssim < 0.5


def test_a_probe_from_nothing_is_a_guess_that_iterations_correct(
    make_backend: Callable[[], Backend], near: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    probe, _ = made_probe(near.patterns, near.bad_pixels, near.geometry)
    unknown = dataclasses.replace(near, probe=probe, probe_origin='patterns')
    found = make_backend().refine(unknown, RefinementConfig(iterations=12), device='cpu')
    assert not np.array_equal(found.probe, probe)
    # Behind a diffuser it is not enough, and nobody is left to believe so.
    assert any('a probe that is a guess' in record.message for record in caplog.records)


def test_the_built_in_model_is_left_out_and_says_so(
    make_backend: Callable[[], Backend], near: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make_backend()
    backend.model = Model.built_in()
    caplog.set_level('INFO')
    config = Config()
    found = backend.reconstruct(
        near, config.inference.replace(device='cpu'), RefinementConfig(iterations=5)
    )
    assert found.provenance['course']['planned'] == [5]
    assert any('never met the near field' in record.message for record in caplog.records)


def test_a_network_is_of_one_field(
    tiny_model: Backend,
    near: Scan,
    make_backend: Callable[[], Backend],
    brief: Callable[..., Config],
) -> None:
    with pytest.raises(DataError, match=r'trained on patterns of the far field.*of the near'):
        tiny_model.reconstruct(near, Config().inference, RefinementConfig(iterations=0))
    config = brief(model={'architecture': 'cnn'})
    with pytest.raises(ConfigError, match=r"'cnn' is made for .*--architecture sweepnet"):
        make_backend().train([fit_to_size(near, 64)], config)


def test_commands_take_it(near: Scan, tmp_path: Path, backend_name: str) -> None:
    runner = CliRunner()
    path = tmp_path / 'near.npz'
    words = '--size 32 --rows 6 --columns 6 --step 4 --fresnel-number 0.06 --probe diffuser'
    made = runner.invoke(app, ['simulate', str(path), *words.split()])
    assert made.exit_code == 0, made.output
    described = runner.invoke(app, ['inspect', str(path)])
    assert 'near field' in described.output
    out = tmp_path / 'out'
    done = runner.invoke(
        app,
        ['refine', str(path), '-o', str(out), '--iterations', '3', '--backend', backend_name],
    )
    assert done.exit_code == 0, done.output
    product = runner.invoke(app, ['inspect', str(out / 'product.h5'), '--json'])
    assert json.loads(product.stdout)['far_field'] is False
    checked = runner.invoke(app, ['check', str(path)])
    assert 'of the near field' in str(checked.exception)
    plain = tmp_path / 'plain.npz'
    write_scan(plain, dataclasses.replace(near, geometry=type(near.geometry)()))
    refused = runner.invoke(app, ['inspect', str(plain), '--near-field'])
    assert '--photon-energy' in str(refused.exception)
    given = ['--near-field', '--photon-energy', '10000', '--detector-pixel', '1e-7']
    taken = runner.invoke(app, ['inspect', str(plain), *given, '--detector-distance', '1e-3'])
    assert taken.exit_code == 0, taken.output
