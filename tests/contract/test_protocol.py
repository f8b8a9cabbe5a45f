"""The Protocol on ten patterns: ours and a backend of another package, through one suite."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.backends.protocol import Backend, Progress, TrainingResult
from ptychopinn_plugin.backends.selection import choose, create_backend, find_backends
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.errors import ArchiveError, DataError
from ptychopinn_plugin.model_file import Model

FIXTURES = Path(__file__).parents[1] / 'fixtures'
CPU = InferenceConfig(device='cpu')
ALONE = RefinementConfig(iterations=0)
CONFIG = Config.from_dict(
    {
        'training': {'epochs': 3, 'target_iterations': 10, 'device': 'cpu', 'batch_size': 4},
        'model': {'passes': 2, 'filters_scale': 0.25},
    }
)


@pytest.fixture(scope='module')
def scan() -> Scan:
    """Return the scan as `make_minimal_scan.py` left it."""
    return load_scan(FIXTURES / 'minimal_scan.npz')


@pytest.fixture(scope='module')
def abacus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the third backend: a folder with a distribution whose entry point names it."""
    folder = tmp_path_factory.mktemp('site')
    source = (FIXTURES / 'abacus' / 'abacus_backend.py').read_text()
    (folder / 'abacus_backend.py').write_text(source)
    metadata = folder / 'abacus_backend-1.0.dist-info'
    metadata.mkdir()
    (metadata / 'METADATA').write_text('Metadata-Version: 2.1\nName: abacus-backend\nVersion: 1.0')
    (metadata / 'entry_points.txt').write_text(
        '[ptychopinn_plugin.backends]\nabacus = abacus_backend:spec\n'
    )
    return folder


@pytest.fixture(params=['pytorch', 'tensorflow', 'abacus'])
def name(request: pytest.FixtureRequest, abacus: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a backend's name, as users write it."""
    monkeypatch.syspath_prepend(abacus)
    monkeypatch.delenv('PTYCHOPINN_BACKEND', raising=False)
    spec = find_backends()[request.param]
    if importlib.util.find_spec(spec.framework) is None:
        pytest.skip(f'{spec.framework} is not installed.')
    return spec.name


@pytest.fixture
def backend(name: str) -> Backend:
    return create_backend(name)


@pytest.fixture
def trained(backend: Backend, scan: Scan) -> TrainingResult:
    return backend.train([scan], CONFIG)


def test_the_fixture_is_what_its_script_makes(scan: Scan) -> None:
    script = importlib.util.spec_from_file_location('script', FIXTURES / 'make_minimal_scan.py')
    assert script is not None
    assert script.loader is not None
    module = importlib.util.module_from_spec(script)
    script.loader.exec_module(module)
    made = module.make()
    assert len(scan) == 10
    np.testing.assert_array_equal(scan.patterns, made.patterns)
    np.testing.assert_allclose(scan.positions_px, made.positions_px)
    assert scan.object_ is not None
    np.testing.assert_allclose(scan.object_, made.object_)


def test_it_is_found_and_chosen(name: str) -> None:
    assert choose(name.upper()).name == name
    assert choose(model_backend=name).source == 'model'
    assert create_backend(name).name == name


def test_training(name: str, backend: Backend, trained: TrainingResult) -> None:
    assert trained.stopped == 'epochs'
    assert [row['epoch'] for row in trained.history] == [1, 2, 3]
    for row in trained.history:
        assert {'seconds', 'learning_rate', 'loss', 'validation_loss'} <= set(row)
        assert np.isfinite(list(row.values())).all()
    model = trained.model
    assert isinstance(model, Model)
    assert model is backend.model
    assert model.backend == name
    assert model.config.model.pattern_size == 32
    assert model.probe.shape == (1, 32, 32)
    for weight, shape in model.network.weight_shapes().items():
        assert model.weights[weight].shape == shape


def test_training_stops_when_asked(backend: Backend, scan: Scan) -> None:
    seen: list[Progress] = []

    def observe(progress: Progress) -> bool:
        seen.append(progress)
        return progress.stage == 'train' and progress.step == 1

    assert backend.train([scan], CONFIG, observer=observe).stopped == 'request'
    assert {progress.stage for progress in seen} <= {'target', 'train'}


def test_reconstruction(name: str, backend: Backend, trained: TrainingResult, scan: Scan) -> None:
    stages: list[str] = []
    alone = backend.reconstruct(scan, CPU, ALONE, observer=lambda p: stages.append(p.stage))
    assert stages == ['predict'] * 2
    # Without smoothing the iterations start at what the network alone gives.
    refined = backend.reconstruct(scan, CPU, RefinementConfig(iterations=5, total_variation=0))
    empty = backend.refine(scan, ALONE, device='cpu')
    assert refined.amplitude_residual < alone.amplitude_residual < empty.amplitude_residual
    for result in (alone, refined, empty):
        assert result.backend == name
        assert result.object_.dtype == np.complex64
        assert result.object_.shape == result.coverage.shape
        assert result.coverage.max() == pytest.approx(1)
        assert np.isfinite(result.object_).all()
    assert list(alone.likelihoods) == pytest.approx([refined.likelihoods[0]])


def test_refinement_finds_the_truth(backend: Backend, scan: Scan) -> None:
    settings = RefinementConfig(iterations=40, total_variation=0)
    result = backend.refine(scan, settings, device='cpu')
    assert len(result.likelihoods) == 41
    assert np.all(np.diff(result.likelihoods) <= 0)
    assert scan.object_ is not None
    rows, columns = result.covered_box(0.3)
    found = result.object_[rows, columns]
    top, left = result.origin_px.astype(int) + np.array([rows.start, columns.start])

    def likeness(image: np.ndarray) -> float:
        true = scan.object_[top : top + image.shape[0], left : left + image.shape[1]]
        overlap = np.abs(np.vdot(image, true))
        return float(overlap / np.linalg.norm(image) / np.linalg.norm(true))

    assert likeness(found) > 0.95
    for wrong in (found[::-1], found[:, ::-1], found.conj()):
        assert likeness(wrong) < likeness(found) - 0.02
    # Stopped after any iteration, it returns what it showed last.
    seen: list[Progress] = []
    stopped = backend.refine(
        scan,
        RefinementConfig(iterations=40),
        device='cpu',
        observer=lambda p: bool(seen.append(p)) or p.step == 3,
    )
    assert [progress.step for progress in seen] == [1, 2, 3]
    assert seen[-1].object_ is not None
    np.testing.assert_array_equal(stopped.object_, seen[-1].object_)


def test_a_saved_model_gives_the_same_bits(
    name: str, backend: Backend, trained: TrainingResult, scan: Scan, tmp_path: Path
) -> None:
    path = tmp_path / 'wts.h5.zip'
    backend.save_model(path, inference_only=True)
    other = create_backend(name)
    assert other.open_model(path).backend == name
    first, second = (b.reconstruct(scan, CPU, ALONE) for b in (backend, other))
    np.testing.assert_array_equal(first.object_, second.object_)
    # The file names the backend that runs it.
    again = api.reconstruct(path, scan, inference=CPU, refinement=ALONE)
    assert again.backend == name


def test_errors(backend: Backend, scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='No model is loaded'):
        backend.reconstruct(scan, CPU, ALONE)
    with pytest.raises(DataError, match='No model is loaded'):
        backend.save_model(tmp_path / 'wts.h5.zip')
    with pytest.raises(DataError, match='at least one scan'):
        backend.train([], CONFIG)
    with pytest.raises(ArchiveError, match='no model file'):
        backend.open_model(tmp_path / 'none.zip')
