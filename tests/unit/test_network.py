"""The architecture as data: shapes, sizes, what it refuses, and its way into a file and back."""

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.errors import ArchiveError, ConfigError
from ptychopinn_plugin.network import CnnVariant, NetworkDescription, describe_cnn, describe_network

PUBLISHED_ENCODER = {64: [32, 64, 128], 128: [16, 32, 64, 128], 256: [8, 16, 32, 64, 128]}
PUBLISHED_DECODER = {64: [64, 32], 128: [128, 64, 32], 256: [256, 128, 64, 32]}


def cnn(size: int = 64, **changes: Any) -> NetworkDescription:
    return describe_network(ModelConfig(architecture='cnn', pattern_size=size, **changes), size)


def sweepnet(window: int = 24, **changes: Any) -> NetworkDescription:
    return describe_network(ModelConfig(architecture='sweepnet', **changes), window)


def count(description: NetworkDescription) -> int:
    return int(sum(np.prod(shape) for shape in description.weight_shapes().values()))


def output_shapes(description: NetworkDescription) -> dict[str, tuple[int, int]]:
    """Follow (channels, side) through the layers, and check each on the way."""
    shapes: dict[str, tuple[int, int]] = {}
    for layer in description.layers:
        assert layer.name not in shapes
        before = [shapes[name] for name in layer.inputs]
        channels, side = before[0] if before else (layer.out_channels, description.window_px)
        match layer.kind:
            case 'conv':
                assert channels == layer.in_channels
                assert layer.size % 2 == 1
            case 'average-pool' | 'max-pool':
                assert side % layer.size == 0
                side //= layer.size
            case 'upsample':
                side *= layer.size
            case 'space-to-depth':
                assert side % layer.size == 0
                channels, side = channels * layer.size**2, side // layer.size
            case 'depth-to-space':
                assert channels % layer.size**2 == 0
                channels, side = channels // layer.size**2, side * layer.size
            case 'pad':
                side += 2 * layer.size
            case 'add':
                assert len(before) == 2
                assert before[0] == before[1]
            case 'channels':
                assert 0 <= layer.start < layer.stop <= channels
                assert layer.out_channels == layer.stop - layer.start
        if layer.kind not in ('conv', 'channels', 'input'):
            assert layer.out_channels == channels
        shapes[layer.name] = (layer.out_channels, side)
    return shapes


CNN_VARIANTS = [
    {},
    {'border_decoder': False},
    {'pad_object': False},
    {'overlap_constraint': False},
    {'filters_scale': 0.25},
    {'filters_scale': 2.0},
]


@pytest.mark.parametrize('size', [64, 128, 256])
@pytest.mark.parametrize('gridsize', [1, 2])
@pytest.mark.parametrize('changes', CNN_VARIANTS, ids=str)
def test_cnn_layers_fit_together(size: int, gridsize: int, changes: dict[str, Any]) -> None:
    description = cnn(size, gridsize=gridsize, **changes)
    shapes = output_shapes(description)
    group_size = gridsize**2
    assert shapes['input'] == (group_size, size)
    patches = group_size if changes.get('overlap_constraint', True) else 1
    assert [shapes[name] for name in description.outputs] == [(patches, size)] * 2
    assert description.group_size == group_size
    assert description.window_px == size
    assert description.passes == 1


@pytest.mark.parametrize('size', [64, 128, 256])
@pytest.mark.parametrize('scale', [1, 2])
def test_cnn_has_the_published_filters(size: int, scale: int) -> None:
    shapes = output_shapes(cnn(size, filters_scale=float(scale)))
    depth = len(PUBLISHED_ENCODER[size])
    for index, filters in enumerate(PUBLISHED_ENCODER[size]):
        assert shapes[f'encoder/{index}/2'] == (scale * filters, size >> index)
    assert shapes[f'encoder/{depth - 1}/pool'] == (scale * 128, 8)
    for branch in ('amplitude', 'phase'):
        for index, filters in enumerate(PUBLISHED_DECODER[size]):
            assert shapes[f'{branch}/{index}/2'] == (scale * filters, 8 << index)
        assert shapes[f'{branch}/last'] == (1, size // 2)


def test_cnn_is_as_large_as_the_published_one() -> None:
    # 2.33 million with a filter scale of 2 and patterns of 64 pixels.
    assert count(cnn(64, filters_scale=2.0)) == pytest.approx(2.33e6, rel=0.002)


@pytest.mark.parametrize('border', [1, 4])
@pytest.mark.parametrize('size', [64, 128, 256])
def test_attention(size: int, border: int) -> None:
    config = ModelConfig(architecture='cnn', pattern_size=size, gridsize=2)
    description = describe_cnn(config, CnnVariant(attention=True, border_channels=border))
    shapes, weights = output_shapes(description), description.weight_shapes()
    for index, filters in enumerate(PUBLISHED_ENCODER[size]):
        gate = f'encoder/{index}/channel-gate'
        assert shapes[gate] == shapes[f'encoder/{index}/2']
        hidden = max(1, filters // 16)
        assert weights[f'{gate}/reduce/weight'] == (hidden, filters, 1, 1)
        assert weights[f'{gate}/expand/bias'] == (filters,)
        assert weights[f'encoder/{index}/spatial-gate/weight'] == (1, 2, 7, 7)
        assert f'encoder/{index}/spatial-gate/bias' not in weights
    assert shapes['amplitude/rest'][0] == border
    assert (
        NetworkDescription.from_dict(json.loads(json.dumps(description.to_dict()))) == description
    )


def test_cnn_activations() -> None:
    layers = {layer.name: layer for layer in cnn(64, amplitude_activation='softplus').layers}
    assert layers['amplitude/last'].activation == 'softplus'
    assert layers['phase/last'].activation == 'pi-tanh'
    assert layers['phase/border/3'].activation == 'swish'
    assert layers['encoder/0/1'].activation == 'relu'


@pytest.mark.parametrize('size', [None, 32, 65, 512])
def test_cnn_takes_three_sizes_alone(size: int | None) -> None:
    config = ModelConfig(architecture='cnn', pattern_size=size)
    with pytest.raises(ConfigError, match=r'64, 128, 256 pixels.*Choose one of them'):
        describe_network(config, 64)


@pytest.mark.parametrize('window', [8, 16, 24, 40])
@pytest.mark.parametrize('scale', [0.25, 1.0, 3.0])
@pytest.mark.parametrize('gridsize', [1, 3])
def test_sweepnet(window: int, scale: float, gridsize: int) -> None:
    description = sweepnet(window, filters_scale=scale, gridsize=gridsize, passes=5)
    shapes = output_shapes(description)
    # Patterns pass one by one; a group is a matter of the overlap constraint.
    assert shapes['input'] == (6, window)
    (last,) = description.outputs
    assert shapes[last] == (2, window)
    # What the last convolution gives is the correction, so that training starts from the physics.
    assert description.zero_layers == description.layers[-1].inputs
    assert description.layers[-1].name == last
    assert (description.passes, description.group_size) == (5, gridsize**2)
    assert description.window_px == window


def test_filters_scale_scales() -> None:
    sizes = [count(sweepnet(filters_scale=scale)) for scale in (0.25, 0.5, 1.0, 2.0)]
    for small, large in itertools.pairwise(sizes):
        assert 3 < large / small < 4.2


def test_weight_shapes() -> None:
    shapes = sweepnet().weight_shapes()
    assert shapes['fine/1/weight'] == (32, 24, 3, 3)
    assert shapes['fine/1/bias'] == (32,)
    assert shapes['correction/folded/weight'] == (8, 32, 3, 3)
    convolutions = [layer for layer in sweepnet().layers if layer.kind == 'conv']
    assert len(shapes) == 2 * len(convolutions)


@pytest.mark.parametrize('description', [cnn(), cnn(128, gridsize=2), sweepnet()], ids=repr)
def test_round_trip_through_json(description: NetworkDescription) -> None:
    text = json.dumps(description.to_dict())
    again = NetworkDescription.from_dict(json.loads(text))
    assert again == description
    assert isinstance(again.layers[1].inputs, tuple)
    assert hash(again) == hash(description)


@pytest.mark.parametrize(
    'damage',
    [
        lambda values: values.pop('layers'),
        lambda values: values.pop('zero_layers'),
        lambda values: values.update(layers=3),
        lambda values: values.update(unknown=1),
        lambda values: values['layers'][1].update(unknown=1),
        lambda values: values['layers'][1].pop('name'),
        lambda values: values['layers'][1].pop('inputs'),
        lambda values: values.update(outputs=None),
    ],
)
def test_a_damaged_description_is_an_error(damage: Any) -> None:
    values = json.loads(json.dumps(sweepnet().to_dict()))
    damage(values)
    with pytest.raises(ArchiveError, match='network description is not readable'):
        NetworkDescription.from_dict(values)


def test_descriptions_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        sweepnet().passes = 2  # type: ignore[misc]
