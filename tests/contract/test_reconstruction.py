"""Reconstruction: where the object lies, that nothing is missing, and what each setting does."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.backends.common import stitching
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.metrics import find_shift
from ptychopinn_plugin.model import fit_for_training
from ptychopinn_plugin.physics import (
    extract_patches,
    place_patches,
    poisson_loss,
    predict_patterns,
    shift_probe,
    split_positions,
)

MakeBackend = Callable[[], Backend]
MakeScan = Callable[..., Scan]
MakeConfig = Callable[..., Config]

CPU = InferenceConfig(device='cpu')
ALONE = RefinementConfig(iterations=0)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Correlate two complex images, whatever their global phase; 1 for equal ones."""
    overlap = np.abs(np.vdot(first, second))
    return float(overlap / np.linalg.norm(first) / np.linalg.norm(second))


def truth_of(scan: Scan, result: Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """Return the well lit box of the result and the same pixels of the true object."""
    assert scan.object_ is not None
    rows, columns = result.covered_box(0.3)
    top, left = result.origin_px.astype(int)
    true = scan.object_[
        rows.start + top : rows.stop + top, columns.start + left : columns.stop + left
    ]
    return result.object_[rows, columns], true


@pytest.fixture(scope='module')
def result(tiny_model: Backend, tiny_scan: Scan) -> Reconstruction:
    return tiny_model.reconstruct(tiny_scan, CPU, RefinementConfig(iterations=30))


def test_the_canvas_holds_every_patch_and_little_more(
    result: Reconstruction, tiny_scan: Scan
) -> None:
    assert result.object_.dtype == np.complex64
    assert result.object_.shape == result.coverage.shape
    assert result.object_.shape[0] < result.object_.shape[1]  # 8 rows, 10 columns
    whole, _ = split_positions(tiny_scan.positions_px)
    centres = whole - result.origin_px.astype(int)
    assert (centres.min(axis=0) >= 16).all()
    room = np.array(result.object_.shape) - centres.max(axis=0)
    assert (room >= 16).all()
    assert (room <= 20).all()


def test_the_object_lands_where_it_is(result: Reconstruction, tiny_scan: Scan) -> None:
    found, true = truth_of(tiny_scan, result)
    as_it_is = likeness(found, true)
    assert as_it_is > 0.97
    assert np.abs(find_shift(found, true)).max() < 0.5
    side = min(found.shape)
    square, true_square = found[:side, :side], true[:side, :side]
    for wrong in (square.T, square[::-1], square[:, ::-1], square[::-1, ::-1], square.conj()):
        assert likeness(wrong, true_square) < as_it_is - 0.02


def test_the_result_explains_the_patterns(result: Reconstruction, tiny_scan: Scan) -> None:
    """Object, origin, probe and positions of a result belong together."""
    expected = predict_patterns(
        result.object_.astype(complex),
        result.origin_px.astype(int),
        result.positions_px,
        result.probe.astype(complex),
    )
    counts = tiny_scan.patterns.astype(float)
    misfit = ((np.sqrt(expected) - np.sqrt(counts)) ** 2).sum() / counts.sum()
    assert misfit == pytest.approx(result.amplitude_residual, rel=1e-3)
    assert misfit < 0.01


def test_coverage_is_the_light(result: Reconstruction, tiny_scan: Scan) -> None:
    whole, subpixel_shifts = split_positions(tiny_scan.positions_px)
    assert np.abs(subpixel_shifts).max() > 0.3
    light = (np.abs(shift_probe(result.probe.astype(complex), subpixel_shifts)) ** 2).sum(axis=1)
    centres = whole - result.origin_px.astype(int)
    expected = place_patches(light, centres, result.coverage.shape)
    np.testing.assert_allclose(result.coverage, expected / expected.max(), atol=1e-4)
    assert result.coverage.max() == 1


@pytest.mark.parametrize('gridsize', [1, 2, 3, 5])
def test_no_holes(
    make_backend: MakeBackend, tiny_scan: Scan, brief: MakeConfig, gridsize: int
) -> None:
    """At each position the network has left its mark, whichever group it came in."""
    backend = make_backend()
    config = brief(
        epochs=1,
        model={'gridsize': gridsize},
        validation_fraction=0.0,
        target='none',
        n_groups=16,
    )
    backend.train([tiny_scan], config)
    found = backend.reconstruct(tiny_scan, CPU, ALONE)
    assert np.isfinite(found.object_).all()
    whole, _ = split_positions(tiny_scan.positions_px)
    middles = extract_patches(found.object_, whole - found.origin_px.astype(int), (8, 8))
    # The flat start is exactly 1; what was predicted is not.
    assert (np.abs(middles - 1).min(axis=(1, 2)) > 0).all()
    assert np.abs(found.object_[found.coverage > 0.05]).min() > 0.05
    # No seams: amplitudes of neighbouring pixels are near.
    rows, columns = found.covered_box(0.5)
    steps = np.abs(np.diff(np.abs(found.object_[rows, columns]), axis=1))
    assert np.quantile(steps, 0.99) < 0.4


@pytest.mark.parametrize('gridsize', [1, 2])
@pytest.mark.parametrize('patches', [0, 9, 30])
def test_blocks_give_nearly_the_same_object(
    make_backend: MakeBackend,
    tiny_scan: Scan,
    brief: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    gridsize: int,
    patches: int,
) -> None:
    backend = make_backend()
    backend.train([tiny_scan], brief(epochs=2, model={'gridsize': gridsize}))
    whole = backend.reconstruct(tiny_scan, CPU, ALONE)
    assert backend.model is not None
    patch_bytes = 8 * backend.model.network.window_px**2
    monkeypatch.setattr(stitching, 'BLOCK_BYTES', max(1, patches * patch_bytes))
    blocks = backend.reconstruct(tiny_scan, CPU, ALONE)
    box = whole.covered_box(0.3)
    # A block of one pattern has no neighbour inside it to agree with.
    assert likeness(whole.object_[box], blocks.object_[box]) > (0.9 if patches == 0 else 0.97)
    np.testing.assert_array_equal(whole.coverage, blocks.coverage)


def test_a_reconstruction_leaves_no_trace_in_the_next(tiny_model: Backend, tiny_scan: Scan) -> None:
    first = tiny_model.reconstruct(tiny_scan, CPU, RefinementConfig(iterations=2))
    tiny_model.reconstruct(tiny_scan, CPU, RefinementConfig(iterations=3, probe=True))
    tiny_model.refine(tiny_scan, RefinementConfig(iterations=2), device='cpu')
    again = tiny_model.reconstruct(tiny_scan, CPU, RefinementConfig(iterations=2))
    np.testing.assert_array_equal(first.object_, again.object_)
    np.testing.assert_array_equal(first.probe, again.probe)
    assert first.likelihoods == again.likelihoods


def test_the_batch_is_a_matter_of_speed_alone(tiny_model: Backend, tiny_scan: Scan) -> None:
    found = [
        tiny_model.reconstruct(tiny_scan, CPU.replace(batch_size=size), ALONE).object_
        for size in (1, 7, 500)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-3)


def test_phases_are_brought_into_agreement(tiny_model: Backend, tiny_scan: Scan) -> None:
    agreed, free = (
        tiny_model.reconstruct(tiny_scan, CPU.replace(phase_synchronization=value), ALONE)
        for value in (True, False)
    )
    assert not np.array_equal(agreed.object_, free.object_)
    assert likeness(*truth_of(tiny_scan, agreed)) >= likeness(*truth_of(tiny_scan, free)) - 0.02


def test_patches_are_weighted_by_the_rule(tiny_model: Backend, tiny_scan: Scan) -> None:
    objects = []
    for rule in ('intensity', 'amplitude', 'uniform'):
        inference = InferenceConfig.from_dict({'device': 'cpu', 'stitching_weights': rule})
        found = tiny_model.reconstruct(tiny_scan, inference, ALONE)
        assert likeness(*truth_of(tiny_scan, found)) > 0.9
        objects.append(found.object_)
    for one, other in itertools.combinations(objects, 2):
        assert np.abs(one - other).max() > 1e-3


def test_a_scan_of_little_overlap_is_looked_at_in_four_rotations(
    tiny_model: Backend, tiny: MakeScan
) -> None:
    alike = {'dense': 'one', 'sparse': 'four'}
    for density, step in (('dense', 3.0), ('sparse', 12.0)):
        scan = tiny(step_px=step, rows=6, columns=7)
        found = {
            rule: tiny_model.reconstruct(
                scan,
                InferenceConfig.from_dict({'device': 'cpu', 'test_time_rotations': rule}),
                ALONE,
            ).object_
            for rule in ('auto', 'one', 'four')
        }
        assert np.abs(found['four'] - found['one']).max() > 1e-3
        assert np.array_equal(found['auto'], found[alike[density]])


def test_the_network_alone_is_nearer_than_an_empty_object(
    tiny_model: Backend, tiny_scan: Scan
) -> None:
    network = tiny_model.reconstruct(tiny_scan, CPU, ALONE)
    empty = tiny_model.refine(tiny_scan, ALONE, device='cpu')
    (loss,), (flat_loss,) = network.likelihoods, empty.likelihoods
    assert loss < flat_loss
    assert np.array_equal(empty.object_, np.ones_like(empty.object_))
    assert network.amplitude_residual < 0.5 * empty.amplitude_residual


def test_iterations_without_a_model(make_backend: MakeBackend, tiny_scan: Scan) -> None:
    backend = make_backend()
    assert backend.model is None
    free = RefinementConfig(iterations=30, total_variation=0.0)
    found = backend.refine(tiny_scan, free, device='cpu')
    assert np.all(np.diff(found.likelihoods) <= 0)
    assert found.likelihoods[-1] < 0.2 * found.likelihoods[0]
    assert likeness(*truth_of(tiny_scan, found)) > 0.95
    assert found.backend == backend.name


def test_every_iteration_of_a_faint_scan_lowers_the_likelihood(
    make_backend: MakeBackend, tiny: MakeScan
) -> None:
    """With a hundred photons a pattern, only the step of all patterns together goes down."""
    free = RefinementConfig(iterations=30, total_variation=0.0)
    found = make_backend().refine(tiny(photons=100.0), free, device='cpu')
    assert np.all(np.diff(found.likelihoods) < 0)


def test_the_likelihood_is_that_of_the_object_returned(
    make_backend: MakeBackend, tiny_scan: Scan
) -> None:
    """Stopped at any iteration, the best so far is what is returned."""
    backend = make_backend()
    seen: list[Progress] = []

    def stop(progress: Progress) -> bool:
        seen.append(progress)
        return progress.step == 7

    stopped = backend.refine(
        tiny_scan, RefinementConfig(iterations=20), device='cpu', observer=stop
    )
    assert [progress.step for progress in seen] == list(range(1, 8))
    assert all(progress.stage == 'refine' and progress.total == 20 for progress in seen)
    assert len(stopped.likelihoods) == 8
    assert [p.losses['poisson'] for p in seen] == list(stopped.likelihoods[1:])
    np.testing.assert_array_equal(stopped.object_, seen[-1].object_)
    restarted = backend.refine(tiny_scan, RefinementConfig(iterations=20), device='cpu')
    assert list(restarted.likelihoods[:8]) == list(stopped.likelihoods)


def test_iterations_have_a_seed(make_backend: MakeBackend, tiny_scan: Scan) -> None:
    found = [
        make_backend().refine(tiny_scan, RefinementConfig(iterations=2, seed=seed), device='cpu')
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0].object_, found[1].object_)
    assert not np.array_equal(found[0].object_, found[2].object_)


def test_a_wrong_probe_is_corrected_only_when_asked(tiny_model: Backend, tiny_scan: Scan) -> None:
    y, x = np.mgrid[-16:16, -16:16]
    wrong = dataclasses.replace(
        tiny_scan, probe=tiny_scan.probe * np.exp(0.02j * (y**2 + x * y), dtype=np.complex64)
    )
    given = tiny_model.reconstruct(wrong, CPU, RefinementConfig(iterations=25))
    corrected = tiny_model.reconstruct(wrong, CPU, RefinementConfig(iterations=25, probe=True))
    assert likeness(given.probe, wrong.probe) == pytest.approx(1, abs=1e-6)
    assert likeness(corrected.probe, tiny_scan.probe) > likeness(wrong.probe, tiny_scan.probe)
    assert corrected.likelihoods[-1] < 0.7 * given.likelihoods[-1]


def test_the_probe_returned_is_the_one_that_was_assessed(
    make_backend: MakeBackend, tiny_scan: Scan
) -> None:
    for iterations in range(1, 6):
        refinement = RefinementConfig(iterations=iterations, probe=True)
        found = make_backend().refine(tiny_scan, refinement, device='cpu')
        expected = predict_patterns(
            found.object_.astype(complex),
            found.origin_px.astype(int),
            found.positions_px,
            found.probe.astype(complex),
        )
        valid_mask = np.ones(tiny_scan.pattern_shape, bool)
        loss = poisson_loss(expected, tiny_scan.patterns, valid_mask)
        assert found.likelihoods[-1] == pytest.approx(loss, rel=1e-3)


def test_modes_and_dead_pixels_are_iterated(make_backend: MakeBackend, tiny: MakeScan) -> None:
    scan = tiny(n_modes=3, dead_pixels=15)
    backend = make_backend()
    right = backend.refine(scan, RefinementConfig(iterations=30), device='cpu')
    first = dataclasses.replace(scan, probe=scan.probe[:1])
    one_mode = backend.refine(first, RefinementConfig(iterations=30), device='cpu')
    assert right.amplitude_residual < 0.5 * one_mode.amplitude_residual
    assert likeness(*truth_of(scan, right)) > 0.9


@pytest.mark.parametrize('shape', [(40, 28), (32, 48), (24, 24), (33, 35)])
def test_patterns_of_other_shapes_are_fitted(
    tiny_model: Backend, tiny_scan: Scan, shape: tuple[int, int]
) -> None:
    """A detector with more or fewer pixels around the same middle sees the same object."""
    height, width = shape
    fitted = np.zeros((len(tiny_scan), height, width), np.float32)
    low = np.array(shape) // 2 - 16
    source = [slice(max(0, -n), min(32, side - n)) for n, side in zip(low, shape, strict=True)]
    target = [slice(max(0, n), min(side, 32 + n)) for n, side in zip(low, shape, strict=True)]
    fitted[:, *target] = tiny_scan.patterns[:, *source]
    spectrum = np.zeros((1, height, width), complex)
    waves = np.fft.ifftshift(tiny_scan.probe, axes=(1, 2))
    spectrum[:, *target] = np.fft.fftshift(np.fft.fft2(waves, norm='ortho'), axes=(1, 2))[
        :, *source
    ]
    probe = np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(1, 2)), norm='ortho')
    other = Scan(
        patterns=fitted,
        positions_px=tiny_scan.positions_px * (np.array(shape) / 32),
        probe=np.fft.fftshift(probe, axes=(1, 2)),
    )
    assert tiny_model.model is not None
    other = tiny_model.model.fitted(other)
    found = tiny_model.reconstruct(other, CPU, RefinementConfig(iterations=20))
    assert found.probe.shape == (1, 32, 32)
    np.testing.assert_allclose(found.positions_px, tiny_scan.positions_px)
    assert likeness(*truth_of(tiny_scan, found)) > 0.95


def test_a_scan_of_another_size_trains_a_model_of_a_given_one(
    make_backend: MakeBackend, tiny: MakeScan, brief: MakeConfig
) -> None:
    backend = make_backend()
    config = brief(epochs=1, model={'pattern_size': 24})
    with pytest.raises(DataError, match=r'of 24 x 24 px; got 32 x 32\. Fit the scan'):
        backend.train([tiny()], config)
    config, scans, _ = fit_for_training([tiny()], [], config, None)
    result = backend.train(scans, config)
    assert result.model.config.model.pattern_size == 24
    assert result.model.probe.shape == (1, 24, 24)


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_a_few_patterns(tiny_model: Backend, tiny_scan: Scan, count: int) -> None:
    few = tiny_scan.subset(np.arange(count))
    found = tiny_model.reconstruct(few, CPU, RefinementConfig(iterations=3))
    assert np.isfinite(found.object_).all()
    assert np.all(np.diff(found.likelihoods) <= 0)


@pytest.mark.parametrize('architecture', ['sweepnet', 'cnn'])
def test_counts_are_scaled_by_the_rule(
    make_backend: MakeBackend, brief: MakeConfig, architecture: str
) -> None:
    """By its own scan an exposure does not matter; by the model brighter is brighter."""
    scan = simulate(SimulationConfig(size=64, rows=4, columns=5, poisson_noise=False))
    brighter = dataclasses.replace(scan, patterns=4 * scan.patterns)
    backend = make_backend()
    model = {'architecture': architecture, 'amplitude_activation': 'softplus'}
    backend.train([scan], brief(epochs=3, model=model, learning_rate=0.01, schedule='constant'))

    def lit(of: Scan, rule: str) -> np.ndarray:
        # Agreement looks at the counts as well; here the network counts alone.
        inference = InferenceConfig.from_dict(
            {'device': 'cpu', 'intensity_scale': rule, 'phase_synchronization': False}
        )
        found = backend.reconstruct(of, inference, ALONE)
        return found.object_[found.coverage > 0.3]

    usual = lit(scan, 'scan')
    np.testing.assert_allclose(lit(scan, 'model'), usual, atol=1e-5)
    # Sweepnet gets the number of photons that an estimate rests on, and changes it less for more.
    near = 1e-5 if architecture == 'cnn' else 0.1
    np.testing.assert_allclose(lit(brighter, 'scan'), usual, atol=near)
    # Four times the counts are out of the range in which 'auto' trusts the exposure.
    np.testing.assert_allclose(lit(brighter, 'auto'), usual, atol=near)
    by_model = lit(brighter, 'model')
    if architecture == 'sweepnet':
        assert np.abs(by_model).mean() > 1.3 * np.abs(usual).mean()
    else:
        # Hardly trained, it need not know what more light means; but it must see it.
        assert np.abs(by_model - usual).max() > near


def test_progress_shows_the_object_pass_by_pass(tiny_model: Backend, tiny_scan: Scan) -> None:
    seen: list[Progress] = []
    found = tiny_model.reconstruct(
        tiny_scan, CPU, RefinementConfig(iterations=2), observer=seen.append
    )
    steps = [(progress.stage, progress.step, progress.total) for progress in seen]
    assert steps == [('predict', 1, 2), ('predict', 2, 2), ('refine', 1, 2), ('refine', 2, 2)]
    for progress in seen:
        assert progress.object_ is not None
        assert progress.object_.shape == found.object_.shape
    assert set(found.timing) == {'predict', 'stitch', 'refine', 'judge'}
    assert min(found.timing.values()) > 0


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda scan: scan.positions_px * 1e-6, 'must be object pixels'),
        (lambda scan: scan.positions_px * 30, 'illuminations must overlap'),
        # One of them measured twice.
        (lambda scan: scan.positions_px[[0, *range(len(scan) - 1)]] * 30, 'must overlap'),
    ],
)
def test_positions_of_another_unit_are_refused(
    tiny_model: Backend,
    tiny_scan: Scan,
    brief: MakeConfig,
    backend_name: str,
    change: Callable[[Scan], Any],
    message: str,
) -> None:
    wrong = dataclasses.replace(tiny_scan, positions_px=change(tiny_scan), object_=None)
    settings: dict[str, Any] = {'inference': CPU, 'refinement': ALONE, 'backend': backend_name}
    with pytest.raises(DataError, match=message):
        api.reconstruct(tiny_model.model, wrong, **settings)
    with pytest.raises(DataError, match=message):
        api.refine(wrong, ALONE, device='cpu', backend=backend_name)
    with pytest.raises(DataError, match=message):
        api.train([wrong], brief(), backend=backend_name)


def test_without_a_model(make_backend: MakeBackend, tiny_scan: Scan, tmp_path: Any) -> None:
    message = r'No model is loaded\. Train one, or open a model file first'
    with pytest.raises(DataError, match=message):
        make_backend().reconstruct(tiny_scan, CPU, ALONE)
    with pytest.raises(DataError, match=message):
        make_backend().save_model(tmp_path / 'wts.h5.zip')
    assert list(tmp_path.iterdir()) == []
