"""What training learns from: labels, held-out patterns, several scans, dead pixels."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from contract.training import (
    ALONE,
    CPU,
    MakeBackend,
    MakeConfig,
    MakeScan,
    flat,
    losses,
)

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.physics import normalize_probe


def test_supervised_labels_fit_the_counts(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    """The object in a file and a probe that is scaled to the counts have different scales."""
    assert tiny_scan.object_ is not None
    residuals = []
    # A power of two: what is scaled back is the same to the last bit.
    for factor in (1.0, 0.125):
        scan = dataclasses.replace(tiny_scan, object_=factor * tiny_scan.object_)
        backend = make_backend()
        config = brief(
            epochs=20, batch_size=16, learning_rate=3e-3, model={'model_type': 'supervised'}
        )
        result = backend.train([scan], config)
        assert losses(result)[-1] < losses(result)[0]
        residuals.append(backend.reconstruct(scan, CPU, ALONE).amplitude_residual)
    empty = make_backend().refine(tiny_scan, ALONE, device='cpu').amplitude_residual
    assert residuals[0] < 0.3 * empty
    assert residuals[1] == pytest.approx(residuals[0], rel=1e-4)


def test_supervised_validation_scan(
    make_backend: MakeBackend, tiny_scan: Scan, tiny: MakeScan, brief: MakeConfig
) -> None:
    config = brief(model={'model_type': 'supervised'})
    result = make_backend().train([tiny_scan], config, validation=[tiny(seed=5)])
    assert np.isfinite(losses(result)).all()
    blind = dataclasses.replace(tiny(seed=5), object_=None)
    with pytest.raises(DataError, match=r'objectGuess.*supervised'):
        make_backend().train([tiny_scan], config, validation=[blind])


@pytest.mark.parametrize('shift', [(500.0, 0.0), (0.0, -500.0)])
def test_an_object_elsewhere_is_an_error(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig, shift: tuple[float, float]
) -> None:
    away = dataclasses.replace(tiny_scan, positions_px=tiny_scan.positions_px + np.array(shift))
    with pytest.raises(DataError, match=r'must lie where the scan is.*not touch.*type pinn'):
        make_backend().train([away], brief(model={'model_type': 'supervised'}))


def test_a_validation_scan_is_what_is_validated(
    make_backend: MakeBackend, tiny_scan: Scan, tiny: MakeScan, brief: MakeConfig
) -> None:
    found = [
        losses(make_backend().train([tiny_scan], brief(), validation=[tiny(seed=seed)]))
        for seed in (5, 6)
    ]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    'changes',
    [{}, {'amplitude_mae_weight': 1.0}, {'total_variation_weight': 0.1}],
    ids=str,
)
def test_a_validation_scan_tells_epochs_apart_without_a_likelihood(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    tiny: MakeScan,
    brief: MakeConfig,
    changes: dict[str, float],
) -> None:
    """It has no target: what is left must compare with its patterns."""
    config = brief(epochs=3, poisson_weight=0.0, **changes)
    result = make_backend().train([tiny_scan], config, validation=[tiny(seed=5)])
    found = losses(result)
    assert min(found) > 0
    assert len(set(found)) == 3
    assert result.model.provenance['best_loss'] == min(found)
    # The same weights by the likelihood, which is not in force here.
    likelihood = brief(epochs=1, target='none', learning_rate=0.0)
    seen = make_backend().train(
        [tiny_scan], likelihood, validation=[tiny(seed=5)], base_model=result.model
    )
    by_likelihood = losses(seen)[0] == pytest.approx(min(found), rel=1e-6)
    assert by_likelihood == ('amplitude_mae_weight' not in changes)


def test_several_scans_are_all_learned_from(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig
) -> None:
    first, second, third = (tiny(seed=seed) for seed in (1, 2, 3))
    results = [
        make_backend().train(scans, brief(epochs=1)) for scans in ([first, second], [first, third])
    ]
    assert not np.array_equal(flat(results[0]), flat(results[1]))
    summary = results[0].model.data_summary
    assert summary['patterns'] == 160
    assert summary['scans'] == [first.name, second.name]


def test_probes_of_several_scans_are_trained_apart(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig
) -> None:
    scans = [tiny(seed=1), tiny(seed=2, n_modes=2)]
    result = make_backend().train(scans, brief(epochs=1, probe_trainable=True))
    assert len(result.model.probe) == 1
    state = result.model.training_state
    assert state is not None
    shapes = {
        array.shape for name, array in state.arrays.items() if 'last/illumination.probes' in name
    }
    assert shapes == {(1, 32, 32, 2), (2, 32, 32, 2)}


@pytest.mark.parametrize('garbage', [77777.0, 0.5, np.nan])
def test_what_stands_in_dead_pixels_is_not_learned(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig, garbage: float
) -> None:
    clean = tiny(dead_pixels=8)
    assert clean.bad_pixels is not None
    results = []
    for value in (0.0, garbage):
        patterns = clean.patterns.astype(np.float32)
        patterns[:, clean.bad_pixels] = value
        scan = dataclasses.replace(clean, patterns=patterns)
        backend = make_backend()
        trained = backend.train([scan], brief(epochs=3))
        found = backend.reconstruct(scan, CPU, RefinementConfig(iterations=3))
        results.append((losses(trained), flat(trained), found))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_array_equal(results[0][2].object_, results[1][2].object_)
    assert results[0][2].likelihoods == results[1][2].likelihoods


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5])
def test_held_out_patterns(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig, share: float
) -> None:
    """One pattern is no group of four: then none is held out."""
    config = brief(epochs=1, validation_fraction=share, model={'gridsize': 2})
    result = make_backend().train([tiny_scan], config)
    (row,) = result.history
    assert (row['validation_loss'] == row['loss']) == (share < 0.05)


def test_dim_patterns_do_not_rule_the_loss(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    patterns = tiny_scan.patterns.copy()
    patterns[[3, 30, 60]] //= 50
    dim = dataclasses.replace(tiny_scan, patterns=patterns)
    config = brief(batch_size=1, target='none', validation_fraction=0.0)
    assert max(losses(make_backend().train([dim], config))) < 10


def test_dark_patterns_are_left_out(
    make_backend: MakeBackend, tiny_scan: Scan, tiny_model: Backend, brief: MakeConfig
) -> None:
    patterns = tiny_scan.patterns.copy()
    patterns[[0, 30]] = 0
    dark = dataclasses.replace(tiny_scan, patterns=patterns)
    lit = tiny_scan.subset(np.setdiff1d(np.arange(len(tiny_scan)), [0, 30]))
    refinement = RefinementConfig(iterations=2)
    with pytest.warns(UserWarning, match='2 of 80 patterns'):
        found = tiny_model.reconstruct(dark, CPU, refinement)
    np.testing.assert_array_equal(
        found.object_, tiny_model.reconstruct(lit, CPU, refinement).object_
    )
    with pytest.warns(UserWarning, match='2 of 80 patterns'):
        trained = make_backend().train([dark], brief(epochs=1))
    np.testing.assert_array_equal(flat(trained), flat(make_backend().train([lit], brief(epochs=1))))


def test_a_probe_is_corrected_alike_at_any_number_of_photons(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig
) -> None:
    changes = []
    for photons in (1e3, 1e7):
        scan = tiny(photons=photons)
        config = brief(epochs=3, target='none', probe_trainable=True, ema_decay=0.0)
        probe = make_backend().train([scan], config).model.probe
        start = normalize_probe(scan.probe, scan.mean_counts())
        # Its energy stays that of the counts.
        assert np.sum(np.abs(probe) ** 2) == pytest.approx(scan.mean_counts(), rel=1e-4)
        changes.append(np.linalg.norm(probe - start) / np.linalg.norm(start))
    assert min(changes) > 1e-4
    assert max(changes) < 5 * min(changes)


def test_light_that_bad_pixels_hide_does_not_make_the_object_brighter(
    make_backend: MakeBackend, tiny_scan: Scan
) -> None:
    bad = np.zeros(tiny_scan.pattern_shape, dtype=bool)
    bad[12:20, 12:20] = True
    hidden = dataclasses.replace(tiny_scan, bad_pixels=bad)
    assert hidden.mean_counts() < 0.7 * tiny_scan.mean_counts()
    found = [
        make_backend().refine(scan, RefinementConfig(iterations=30), device='cpu')
        for scan in (tiny_scan, hidden)
    ]
    whole, partial = (np.median(np.abs(r.object_[r.coverage > 0.3])) for r in found)
    assert partial == pytest.approx(whole, rel=0.15)


def test_a_validation_scan_smaller_than_a_group(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig
) -> None:
    few = dataclasses.replace(tiny_scan.subset(np.arange(3)), name='few')
    with pytest.raises(DataError, match='validation scan few must hold at least 4 patterns'):
        make_backend().train([tiny_scan], brief(model={'gridsize': 2}), validation=[few])


@pytest.mark.parametrize(
    ('training', 'model'),
    [
        ({'target_weight': 0.0}, {'model_type': 'supervised'}),
        ({'target': 'none', 'poisson_weight': 0.0}, {}),
    ],
)
def test_nothing_to_learn_from_is_an_error(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    training: dict[str, Any],
    model: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match='Nothing in the loss compares with the data'):
        make_backend().train([tiny_scan], brief(model=model, **training))


@pytest.mark.parametrize(
    'trained', [{'probe_trainable': True}, {'intensity_scale_trainable': True, 'target': 'none'}]
)
def test_validation_judges_the_model_that_is_used(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig, trained: dict[str, Any]
) -> None:
    """A validation scan gets the probe and the scale that training has found, as in inference."""
    y, x = np.indices(tiny_scan.pattern_shape) - 16
    guess = dataclasses.replace(tiny_scan, probe=tiny_scan.probe * np.exp(0.01j * (y**2 + x * y)))
    config = brief(epochs=1, learning_rate=0.02, target_iterations=20, **trained)
    result = make_backend().train([guess], config, validation=[guess])
    found = result.model
    known = dataclasses.replace(guess, probe=found.probe)
    judged = make_backend().train(
        [known],
        brief(epochs=1, learning_rate=0.0, target='none'),
        validation=[known],
        base_model=found,
    )
    assert judged.model.intensity_scale == pytest.approx(found.intensity_scale)
    assert losses(result) == pytest.approx(losses(judged), rel=1e-3)
