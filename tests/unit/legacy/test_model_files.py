"""Model files of PtychoPINN: read, explained, converted, or refused with what is wrong."""

import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.models import (
    legacy_kind,
    read_legacy_model,
)
from ptychopinn_plugin.legacy.normalization import intensity_scale_of, normalize_as_legacy
from ptychopinn_plugin.model_file import is_model_file, read_model, write_model
from ptychopinn_plugin.storage import untrusted
from ptychopinn_plugin.storage.untrusted import zip_names

LAYERS = {
    'encoder/0/1': 'conv2d',
    'encoder/2/2': 'conv2d_5',
    'amplitude/last': 'conv2d_6',
    'amplitude/border/3': 'conv2d_7',
    'amplitude/0/1': 'conv2d_8',
    'amplitude/1/2': 'conv2d_11',
    'amplitude/border/2': 'conv2d_13',
    'phase/last': 'conv2d_14',
    'phase/border/3': 'conv2d_15',
    'phase/border/1': 'conv2d_20',
}


@pytest.mark.parametrize('gridsize', [1, 2])
def test_tensorflow_layers_go_where_they_belong(
    tensorflow_file: Any, graph: Any, gridsize: int
) -> None:
    path = tensorflow_file(gridsize=gridsize)
    assert legacy_kind(zip_names(path)) == 'tensorflow'
    assert is_model_file(path)
    model = read_model(path)
    kernels = graph(gridsize).kernels
    for ours, theirs in LAYERS.items():
        expected = kernels[theirs].transpose(3, 2, 0, 1)
        assert np.array_equal(model.weights[f'{ours}/weight'], expected), ours
    assert (model.backend, model.network.group_size) == ('auto', gridsize**2)
    assert model.config.model.gridsize == gridsize
    assert model.config.training.epochs == 7
    assert model.config.inference.intensity_scale == 'scan'
    assert model.photons == 1e5


def test_how_it_was_trained_does_not_matter(tensorflow_file: Any) -> None:
    settings = {'optimizer': 'sgd', 'scheduler': 'MultiStage', 'momentum': 0.5, 'nepochs': 0}
    training = read_model(tensorflow_file(**settings, learning_rate=2e-3)).config.training
    assert (training.optimizer, training.schedule, training.epochs) == ('adam', 'constant', 50)
    assert training.learning_rate == 2e-3


def test_the_probe_gives_the_intensity_scale(tensorflow_file: Any) -> None:
    probe = np.full((64, 64, 1), 0.25 + 0.25j, np.complex64)
    model = read_model(tensorflow_file(probe=probe))
    assert model.probe.shape == (1, 64, 64)
    assert model.intensity_scale == pytest.approx(np.sqrt(64 * 64 / 8) / 32)


def test_converted_is_the_same(tensorflow_file: Any, tmp_path: Path) -> None:
    old = read_model(tensorflow_file(gridsize=2))
    write_model(tmp_path / 'new.zip', old)
    new = read_model(tmp_path / 'new.zip')
    assert legacy_kind(zip_names(tmp_path / 'new.zip')) is None
    assert new.network == old.network
    assert new.config == old.config
    assert all(np.array_equal(new.weights[name], old.weights[name]) for name in old.weights)
    assert (new.photons, new.intensity_scale) == (old.photons, old.intensity_scale)


def test_the_scale_of_a_probe() -> None:
    rng = np.random.default_rng(0)
    probe = rng.normal(size=(2, 64, 64)) + 1j * rng.normal(size=(2, 64, 64))
    scaled = normalize_as_legacy(probe, 4.0)
    assert np.allclose(scaled, normalize_as_legacy(17 * probe, 4.0))
    flat = normalize_as_legacy(np.ones((1, 64, 64), np.complex64), 4.0)
    # A disc of 16 px covers a fifth of the pattern.
    assert intensity_scale_of(flat) == pytest.approx(4096 / 812 / 4 * 64 / 32, rel=2e-3)


def test_real_probe_is_normalized_as_there(legacy_data: Path) -> None:
    with np.load(legacy_data / 'tf_gs1' / 'expected.npz') as expected:
        probe, raw = expected['probe'][..., 0], expected['probeGuess_raw']
    assert np.allclose(normalize_as_legacy(raw[np.newaxis], 4.0)[0], probe, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    'name', ['tf_gs1/wts.h5.zip', 'torch_gs1/wts.h5.zip', 'torch_gs1/last.ckpt']
)
def test_real_files_need_no_framework(legacy_data: Path, name: str, run_apart: Any) -> None:
    run_apart(
        'import sys\n'
        'import ptychopinn_plugin as pinn\n'
        f'model = pinn.open_model({str(legacy_data / name)!r})\n'
        'assert model.network.architecture == "cnn"\n'
        'assert not {"torch", "tensorflow", "keras", "dill"} & set(sys.modules)\n'
    )


def test_real_files_are_explained(legacy_data: Path, run: Any) -> None:
    text = run('inspect', legacy_data / 'tf_gs1' / 'wts.h5.zip')
    assert "in PtychoPINN's TensorFlow archive (wts.h5.zip, version 1.0)" in text
    values = json.loads(run('inspect', legacy_data / 'torch_gs1' / 'last.ckpt', '--json'))
    assert values['provenance']['intensity_scale_from'] == 'an assumed probe'
    assert values['network_layers']['channel-gate'] == 3


def test_convert_command(tensorflow_file: Any, tmp_path: Path, run: Any) -> None:
    old, new = tensorflow_file(), tmp_path / 'new.zip'
    text = run('convert', old, new)
    assert 'intensity scale' in text
    assert f'reconstruct {new}' in text
    assert read_model(new).provenance['file'] == 'wts.h5.zip'
    assert 'is no model file of PtychoPINN' in run('convert', new, tmp_path / 'again.zip', code=2)
    assert 'is the file that is read' in run('convert', old, old, code=2)
    assert 'no model file' in run('convert', tmp_path / 'none', new, code=2)


def rewritten(path: Path, changes: dict[str, bytes | None]) -> Path:
    """Change members of a zip; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = {name: data for name, data in {**members, **changes}.items() if data is not None}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def zip_of(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


MANIFEST = {'models': ['diffraction_to_obj'], 'version': '0.9'}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'manifest.dill': pickle.dumps(MANIFEST)}, r'version 1.0 of .* is read; this is 0.9'),
        ({'manifest.dill': pickle.dumps({})}, 'lists no model'),
        ({'manifest.dill': pickle.dumps({**MANIFEST, 'version': [1]})}, 'holds no version'),
        ({'autoencoder/params.dill': b'cos\nsystem\n.'}, r'autoencoder/params.dill .* os.system'),
        ({'scaling.pt': b'cos\nsystem\n.'}, r'scaling.pt is refused: it names os.system'),
        ({'autoencoder/model.pth': zip_of('a/data.pkl', b'cos\nsystem\n.')}, 'names os.system'),
        ({'manifest.dill': b'cos\nsystem\n.'}, r'manifest.dill is refused: it names os.system'),
        ({'diffraction_to_obj/params.dill': b'cos\nsystem\n.'}, r'params.dill .* os.system'),
        ({'diffraction_to_obj/params.dill': pickle.dumps([1])}, 'no settings with N'),
        (
            {'diffraction_to_obj/params.dill': pickle.dumps({'N': 'x'})},
            r'N \(model.pattern_size',
        ),
        ({'diffraction_to_obj/params.dill': pickle.dumps({'N': 65})}, 'patterns of 64, 128, 256'),
        ({'diffraction_to_obj/params.dill': pickle.dumps({'N': 128})}, 'no weights for the layer'),
        ({'diffraction_to_obj/params.dill': None}, 'must hold diffraction_to_obj/params.dill'),
        ({'diffraction_to_obj/model.keras': b'PK'}, 'not a readable zip'),
        ({'../outside': b''}, r"'\.\./outside' points outside"),
        ({'/etc/outside': b''}, 'points outside'),
        ({'a\\..\\..\\outside': b''}, 'points outside'),
        ({'C:outside': b''}, 'points outside'),
    ],
)
def test_damage_is_named(tensorflow_file: Any, changes: Any, message: str) -> None:
    path = rewritten(tensorflow_file(), changes)
    with pytest.raises(ArchiveError, match=message):
        read_model(path)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'n_filters_scale': 2}, "'conv2d' does not fit the layer 'encoder/0/1/weight'"),
        ({'pad_object': False}, "no weights for the layer 'amplitude/2/1/weight'"),
        ({'n_filters_scale': np.zeros(2)}, 'does not fit'),
        ({'probe': np.ones((32, 32, 1), np.complex64)}, 'probe must have 64 x 64'),
    ],
)
def test_weights_that_do_not_fit(tensorflow_file: Any, settings: Any, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_model(tensorflow_file(**settings))


@pytest.mark.parametrize('polar', [False, None])
def test_outputs_that_were_real_and_imaginary_part(
    tensorflow_file: Any, graph: Any, polar: bool | None
) -> None:
    made = graph()
    (layer,) = (layer for layer in made.layers if layer['name'] == 'obj')
    layer['config'].pop('use_polar')
    if polar is not None:
        layer['config']['use_polar'] = polar
    with pytest.raises(ArchiveError, match=r"'obj' takes the two outputs as real and imaginary"):
        read_model(tensorflow_file(graph=made))


def test_saved_models_of_keras_2(tensorflow_file: Any) -> None:
    changes = {'diffraction_to_obj/model.keras': None, 'diffraction_to_obj/saved_model.pb': b'x'}
    path = rewritten(tensorflow_file(), changes)
    assert legacy_kind(zip_names(path)) == 'tensorflow'
    with pytest.raises(ArchiveError, match='holds a SavedModel of Keras 2'):
        read_model(path)


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'{', r'manifest.json is not readable'),
        (b'[' * 100_000, r'manifest.json is not readable'),
        (b'{}', r'manifest.json lists no model'),
    ],
)
def test_damaged_json(tmp_path: Path, write_zip: Any, data: bytes, message: str) -> None:
    members = {'manifest.json': data, 'diffraction_to_obj/model.pth': b''}
    with pytest.raises(ArchiveError, match=message):
        read_model(write_zip(tmp_path / 'wts.h5.zip', members))


def test_another_gridsize(tensorflow_file: Any, graph: Any) -> None:
    with pytest.raises(ArchiveError, match='have gridsize 3; the first layer takes 1 channels'):
        read_model(tensorflow_file(gridsize=3, graph=graph(1)))


def test_a_border_without_layer(tensorflow_file: Any, graph: Any) -> None:
    # The weights show it better than the settings.
    assert read_model(tensorflow_file(**{'probe.big': False})).config.model.border_decoder


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda file: file['layers/conv2d_3/vars'].__delitem__('1'), 'no weights for the layer'),
        (lambda file: file.create_dataset('layers/x/vars/0', data=[1.0]), 'no named layer'),
        (lambda file: file['layers/conv2d_0/vars'].attrs.modify('name', 'other'), 'no weights'),
        (lambda file: file['layers/conv2d_3/vars/1'].write_direct(np.full(1, np.nan)), 'numbers'),
    ],
)
def test_damaged_weights(tensorflow_file: Any, change: Any, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_model(tensorflow_file(mutate=change))


def test_weights_of_another_file_are_refused(tensorflow_file: Any, tmp_path: Path) -> None:
    secret = tmp_path / 'secret'
    secret.write_bytes(b'\0' * 4)

    def reach_out(file: h5py.File) -> None:
        del file['layers/conv2d_3/vars/1']
        file['layers/conv2d_3/vars'].create_dataset(
            '1', shape=(1,), dtype='f4', external=[(str(secret), 0, 4)]
        )

    with pytest.raises(ArchiveError, match='would come from another file'):
        read_model(tensorflow_file(mutate=reach_out))

    def link(file: h5py.File) -> None:
        del file['layers/conv2d_3/vars/1']
        file['layers/conv2d_3/vars/1'] = h5py.ExternalLink(str(secret), '/x')

    with pytest.raises(ArchiveError, match='no weights for the layer'):
        read_model(tensorflow_file(mutate=link))


def test_unwritten_chunks_are_no_bomb(tensorflow_file: Any) -> None:
    def claim(file: h5py.File) -> None:
        file.create_dataset('bomb', shape=(1 << 40,), dtype='f4', chunks=(1 << 20,))

    with pytest.raises(ArchiveError, match='claims'):
        read_model(tensorflow_file(mutate=claim))


def test_many_unwritten_datasets_are_no_bomb(tensorflow_file: Any) -> None:
    def claim(file: h5py.File, folder: str) -> None:
        for index in range(300):
            place = f'{folder}/{index}'
            file.create_dataset(place, shape=(1 << 22,), dtype='f4', chunks=(1 << 20,))

    with pytest.raises(ArchiveError, match=r'layers/x/.* is refused: it claims'):
        read_model(tensorflow_file(mutate=lambda file: claim(file, 'layers/x')))
    # Thrown away, so never read.
    assert read_model(tensorflow_file(mutate=lambda file: claim(file, 'optimizer/x')))


def lying(path: Path, name: str, data: bytes, claimed: int) -> Path:
    """Add a deflated member whose size in the zip's tables is another."""
    with zipfile.ZipFile(path, 'a', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    size, content = len(data).to_bytes(4, 'little'), path.read_bytes()
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, claimed.to_bytes(4, 'little')))
    return path


def test_no_more_is_read_than_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_zip: Any
) -> None:
    monkeypatch.setattr(untrusted, 'CHUNK_BYTES', 1 << 12)
    largest = 0
    original = zipfile.ZipExtFile._update_crc  # type: ignore[attr-defined]

    def watch(self: Any, data: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(data))
        original(self, data)

    monkeypatch.setattr(zipfile.ZipExtFile, '_update_crc', watch)
    for claimed in (1000, 9_999_999):
        path = write_zip(tmp_path / f'{claimed}.zip', {'a': b''})
        lying(path, 'manifest.dill', bytes(5_000_001), claimed)
        with pytest.raises(ArchiveError, match=r'manifest\.dill is damaged'):
            read_legacy_model(path)
    assert largest <= 1 << 12


def test_packed_sizes_that_are_lies(tmp_path: Path, write_zip: Any) -> None:
    path = write_zip(tmp_path / 'x.zip', {'manifest.dill': bytes(1000)})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b'PK\x01\x02')
    data[entry + 20 : entry + 24] = (1 << 20).to_bytes(4, 'little')
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match='claim 1048576 bytes of a file of'):
        read_legacy_model(path)


def test_zip_bombs(tensorflow_file: Any, write_zip: Any, tmp_path: Path) -> None:
    bomb = {'manifest.dill': b'\0' * (untrusted.RATIO_FLOOR_BYTES + 1)}
    with pytest.raises(ArchiveError, match='would grow from'):
        read_legacy_model(write_zip(tmp_path / 'bomb.zip', bomb))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('config.json', b' ' * (untrusted.RATIO_FLOOR_BYTES + 1))
    path = rewritten(tensorflow_file(), {'diffraction_to_obj/model.keras': buffer.getvalue()})
    with pytest.raises(ArchiveError, match=r'model.keras is refused: config.json would grow'):
        read_model(path)


def test_zips_in_zips_are_not_followed(tensorflow_file: Any, tensorflow_members: Any) -> None:
    inner = tensorflow_members()['diffraction_to_obj/model.keras']
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('config.json', b'{}')
        archive.writestr('model.weights.h5', inner)
    path = rewritten(tensorflow_file(), {'diffraction_to_obj/model.keras': buffer.getvalue()})
    with pytest.raises(ArchiveError, match='describes no graph'):
        read_model(path)


def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / 'wts.h5.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('manifest.dill', b'')
        with pytest.warns(UserWarning, match='Duplicate name'):
            archive.writestr('manifest.dill', b'')
    with pytest.raises(ArchiveError, match='two of its members have one name'):
        read_model(path)


def test_many_members(tmp_path: Path, write_zip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, 'MAX_MEMBERS', 3)
    path = write_zip(tmp_path / 'x.zip', {'manifest.dill': b'', 'b': b'', 'c': b'', 'd': b''})
    with pytest.raises(ArchiveError, match='4 members; at most 3'):
        read_model(path)


def turn_back(graph: Any, name: str, source: str) -> None:
    """Let a layer take what is computed from it, too."""
    layer = next(layer for layer in graph.layers if layer['name'] == name)
    layer['inbound_nodes'].append({'args': [{'keras_history': [source, 0, 0]}]})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda g: g.put('LSTM', 'odd', 'conv2d_5'), None),
        (lambda g: g.layers[3].update(class_name='LSTM'), "'conv2d_1' is a LSTM"),
        (lambda g: g.layers[3]['config'].update(strides=[2, 2]), r'must have strides \[1, 1\]'),
        (lambda g: g.layers.pop(2), 'describes no graph'),
        (lambda g: g.layers.clear(), 'describes no graph'),
        (lambda g: g.layers.__setitem__(0, 7), 'describes no graph'),
        (lambda g: g.layers[0].update(class_name='Multiply'), 'from no InputLayer'),
        (lambda g: [g.put('Add', f'a{i}') for i in range(1000)], 'are too many'),
        (lambda g: turn_back(g, 'conv2d_20', 'conv2d_11'), "after 'conv2d_11' there are more ways"),
        (lambda g: turn_back(g, 'conv2d_13', 'conv2d_5'), 'a decoder of amplitude and one of'),
        (lambda g: turn_back(g, 'conv2d_12', 'conv2d_7'), "'conv2d_12' is computed from itself"),
    ],
)
def test_other_graphs(tensorflow_file: Any, graph: Any, change: Any, message: str | None) -> None:
    changed = graph()
    change(changed)
    path = tensorflow_file(graph=changed)
    if message is None:
        # Not on the way to the patches, so nothing depends on it.
        assert read_model(path)
        return
    with pytest.raises(ArchiveError, match=message):
        read_model(path)


@pytest.mark.parametrize(('name', 'scale'), [('tanh', 2.0), ('mish', 1.0), ('sigmoid', 2.0)])
def test_unknown_activations(tensorflow_file: Any, graph: Any, name: str, scale: float) -> None:
    changed = graph()
    layer = next(layer for layer in changed.layers if layer['name'] == 'amp')
    layer['config'].update(activation_name=name, scale=scale)
    with pytest.raises(ArchiveError, match=f'activation {name!r}'):
        read_model(tensorflow_file(graph=changed))


def test_known_activation(tensorflow_file: Any, graph: Any) -> None:
    changed = graph()
    layer = next(layer for layer in changed.layers if layer['name'] == 'amp')
    layer['config'].update(activation_name='softplus')
    model = read_model(tensorflow_file(graph=changed))
    assert model.config.model.amplitude_activation == 'softplus'
    layers = {layer.name: layer for layer in model.network.layers}
    assert layers['amplitude/last'].activation == 'softplus'


@pytest.mark.parametrize('name', ['no.zip', 'text.zip', 'other.zip'])
def test_other_files_are_none(tmp_path: Path, write_zip: Any, name: str) -> None:
    (tmp_path / 'text.zip').write_text('hello')
    write_zip(tmp_path / 'other.zip', {'a': b''})
    assert legacy_kind(zip_names(tmp_path / name)) is None
    assert not is_model_file(tmp_path / name)
    with pytest.raises(ArchiveError, match=re.escape(name)):
        read_legacy_model(tmp_path / name)


@pytest.mark.parametrize('command', ['inspect', 'convert'])
@pytest.mark.parametrize('data', [b'\x80\2K\1.cos\nsystem\n.', b'cos\nsystem\n.'])
def test_bare_pickles_are_named(tmp_path: Path, run: Any, command: str, data: bytes) -> None:
    path = tmp_path / 'model.ckpt'
    path.write_bytes(data)
    assert not is_model_file(path)
    for read in (read_model, read_legacy_model):
        with pytest.raises(ArchiveError, match=r'is a bare pickle that names os.system.*torch >='):
            read(path)
    target = [tmp_path / 'new.zip'] if command == 'convert' else []
    assert 'is a bare pickle that names os.system' in run(command, path, *target, code=2)
