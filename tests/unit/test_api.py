"""The public API: what it exports, which backend it calls, and which settings it passes on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ptychopinn_plugin as pinn
from ptychopinn_plugin import api
from ptychopinn_plugin.backends import checkpoints, selection
from ptychopinn_plugin.backends.protocol import ignore_progress
from ptychopinn_plugin.backends.selection import Choice
from ptychopinn_plugin.errors import ArchiveError, ConfigError, DataError
from ptychopinn_plugin.model_file import TrainingState
from ptychopinn_plugin.network import describe_network


class RecordingBackend:
    """Stands in for a framework: writes down what is requested."""

    name = 'fake'

    def __init__(self) -> None:
        self.model: pinn.Model | None = None
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def train(self, *arguments: Any, **options: Any) -> str:
        self.calls.append(('train', arguments, options))
        return 'result'

    def reconstruct(self, *arguments: Any, **options: Any) -> str:
        self.calls.append(('reconstruct', arguments, options))
        return 'reconstruction'

    def refine(self, *arguments: Any, **options: Any) -> str:
        self.calls.append(('refine', arguments, options))
        return 'refined'


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> RecordingBackend:
    """Return the backend that every name means."""
    made = RecordingBackend()

    def fake_choose(explicit: str | None = None, *, model_backend: str | None = None) -> Choice:
        if explicit is not None:
            return Choice(explicit, 'argument')
        return Choice(model_backend or 'fake', 'model' if model_backend else 'auto')

    monkeypatch.setattr(api, 'choose', fake_choose)
    monkeypatch.setattr(api, 'create_backend', lambda name: made)
    return made


@pytest.fixture(scope='module')
def scan() -> pinn.Scan:
    return pinn.simulate(pinn.SimulationConfig(size=32, n_positions=9))


@pytest.fixture
def scan_file(scan: pinn.Scan, tmp_path: Path) -> Path:
    path = tmp_path / 'scan.npz'
    pinn.write_scan(path, scan)
    return path


@pytest.fixture
def model() -> pinn.Model:
    config = pinn.Config(
        model=pinn.ModelConfig(pattern_size=32),
        training=pinn.TrainingConfig(epochs=7, batch_size=8),
        inference=pinn.InferenceConfig(batch_size=5),
        refinement=pinn.RefinementConfig(iterations=3),
    )
    network = describe_network(config.model, 16)
    weights = {name: np.zeros(shape, np.float32) for name, shape in network.weight_shapes().items()}
    return pinn.Model(
        backend='fake',
        network=network,
        config=config,
        photons=1e4,
        weights=weights,
        probe=np.ones((1, 32, 32), np.complex64),
        training_state=TrainingState(
            {'last/a': np.zeros(3, np.float32)}, {'epoch': 7, 'history': []}
        ),
    )


def test_every_public_name_is_there() -> None:
    for name in pinn.__all__:
        assert getattr(pinn, name) is not None
    assert set(api.__all__) == set(pinn.__all__) - {'__version__'}
    assert set(pinn.__all__) <= set(dir(pinn))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'retrain'"):
        pinn.retrain  # noqa: B018


def test_train_takes_one_scan_or_several_in_memory_or_files(
    backend: RecordingBackend, scan: pinn.Scan, scan_file: Path
) -> None:
    assert pinn.train(scan) == 'result'
    pinn.train([scan, scan_file], validation=str(scan_file))
    (_, first, options), (_, second, more) = backend.calls
    assert first[0] == (scan,)
    # The size of the patterns is settled with them.
    assert first[1] == pinn.Config(model=pinn.ModelConfig(pattern_size=scan.pattern_shape[0]))
    assert options == {
        'validation': (),
        'base_model': None,
        'resume': False,
        'observer': ignore_progress,
    }
    assert len(second[0]) == 2
    np.testing.assert_array_equal(second[0][1].patterns, scan.patterns)
    assert len(more['validation']) == 1


def test_a_group_that_a_scan_cannot_fill_is_an_error_before_a_framework_is_imported(
    backend: RecordingBackend, scan: pinn.Scan, model: pinn.Model
) -> None:
    few = scan.subset(np.arange(3))
    grouped = model.config.model.replace(gridsize=2)
    config = pinn.Config(model=grouped)
    trained = replace(model, config=model.config.replace(model=grouped))
    subsampled = config.replace(training=config.training.replace(n_subsample=2))
    for act, n_patterns in (
        (lambda: pinn.train(few, config), 3),
        (lambda: pinn.train(scan, config, validation=few), 3),
        (lambda: pinn.train(scan, subsampled), 2),
        (lambda: pinn.train(few, base_model=trained), 3),
        (lambda: pinn.reconstruct(trained, few), 3),
    ):
        with pytest.raises(DataError, match=f'A group holds 4 patterns, .* only {n_patterns}'):
            act()
    assert backend.calls == []


def test_resume_keeps_the_models_settings(
    backend: RecordingBackend, scan: pinn.Scan, model: pinn.Model
) -> None:
    pinn.train(scan, resume=model)
    new = pinn.TrainingConfig(epochs=20, max_minutes=2, device='cpu', batch_size=99)
    pinn.train(scan, pinn.Config(training=new), resume=model)
    (_, first, options), (_, second, _) = backend.calls
    assert first[1] == model.config
    assert options['resume'] is True
    assert options['base_model'] is model
    training = second[1].training
    assert (training.epochs, training.max_minutes, training.device) == (20, 2, 'cpu')
    assert training.batch_size == 8


@pytest.mark.parametrize('as_text', [True, False])
def test_a_checkpoint_that_is_resumed_is_replaced(
    backend: RecordingBackend,
    scan: pinn.Scan,
    model: pinn.Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_text: bool,
) -> None:
    monkeypatch.setattr(checkpoints, 'MIN_SECONDS', 0.0)
    path = tmp_path / 'checkpoint.zip'
    for resume in (None, str(path) if as_text else path):
        pinn.train(scan, resume=resume, checkpoint=path)
        _, _, options = backend.calls[-1]
        options['observer'](pinn.Progress('train', 1, 2, {'loss': 1.0}, make_model=lambda: model))
        assert pinn.open_model(path).training_state is not None
    # The one before is kept until the next.
    found = sorted(each.name for each in tmp_path.iterdir())
    assert found == ['checkpoint.predecessor.zip', 'checkpoint.zip']


def test_fine_tuning_takes_new_settings(
    backend: RecordingBackend, scan: pinn.Scan, model: pinn.Model, tmp_path: Path
) -> None:
    path = tmp_path / 'wts.h5.zip'
    pinn.save_model(path, model)
    config = pinn.Config(training=pinn.TrainingConfig(batch_size=99))
    pinn.train(scan, config, base_model=path)
    _, arguments, options = backend.calls[0]
    assert arguments[1] == config.replace(model=model.config.model)
    assert options['resume'] is False
    assert options['base_model'].photons == model.photons


def test_only_resuming_reads_the_training_state(
    backend: RecordingBackend,
    scan: pinn.Scan,
    model: pinn.Model,
    tmp_path: Path,
    damage_training_state: Callable[[Path], None],
) -> None:
    path = tmp_path / 'wts.h5.zip'
    pinn.save_model(path, model)
    damage_training_state(path)
    assert pinn.reconstruct(path, scan) == 'reconstruction'
    assert pinn.train(scan, base_model=path) == 'result'
    with pytest.raises(ArchiveError, match=r'training_state\.h5 is damaged'):
        pinn.train(scan, resume=path)


def test_resume_and_base_model_exclude_each_other(scan: pinn.Scan, model: pinn.Model) -> None:
    with pytest.raises(ConfigError, match='got both'):
        pinn.train(scan, base_model=model, resume=model)


def test_resume_on_another_backend(
    backend: RecordingBackend, scan: pinn.Scan, model: pinn.Model
) -> None:
    with pytest.raises(ConfigError, match='only on the backend that began it'):
        pinn.train(scan, resume=model, backend='other')


def test_reconstruct_takes_the_models_settings_where_none_are_given(
    backend: RecordingBackend, scan: pinn.Scan, scan_file: Path, model: pinn.Model
) -> None:
    assert pinn.reconstruct(model, scan) == 'reconstruction'
    assert backend.model is model
    alone = pinn.RefinementConfig(iterations=0)
    pinn.reconstruct(model, scan_file, inference=pinn.InferenceConfig(), refinement=alone)
    (_, first, _), (_, second, _) = backend.calls
    assert first == (scan, model.config.inference, model.config.refinement)
    assert second[1:] == (pinn.InferenceConfig(), alone)


def test_refine_needs_no_model(backend: RecordingBackend, scan: pinn.Scan) -> None:
    assert pinn.refine(scan) == 'refined'
    assert backend.calls[0][1] == (scan, pinn.RefinementConfig())
    assert backend.model is None


def test_models_open_without_a_framework(
    model: pinn.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, 'entry_points_of', lambda group: [])
    path = tmp_path / 'wts.h5.zip'
    pinn.save_model(str(path), model)
    opened = pinn.open_model(str(path))
    assert opened.config == model.config
    assert opened.training_state is not None
    pinn.save_model(path, opened, inference_only=True)
    assert pinn.open_model(path).training_state is None


def test_missing_files(backend: RecordingBackend, scan: pinn.Scan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='There is no file'):
        pinn.train(tmp_path / 'none.npz')
    with pytest.raises(ArchiveError, match='There is no model file'):
        pinn.reconstruct(tmp_path / 'none.zip', scan)
