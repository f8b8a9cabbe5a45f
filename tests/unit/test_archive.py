"""The model file: complete, or refused in one line, and never a reason to lose the old one."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin import archive
from ptychopinn_plugin.archive import (
    Model,
    TrainingState,
    describe_model,
    is_model_file,
    read_model,
    write_model,
)
from ptychopinn_plugin.config import Config, ModelConfig
from ptychopinn_plugin.errors import ArchiveError, PtychoPinnError
from ptychopinn_plugin.network import describe_network


@pytest.fixture
def model() -> Model:
    config = Config(model=ModelConfig(pattern_size=32, filters_scale=0.25))
    network = describe_network(config.model, 16)
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in network.weight_shapes().items()
    }
    return Model(
        backend='pytorch',
        network=network,
        config=config,
        photons=1e5,
        intensity_scale=1.25,
        weights=weights,
        probe=np.exp(1j * rng.normal(size=(2, 32, 32))).astype(np.complex64),
        data_summary={'patterns': 7},
        training_state=TrainingState({'last/a/b': np.arange(3.0)}, {'epoch': 4}),
    )


def rewrite(path: Path, name: str, data: bytes | None) -> None:
    """Replace or drop one member."""
    with zipfile.ZipFile(path) as old:
        members = {item: old.read(item) for item in old.namelist()}
    members.pop(name)
    if data is not None:
        members[name] = data
    with zipfile.ZipFile(path, 'w') as new:
        for item, content in members.items():
            new.writestr(item, content)


def change_manifest(path: Path, **changes: object) -> None:
    with zipfile.ZipFile(path) as old:
        manifest = json.loads(old.read('manifest.json'))
    rewrite(path, 'manifest.json', json.dumps({**manifest, **changes}).encode())


def test_round_trip(model: Model, tmp_path: Path) -> None:
    path = tmp_path / 'wts.h5.zip'
    write_model(path, model)
    read = read_model(path)
    assert read.network == model.network
    assert read.config == model.config
    assert (read.photons, read.intensity_scale) == (1e5, 1.25)
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(read.weights[name], weight)
    np.testing.assert_array_equal(read.probe, model.probe)
    assert read.training_state is not None
    assert read.training_state.values == {'epoch': 4}
    np.testing.assert_array_equal(read.training_state.arrays['last/a/b'], np.arange(3.0))
    assert is_model_file(path)
    json.dumps(describe_model(read))


def test_inference_only_leaves_the_training_state_out(model: Model, tmp_path: Path) -> None:
    path = tmp_path / 'wts.h5.zip'
    write_model(path, model, inference_only=True)
    assert read_model(path).training_state is None


def test_nothing_is_pickled(model: Model, tmp_path: Path) -> None:
    path = tmp_path / 'wts.h5.zip'
    write_model(path, model)
    with zipfile.ZipFile(path) as opened:
        assert sorted(opened.namelist()) == ['manifest.json', 'training_state.h5', 'weights.h5']
        for name in opened.namelist():
            assert opened.read(name)[:2] in (b'{\n', b'\x89H')


def test_refusals(model: Model, tmp_path: Path) -> None:
    path = tmp_path / 'wts.h5.zip'

    def refused(words: str) -> None:
        with pytest.raises(ArchiveError, match=words) as caught:
            read_model(path)
        assert '\n' not in str(caught.value)

    refused('There is no model file')
    path.write_bytes(b'not a zip')
    refused('not a readable model file')
    write_model(path, model)
    path.write_bytes(path.read_bytes()[:2000])
    refused('not a readable model file')
    write_model(path, model)
    change_manifest(path, format_version=99)
    refused('format version 99.*upgrade')
    write_model(path, model)
    change_manifest(path, format='something else')
    refused('does not say format')
    write_model(path, model)
    change_manifest(path, network={'layers': []})
    refused('not readable')
    write_model(path, model)
    rewrite(path, 'weights.h5', b'\x89HDF something else')
    refused('damaged')
    write_model(path, model)
    rewrite(path, 'weights.h5', None)
    refused('lacks weights.h5')
    write_model(path, model)
    rewrite(path, 'manifest.json', None)
    refused('holds no manifest.json')


def test_a_weight_of_another_shape_is_named(model: Model, tmp_path: Path) -> None:
    weights = dict(model.weights)
    weights['half/1/weight'] = weights['half/1/weight'][:1]
    write_model(tmp_path / 'a.zip', dataclasses.replace(model, weights=weights))
    with pytest.raises(ArchiveError, match="'half/1/weight' must have shape"):
        read_model(tmp_path / 'a.zip')


def test_a_huge_member_is_refused_unread(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / 'a.zip', model)
    monkeypatch.setattr(archive, 'LARGEST_MEMBER_BYTES', 100)
    with pytest.raises(ArchiveError, match='claims'):
        read_model(tmp_path / 'a.zip')


def test_a_failed_write_leaves_the_old_file(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'wts.h5.zip'
    write_model(path, model)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(zipfile.ZipFile, 'writestr', full)
    with pytest.raises(PtychoPinnError, match='disk is full'):
        write_model(path, dataclasses.replace(model, photons=1.0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
