"""PtychoPINN's torch networks: from the names of its state dictionary to our layers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.fitting import OldWeight, last_image_channels, repeat_amplitude
from ptychopinn_plugin.legacy.torch_settings import TorchStructure
from ptychopinn_plugin.network import CnnVariant

PREFIXES = ('model.autoencoder.', 'autoencoder.')
"""Names of the network begin so; the rest of the dictionary belongs to its physics and loss."""

UNUSED = re.compile(r'(model\.)?(forward_model|scaler|.*[lL]oss)\b')
"""Prediction does not use these weights: parameters of the forward model and of losses."""

UNUSED_ATTENTION = re.compile(
    r'decoder_(amp|phase)\.attention_blocks\..+|encoder\.blocks\.\d+\.attention\.conv\.weight'
)
"""PtychoPINN makes these where settings name them, and leaves them out of the computation."""

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
    """A network as its weights describe it, and its settings where weights cannot.

    Attributes
    ----------
    weights : dict of str to OldWeight
        By the names of `network.describe_cnn`.
    has_border : bool
    variant : CnnVariant
    outputs, group_size : int
        Channels that come out of a decoder and go in.
    """

    weights: dict[str, OldWeight]
    has_border: bool
    variant: CnnVariant
    outputs: int
    group_size: int


def map_torch_weights(
    state: Mapping[str, RealArray], source: str, *, structure: TorchStructure
) -> TorchNetwork:
    """Give the weights of a state dictionary our names.

    Parameters
    ----------
    state : mapping of str to ndarray
    source : str
        For messages.
    structure : TorchStructure

    Raises
    ------
    ArchiveError
        Naming the first weight that belongs to no known layer.
    """
    weights: dict[str, OldWeight] = {}
    for name, values in state.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            # A name that is not known is refused and not skipped: a network without one of its
            # layers would predict nonsense.
            if not UNUSED.match(name):
                raise ArchiveError(_unknown(name, source))
            continue
        inner = name.removeprefix(prefix)
        if UNUSED_ATTENTION.fullmatch(inner):
            continue
        ours = _rename(inner)
        if ours is None:
            raise ArchiveError(_unknown(name, source))
        if '/channel-gate/' in ours:
            values = _as_convolution(ours, values)
        weights[ours] = OldWeight(name, values)
    needed = [f'{name}/last/{part}' for name in _BRANCHES.values() for part in ('weight', 'bias')]
    kernels = [weights.get(name) for name in ('encoder/0/1/weight', 'amplitude/last/weight')]
    if any(kernel is None or kernel.values.ndim != 4 for kernel in kernels) or not all(
        name in weights for name in needed
    ):
        raise ArchiveError(
            f'{source} holds no network of architecture cnn: no first convolution of an encoder, '
            'or no last one of the amplitude or phase. Only cnn is read.'
        )
    variant = _variant(weights, state, structure)
    if not structure.has_border:
        # PtychoPINN makes and saves the border's layers also where it does not use them.
        weights = {name: weight for name, weight in weights.items() if '/border/' not in name}
    weights = repeat_amplitude(weights)
    return TorchNetwork(
        weights=weights,
        has_border='amplitude/border/1/weight' in weights,
        variant=variant,
        outputs=int(weights['amplitude/last/weight'].values.shape[0]),
        group_size=int(weights['encoder/0/1/weight'].values.shape[1]),
    )


def _variant(
    weights: Mapping[str, OldWeight], state: Mapping[str, RealArray], structure: TorchStructure
) -> CnnVariant:
    last = weights['amplitude/last/weight'].values
    border = weights.get('amplitude/border/1/weight')
    filters, channels = border.values.shape[:2] if border else (None, 0)
    everywhere = structure.border_everywhere
    if everywhere is None:
        # Older files leave it open: the mask came with the number of channels and the scaler.
        has_scaler = any('.rect_scaler.' in name for name in state)
        everywhere = channels != last.shape[0] or not has_scaler
    return CnnVariant(
        attention=any('-gate' in name for name in weights),
        border_channels=channels,
        border_filters=filters,
        unseen_channels=max(0, last_image_channels(weights) - last.shape[1]),
        border_everywhere=everywhere,
    )


def _as_convolution(name: str, values: RealArray) -> RealArray:
    """Turn a fully connected layer into a convolution of size 1; one without width gets zeros."""
    if name.endswith('reduce/weight') and values.ndim == 2 and not len(values):
        # Few channels leave the gate without a hidden unit; one that is zero computes the same.
        values = np.zeros((1, values.shape[1]), np.float32)
    elif name.endswith('reduce/bias') and not values.size:
        values = np.zeros(1, np.float32)
    elif name.endswith('expand/weight') and values.ndim == 2 and not values.shape[1]:
        values = np.zeros((len(values), 1), np.float32)
    return values[:, :, np.newaxis, np.newaxis] if values.ndim == 2 else values


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
        'with attention in the encoder, without normalization, attention elsewhere or a common '
        'decoder.'
    )
