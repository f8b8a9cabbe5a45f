"""Imported networks predict what PtychoPINN predicts, and go on learning."""

import sys
import types
from collections.abc import Callable
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


def torch_state(group: int, *, attention: bool, border: int, seed: int = 0) -> Tensors:
    """Return a state dictionary with the names that PtychoPINN's torch network has."""
    generator = torch.Generator().manual_seed(seed)
    state: Tensors = {}

    def put(name: str, *shape: int, bias: bool = True) -> None:
        state[f'model.autoencoder.{name}.weight'] = torch.randn(shape, generator=generator) / 8
        if bias:
            state[f'model.autoencoder.{name}.bias'] = torch.randn(shape[0], generator=generator) / 8

    before = group
    for block, filters in enumerate((32, 64, 128)):
        prefix = f'encoder.blocks.{block}'
        put(f'{prefix}.conv1', filters, before, 3, 3)
        put(f'{prefix}.conv2', filters, filters, 3, 3)
        if attention:
            put(f'{prefix}.attention.ChannelGate.mlp.1', filters // 16, filters)
            put(f'{prefix}.attention.ChannelGate.mlp.3', filters, filters // 16)
            put(f'{prefix}.attention.SpatialGate.compress', 1, 2, 7, 7, bias=False)
        before = filters
    for name in ('amp', 'phase'):
        before = 128
        for block, filters in enumerate((64, 32)):
            put(f'decoder_{name}.blocks.{block}.conv1', filters, before, 3, 3)
            put(f'decoder_{name}.blocks.{block}.conv2', filters, filters, 3, 3)
            before = filters
        head = f'decoder_{name}.{name}'
        put(f'{head}.conv1', group, 32 - border, 3, 3)
        put(f'{head}.conv_up_block.conv1', 32, border, 3, 3)
        put(f'{head}.conv_up_block.conv2', 32, 32, 3, 3)
        put(f'{head}.conv2', group, 32, 3, 3)
    state['model.forward_model.alpha'] = torch.ones(1)
    return state


def published(state: Tensors, images: Any) -> tuple[Any, Any]:
    """Compute amplitude and phase as the published description of the network says."""
    relu, sigmoid = torch.relu, torch.sigmoid

    def conv(name: str, image: Any) -> Any:
        weight = state[f'model.autoencoder.{name}.weight']
        bias = state.get(f'model.autoencoder.{name}.bias')
        return torch.nn.functional.conv2d(image, weight, bias, padding=weight.shape[-1] // 2)

    def linear(name: str, values: Any) -> Any:
        name = f'model.autoencoder.{name}'
        return values @ state[f'{name}.weight'].T + state[f'{name}.bias']

    def double(image: Any) -> Any:
        return image.repeat_interleave(2, -1).repeat_interleave(2, -2)

    code = images
    for block in range(3):
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
        for block in range(2):
            prefix = f'decoder_{name}.blocks.{block}'
            image = double(relu(conv(f'{prefix}.conv2', relu(conv(f'{prefix}.conv1', image)))))
        head = f'decoder_{name}.{name}'
        border = state[f'model.autoencoder.{head}.conv_up_block.conv1.weight'].shape[1]
        centre = conv(f'{head}.conv1', image[:, :-border])
        centre = sigmoid(centre) if name == 'amp' else torch.pi * torch.tanh(centre)
        rest = relu(conv(f'{head}.conv_up_block.conv1', image[:, -border:]))
        rest = conv(f'{head}.conv2', double(relu(conv(f'{head}.conv_up_block.conv2', rest))))
        rest = rest * sigmoid(rest)
        rest[..., 16:48, 16:48] = centre
        results.append(rest)
    return results[0], results[1]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a Lightning checkpoint with torch itself."""

    def make(state: Tensors, *, gridsize: int = 1, **more: Any) -> Path:
        model = {
            'mode': 'Unsupervised',
            'architecture': 'cnn',
            'n_filters_scale': 1,
            'amp_activation': 'sigmoid',
            'object_big': True,
            'probe_big': True,
            'pad_object': True,
        }
        data = {'N': 64, 'grid_size': (gridsize, gridsize), 'nphotons': 1e5, 'probe_scale': 4.0}
        training = {'epochs': 3, 'batch_size': 8, 'learning_rate': 2e-3}
        values = {
            'epoch': 1,
            'state_dict': state,
            'optimizer_states': [{'state': {0: {'step': torch.tensor(3.0)}}}],
            'hyper_parameters': {
                'model_config': model,
                'data_config': data,
                'training_config': training,
            },
            **more,
        }
        torch.save(values, tmp_path / 'last.ckpt')
        return tmp_path / 'last.ckpt'

    return make


@pytest.mark.parametrize('attention', [True, False])
@pytest.mark.parametrize(('gridsize', 'border'), [(1, 1), (2, 4), (2, 1)])
def test_torch_networks(checkpoint: Any, gridsize: int, border: int, attention: bool) -> None:
    group = gridsize**2
    state = torch_state(group, attention=attention, border=border)
    model = pinn.open_model(checkpoint(state, gridsize=gridsize))
    images = np.random.default_rng(0).normal(size=(2, group, 64, 64)).astype(np.float32)
    found = predict(model, images)
    for ours, theirs in zip(found, published(state, torch.from_numpy(images)), strict=True):
        assert worst(ours, theirs.numpy()) < TOLERANCE
    assert model.config.training.epochs == 3
    assert model.config.training.learning_rate == 2e-3


@pytest.mark.parametrize('gridsize', [1, 2])
def test_tensorflow_networks(tensorflow_file: Any, graph: Any, gridsize: int) -> None:
    group = gridsize**2
    kernels = graph(gridsize).kernels
    names = {
        **{f'encoder.blocks.{i // 2}.conv{i % 2 + 1}': i for i in range(6)},
        **{
            f'decoder_{name}.{part}': first + offset
            for name, first in (('amp', 6), ('phase', 14))
            for offset, part in enumerate(
                (
                    f'{name}.conv1',
                    f'{name}.conv2',
                    'blocks.0.conv1',
                    'blocks.0.conv2',
                    'blocks.1.conv1',
                    'blocks.1.conv2',
                    f'{name}.conv_up_block.conv1',
                    f'{name}.conv_up_block.conv2',
                )
            )
        },
    }
    state = {}
    for name, number in names.items():
        kernel = kernels['conv2d' if number == 0 else f'conv2d_{number}']
        weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f'model.autoencoder.{name}.weight'] = weight
        state[f'model.autoencoder.{name}.bias'] = torch.linspace(-0.1, 0.1, len(weight))
    images = np.random.default_rng(0).normal(size=(2, group, 64, 64)).astype(np.float32)
    found = predict(pinn.open_model(tensorflow_file(gridsize=gridsize)), images)
    for ours, theirs in zip(found, published(state, torch.from_numpy(images)), strict=True):
        assert worst(ours, theirs.numpy()) < TOLERANCE


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
