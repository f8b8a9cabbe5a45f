"""Models back into PtychoPINN's own archive: its file, with other weights."""

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.export import export_model
from ptychopinn_plugin.legacy.writing import write_legacy_tensorflow
from ptychopinn_plugin.model_file import Model, read_model, write_model
from ptychopinn_plugin.network import describe_cnn


def changed(model: Model) -> Model:
    rng = np.random.default_rng(3)
    weights = {
        name: rng.normal(size=w.shape).astype(np.float32) for name, w in model.weights.items()
    }
    return dataclasses.replace(model, weights=weights)


def weights_in(path: Path, member: str) -> dict[str, np.ndarray]:
    """Return the kernels of a Keras model by the names of their layers."""
    with zipfile.ZipFile(path) as archive:
        inner = zipfile.ZipFile(io.BytesIO(archive.read(member)))
    with inner, h5py.File(io.BytesIO(inner.read('model.weights.h5')), 'r') as file:
        groups = [file[f'layers/{name}/vars'] for name in file['layers']]
        return {str(group.attrs['name']): group['0'][()] for group in groups if '0' in group}


@pytest.mark.parametrize(('size', 'how'), [(64, 'border'), (128, 'border'), (128, 'no border')])
def test_weights_come_back(
    tensorflow_file: Any, graph: Any, tmp_path: Path, size: int, how: str
) -> None:
    made = graph(2, size=size, how=how)
    template = tensorflow_file(gridsize=2, graph=made, N=size, probe=None)
    model = changed(read_model(template))
    before = template.read_bytes()
    export_model(model, tmp_path / 'new.zip', 'legacy-tf', template=template)
    again = read_model(tmp_path / 'new.zip')
    assert again.network == model.network
    for name, values in model.weights.items():
        assert np.array_equal(again.weights[name], values), name
    assert template.read_bytes() == before


@pytest.mark.parametrize('size', [64, 128, 256])
@pytest.mark.parametrize('how', ['border', 'no border', 'full'])
def test_a_network_of_ours_fits_a_template(
    tensorflow_file: Any, graph: Any, size: int, how: str
) -> None:
    ours = ModelConfig(
        architecture='cnn',
        pattern_size=size,
        filters_scale=1.0,
        amplitude_activation='sigmoid',
        border_decoder=how == 'border',
        pad_object=how != 'full',
    )
    made = graph(size=size, how=how)
    settings = {'N': size, 'pad_object': how != 'full', 'probe': None}
    assert read_model(tensorflow_file(graph=made, **settings)).network == describe_cnn(ours)


def test_a_real_template_keeps_all_else(legacy_data: Path, tmp_path: Path) -> None:
    template, path = legacy_data / 'tf_gs1' / 'wts.h5.zip', tmp_path / 'new.zip'
    model = changed(read_model(template))
    write_legacy_tensorflow(model, path, template)
    assert np.array_equal(
        read_model(path).weights['phase/border/3/weight'], model.weights['phase/border/3/weight']
    )
    with zipfile.ZipFile(template) as old, zipfile.ZipFile(path) as new:
        assert old.namelist() == new.namelist()
        for name in old.namelist():
            if not name.endswith('.keras'):
                assert old.read(name) == new.read(name), name
                continue
            inner_old = zipfile.ZipFile(io.BytesIO(old.read(name)))
            inner_new = zipfile.ZipFile(io.BytesIO(new.read(name)))
            assert inner_old.namelist() == inner_new.namelist()
            assert inner_old.read('config.json') == inner_new.read('config.json')
    # Both of its models hold one network, before and after.
    for file in (template, path):
        first, second = (
            weights_in(file, f'{name}/model.keras')
            for name in ('diffraction_to_obj', 'autoencoder')
        )
        assert len(first) == 22
        assert all(np.array_equal(second[name], kernel) for name, kernel in first.items())


def test_other_networks_are_refused(tensorflow_file: Any, tmp_path: Path) -> None:
    template = tensorflow_file(gridsize=2)
    four = read_model(template)
    write_model(tmp_path / 'ours.zip', four)
    one = read_model(tensorflow_file(gridsize=1))
    with pytest.raises(ArchiveError, match='encoder/0/1/weight has shape'):
        write_legacy_tensorflow(four, tmp_path / 'x.zip', tmp_path / 'wts.h5.zip')
    with pytest.raises(ArchiveError, match='no model file of PtychoPINN'):
        write_legacy_tensorflow(one, tmp_path / 'x.zip', tmp_path / 'ours.zip')
    layers = tuple(
        dataclasses.replace(layer, activation='relu') if layer.name == 'amplitude/last' else layer
        for layer in one.network.layers
    )
    other = dataclasses.replace(one, network=dataclasses.replace(one.network, layers=layers))
    with pytest.raises(ArchiveError, match='an activation'):
        write_legacy_tensorflow(other, tmp_path / 'x.zip', tmp_path / 'wts.h5.zip')
    assert not (tmp_path / 'x.zip').exists()


def test_torch_archives_are_no_template(legacy_data: Path, tmp_path: Path) -> None:
    model = read_model(legacy_data / 'torch_gs1' / 'wts.h5.zip')
    with pytest.raises(ArchiveError, match='must be a TensorFlow archive'):
        write_legacy_tensorflow(model, tmp_path / 'x.zip', legacy_data / 'torch_gs1' / 'wts.h5.zip')


def test_a_template_that_is_half_there(tensorflow_file: Any, tmp_path: Path) -> None:
    model = read_model(tensorflow_file())

    def odd(file: h5py.File) -> None:
        del file['layers/conv2d_3/vars']

    with pytest.raises(ArchiveError, match='there are no weights for the layer'):
        write_legacy_tensorflow(model, tmp_path / 'x.zip', tensorflow_file(mutate=odd))


# Of Keras on NumPy 2, whenever it reads a variable.
@pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')
def test_keras_leaves_one_file(tensorflow_file: Any, tmp_path: Path, run: Any) -> None:
    pytest.importorskip('ptychopinn_plugin.backends.tensorflow.framework')
    path = tmp_path / 'out' / 'network.keras'
    path.parent.mkdir()
    run('export', tensorflow_file(), '--format', 'keras', '-o', path)
    assert zipfile.is_zipfile(path)
    assert list(path.parent.iterdir()) == [path]
