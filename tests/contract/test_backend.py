"""What every backend makes of a scan, through the same assertions."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from ptychopinn_plugin.backends.common import stitching
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import ArchiveError, BackendUnavailableError, DataError
from ptychopinn_plugin.evaluation import evaluate

ALONE = RefinementConfig(iterations=0)


def tiny(**changes: Any) -> Scan:
    """Return 8 x 10 patterns of 32 px: an asymmetric object in a field that is not square."""
    settings = {
        'size': 32,
        'rows': 8,
        'columns': 10,
        'step_px': 4.0,
        'jitter_px': 1.0,
        'pupil_radius': 0.2,
        'defocus': 60.0,
        'object_kind': 'letters',
    }
    return simulate(SimulationConfig.from_dict({**settings, **changes}))


def settings(*, model: dict[str, Any] | None = None, **training: Any) -> Config:
    """Return settings for a few seconds of training."""
    values = {'epochs': 2, 'target_iterations': 10, 'device': 'cpu', 'n_groups': 80, **training}
    return Config.from_dict({'training': values, 'model': {'filters_scale': 0.5, **(model or {})}})


@pytest.fixture(scope='module')
def make(make_backend: Any) -> Any:
    return make_backend


@pytest.fixture(scope='module')
def scan() -> Scan:
    return tiny()


@pytest.fixture(scope='module')
def trained(make: Any, scan: Scan) -> Backend:
    backend = make()
    backend.train([scan], settings(epochs=12))
    return backend


def weights_of(backend: Backend) -> np.ndarray:
    assert backend.model is not None
    return np.concatenate([w.ravel() for w in backend.model.weights.values()])


def test_the_same_seed_gives_the_same_bits(make: Any, scan: Scan) -> None:
    backends = [make() for _ in range(3)]
    for backend, seed in zip(backends, (5, 5, 6), strict=True):
        backend.train([scan], settings(seed=seed))
    first, second, other = (weights_of(backend) for backend in backends)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_seed_decides_what_the_epochs_of_a_fine_tuning_meet(
    make: Any, trained: Backend, scan: Scan
) -> None:
    """Weights, target and held-out patterns are the same here; the order is not."""
    found = []
    for seed in (5, 5, 6):
        backend = make()
        config = settings(epochs=1, seed=seed, target='none', validation_fraction=0.0)
        backend.train([scan], config, base_model=trained.model)
        found.append(weights_of(backend))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize('architecture', ['sweepnet', 'cnn'])
@pytest.mark.parametrize('gridsize', [1, 2])
def test_groups_and_architectures(make: Any, architecture: str, gridsize: int) -> None:
    scan = simulate(SimulationConfig(rows=6, columns=7))
    backend = make()
    model = {'architecture': architecture, 'gridsize': gridsize, 'filters_scale': 0.25}
    backend.train([scan], settings(epochs=1, model=model))
    result = backend.reconstruct(scan, InferenceConfig(device='cpu'), ALONE)
    box = result.covered_box()
    assert np.abs(result.object_[box]).min() > 0
    assert np.isfinite(result.object_).all()


def test_several_scans_modes_and_a_validation_scan(make: Any) -> None:
    scans = [tiny(seed=seed, n_modes=2) for seed in (3, 4)]
    backend = make()
    result = backend.train(scans, settings(), validation=[tiny(seed=5, n_modes=2)])
    assert result.model.data_summary['patterns'] == 160
    assert result.model.probe.shape == (2, 32, 32)
    found = backend.reconstruct(tiny(seed=6, n_modes=2), InferenceConfig(), ALONE)
    assert found.probe.shape == (2, 32, 32)


def test_what_stands_in_dead_pixels_does_not_matter(make: Any) -> None:
    clean = tiny(dead_pixels=6)
    assert clean.bad_pixels is not None
    garbage = clean.patterns.copy()
    garbage[:, clean.bad_pixels] = 60000
    results = []
    for patterns in (clean.patterns, garbage):
        scan = dataclasses.replace(clean, patterns=patterns)
        backend = make()
        backend.train([scan], settings(epochs=1))
        results.append(backend.reconstruct(scan, InferenceConfig(), RefinementConfig(iterations=3)))
    np.testing.assert_array_equal(results[0].object_, results[1].object_)


def test_the_object_lands_where_it_is(trained: Backend, scan: Scan) -> None:
    result = trained.reconstruct(scan, InferenceConfig(), RefinementConfig(iterations=15))
    found = evaluate(result, scan)
    assert np.abs(found.shift_px).max() < 0.3
    assert found.amplitude.ssim > 0.6
    for wrong in (result.object_[::-1], result.object_[:, ::-1]):
        reoriented = dataclasses.replace(result, object_=np.ascontiguousarray(wrong))
        assert evaluate(reoriented, scan).amplitude.ssim < 0.8 * found.amplitude.ssim
    assert result.coverage.max() == pytest.approx(1)
    assert result.backend == trained.name


def test_a_scan_in_blocks_is_nearly_the_same(
    trained: Backend, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained.reconstruct(scan, InferenceConfig(), ALONE)
    assert trained.model is not None
    patch = 8 * trained.model.network.window_px**2
    monkeypatch.setattr(stitching, 'BLOCK_BYTES', 30 * patch)
    blocks = trained.reconstruct(scan, InferenceConfig(), ALONE)
    box = whole.covered_box(0.2)
    first, second = whole.object_[box], blocks.object_[box]
    same = np.abs(np.vdot(first, second)) / np.linalg.norm(first) / np.linalg.norm(second)
    assert same > 0.99


@pytest.mark.parametrize('probe', [False, True])
def test_iterations_never_raise_the_loss(trained: Backend, scan: Scan, probe: bool) -> None:
    refinement = RefinementConfig(iterations=12, probe=probe, total_variation=0.0)
    for result in (
        trained.reconstruct(scan, InferenceConfig(), refinement),
        trained.refine(scan, refinement),
    ):
        assert len(result.likelihoods) == 13
        assert np.all(np.diff(result.likelihoods) <= 0)
        assert result.likelihoods[-1] < 0.9 * result.likelihoods[0]


def test_a_wrong_probe_is_corrected(trained: Backend, scan: Scan) -> None:
    y, x = np.mgrid[-16:16, -16:16]
    wrong = dataclasses.replace(scan, probe=scan.probe * np.exp(0.02j * (y**2 + x * y)))
    as_given = trained.refine(wrong, RefinementConfig(iterations=20))
    corrected = trained.refine(wrong, RefinementConfig(iterations=20, probe=True))
    assert corrected.amplitude_residual < 0.7 * as_given.amplitude_residual
    # The split into probe and object stays where the normalization put it.
    before, after = (np.linalg.norm(result.probe) for result in (as_given, corrected))
    assert after == pytest.approx(before, rel=1e-4)


def test_a_saved_model_reconstructs_the_same_bits(
    make: Any, trained: Backend, scan: Scan, tmp_path: Path
) -> None:
    trained.save_model(tmp_path / 'wts.h5.zip', inference_only=True)
    other = make()
    other.open_model(tmp_path / 'wts.h5.zip')
    first, second = (
        backend.reconstruct(scan, InferenceConfig(), ALONE) for backend in (trained, other)
    )
    np.testing.assert_array_equal(first.object_, second.object_)


def test_each_scan_has_the_probe_that_training_corrected(
    make: Any, scan: Scan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    y, x = np.indices((32, 32)) - 16
    other = tiny(seed=4, pupil_radius=0.25)
    guess = dataclasses.replace(other, probe=other.probe * np.exp(0.02j * (y**2 + x * y)))
    backend = make()
    backend.train([scan, guess], settings(probe_trainable=True, target_iterations=20))
    backend.save_model(tmp_path / 'wts.h5.zip', inference_only=True)
    backend.open_model(tmp_path / 'wts.h5.zip')
    caplog.clear()

    def probe(of: Scan) -> np.ndarray:
        return backend.reconstruct(of, InferenceConfig(), ALONE).probe

    assert alike(probe(scan), scan.probe) > 0.98
    missed = [1 - alike(found, other.probe) for found in (guess.probe, probe(guess))]
    assert missed[1] < 0.5 * missed[0]
    assert 'none of those' not in caplog.text
    assert alike(probe(other), other.probe) > 0.9999
    assert 'none of those that training corrected' in caplog.text


def alike(first: np.ndarray, second: np.ndarray) -> float:
    """Return the modulus of the correlation of two probes."""
    return float(abs(np.vdot(first, second)) / np.linalg.norm(first) / np.linalg.norm(second))


def test_patterns_of_another_size_are_fitted_before(trained: Backend) -> None:
    wide = tiny(size=48, pupil_radius=0.2 * 32 / 48, defocus=60.0 * (48 / 32) ** 2, step_px=6.0)
    with pytest.raises(DataError, match=r'of 32 x 32 px; got 48 x 48\. Fit the scan'):
        trained.reconstruct(wide, InferenceConfig(), ALONE)
    assert trained.model is not None
    result = trained.reconstruct(trained.model.fitted(wide), InferenceConfig(), ALONE)
    assert result.probe.shape[-2:] == (32, 32)
    assert np.isfinite(result.object_).all()


@pytest.mark.parametrize(('rule', 'expected'), [('scan', 4e4), ('model', 1e5), ('auto', 4e4)])
def test_the_rule_of_the_intensity_scale(trained: Backend, rule: str, expected: float) -> None:
    faint = tiny(photons=4e4)
    result = trained.reconstruct(faint, InferenceConfig.from_dict({'intensity_scale': rule}), ALONE)
    assert (np.abs(result.probe) ** 2).sum() == pytest.approx(expected, rel=0.02)


def test_a_stop_is_obeyed(trained: Backend, scan: Scan) -> None:
    seen: list[str] = []

    def stop_refining(progress: Progress) -> bool:
        seen.append(progress.stage)
        return progress.stage == 'refine' and progress.step == 2

    trained.reconstruct(
        scan, InferenceConfig(), RefinementConfig(iterations=50), observer=stop_refining
    )
    assert seen.count('refine') == 2
    seen.clear()
    trained.reconstruct(
        scan,
        InferenceConfig(),
        RefinementConfig(),
        observer=lambda p: bool(seen.append(p.stage)) or True,
    )
    assert seen == ['predict']


def test_openblas_leaves_the_cores_to_the_framework(make: Any, scan: Scan) -> None:
    openblas = ThreadpoolController().select(internal_api='openblas')
    if not openblas.lib_controllers:
        pytest.skip('NumPy and SciPy compute without OpenBLAS here.')
    seen: list[int] = []

    def look(progress: Progress) -> None:
        seen.extend(library.num_threads for library in openblas.lib_controllers)

    # One thread before would be one within, whatever is done.
    with openblas.limit(limits=2):
        backend = make()
        backend.refine(scan, RefinementConfig(iterations=2), device='cpu', observer=look)
        backend.train([scan], settings(epochs=1), observer=look)
        inference = InferenceConfig(device='cpu')
        backend.reconstruct(scan, inference, RefinementConfig(iterations=1), observer=look)
        assert set(seen) == {1}
        assert {library.num_threads for library in openblas.lib_controllers} == {2}


def test_errors_say_what_to_do(make: Any, scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='No model is loaded'):
        make().reconstruct(scan, InferenceConfig(), ALONE)
    with pytest.raises(DataError, match='at least one scan'):
        make().train([], settings())
    with pytest.raises(ArchiveError, match='no model file'):
        make().open_model(tmp_path / 'none.zip')
    with pytest.raises(BackendUnavailableError, match='no device'):
        make().train([scan], settings(device='warp'))


def test_a_validation_scan_keeps_its_own_probe(make: Any, scan: Scan) -> None:
    """What training makes of its own probe holds for no other scan's."""
    other = tiny(seed=5, defocus=30.0)
    config = settings(epochs=1, learning_rate=0.0, target='none')
    first, second = (
        make().train(
            [scan],
            config.replace(training=config.training.replace(probe_trainable=trainable)),
            validation=[other],
        )
        for trainable in (False, True)
    )
    losses = [result.history[0]['validation_loss'] for result in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_something_must_be_left_to_train_on(make: Any, scan: Scan) -> None:
    with pytest.raises(DataError, match='--validation-fraction'):
        make().train([scan.subset(np.arange(1))], settings(validation_fraction=0.9))


def test_refinement_that_ends_above_shot_noise_suggests_to_correct_the_probe(
    make: Any, scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    y, x = np.mgrid[-16:16, -16:16]
    wrong = dataclasses.replace(scan, probe=scan.probe * np.exp(0.02j * (y**2 + x * y)))
    make().refine(wrong, RefinementConfig(iterations=15), device='cpu')
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith(f'{wrong.name}: ')
    assert '--refine-probe (refinement.probe)' in message
    caplog.clear()
    for silent, refinement in (
        (scan, RefinementConfig(iterations=15)),
        (wrong, RefinementConfig(iterations=15, probe=True)),
        # That is too early to decide.
        (wrong, RefinementConfig(iterations=3)),
    ):
        make().refine(silent, refinement, device='cpu')
        assert not caplog.records


FAULTS: dict[str, dict[str, Callable[[Scan], np.ndarray]]] = {
    'inverted': {'positions_px': lambda scan: -scan.positions_px},
    'swapped': {'positions_px': lambda scan: scan.positions_px[:, ::-1]},
    'shuffled': {
        'positions_px': lambda scan: np.random.default_rng(0).permutation(scan.positions_px)
    },
    'transposed': {'patterns': lambda scan: scan.patterns.transpose(0, 2, 1)},
}


@pytest.mark.parametrize('fault', FAULTS)
@pytest.mark.parametrize('unit', ['photons', 'another unit'])
def test_a_wrong_geometry_is_told_in_any_unit(
    make: Any, fault: str, unit: str, caplog: pytest.LogCaptureFixture
) -> None:
    right = tiny(photons=1e5)
    if unit != 'photons':
        right = dataclasses.replace(right, patterns=right.patterns / np.float32(7))
    wrong = dataclasses.replace(
        right, **{name: change(right) for name, change in FAULTS[fault].items()}
    )
    for probe in (False, True):
        caplog.clear()
        refinement = RefinementConfig(iterations=15, probe=probe)
        misfit = make().refine(wrong, refinement, device='cpu').misfit
        # With a probe that hides the fault, too.
        (message,) = (record.getMessage() for record in caplog.records)
        for cause in ('order', 'swapped', 'inverted', 'unit', 'transposed', 'probe', 'pixel size'):
            assert cause in message
        assert ('--refine-probe' in message) is not probe
        assert (misfit.over_noise is None) is (unit != 'photons')
        assert misfit.share > 3e-3
    caplog.clear()
    misfit = make().refine(right, RefinementConfig(iterations=15), device='cpu').misfit
    assert not caplog.records
    assert abs(misfit.correlation) < 0.1


@pytest.mark.parametrize('photons', [1e2, 1e3, 1e4, 1e6, 1e8])
def test_a_perfect_probe_is_left_alone_at_any_exposure(
    make: Any, photons: float, caplog: pytest.LogCaptureFixture
) -> None:
    make().refine(tiny(photons=photons), RefinementConfig(iterations=10), device='cpu')
    assert not caplog.records
