"""What every backend must do, through the same assertions."""

import dataclasses
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import ArchiveError, BackendUnavailableError, ConfigError, DataError
from ptychopinn_plugin.evaluation import evaluate

BACKENDS = {'pytorch': ('torch', 'ptychopinn_plugin.backends.pytorch.adapter:PyTorchBackend')}
ALONE = RefinementConfig(sweeps=0)


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
    values = {'epochs': 2, 'teacher_sweeps': 10, 'device': 'cpu', 'n_groups': 80, **training}
    return Config.from_dict({'training': values, 'model': {'filters_scale': 0.5, **(model or {})}})


@pytest.fixture(scope='module', params=BACKENDS)
def make(request: pytest.FixtureRequest) -> Any:
    """Return what makes a fresh backend."""
    framework, loader = BACKENDS[request.param]
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f'{framework} is not installed.')
    module, name = loader.split(':')
    return getattr(importlib.import_module(module), name)


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


def test_training_lowers_the_loss_and_tells_how(make: Any, scan: Scan) -> None:
    seen: list[Progress] = []
    config = settings(epochs=12, learning_rate=3e-3, validation_share=0.2)
    result = make().train([scan], config, observer=seen.append)
    rows = result.history
    assert [row['epoch'] for row in rows] == list(range(1, 13))
    assert rows[-1]['validation_loss'] < 0.99 * rows[0]['validation_loss']
    assert {'loss', 'poisson', 'teacher', 'learning_rate', 'seconds'} <= set(rows[0])
    assert result.stopped == 'epochs'
    assert {'teach', 'train'} <= {progress.stage for progress in seen}
    assert result.model.photons == pytest.approx(scan.mean_counts())


def test_the_same_seed_gives_the_same_bits(make: Any, scan: Scan) -> None:
    backends = [make() for _ in range(3)]
    for backend, seed in zip(backends, (5, 5, 6), strict=True):
        backend.train([scan], settings(seed=seed))
    first, second, other = (weights_of(backend) for backend in backends)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize('trainable', [False, True])
def test_resume_continues_exactly(make: Any, scan: Scan, tmp_path: Path, trainable: bool) -> None:
    config = settings(epochs=4, probe_trainable=trainable, intensity_scale_trainable=trainable)
    whole = make()
    whole.train([scan], config)

    def stop_after_two(progress: Progress) -> bool:
        return progress.stage == 'train' and progress.step >= 2

    part = make()
    assert part.train([scan], config, observer=stop_after_two).stopped == 'request'
    part.save_model(tmp_path / 'part.zip')
    resumed = make()
    resumed.open_model(tmp_path / 'part.zip')
    result = resumed.train([scan], config, base_model=resumed.model, resume=True)
    assert len(result.history) == 4
    np.testing.assert_array_equal(weights_of(resumed), weights_of(whole))


def test_resume_needs_a_training_state(make: Any, trained: Backend, scan: Scan) -> None:
    assert trained.model is not None
    bare = dataclasses.replace(trained.model, training_state=None)
    with pytest.raises(ConfigError, match='--base-model'):
        make().train([scan], settings(), base_model=bare, resume=True)


def test_fine_tuning_starts_from_the_weights(make: Any, trained: Backend, scan: Scan) -> None:
    backend = make()
    slow = settings(epochs=1, learning_rate=1e-6)
    backend.train([scan], slow, base_model=trained.model)
    moved = np.abs(weights_of(backend) - weights_of(trained)).max()
    assert 0 < moved < 1e-3


@pytest.mark.parametrize('trainable', [False, True])
def test_probe_and_scale_move_only_when_asked(make: Any, scan: Scan, trainable: bool) -> None:
    backend = make()
    backend.train([scan], settings(probe_trainable=trainable, intensity_scale_trainable=trainable))
    assert backend.model is not None
    wave = backend.model.probe / np.linalg.norm(backend.model.probe)
    before = scan.probe / np.linalg.norm(scan.probe)
    assert (np.abs(wave - before).max() > 1e-4) == trainable
    assert (abs(backend.model.intensity_scale - 1) > 1e-6) == trainable


@pytest.mark.parametrize(
    'changes',
    [
        {'schedule': 'constant'},
        {'schedule': 'exponential'},
        {'schedule': 'cosine'},
        {'schedule': 'plateau'},
        {'optimizer': 'adam'},
        {'accumulation': 3},
        {'gradient_clip': 1e-3},
        {'precision': 'bfloat16'},
        {'teacher': 'none'},
        {'amplitude_mae_weight': 0.5, 'total_variation_weight': 0.01},
        {'n_subsample': 40},
        {'validation_share': 0.0},
    ],
    ids=str,
)
def test_each_setting_trains(make: Any, scan: Scan, changes: dict[str, Any]) -> None:
    plain, changed = make(), make()
    plain.train([scan], settings(epochs=1))
    result = changed.train([scan], settings(epochs=1, **changes))
    assert np.isfinite(weights_of(changed)).all()
    if changes != {'schedule': 'plateau'}:
        assert not np.array_equal(weights_of(changed), weights_of(plain))
    assert ('teacher' in result.history[0]) == (changes.get('teacher') != 'none')


def test_training_ends_when_it_should(make: Any, scan: Scan) -> None:
    limited = make().train([scan], settings(epochs=500, max_minutes=0.05))
    assert limited.stopped == 'max-minutes'
    assert limited.history[-1]['seconds'] < 10
    impatient = make().train([scan], settings(epochs=30, early_stop_patience=1, learning_rate=0.0))
    assert impatient.stopped == 'early-stop'
    assert len(impatient.history) == 2


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


@pytest.mark.parametrize('gridsize', [3, 5])
def test_large_groups(make: Any, scan: Scan, gridsize: int) -> None:
    backend = make()
    backend.train([scan], settings(epochs=1, model={'gridsize': gridsize}))
    constrained = weights_of(backend)
    free = {'gridsize': gridsize, 'overlap_constraint': False}
    backend.train([scan], settings(epochs=1, model=free))
    assert not np.array_equal(constrained, weights_of(backend))


def test_supervised_learns_from_the_object_and_needs_one(make: Any, scan: Scan) -> None:
    config = settings(epochs=3, model={'model_type': 'supervised'})
    result = make().train([scan], config)
    assert set(result.history[0]) & {'poisson', 'teacher'} == {'teacher'}
    assert result.history[-1]['validation_loss'] < result.history[0]['validation_loss']
    with pytest.raises(DataError, match='supervised'):
        make().train([dataclasses.replace(scan, object_=None)], config)


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
        results.append(backend.reconstruct(scan, InferenceConfig(), RefinementConfig(sweeps=3)))
    np.testing.assert_array_equal(results[0].object_, results[1].object_)


def test_the_object_lands_where_it_is(trained: Backend, scan: Scan) -> None:
    result = trained.reconstruct(scan, InferenceConfig(), RefinementConfig(sweeps=15))
    found = evaluate(result, scan)
    assert np.abs(found.shift_px).max() < 0.3
    assert found.amplitude.ssim > 0.6
    for wrong in (result.object_[::-1], result.object_[:, ::-1]):
        turned = dataclasses.replace(result, object_=np.ascontiguousarray(wrong))
        assert evaluate(turned, scan).amplitude.ssim < 0.8 * found.amplitude.ssim
    assert result.coverage.max() == pytest.approx(1)
    assert result.backend == trained.name


def test_a_scan_in_blocks_is_nearly_the_same(
    trained: Backend, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained.reconstruct(scan, InferenceConfig(), ALONE)
    module = importlib.import_module(f'ptychopinn_plugin.backends.{trained.name}.inference')
    assert trained.model is not None
    patch = 8 * trained.model.network.window_px**2
    monkeypatch.setattr(module, 'BLOCK_BYTES', 30 * patch)
    blocks = trained.reconstruct(scan, InferenceConfig(), ALONE)
    box = whole.covered_box(0.2)
    first, second = whole.object_[box], blocks.object_[box]
    same = np.abs(np.vdot(first, second)) / np.linalg.norm(first) / np.linalg.norm(second)
    assert same > 0.99


@pytest.mark.parametrize('probe', [False, True])
def test_sweeps_never_raise_the_loss(trained: Backend, scan: Scan, probe: bool) -> None:
    refinement = RefinementConfig(sweeps=12, probe=probe)
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
    as_given = trained.refine(wrong, RefinementConfig(sweeps=20))
    corrected = trained.refine(wrong, RefinementConfig(sweeps=20, probe=True))
    assert corrected.amplitude_residual < 0.7 * as_given.amplitude_residual


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


def test_patterns_of_another_size_are_fitted(trained: Backend) -> None:
    wide = tiny(size=48, pupil_radius=0.2 * 32 / 48, defocus=60.0 * (48 / 32) ** 2, step_px=6.0)
    result = trained.reconstruct(wide, InferenceConfig(), ALONE)
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
        scan, InferenceConfig(), RefinementConfig(sweeps=50), observer=stop_refining
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


def test_errors_say_what_to_do(make: Any, scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='No model is loaded'):
        make().reconstruct(scan, InferenceConfig(), ALONE)
    with pytest.raises(DataError, match='at least one scan'):
        make().train([], settings())
    with pytest.raises(ArchiveError, match='no model file'):
        make().open_model(tmp_path / 'none.zip')
    with pytest.raises(BackendUnavailableError, match='no device'):
        make().train([scan], settings(device='warp'))
