"""Network descriptions: shapes that fit together, the published size, JSON."""

import json

import numpy as np
import pytest

from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.errors import ArchiveError, ConfigError
from ptychopinn_plugin.network import NetworkDescription, describe_network


def count_weights(network: NetworkDescription) -> int:
    return sum(int(np.prod(shape)) for shape in network.weight_shapes().values())


def check_channels(network: NetworkDescription) -> None:
    channels: dict[str, int] = {}
    for layer in network.layers:
        for source in layer.inputs:
            assert source in channels, f'{layer.name} comes before its input {source}'
        if layer.kind == 'conv':
            assert layer.in_channels == channels[layer.inputs[0]]
        if layer.kind == 'add':
            assert len({channels[source] for source in layer.inputs}) == 1
        assert layer.name not in channels
        channels[layer.name] = layer.out_channels
    assert set(network.outputs) <= set(channels)


@pytest.mark.parametrize('size', [64, 128, 256])
@pytest.mark.parametrize('gridsize', [1, 2])
@pytest.mark.parametrize('changes', [{}, {'pad_object': False}, {'border_decoder': False}])
def test_cnn_fits_together(size: int, gridsize: int, changes: dict) -> None:
    config = ModelConfig(architecture='cnn', pattern_size=size, gridsize=gridsize, **changes)
    check_channels(describe_network(config, size))


def test_cnn_has_the_published_size() -> None:
    config = ModelConfig(architecture='cnn', pattern_size=64, filters_scale=2.0)
    # 2.33 million in the published network at this scale.
    assert count_weights(describe_network(config, 64)) == pytest.approx(2.33e6, rel=0.05)


def test_cnn_refuses_other_sizes() -> None:
    with pytest.raises(ConfigError, match=r'64, 128, 256.*sweepnet'):
        describe_network(ModelConfig(architecture='cnn', pattern_size=96), 96)


def test_sweepnet_is_small_and_starts_at_zero() -> None:
    network = describe_network(ModelConfig(pattern_size=64), 40)
    check_channels(network)
    assert 5e4 < count_weights(network) < 1e5
    assert network.zero_layers == network.outputs == ('correction',)


@pytest.mark.parametrize('architecture', ['sweepnet', 'cnn'])
def test_json_round_trip(architecture: str) -> None:
    config = ModelConfig.from_dict({'architecture': architecture, 'pattern_size': 64})
    network = describe_network(config, 40)
    text = json.dumps(network.to_dict())
    assert NetworkDescription.from_dict(json.loads(text)) == network


def test_a_damaged_description_is_an_archive_error() -> None:
    with pytest.raises(ArchiveError, match='not readable'):
        NetworkDescription.from_dict({'layers': [{'shape': 3, 'inputs': []}]})
