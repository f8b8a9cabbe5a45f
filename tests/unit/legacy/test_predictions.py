"""Imported networks predict what PtychoPINN predicts."""

import io
import json
import pickle
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from unit.legacy.published import (
    TOLERANCE,
    agrees,
    keras_state,
    predict,
    torch_state,
    worst,
)

import ptychopinn_plugin as pinn
from ptychopinn_plugin.errors import ArchiveError


def test_tensorflow_patches(legacy_data: Path) -> None:
    model = pinn.open_model(legacy_data / 'tf_gs1' / 'wts.h5.zip')
    with np.load(legacy_data / 'tf_gs1' / 'expected.npz') as expected:
        amplitude, phase = predict(model, expected['X'].transpose(0, 3, 1, 2))
        for found, name in ((amplitude, 'amp'), (phase, 'phase')):
            assert worst(found, expected[name].transpose(0, 3, 1, 2)) < TOLERANCE
        object_ = (amplitude * np.exp(1j * phase)).transpose(0, 2, 3, 1)
        assert worst(object_, expected['obj']) < TOLERANCE


@pytest.mark.parametrize('name', ['wts.h5.zip', 'last.ckpt'])
def test_torch_patches(legacy_data: Path, name: str) -> None:
    model = pinn.open_model(legacy_data / 'torch_gs1' / name)
    with np.load(legacy_data / 'torch_gs1' / 'expected.npz') as expected:
        amplitude, phase = predict(model, expected['x'])
        assert worst(amplitude, expected['amp']) < TOLERANCE
        assert worst(phase, expected['phase']) < TOLERANCE
        assert worst(amplitude * np.exp(1j * phase), expected['patches']) < TOLERANCE


def test_the_object_explains_the_patterns(legacy_data: Path) -> None:
    # The intensity scale is right where the predicted energy is the measured one.
    model = pinn.open_model(legacy_data / 'tf_gs1' / 'wts.h5.zip')
    with np.load(legacy_data / 'tf_gs1' / 'expected.npz') as expected:
        patches, images = expected['obj'][..., 0], expected['X'][..., 0]
    probe = model.probe / np.linalg.norm(model.probe) * model.intensity_scale * 32
    waves = np.fft.fft2(probe * patches, norm='ortho')
    assert (np.abs(waves) ** 2).sum() == pytest.approx((images**2).sum(), rel=0.05)


@pytest.mark.parametrize('attention', [True, False])
@pytest.mark.parametrize(('gridsize', 'border'), [(1, 1), (2, 4), (2, 1)])
def test_torch_networks(checkpoint: Any, gridsize: int, border: int, attention: bool) -> None:
    state = torch_state(gridsize**2, attention=attention, border=border)
    model = pinn.open_model(checkpoint(state, gridsize=gridsize))
    agrees(model, state, gridsize**2, 64)
    assert model.config.training.epochs == 3
    assert model.config.training.learning_rate == 2e-3


@pytest.mark.parametrize('attention', [True, False])
@pytest.mark.parametrize('gridsize', [1, 2])
@pytest.mark.parametrize('size', [128, 256])
def test_torch_networks_of_larger_patterns(
    checkpoint: Any, size: int, gridsize: int, attention: bool
) -> None:
    # At 256 pixels the first gate has 8 // 16 channels inside: none.
    state = torch_state(gridsize**2, attention=attention, border=gridsize**2, size=size)
    model = pinn.open_model(checkpoint(state, gridsize=gridsize, size=size))
    agrees(model, state, gridsize**2, size)
    assert model.config.model.pattern_size == size


@pytest.mark.parametrize(
    ('changes', 'how'),
    [
        # Whatever is no sigmoid is a SiLU there.
        ({'amp_activation': 'silu'}, {'activation': 'silu'}),
        ({'amp_activation': 'relu'}, {'activation': 'silu'}),
        # The weights of the border are in the file, and not used.
        ({'probe_big': False}, {'border': 'nowhere'}),
        # It pads in any case.
        ({'pad_object': False}, {}),
        # Before this field was there, the border was not masked.
        ({'use_legacy_decoder_channel_override': ...}, {'border': 'everywhere'}),
    ],
)
def test_what_torch_settings_change(checkpoint: Any, changes: Any, how: Any) -> None:
    state = torch_state(4, attention=True, border=4)
    model = pinn.open_model(checkpoint(state, gridsize=2, model=changes))
    agrees(model, state, 4, 64, **how)
    assert model.config.model.border_decoder == (how.get('border') != 'nowhere')


def test_one_amplitude_for_a_group(checkpoint: Any, tensorflow_file: Any, graph: Any) -> None:
    # Their default once.
    state = torch_state(4, attention=True, border=8, amplitudes=1)
    old = {'use_legacy_decoder_channel_override': ...}
    model = pinn.open_model(checkpoint(state, gridsize=2, model=old))
    agrees(model, state, 4, 64, border='everywhere')
    path = tensorflow_file(gridsize=2, graph=graph(2, amplitudes=1))
    agrees(pinn.open_model(path), keras_state(graph(2, amplitudes=1), 64), 4, 64)


def test_attention_that_is_not_used(checkpoint: Any) -> None:
    state = torch_state(1, attention=False, border=1)
    more = {
        'encoder.blocks.0.attention.conv.weight': torch.ones(1, 1, 3),
        'decoder_amp.attention_blocks.0.ChannelGate.mlp.1.weight': torch.ones(4, 64),
        'decoder_phase.attention_blocks.1.spatial_gate.compress.weight': torch.ones(1, 2, 7, 7),
    }
    more = {f'model.autoencoder.{name}': values for name, values in more.items()}
    agrees(pinn.open_model(checkpoint({**state, **more})), state, 1, 64)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'cnn_output_mode': 'real_imag'}, "cnn_output_mode is 'real_imag'"),
        ({'intensity_scale_trainable': True}, 'intensity_scale_trainable is on'),
        ({'architecture': 'hybrid_resnet'}, "architecture 'hybrid_resnet'; only cnn is read"),
    ],
)
def test_torch_networks_that_compute_something_else(
    checkpoint: Any, changes: Any, message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        pinn.open_model(checkpoint(torch_state(1, attention=True, border=1), model=changes))


def identity(sections: Mapping[str, Any], gridsize: int) -> dict[str, Any]:
    """Return the settings as newer versions of PtychoPINN keep them."""
    model = {**sections['model_config'], 'object_layout': 'grouped_patches'}
    data = {**sections['data_config'], 'gridsize': gridsize}
    del model['object_big'], data['grid_size']
    training = {**sections['training_config'], 'training_groups': 9}
    return {
        'backend': 'pytorch',
        'schema_version': 'torch-artifact-v5',
        'model_spec': {'schema_version': 'torch-model-spec-v3', 'model_config': model},
        'data_config': data,
        'training_config': training,
        'ci_statistics': None,
    }


def test_the_newest_checkpoints(checkpoint: Any) -> None:
    state = torch_state(4, attention=True, border=4)
    values = torch.load(checkpoint(state, gridsize=2), weights_only=True)
    newest = {'artifact_identity': identity(values['hyper_parameters'], 2)}
    model = pinn.open_model(checkpoint(state, hyper_parameters=newest))
    agrees(model, state, 4, 64)
    training = model.config.training
    assert (training.epochs, training.n_groups) == (3, 9)
    assert (model.photons, model.config.model.overlap_constraint) == (1e5, True)


def saved(values: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize('metadata', ['newest', 'older', 'none'])
@pytest.mark.parametrize('as_json', [True, False])
def test_torch_archives(
    checkpoint: Any, write_zip: Any, tmp_path: Path, as_json: bool, metadata: str
) -> None:
    state = torch_state(4, attention=True, border=4)
    state['model.forward_model.rect_scaler.s1'] = torch.ones(1)
    values = torch.load(checkpoint(state, gridsize=2), weights_only=True)['hyper_parameters']
    sections = {
        'newest': identity(values, 2),
        'older': {'schema_version': 'ci-entrypoints-v1', **values},
    }
    params = {'N': 64, 'gridsize': 2, 'n_filters_scale': 1, 'amp_activation': 'sigmoid'}
    params |= {'object.big': True, 'probe.big': True, 'nepochs': 7, '_version': '2.0-pytorch'}
    manifest = {'models': ['autoencoder', 'diffraction_to_obj'], 'version': '2.0-pytorch'}
    suffix = 'json' if as_json else 'dill'

    def written(value: Any) -> bytes:
        return json.dumps(value).encode() if as_json else pickle.dumps(value, 4)

    members = {
        f'manifest.{suffix}': written(manifest),
        f'diffraction_to_obj/params.{suffix}': written(params),
        'diffraction_to_obj/model.pth': saved(state),
        'autoencoder/model.pth': saved({'_sentinel': 'autoencoder'}),
    }
    if metadata in sections:
        members['torch_scaling_metadata.pt'] = saved(sections[metadata])
    path = write_zip(tmp_path / 'wts.h5.zip', members)
    model = pinn.open_model(path)
    agrees(model, state, 4, 64)
    assert model.config.training.epochs == 7
    assert 'torch archive' in model.provenance['imported_from']
    # Without the scaler it is an older network.
    if metadata == 'none':
        del state['model.forward_model.rect_scaler.s1']
        members['diffraction_to_obj/model.pth'] = saved(state)
        old = pinn.open_model(write_zip(path, members))
        agrees(old, state, 4, 64, border='everywhere')


HOW = {'border': 'outside', 'no border': 'nowhere', 'full': 'alone'}


@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('gridsize', [1, 2])
@pytest.mark.parametrize('size', [64, 128, 256])
def test_tensorflow_networks(
    tensorflow_file: Any, graph: Any, size: int, gridsize: int, how: str
) -> None:
    made = graph(gridsize, size=size, how=how)
    settings = {'N': size, 'pad_object': how != 'full', 'probe': None}
    model = pinn.open_model(tensorflow_file(gridsize=gridsize, graph=made, **settings))
    agrees(model, keras_state(made, size), gridsize**2, size, border=HOW[how])
    assert model.config.model.border_decoder == (how == 'border')


@pytest.mark.parametrize('kind', ['tensorflow', 'torch', 'torch without attention'])
@pytest.mark.parametrize('size', [128, 256])
def test_both_backends_predict_the_same(
    checkpoint: Any, tensorflow_file: Any, graph: Any, size: int, kind: str
) -> None:
    pytest.importorskip('ptychopinn_plugin.backends.tensorflow.framework')
    from ptychopinn_plugin.backends.tensorflow.network import Network as KerasNetwork

    if kind == 'tensorflow':
        path = tensorflow_file(gridsize=2, graph=graph(2, size=size), N=size, probe=None)
    else:
        state = torch_state(4, attention=kind == 'torch', border=4, size=size)
        path = checkpoint(state, gridsize=2, size=size)
    model = pinn.open_model(path)
    images = np.random.default_rng(0).normal(size=(1, 4, size, size)).astype(np.float32)
    other = KerasNetwork(model.network)
    other.load_weights(model.weights)
    found = other(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    for ours, theirs in zip(predict(model, images), found, strict=True):
        assert worst(theirs.numpy().transpose(0, 3, 1, 2), ours) < TOLERANCE


@pytest.mark.parametrize(
    ('name', 'shape', 'message'),
    [
        ('encoder.blocks.0.conv1.weight', None, "no weights for the layer 'encoder/0/1/weight'"),
        ('encoder.blocks.1.conv2.bias', None, "no weights for the layer 'encoder/1/2/bias'"),
        ('encoder.blocks.1.conv2.bias', (65,), r'conv2.bias. does not fit .*encoder/1/2/bias'),
        ('encoder.blocks.0.bn1.weight', (32,), "bn1.weight' belongs to a layer that is not read"),
        ('decoder_amp.blocks.0.attention.x.weight', (1,), 'belongs to a layer that is not read'),
        ('encoder.blocks.3.conv1.weight', (1, 1, 3, 3), 'the network has no layer for'),
        ('decoder_amp.amp.conv1.weight', None, 'no network of architecture cnn'),
    ],
)
def test_weights_that_do_not_fit(
    checkpoint: Any, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    state = torch_state(1, attention=True, border=1)
    key = f'model.autoencoder.{name}'
    if shape is None:
        state.pop(key)
        if message.startswith("no weights for the layer 'encoder/0"):
            message = 'no network of architecture cnn'
    else:
        state[key] = torch.zeros(shape)
    with pytest.raises(ArchiveError, match=message):
        pinn.open_model(checkpoint(state))


def test_numbers_of_other_types(checkpoint: Any) -> None:
    state = torch_state(1, attention=True, border=1)
    expected = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    # A view into a larger storage, transposed.
    key = 'model.autoencoder.encoder.blocks.1.attention.ChannelGate.mlp.1.weight'
    expected[key] = torch.stack([torch.zeros(64, 4), state[key].T.double()])[1].T
    model = pinn.open_model(checkpoint(expected))
    found = model.weights['encoder/1/channel-gate/reduce/weight'][:, :, 0, 0]
    assert np.array_equal(found, state[key].numpy())
    first = 'model.autoencoder.encoder.blocks.0.conv1.weight'
    assert np.array_equal(model.weights['encoder/0/1/weight'], expected[first].float().numpy())


def test_pickled_configuration_classes(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # As Lightning keeps them where they were not turned into dictionaries.
    module = types.ModuleType('ptycho_torch.config_params')
    parts: dict[str, Any] = {}
    fields: dict[str, dict[str, Any]] = {
        'ModelConfig': {'n_filters_scale': 1, 'object_big': True, 'probe_big': True},
        'DataConfig': {'N': 64, 'grid_size': (1, 1), 'nphotons': 1e5},
        'TrainingConfig': {'epochs': 5, 'output_dir': Path('out')},
    }
    for name, values in fields.items():
        made = type(name, (), {'__module__': module.__name__})()
        vars(made).update(values)
        setattr(module, name, type(made))
        parts[name.replace('Config', '_config').lower()] = made
    monkeypatch.setitem(sys.modules, 'ptycho_torch', types.ModuleType('ptycho_torch'))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = checkpoint(torch_state(1, attention=True, border=1), hyper_parameters=parts)
    monkeypatch.delitem(sys.modules, module.__name__)
    model = pinn.open_model(path)
    assert model.config.training.epochs == 5
    assert module.__name__ not in sys.modules


def test_hostile_checkpoint(checkpoint: Any, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return eval, (f'open({str(tmp_path / "trace")!r}, "w")',)

    path = checkpoint(torch_state(1, attention=True, border=1), callbacks=Hostile())
    with pytest.raises(ArchiveError, match=r'is refused: it names (__builtin__|builtins)\.eval'):
        pinn.open_model(path)
    assert not (tmp_path / 'trace').exists()
