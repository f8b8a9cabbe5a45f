"""PtychoPINN's torch networks: from the names of its state dictionary to our layers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ptychopinn_plugin.arrays import RealArray
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.fitting import OldWeight

PREFIXES = ('model.autoencoder.', 'autoencoder.')
"""Before the names of the network; the rest of the dictionary belongs to its physics and loss."""

UNUSED = re.compile(r'(model\.)?(forward_model|scaler|.*[lL]oss)\b')
"""Weights that its prediction does not use: parameters of its forward model and of losses."""

_ENCODER = re.compile(r'encoder\.blocks\.(\d+)\.(.+)\.(weight|bias)')
_DECODER = re.compile(r'decoder_(amp|phase)\.(.+)\.(weight|bias)')
_BRANCHES = {'amp': 'amplitude', 'phase': 'phase'}
_ENCODER_PARTS = {
    'conv1': '1',
    'conv2': '2',
    'attention.ChannelGate.mlp.1': 'channel-gate/reduce',
    'attention.ChannelGate.mlp.3': 'channel-gate/expand',
    'attention.SpatialGate.compress': 'spatial-gate',
}
_HEAD_PARTS = {
    'conv1': 'last',
    'conv_up_block.conv1': 'border/1',
    'conv_up_block.conv2': 'border/2',
    'conv2': 'border/3',
}


@dataclass(frozen=True)
class TorchNetwork:
    """What the weights themselves say.

    Attributes
    ----------
    weights : dict of str to OldWeight
        By the names of `network.describe_cnn`.
    attention : bool
    border_channels : int
        0 where there is no border branch.
    outputs, group_size : int
        Channels that come out of a decoder and go in.
    """

    weights: dict[str, OldWeight]
    attention: bool
    border_channels: int
    outputs: int
    group_size: int


def map_torch_weights(state: Mapping[str, RealArray], source: str) -> TorchNetwork:
    """Give the weights of a state dictionary our names.

    Parameters
    ----------
    state : mapping of str to ndarray
    source : str
        For messages.

    Raises
    ------
    ArchiveError
        Naming the first weight that belongs to no known layer.
    """
    weights: dict[str, OldWeight] = {}
    for name, values in state.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            if not UNUSED.match(name):
                raise ArchiveError(_unknown(name, source))
            continue
        ours = _rename(name.removeprefix(prefix))
        if ours is None:
            raise ArchiveError(_unknown(name, source))
        if '/channel-gate/' in ours and values.ndim == 2:
            # A fully connected layer is a convolution of size 1.
            values = values[:, :, None, None]
        weights[ours] = OldWeight(name, values)
    first, last = weights.get('encoder/0/1/weight'), weights.get('amplitude/last/weight')
    if first is None or last is None or first.values.ndim != 4 or last.values.ndim != 4:
        raise ArchiveError(
            f'{source} holds no network of architecture cnn: no first convolution of an encoder, '
            'or no last one of the amplitude. Only cnn is read.'
        )
    border = weights.get('amplitude/border/1/weight')
    return TorchNetwork(
        weights=weights,
        attention=any('-gate' in name for name in weights),
        border_channels=0 if border is None else int(border.values.shape[1]),
        outputs=int(last.values.shape[0]),
        group_size=int(first.values.shape[1]),
    )


def _rename(name: str) -> str | None:
    found = _ENCODER.fullmatch(name)
    if found:
        part = _ENCODER_PARTS.get(found[2])
        return part and f'encoder/{found[1]}/{part}/{found[3]}'
    found = _DECODER.fullmatch(name)
    if not found:
        return None
    branch, part = found[1], found[2]
    block = re.fullmatch(r'blocks\.(\d+)\.conv([12])', part)
    if block:
        return f'{_BRANCHES[branch]}/{block[1]}/{block[2]}/{found[3]}'
    head = _HEAD_PARTS.get(part.removeprefix(f'{branch}.'))
    return head and f'{_BRANCHES[branch]}/{head}/{found[3]}'


def _unknown(name: str, source: str) -> str:
    return (
        f'{source}: {name!r} belongs to a layer that is not read. What is read: architecture cnn '
        'with attention in the encoder, without normalisation, attention elsewhere or a common '
        'decoder.'
    )
