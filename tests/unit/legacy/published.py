"""Networks of PtychoPINN as its publication describes them, computed with PyTorch."""

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import ptychopinn_plugin as pinn
from ptychopinn_plugin.backends.pytorch.network import Network

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
    """Compute amplitude and phase as the published description of the network has it.

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


def agrees(model: pinn.Model, state: Tensors, group: int, size: int, **how: Any) -> None:
    """Compare with the published computation, on patterns drawn at random."""
    images = np.random.default_rng(0).normal(size=(2, group, size, size)).astype(np.float32)
    expected = published(state, torch.from_numpy(images), **how)
    for ours, theirs in zip(predict(model, images), expected, strict=True):
        assert ours.shape[1] == group
        assert worst(ours, theirs.expand(-1, group, -1, -1).numpy()) < TOLERANCE
