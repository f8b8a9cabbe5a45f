"""Training, setting by setting: each does what its help states, and nothing else does."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from contract.training import (
    ALONE,
    CPU,
    MakeBackend,
    MakeConfig,
    MakeScan,
    after_epochs,
    flat,
    losses,
)

from ptychopinn_plugin.backends.protocol import Progress
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.model import fit_for_training


@pytest.mark.parametrize('target', ['iterations', 'none'])
def test_the_loss_on_held_out_patterns_falls(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig, target: str
) -> None:
    config = brief(
        epochs=30, target=target, validation_fraction=0.25, batch_size=16, learning_rate=3e-3
    )
    result = make_backend().train([tiny_scan], config)
    found = losses(result)
    assert min(found[-5:]) < 0.95 * found[0]
    # The model is the best one, not the last.
    assert result.model.provenance['best_loss'] == min(found)


def test_the_best_weights_are_kept(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    """A learning rate that ruins the network after a gentle start must not reach the model."""
    gentle = make_backend().train([tiny_scan], brief(epochs=2, ema_decay=0.0)).model
    wild = brief(epochs=4, learning_rate=0.5, schedule='constant', gradient_clip=0.0, ema_decay=0.0)
    result = make_backend().train([tiny_scan], wild, base_model=gentle, resume=True)
    found = losses(result)
    assert len(found) == 4
    assert min(found[2:]) > 1.05 * min(found[:2])
    assert result.model.provenance['best_loss'] == min(found)
    state = result.model.training_state
    assert state is not None
    assert gentle.training_state is not None
    for name, weight in gentle.weights.items():
        np.testing.assert_array_equal(result.model.weights[name], weight, err_msg=name)
    names = [name for name in state.arrays if name.startswith('best/network')]
    assert len(names) == len(gentle.weights)
    for name in names:
        best = gentle.training_state.arrays[name]
        np.testing.assert_array_equal(state.arrays[name], best, err_msg=name)
        last = state.arrays[name.replace('best/', 'last/')]
        assert not np.array_equal(last, best), name


def test_the_model_is_an_average_over_epochs(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    def trained(epochs: int, decay: float) -> dict[str, np.ndarray]:
        settings = brief(epochs=epochs, schedule='constant', ema_decay=decay)
        state = make_backend().train([tiny_scan], settings).model.training_state
        assert state is not None
        return dict(state.arrays)

    first, second = trained(1, 0.8), trained(2, 0.8)
    names = [name.removeprefix('last/') for name in first if name.startswith('last/network')]
    assert names
    for name in names:
        np.testing.assert_array_equal(first[f'average/{name}'], first[f'last/{name}'])
        # After two epochs a quarter is the first's.
        mean = 0.25 * first[f'last/{name}'] + 0.75 * second[f'last/{name}']
        np.testing.assert_allclose(second[f'average/{name}'], mean, rtol=1e-5, atol=1e-7)
    plain = trained(2, 0.0)
    for name in names:
        # Training itself goes on from the newest weights.
        np.testing.assert_array_equal(plain[f'last/{name}'], second[f'last/{name}'])
        np.testing.assert_array_equal(plain[f'average/{name}'], plain[f'last/{name}'])


@pytest.mark.parametrize('schedule', ['constant', 'exponential', 'cosine', 'one-cycle', 'plateau'])
def test_schedules(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig, schedule: str
) -> None:
    config = brief(
        epochs=8, schedule=schedule, learning_rate=1e-3, warmup_fraction=0.25, target='none'
    )
    result = make_backend().train([tiny(rows=4, columns=5)], config)
    rates = np.array([row['learning_rate'] for row in result.history])
    assert (rates > 0).all()
    assert rates.max() <= 1.001e-3
    match schedule:
        case 'constant':
            np.testing.assert_allclose(rates, 1e-3)
        case 'exponential':
            assert (np.diff(rates) < 0).all()
            assert rates[-1] < 0.03 * 1e-3
        case 'plateau':
            assert rates[0] == pytest.approx(1e-3)
            assert (np.diff(rates) <= 0).all()
        case _:
            # Up while it warms, and down to nearly nothing.
            assert rates[0] < rates[1]
            assert rates[-1] < 0.1 * rates.max()
            assert (np.diff(rates[2:]) < 0).all()


def test_a_plateau_halves_the_learning_rate(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig
) -> None:
    config = brief(
        epochs=13, schedule='plateau', learning_rate=0.0, target='none', validation_fraction=0.25
    )
    result = make_backend().train([tiny(rows=4, columns=5)], config)
    state = result.model.training_state
    assert state is not None
    # Nothing gets better without a step: 12 epochs in vain are two times five.
    assert state.values['plateau_factor'] == 0.25


def test_two_half_batches_are_one(make_backend: MakeBackend, brief: MakeConfig) -> None:
    """One step an epoch: the gradient that the optimizer meets is that of all patterns."""
    scan = simulate(SimulationConfig(size=64, rows=4, columns=8))
    moments = []
    for batch_size, n_together in ((16, 4), (8, 8), (8, 4)):
        config = brief(
            epochs=1,
            batch_size=batch_size,
            gradient_accumulation_steps=n_together,
            validation_fraction=0.0,
            gradient_clip=0.0,
            target='none',
            optimizer='adam',
            model={'architecture': 'cnn'},
        )
        state = make_backend().train([scan], config).model.training_state
        assert state is not None
        steps = {int(a) for name, a in state.arrays.items() if name.endswith('/step')}
        assert steps == {8 // n_together if batch_size == 8 else 1}
        averages = [a.ravel() for name, a in state.arrays.items() if name.endswith('/exp_avg')]
        moments.append(np.concatenate(averages))
    difference = np.linalg.norm(moments[1] - moments[0]) / np.linalg.norm(moments[0])
    assert difference < 0.05
    # Which is not so by chance.
    assert np.linalg.norm(moments[2] - moments[0]) > 5 * difference * np.linalg.norm(moments[0])


def test_more_accumulation_than_an_epoch_has_batches_still_trains(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    still = make_backend().train([tiny_scan], brief(learning_rate=0.0))
    result = make_backend().train([tiny_scan], brief(gradient_accumulation_steps=1000))
    assert not np.array_equal(flat(result), flat(still))


def test_the_gradient_is_clipped(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    """Adam drops the scale of a gradient; its second moments keep it."""
    moments = []
    for clip in (1e-6, 0.0):
        config = brief(epochs=1, gradient_clip=clip, optimizer='adam')
        state = make_backend().train([tiny_scan], config).model.training_state
        assert state is not None
        squares = [
            array.sum() for name, array in state.arrays.items() if name.endswith('exp_avg_sq')
        ]
        moments.append(sum(squares))
    # A norm of 1e-6 squared, at each of some steps.
    assert moments[0] <= 1e-12
    assert moments[1] > 1e-8


@pytest.mark.parametrize('architecture', ['sweepnet', 'cnn'])
def test_bfloat16(make_backend: MakeBackend, brief: MakeConfig, architecture: str) -> None:
    scan = simulate(SimulationConfig(rows=4, columns=5, size=64))
    model = {'architecture': architecture}
    exact, coarse = make_backend(), make_backend()
    exact.train([scan], brief(epochs=1, model=model))
    result = coarse.train([scan], brief(epochs=1, model=model, precision='bfloat16'))
    assert all(weight.dtype == np.float32 for weight in result.model.weights.values())
    first, second = (backend.reconstruct(scan, CPU, ALONE).object_ for backend in (exact, coarse))
    assert second.dtype == np.complex64
    assert not np.array_equal(first, second)
    similar = np.abs(np.vdot(first, second)) / np.linalg.norm(first) / np.linalg.norm(second)
    assert similar > 0.95


def test_weight_decay_is_for_adamw_and_weights_alone(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    def train(**changes: Any) -> np.ndarray:
        return flat(make_backend().train([tiny_scan], brief(epochs=1, **changes)))

    plain, decayed = train(weight_decay=0.0), train(weight_decay=1.0)
    assert np.linalg.norm(decayed) < np.linalg.norm(plain)
    np.testing.assert_array_equal(
        train(optimizer='adam', weight_decay=0.0), train(optimizer='adam', weight_decay=1.0)
    )


@pytest.mark.parametrize(
    ('name', 'values'),
    [
        ('n_groups', (7, 40)),
        ('n_subsample', (30, 60)),
        ('batch_size', (8, 16)),
        ('target_iterations', (10, 30)),
        ('target_weight', (0.5, 2.0)),
        ('poisson_weight', (0.0, 1.0)),
        ('amplitude_mae_weight', (0.0, 1.0)),
        ('total_variation_weight', (0.0, 1.0)),
        ('seed', (1, 2)),
    ],
)
def test_a_setting_has_an_effect(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    name: str,
    values: tuple[Any, Any],
) -> None:
    first, second = (
        make_backend().train([tiny_scan], brief(epochs=2, **{name: value})) for value in values
    )
    assert not np.array_equal(flat(first), flat(second))


@pytest.mark.parametrize(
    ('name', 'values', 'model'),
    [
        ('neighbor_count', (3, 20), {'gridsize': 2}),
        ('overlap_constraint', (False, True), {'gridsize': 2}),
        ('gridsize', (1, 2), {}),
        ('passes', (1, 3), {}),
        ('filters_scale', (0.25, 0.5), {}),
    ],
)
def test_a_setting_of_groups_and_network_has_an_effect(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    name: str,
    values: tuple[Any, Any],
    model: dict[str, Any],
) -> None:
    found = []
    for value in values:
        if name == 'neighbor_count':
            config = brief(epochs=1, model=model, neighbor_count=value)
        else:
            config = brief(epochs=1, model={**model, name: value})
        found.append(flat(make_backend().train([tiny_scan], config)))
    assert found[0].shape != found[1].shape or not np.array_equal(*found)


def test_fewer_groups_are_fewer_batches(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    steps = []
    for n_groups in (4, 80):
        config = brief(epochs=1, n_groups=n_groups, batch_size=2)
        state = make_backend().train([tiny_scan], config).model.training_state
        assert state is not None
        steps.append(int(state.arrays['optimizer/0/step']))
    assert steps[0] == 4  # two batches of two groups, each met twice
    assert steps[1] > steps[0]


@pytest.mark.parametrize('what', ['probe', 'intensity_scale', 'nothing'])
def test_probe_and_scale_move_when_asked_and_one_by_one(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig, what: str
) -> None:
    changes = {} if what == 'nothing' else {f'{what}_trainable': True}
    # Without the target, which corrects the probe itself.
    result = make_backend().train([tiny_scan], brief(epochs=3, target='none', **changes))
    model = result.model
    given = tiny_scan.probe / np.linalg.norm(tiny_scan.probe)
    moved = np.abs(model.probe / np.linalg.norm(model.probe) - given).max()
    assert (moved > 1e-5) == (what == 'probe')
    assert (abs(model.intensity_scale - 1) > 1e-5) == (what == 'intensity_scale')
    energy = (np.abs(model.probe) ** 2).sum()
    if what != 'probe':
        assert moved < 1e-6
        assert energy == pytest.approx(tiny_scan.mean_counts(), rel=1e-5)


def test_a_wrong_probe_is_brought_nearer_to_the_true_one(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    y, x = np.mgrid[-16:16, -16:16]
    wrong = dataclasses.replace(
        tiny_scan, probe=tiny_scan.probe * np.exp(0.012j * (y**2 - x * y), dtype=np.complex64)
    )
    config = brief(epochs=2, probe_trainable=True, target_iterations=40)
    model = make_backend().train([wrong], config).model

    def likeness(probe: np.ndarray) -> float:
        overlap = np.abs(np.vdot(probe, tiny_scan.probe))
        return float(overlap / np.linalg.norm(probe) / np.linalg.norm(tiny_scan.probe))

    assert likeness(model.probe) > likeness(wrong.probe) + 0.3 * (1 - likeness(wrong.probe))


def test_a_probe_that_may_be_a_guess_is_said_so(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    y, x = np.mgrid[-16:16, -16:16]
    wrong = dataclasses.replace(
        tiny_scan,
        name='another',
        probe=tiny_scan.probe * np.exp(0.012j * (y**2 - x * y), dtype=np.complex64),
    )
    make_backend().train([tiny_scan, wrong], brief(epochs=1, target_iterations=20))
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith('another: ')
    assert 'shot noise' in message
    assert '--probe-trainable (training.probe_trainable)' in message
    caplog.clear()
    make_backend().train([wrong], brief(epochs=1, target_iterations=20, probe_trainable=True))
    assert not caplog.records


def test_a_training_ends_when_its_minutes_are_over(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    backend: Any = make_backend()
    # Each look at the clock is a hundredth of a second later.
    backend.clock = itertools.count(0.0, 0.01).__next__
    short = backend.train([tiny_scan], brief(epochs=10**6, max_minutes=0.05))
    assert short.stopped == 'max-minutes'
    assert 2.9 < short.history[-1]['seconds'] < 3.1
    assert len(short.history) > 1
    assert np.isfinite(short.model.provenance['best_loss'])


def test_ends(make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig) -> None:
    config = brief(epochs=10, early_stop_patience=3, learning_rate=0.0)
    patient = make_backend().train([tiny_scan], config)
    assert patient.stopped == 'early-stop'
    assert len(patient.history) == 4

    requested = make_backend().train([tiny_scan], brief(epochs=10), observer=after_epochs(1))
    assert requested.stopped == 'request'
    assert len(requested.history) == 1

    full = make_backend().train([tiny_scan], brief(epochs=1))
    assert full.stopped == 'epochs'


def test_a_stop_while_the_target_is_reconstructed_goes_on_with_what_it_has(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    seen: list[Progress] = []

    def observe(progress: Progress) -> bool:
        seen.append(progress)
        return progress.stage == 'target' and progress.step == 3

    make_backend().train([tiny_scan], brief(epochs=1), observer=observe)
    taught = [progress for progress in seen if progress.stage == 'target']
    assert [progress.step for progress in taught] == [1, 2, 3]
    assert taught[-1].total == 10
    assert seen[-1].stage == 'train'


@pytest.mark.parametrize('gridsize', [1, 2, 3])
def test_cnn_in_groups(make_backend: MakeBackend, brief: MakeConfig, gridsize: int) -> None:
    scan = simulate(SimulationConfig(size=64, rows=4, columns=5))
    backend = make_backend()
    model = {'architecture': 'cnn', 'gridsize': gridsize}
    result = backend.train([scan], brief(epochs=1, model=model, validation_fraction=0.0))
    assert result.model.config.model.pattern_size == 64
    found = backend.reconstruct(scan, CPU, ALONE)
    assert np.isfinite(found.object_).all()
    assert np.abs(found.object_[found.covered_box()]).min() > 0


@pytest.mark.parametrize('changes', [{'pad_object': False}, {'border_decoder': False}], ids=str)
def test_cnn_variants(
    make_backend: MakeBackend, brief: MakeConfig, changes: dict[str, Any]
) -> None:
    scan = simulate(SimulationConfig(size=64, rows=4, columns=5))
    model = {'architecture': 'cnn', **changes}
    result = make_backend().train([scan], brief(epochs=1, model=model))
    assert np.isfinite(losses(result)).all()


def test_cnn_learns(make_backend: MakeBackend, brief: MakeConfig) -> None:
    scan = simulate(SimulationConfig(size=64, rows=6, columns=6))
    config = brief(
        epochs=6, batch_size=8, model={'architecture': 'cnn'}, schedule='constant', target='none'
    )
    found = losses(make_backend().train([scan], config))
    assert found[-1] < 0.9 * found[0]


def test_a_group_larger_than_the_scan(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig
) -> None:
    config = brief(model={'gridsize': 3}, validation_fraction=0.0)
    with pytest.raises(DataError, match=r'A group holds 9 patterns.*smaller gridsize'):
        make_backend().train([tiny(rows=2, columns=4)], config)


def test_cnn_of_another_size_says_what_fits(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    with pytest.raises(ConfigError, match=r'64, 128, 256.*sweepnet'):
        make_backend().train([tiny_scan], brief(model={'architecture': 'cnn'}))
    # Padded to a size that it takes.
    model = {'architecture': 'cnn', 'pattern_size': 64}
    config, scans, _ = fit_for_training([tiny_scan], [], brief(epochs=1, model=model), None)
    result = make_backend().train(scans, config)
    assert result.model.probe.shape == (1, 64, 64)
