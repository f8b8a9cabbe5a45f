"""Iterations and stitching of each backend: what keeps them in bounds."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from parity.frameworks import Framework
from parity.helpers import Forward, canvas_object, make_patches, noise

from ptychopinn_plugin.backends.common import judged_patterns, probe_gauge
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.refinement import (
    ALONE_BATCHES,
    IterationState,
    _move_alone,
)
from ptychopinn_plugin.backends.common.stitching import STITCHING_FLOOR
from ptychopinn_plugin.data import Scan, one_by_one
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate


def test_a_refined_probe_keeps_its_energy(fw: Framework, forward: Forward) -> None:
    """Only probe times object is measured; else the two would drift apart."""
    given = fw.array(forward.probe)
    # An object of another brightness needs another probe at once.
    start = 1.5 * canvas_object(forward) ** 0
    object_, losses = fw.iterate(
        forward, fw.tensor(start), IterationSchedule(3), batch_size=4, refine_probe=True
    )
    found = fw.array(forward.probe)
    assert np.linalg.norm(found - given) > 0.01 * np.linalg.norm(given)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(given), rel=1e-4)
    # The object has taken what the probe has lost: their product is what was judged.
    assert forward.evaluate_fit(object_)[0] == pytest.approx(losses[-1], rel=1e-3)


@pytest.mark.parametrize('probe', ['given', 'a guess', 'of patterns'])
def test_an_object_is_levelled_where_its_probe_was_a_guess(
    fw: Framework, forward: Forward, monkeypatch: pytest.MonkeyPatch, probe: str
) -> None:
    """Else the probe keeps its direction, and the object the slope that belongs to it."""
    if probe == 'a guess':
        # Every probe ends farther from its start than this.
        monkeypatch.setattr(probe_gauge, 'NEAR', 0.0)
    y, _ = np.indices(forward.canvas_shape)
    start = canvas_object(forward) * np.exp(0.05j * y)
    # The probe takes the opposite slope, so that the patterns are explained from the start on.
    rows = np.arange(forward.shape[0])[:, np.newaxis] - forward.shape[0] // 2
    forward.set_probe(fw.tensor(fw.array(forward.probe) * np.exp(-0.05j * rows)))
    settings = {'refine_probe': True, 'levels_object': probe == 'of patterns'}
    object_, _ = fw.iterate(forward, fw.tensor(start), IterationSchedule(2), **settings)
    coverage = np.abs(fw.array(forward.coverage))
    slope = probe_gauge.level_object(fw.array(object_), coverage).phase_slope
    assert (np.abs(slope).max() < 1e-4) == (probe != 'given')


def test_where_hardly_any_light_falls_the_object_hardly_moves(
    fw: Framework, forward: Forward
) -> None:
    """There, the step of the patterns over their light is noise over nothing."""
    start = np.ones(forward.canvas_shape, complex)
    coverage = fw.array(forward.coverage)
    dim = coverage < 1e-3 * coverage.max()
    assert dim.any()
    update = np.abs(fw.array(fw.refinement.mean_update(forward, fw.tensor(start))))
    assert update[dim].max() < 0.1 * update.max()
    object_, _ = fw.iterate(forward, fw.tensor(start), IterationSchedule(2), batch_size=4)
    moved = np.abs(fw.array(object_) - start)
    assert moved[dim].max() < 0.15 * moved.max()


def test_stitching_keeps_what_stood_where_no_light_falls(fw: Framework, forward: Forward) -> None:
    object_ = canvas_object(forward)
    before = 1 + noise(forward.canvas_shape, 9)
    patches = make_patches(fw, forward, np.arange(len(forward))[:, None])
    cut = forward.extract_patches(fw.tensor(object_), patches.indices, 16)
    stitcher = fw.stitching.Stitcher(forward, fw.tensor(before))
    stitcher.add([dataclasses.replace(patches, values=cut)], phase_synchronization=False)
    found, weight = fw.array(stitcher.object_()), stitched_light(fw, forward, patches)
    np.testing.assert_allclose(found[weight == 0], before[weight == 0], rtol=1e-5)
    assert (weight == 0).any()
    lit = weight > 0.3 * weight.max()
    # All that the floor may add.
    error = np.abs(found - object_)[lit] / np.abs(before - object_)[lit]
    assert error.max() < 1.1 * STITCHING_FLOOR / 0.3
    assert STITCHING_FLOOR < 0.01


def stitched_light(fw: Framework, forward: Forward, patches: Any) -> np.ndarray:
    return fw.array(forward.place_patches(patches.weights, patches.indices))


def test_patches_with_phases_of_their_own_are_stitched_as_if_they_had_none(
    fw: Framework, forward: Forward
) -> None:
    object_ = canvas_object(forward)
    patches = make_patches(fw, forward, np.arange(len(forward))[:, None])
    cut = fw.array(forward.extract_patches(fw.tensor(object_), patches.indices, 16))
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(len(forward)))[:, None, None]
    found = {}
    for name, values in (('even', cut), ('mixed', cut * phases)):
        stitcher = fw.stitching.Stitcher(forward, forward.flat_object())
        parts = [dataclasses.replace(patches, values=fw.tensor(values))]
        stitcher.add(parts, phase_synchronization=name == 'mixed')
        found[name] = fw.array(stitcher.object_())
    light = stitched_light(fw, forward, patches)
    lit = light > 0.1 * light.max()
    even, mixed = found['even'][lit], found['mixed'][lit]
    likeness = abs(np.vdot(even, mixed)) / np.linalg.norm(even) / np.linalg.norm(mixed)
    assert likeness > 0.995


def test_the_velocity_carries_on_where_patterns_want_no_change(
    fw: Framework, forward: Forward
) -> None:
    """Without a step, two batches move it by mu V + mu^2 V, with a momentum mu of 0.9."""
    start, velocity = canvas_object(forward), 0.01 * noise(forward.canvas_shape, 3)
    state = IterationState(
        fw.tensor(start),
        fw.tensor(velocity),
        forward.probe,
        np.zeros((len(forward), 2)),
        np.ones(len(forward)),
        ProbeVariation(forward.eigenmodes, forward.opr_weights),
    )
    fw.refinement.iterate_once(forward, state, [np.arange(4), np.arange(4, 8)], 0.0, False)
    moved = fw.array(state.object_) - start
    np.testing.assert_allclose(moved, (0.9 + 0.9**2) * velocity, atol=1e-5)


def test_the_phase_of_a_patch_is_judged_where_it_is_lit(fw: Framework, forward: Forward) -> None:
    """In its dark rim a patch holds anything; overlaps are weighted by the light."""
    object_ = canvas_object(forward)
    patches = make_patches(fw, forward, np.arange(len(forward))[:, None])
    cut = fw.array(forward.extract_patches(fw.tensor(object_), patches.indices, 16))
    light = fw.array(patches.weights)
    rim = light < 0.02 * light.max(axis=(1, 2), keepdims=True)
    assert rim.any(axis=(1, 2)).all()
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(len(forward)))[:, None, None]
    values = np.where(rim, 3 * noise(cut.shape, 4), cut * phases)
    stitcher = fw.stitching.Stitcher(forward, forward.flat_object())
    parts = [dataclasses.replace(patches, values=fw.tensor(values))]
    stitcher.add(parts, phase_synchronization=True)
    weight = stitched_light(fw, forward, patches)
    lit = weight > 0.3 * weight.max()
    found, expected = fw.array(stitcher.object_())[lit], object_[lit]
    likeness = abs(np.vdot(found, expected)) / np.linalg.norm(found) / np.linalg.norm(expected)
    assert likeness > 0.99


@pytest.fixture(scope='module')
def alone() -> Scan:
    """Return as many patterns that share nothing as there would be batches."""
    side = int(np.sqrt(ALONE_BATCHES))
    config = SimulationConfig(
        size=32,
        pupil_radius=0.12,
        defocus=100.0,
        path_kind='raster',
        rows=side,
        columns=side,
        step_px=40.0,
    )
    return one_by_one(simulate(config))


def test_patterns_alone_move_at_once_as_far_as_one_by_one(fw: Framework, alone: Scan) -> None:
    """The first of as many batches goes on with its velocity while the others have their turn."""
    forward = fw.build_forward(alone)
    flat = fw.tensor(np.ones(forward.canvas_shape, complex))
    batches = [np.array([number]) for number in range(len(alone))]

    def begin() -> IterationState[Any]:
        nothing = fw.tensor(np.zeros(forward.canvas_shape, complex))
        variation = ProbeVariation(forward.eigenmodes, forward.opr_weights)
        return IterationState(
            *(flat, nothing, forward.probe, forward.moves_px, forward.intensities, variation)
        )

    in_turn, at_once = begin(), begin()
    fw.refinement.iterate_once(forward, in_turn, batches, 0.2, False)
    _move_alone(fw.refinement.ITERATION_KERNELS, forward, at_once, 0.2)
    first = fw.indices([0])
    for name in ('object_', 'velocity'):
        expected, found = (
            fw.array(forward.extract_patches(getattr(state, name), first))
            for state in (in_turn, at_once)
        )
        spread = np.abs(expected - np.mean(expected)).max()
        assert spread > 1e-3
        np.testing.assert_allclose(found, expected, atol=1e-2 * spread)


@pytest.mark.parametrize(
    ('is_alone', 'refine_probe', 'n_in_turn'),
    [(True, False, 0), (True, True, 2), (False, False, 2)],
)
def test_only_patterns_that_share_nothing_move_at_once(
    fw: Framework,
    alone: Scan,
    scan: Scan,
    monkeypatch: pytest.MonkeyPatch,
    is_alone: bool,
    refine_probe: bool,
    n_in_turn: int,
) -> None:
    """A probe that is refined is one that they share."""
    kernels, in_turn = fw.refinement.ITERATION_KERNELS, []

    def counted(*arguments: Any) -> None:
        in_turn.append(1)
        kernels.iterate_once(*arguments)

    used = dataclasses.replace(kernels, iterate_once=counted)
    monkeypatch.setattr(fw.refinement, 'ITERATION_KERNELS', used)
    forward = fw.build_forward(alone if is_alone else scan)
    flat = fw.tensor(np.ones(forward.canvas_shape, complex))
    fw.iterate(forward, flat, IterationSchedule(2), refine_probe=refine_probe)
    assert len(in_turn) == n_in_turn


def test_patterns_alone_are_iterated_to_their_objects(fw: Framework, alone: Scan) -> None:
    forward = fw.build_forward(alone)
    flat = fw.tensor(np.ones(forward.canvas_shape, complex))
    object_, losses = fw.iterate(forward, flat, IterationSchedule(20))
    assert losses[-1] < 0.2 * losses[0]
    assert forward.evaluate_fit(object_)[0] == pytest.approx(losses[-1], rel=1e-5)


def test_a_large_scan_is_judged_by_patterns_from_all_over_it(
    fw: Framework, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged_patterns, 'JUDGED_PATTERNS', 5)
    forward = fw.build_forward(scan)
    flat = fw.tensor(np.ones(forward.canvas_shape, complex))
    object_, losses = fw.iterate(forward, flat, IterationSchedule(10), batch_size=4)
    assert losses[0] == pytest.approx(forward.evaluate_loss(flat, stride=3), rel=1e-6)
    assert losses[-1] == pytest.approx(forward.evaluate_loss(object_, stride=3), rel=1e-6)
    # What is best there is good everywhere.
    assert forward.evaluate_loss(object_) < 0.3 * forward.evaluate_loss(flat)


def test_the_loss_of_some_patterns_never_rises(
    fw: Framework, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correction that is good for all patterns may be bad for those that are looked at."""
    monkeypatch.setattr(judged_patterns, 'JUDGED_PATTERNS', 5)
    worse = dataclasses.replace(
        fw.refinement.ITERATION_KERNELS, correct_phase_drift=lambda forward, object_: object_ * 1.1
    )
    monkeypatch.setattr(fw.refinement, 'ITERATION_KERNELS', worse)
    forward = fw.build_forward(scan)
    flat = fw.tensor(np.ones(forward.canvas_shape, complex))
    object_, losses = fw.iterate(forward, flat, IterationSchedule(6), batch_size=4)
    assert np.all(np.diff(losses) <= 0)
    assert losses[-1] == pytest.approx(forward.evaluate_loss(object_, stride=3), rel=1e-6)


def test_patterns_alone_have_no_slow_phase(fw: Framework, alone: Scan) -> None:
    tilt = np.exp(1j * np.linspace(0, 3, fw.build_forward(alone).canvas_shape[1]))
    together = dataclasses.replace(alone, is_single_shot=False)
    changed = []
    for scan in (alone, together):
        forward = fw.build_forward(scan)
        tilted = fw.tensor(np.ones(forward.canvas_shape) * tilt)
        found = fw.phase_drift.correct_phase_drift(forward, tilted)
        changed.append(not np.array_equal(fw.array(found), fw.array(tilted)))
    assert changed == [False, True]
