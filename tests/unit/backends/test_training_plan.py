"""What a training run decides before a framework is used."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.requests import TrainingRequest
from ptychopinn_plugin.backends.common.training_plan import (
    MAX_VALIDATION,
    TrainingPlan,
    plan_training,
)
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.model import Model, fit_for_training
from ptychopinn_plugin.model_contents import TrainingState


def make_scan(**changes: Any) -> Scan:
    small = {'size': 32, 'rows': 8, 'columns': 10, 'pupil_radius': 0.12, 'defocus': 100.0}
    return simulate(SimulationConfig.from_dict({**small, **changes}))


SCAN = make_scan()


def plan(
    *scans: Scan,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    **more: Any,
) -> TrainingPlan:
    config = Config.from_dict({'training': training or {}, 'model': model or {}})
    config, fitted, validation = fit_for_training(
        scans or (SCAN,), more.pop('validation', ()), config, more.get('base_model')
    )
    return plan_training(TrainingRequest(fitted, config, validation, **more))


def model_of(found: TrainingPlan, **changes: Any) -> Model:
    values = {'first_scale': 1.25, **found.fingerprints}
    model = Model(
        backend='pytorch',
        network=found.description,
        config=found.config,
        photons=found.photons,
        weights={},
        probe=SCAN.probe,
        training_state=TrainingState({}, values),
    )
    return dataclasses.replace(model, **changes)


def test_a_part_that_lies_together_is_held_out_and_the_rest_is_learned_from() -> None:
    (planned,) = plan(training={'validation_fraction': 0.25}).training
    assert len(planned.held_out) == 20
    both = np.sort(np.concatenate([planned.members, planned.held_out]))
    assert np.array_equal(both, np.arange(len(SCAN)))
    positions = SCAN.positions_px
    spread = positions[planned.held_out].std(axis=0).max()
    assert spread < 0.7 * positions.std(axis=0).max()


def test_the_seed_decides_what_is_held_out() -> None:
    held_out = [plan(training={'seed': seed}).training[0].held_out for seed in (1, 1, 2)]
    assert np.array_equal(held_out[0], held_out[1])
    assert not np.array_equal(held_out[0], held_out[2])


def test_fewer_than_a_group_are_not_held_out() -> None:
    model = {'gridsize': 2}
    few, enough = (
        plan(model=model, training={'validation_fraction': share}).training[0]
        for share in (3 / 80, 4 / 80)
    )
    assert len(few.held_out) == 0
    assert len(few.members) == 80
    assert len(enough.held_out) == 4


def test_scans_to_validate_on_leave_the_others_whole() -> None:
    other = make_scan(seed=8, rows=2)
    found = plan(validation=[other])
    assert len(found.training[0].held_out) == 0
    (whole,) = found.validation
    assert np.array_equal(whole.members, np.arange(20))
    assert len(whole.held_out) == min(20, MAX_VALIDATION)
    with pytest.raises(DataError, match=r'must hold at least 9 patterns, a group; it holds 4'):
        plan(model={'gridsize': 3}, validation=[other.subset(np.arange(4))])


def test_all_held_out_is_an_error() -> None:
    one = SCAN.subset(np.array([0]))
    with pytest.raises(DataError, match=r'all of its 1 patterns are held out'):
        plan(one, training={'validation_fraction': 0.9})


@pytest.mark.parametrize(
    ('model', 'training'),
    [
        ({}, {'poisson_weight': 0.0, 'target': 'none'}),
        ({}, {'poisson_weight': 0.0, 'target_weight': 0.0}),
        ({'model_type': 'supervised'}, {'target_weight': 0.0}),
    ],
    ids=str,
)
def test_a_loss_that_compares_with_nothing_is_an_error(
    model: dict[str, Any], training: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r'Nothing in the loss compares with the data'):
        plan(model=model, training=training)


def test_what_the_network_learns_from() -> None:
    assert plan().has_target
    assert not plan(training={'target': 'none'}).has_target
    supervised = plan(model={'model_type': 'supervised'})
    assert supervised.is_supervised
    assert not supervised.has_target
    bare = dataclasses.replace(SCAN, object_=None, name='bare')
    with pytest.raises(DataError, match=r'bare holds no object \(objectGuess\)'):
        plan(SCAN, bare, model={'model_type': 'supervised'})


def test_a_base_model_brings_its_network_counts_and_scale() -> None:
    base = model_of(plan(model={'filters_scale': 0.25}), photons=123.0, intensity_scale=1.5)
    found = plan(model={'filters_scale': 2.0}, base_model=base)
    assert found.description == base.network
    assert found.config.model == base.config.model
    assert (found.photons, found.intensity_scale) == (123.0, 1.5)
    # A training that continues began at the scale that its state holds, whatever it has become.
    resumed = plan(base_model=base, resume=True)
    assert resumed.intensity_scale == 1.25


def test_the_first_scale_of_each_architecture() -> None:
    assert plan().intensity_scale == 1.0
    cnn = {'architecture': 'cnn', 'pattern_size': 64}
    assert plan(model=cnn).intensity_scale == 1.5


def test_exactly_the_same_scans_continue_a_training() -> None:
    base = model_of(plan(training={'n_subsample': 50}))
    same = plan(training={'n_subsample': 50}, base_model=base, resume=True)
    assert same.fingerprints == plan(training={'n_subsample': 50}).fingerprints
    for other in (make_scan(seed=3), dataclasses.replace(SCAN, probe=SCAN.probe[:, ::-1])):
        with pytest.raises(ConfigError, match=r'the same scans as before, 1 in number'):
            plan(other, training={'n_subsample': 50}, base_model=base, resume=True)
    with pytest.raises(ConfigError, match=r'the same validation scans as before, 0 in number'):
        plan(training={'n_subsample': 50}, base_model=base, resume=True, validation=[SCAN])
    for bare in (None, dataclasses.replace(base, training_state=None)):
        with pytest.raises(AssertionError):
            plan(base_model=bare, resume=True)


def test_a_plan_computes_nothing_with_a_framework() -> None:
    found = plan(make_scan(size=48), model={'pattern_size': 32}, validation=[make_scan(size=40)])
    assert found.validation[0].scan.pattern_shape == (32, 32)
    assert found.training[0].scan.pattern_shape == (32, 32)
    assert found.summary()['patterns'] == 80
    assert found.summary()['pattern_shape'] == [32, 32]


@pytest.mark.parametrize('use', ['scans', 'validation'])
def test_a_plan_takes_scans_that_were_fitted(use: str) -> None:
    scans = {'scans': [SCAN], 'validation': [SCAN], use: [make_scan(size=48)]}
    config = Config.from_dict({'model': {'pattern_size': 32}})
    with pytest.raises(DataError, match=r'of 32 x 32 px; got 48 x 48\. Fit the scan first'):
        plan_training(TrainingRequest(config=config, **scans))
