"""Imported networks predict what PtychoPINN predicts, and go on learning."""

import io
import json
import math
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import ptychopinn_plugin as pinn
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import ArchiveError, ConfigError

TOLERANCE = 1e-4
ENCODER = {64: (32, 64, 128), 128: (16, 32, 64, 128), 256: (8, 16, 32, 64, 128)}
DECODER = {64: (64, 32), 128: (128, 64, 32), 256: (256, 128, 64, 32)}

Tensors = dict[str, Any]


def predict(model: pinn.Model, images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return amplitude and phase of images (n, channels, h, w)."""
    network = Network(model.network).eval()
    network.load_weights(model.weights)
    with torch.no_grad():
        amplitude, phase = network(torch.from_numpy(np.ascontiguousarray(images)))
    return amplitude.numpy(), phase.numpy()


def worst(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


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


def torch_state(
    group: int,
    *,
    attention: bool,
    border: int,
    size: int = 64,
    amplitudes: int | None = None,
    seed: int = 0,
) -> Tensors:
    """Return a state dictionary with the names that PtychoPINN's torch network has."""
    generator = torch.Generator().manual_seed(seed)
    state: Tensors = {}

    def put(name: str, *shape: int, bias: bool = True) -> None:
        # So that each layer keeps the spread of the numbers that it gets.
        spread = (2 / max(1, math.prod(shape[1:]))) ** 0.5
        weight = torch.randn(shape, generator=generator) * spread
        state[f'model.autoencoder.{name}.weight'] = weight
        if bias:
            state[f'model.autoencoder.{name}.bias'] = torch.randn(shape[0], generator=generator) / 8

    before = group
    for block, filters in enumerate(ENCODER[size]):
        prefix = f'encoder.blocks.{block}'
        put(f'{prefix}.conv1', filters, before, 3, 3)
        put(f'{prefix}.conv2', filters, filters, 3, 3)
        if attention:
            put(f'{prefix}.attention.ChannelGate.mlp.1', filters // 16, filters)
            put(f'{prefix}.attention.ChannelGate.mlp.3', filters, filters // 16)
            put(f'{prefix}.attention.SpatialGate.compress', 1, 2, 7, 7, bias=False)
        before = filters
    for name, outputs in (('amp', amplitudes or group), ('phase', group)):
        before = 128
        for block, filters in enumerate(DECODER[size]):
            put(f'decoder_{name}.blocks.{block}.conv1', filters, before, 3, 3)
            put(f'decoder_{name}.blocks.{block}.conv2', filters, filters, 3, 3)
            before = filters
        head = f'decoder_{name}.{name}'
        put(f'{head}.conv1', outputs, 32 - border, 3, 3)
        put(f'{head}.conv_up_block.conv1', 32, border, 3, 3)
        put(f'{head}.conv_up_block.conv2', 32, 32, 3, 3)
        put(f'{head}.conv2', outputs, 32, 3, 3)
    state['model.forward_model.alpha'] = torch.ones(1)
    return state


def published(
    state: Tensors, images: Any, *, activation: str = 'sigmoid', border: str = 'outside'
) -> tuple[Any, Any]:
    """Compute amplitude and phase as the published description of the network says.

    Parameters
    ----------
    state : dict of str to tensor
    images : tensor
    activation : str
        Of the amplitude.
    border : str
        'outside' the centre, 'everywhere', 'nowhere', or 'alone': all channels at full size.
    """
    relu, sigmoid = torch.relu, torch.sigmoid
    quarter = images.shape[-1] // 4

    def conv(name: str, image: Any) -> Any:
        weight = state[f'model.autoencoder.{name}.weight']
        bias = state.get(f'model.autoencoder.{name}.bias')
        return torch.nn.functional.conv2d(image, weight, bias, padding=weight.shape[-1] // 2)

    def linear(name: str, values: Any) -> Any:
        name = f'model.autoencoder.{name}'
        return values @ state[f'{name}.weight'].T + state[f'{name}.bias']

    def double(image: Any) -> Any:
        return image.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def act(name: str, image: Any) -> Any:
        if name == 'phase':
            return torch.pi * torch.tanh(image)
        return sigmoid(image) if activation == 'sigmoid' else image * sigmoid(image)

    code = images
    for block in range(len(ENCODER[images.shape[-1]])):
        prefix = f'encoder.blocks.{block}'
        code = relu(conv(f'{prefix}.conv2', relu(conv(f'{prefix}.conv1', code))))
        if f'model.autoencoder.{prefix}.attention.SpatialGate.compress.weight' in state:
            gate = f'{prefix}.attention.ChannelGate.mlp'
            total = sum(
                linear(f'{gate}.3', relu(linear(f'{gate}.1', values)))
                for values in (code.mean((2, 3)), code.amax((2, 3)))
            )
            code = code * sigmoid(total)[:, :, None, None]
            seen = torch.stack([code.amax(1), code.mean(1)], 1)
            code = code * sigmoid(conv(f'{prefix}.attention.SpatialGate.compress', seen))
        code = torch.nn.functional.max_pool2d(code, 2)
    results = []
    for name in ('amp', 'phase'):
        image = code
        for block in range(len(DECODER[images.shape[-1]])):
            prefix = f'decoder_{name}.blocks.{block}'
            image = double(relu(conv(f'{prefix}.conv2', relu(conv(f'{prefix}.conv1', image)))))
        head, rest = f'decoder_{name}.{name}', image
        if border != 'alone':
            seen = state[f'model.autoencoder.{head}.conv1.weight'].shape[1]
            centre = act(name, conv(f'{head}.conv1', image[:, :seen]))
            centre = torch.nn.functional.pad(centre, [quarter] * 4)
            rest = image[:, seen:]
        if border != 'nowhere':
            rest = relu(conv(f'{head}.conv_up_block.conv1', rest))
            rest = conv(f'{head}.conv2', double(relu(conv(f'{head}.conv_up_block.conv2', rest))))
        if border == 'alone':
            results.append(act(name, rest))
            continue
        if border == 'nowhere':
            results.append(centre)
            continue
        rest = rest * sigmoid(rest)
        if border == 'outside':
            rest[..., quarter:-quarter, quarter:-quarter] = 0
        results.append(centre + rest)
    return results[0], results[1]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a Lightning checkpoint with torch itself."""

    def make(
        state: Tensors,
        *,
        gridsize: int = 1,
        size: int = 64,
        model: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Path:
        sections = {
            'mode': 'Unsupervised',
            'architecture': 'cnn',
            'n_filters_scale': 1,
            'amp_activation': 'sigmoid',
            'object_big': True,
            'probe_big': True,
            'pad_object': True,
            'use_legacy_decoder_channel_override': False,
            **(model or {}),
        }
        sections = {name: value for name, value in sections.items() if value is not ...}
        data = {'N': size, 'grid_size': (gridsize, gridsize), 'nphotons': 1e5, 'probe_scale': 4.0}
        training = {'epochs': 3, 'batch_size': 8, 'learning_rate': 2e-3}
        values = {
            'epoch': 1,
            'state_dict': state,
            'optimizer_states': [{'state': {0: {'step': torch.tensor(3.0)}}}],
            'hyper_parameters': {
                'model_config': sections,
                'data_config': data,
                'training_config': training,
            },
            **more,
        }
        torch.save(values, tmp_path / 'last.ckpt')
        return tmp_path / 'last.ckpt'

    return make


def agrees(model: pinn.Model, state: Tensors, group: int, size: int, **how: Any) -> None:
    """Compare with the published computation, on patterns drawn at random."""
    images = np.random.default_rng(0).normal(size=(2, group, size, size)).astype(np.float32)
    expected = published(state, torch.from_numpy(images), **how)
    for ours, theirs in zip(predict(model, images), expected, strict=True):
        assert ours.shape[1] == group
        assert worst(ours, theirs.expand(-1, group, -1, -1).numpy()) < TOLERANCE


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


def keras_state(graph: Any, size: int) -> Tensors:
    """Return the kernels of a Keras graph under the names of torch's network."""
    depth, blocks = 2 * len(ENCODER[size]), len(DECODER[size])
    names = {f'encoder.blocks.{i // 2}.conv{i % 2 + 1}': i for i in range(depth)}
    for name, first in (('amp', depth), ('phase', depth + 2 * blocks + 4)):
        parts = [f'{name}.conv1', f'{name}.conv2']
        parts += [f'blocks.{i // 2}.conv{i % 2 + 1}' for i in range(2 * blocks)]
        parts += [f'{name}.conv_up_block.conv{half}' for half in (1, 2)]
        names |= {f'decoder_{name}.{part}': first + i for i, part in enumerate(parts)}
    state = {}
    for name, number in names.items():
        layer = 'conv2d' if number == 0 else f'conv2d_{number}'
        if layer in graph.kernels:
            weight = torch.from_numpy(graph.kernels[layer].transpose(3, 2, 0, 1).copy())
            state[f'model.autoencoder.{name}.weight'] = weight
            state[f'model.autoencoder.{name}.bias'] = torch.linspace(-0.1, 0.1, len(weight))
    return state


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
    pytest.importorskip('tensorflow')
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


@pytest.fixture(scope='module')
def scan() -> pinn.Scan:
    return simulate(SimulationConfig(size=64, rows=5, columns=6, step_px=6.0, photons=1e4))


def quick(**training: Any) -> pinn.Config:
    return pinn.Config(
        training=pinn.TrainingConfig(
            epochs=1, teacher_sweeps=10, device='cpu', n_groups=16, **training
        )
    )


def test_real_model_reconstructs_and_goes_on_learning(
    legacy_data: Path, scan: pinn.Scan, tmp_path: Path
) -> None:
    model = pinn.open_model(legacy_data / 'tf_gs1' / 'wts.h5.zip')
    alone = pinn.RefinementConfig(sweeps=0)
    result = pinn.reconstruct(model, scan, refinement=alone)
    assert result.backend == 'pytorch'
    assert np.isfinite(result.object_).all()
    # The right energy: the residual of an object of the wrong scale is near 1 or beyond it.
    assert result.amplitude_residual < 0.3
    tuned = pinn.train(scan, quick(), base_model=model).model
    assert tuned.network == model.network
    assert tuned.backend == 'pytorch'
    moved = {
        name
        for name in model.weights
        if not np.array_equal(tuned.weights[name], model.weights[name])
    }
    assert moved == set(model.weights)
    pinn.save_model(tmp_path / 'tuned.zip', tuned)
    assert pinn.open_model(tmp_path / 'tuned.zip').network == model.network


def test_gates_are_trained(checkpoint: Any, scan: pinn.Scan) -> None:
    model = pinn.open_model(checkpoint(torch_state(4, attention=True, border=4), gridsize=2))
    tuned = pinn.train(scan, quick(), base_model=model).model
    gates = [name for name in model.weights if '-gate' in name]
    assert len(gates) == 15
    for name in gates:
        assert not np.array_equal(tuned.weights[name], model.weights[name]), name
    assert pinn.reconstruct(tuned, scan, refinement=pinn.RefinementConfig(sweeps=0))


def test_resuming_an_imported_model_is_refused(checkpoint: Any, scan: pinn.Scan) -> None:
    path = checkpoint(torch_state(1, attention=True, border=1))
    with pytest.raises(ConfigError, match='holds no training state'):
        pinn.train(scan, resume=path)
