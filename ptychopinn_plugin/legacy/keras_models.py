"""PtychoPINN's Keras networks: from the graph in `config.json` to our layers.

In `model.weights.h5` the groups are numbered in the order of the graph, not of the layers' names,
and amplitude and phase have the same shapes. So weights are found by the attribute `name`, and what
a layer is for follows from what it is connected to.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.fitting import OldWeight, last_image_channels, repeat_amplitude
from ptychopinn_plugin.network import CnnVariant
from ptychopinn_plugin.storage.untrusted import MAX_TEXT_BYTES, open_zip, read_hdf5

ACTIVATION_NAMES = {'sigmoid': 'sigmoid', 'swish': 'swish', 'silu': 'swish', 'softplus': 'softplus'}
ACTIVATION_NAMES |= {'relu': 'relu'}

KNOWN_CLASSES = frozenset(
    [
        'InputLayer',
        'IntensityScaler',
        'Conv2D',
        'MaxPooling2D',
        'UpSampling2D',
        'GetItem',
        'Silu',
        'ActivationLayer',
        'CenterMaskLayer',
        'ZeroPadding2D',
        'Multiply',
        'Add',
        'CombineComplexLayer',
    ]
)
"""These layers lead to the predicted patches; those that merge them are not carried over."""

MAX_LAYERS = 1000
"""The published network has about 60 layers."""

MAX_CONNECTIONS = 10_000
"""The published network has about 60; following many times more could take for ever."""

_PATCHES = 'CombineComplexLayer'


@dataclass(frozen=True)
class Node:
    """A layer of the graph."""

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    children: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class KerasNetwork:
    """A network as its graph and its weights describe it.

    Attributes
    ----------
    weights : dict of str to OldWeight
        By the names of `network.describe_cnn`, kernels as (out, in, height, width).
    amplitude_activation : str
    has_border : bool
    variant : CnnVariant
    outputs, group_size : int
        Channels that come out of a decoder and go in.
    """

    weights: dict[str, OldWeight]
    amplitude_activation: str
    has_border: bool
    variant: CnnVariant
    outputs: int
    group_size: int


def read_keras_network(data: bytes, source: str) -> KerasNetwork:
    """Read a `model.keras`: a zip of metadata.json, config.json and model.weights.h5.

    Raises
    ------
    ArchiveError
        If it is damaged, or not the published network.
    """
    with open_zip(data, source) as archive:
        text = archive.read('config.json', largest=MAX_TEXT_BYTES)
        weights = archive.read('model.weights.h5')
    try:
        graph = _read_graph(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(f'{source}: config.json describes no graph: {error}.') from error
    _check_graph(graph, source)
    roles, activation = _find_roles(graph, source)
    kernels = _read_kernels(weights, f'{source}: model.weights.h5')
    named: dict[str, OldWeight] = {}
    for role, layer in roles.items():
        if layer not in kernels:
            raise ArchiveError(f'{source}: there are no weights for the layer {layer!r} ({role}).')
        kernel, bias = kernels.pop(layer)
        # Keras has kernels as (height, width, in, out).
        named[f'{role}/weight'] = OldWeight(layer, np.transpose(kernel, (3, 2, 0, 1)))
        named[f'{role}/bias'] = OldWeight(layer, bias)
    # A weight that nothing uses shows that the graph was misread: it is another network.
    if kernels:
        raise ArchiveError(f'{source}: the weights of {next(iter(kernels))!r} have no layer.')
    named = repeat_amplitude(named)
    return KerasNetwork(
        weights=named,
        amplitude_activation=activation,
        has_border='amplitude/border/1/weight' in named,
        variant=_variant(named),
        outputs=int(named['amplitude/last/weight'].values.shape[0]),
        group_size=int(named['encoder/0/1/weight'].values.shape[1]),
    )


def _variant(weights: Mapping[str, OldWeight]) -> CnnVariant:
    """Find from the weights what no setting holds."""
    border, image = weights.get('amplitude/border/1/weight'), last_image_channels(weights)
    if border is not None:
        filters, channels = border.values.shape[:2]
        return CnnVariant(border_channels=channels, border_filters=filters)
    # Without padding, the last block is that at full size.
    unseen = image - weights['amplitude/last/weight'].values.shape[1]
    return CnnVariant(border_filters=image, unseen_channels=max(0, unseen))


def _read_graph(config: Any) -> dict[str, Node]:
    """Return the nodes that the predicted patches are computed from."""
    nodes: dict[str, Node] = {}
    for layer in config['config']['layers']:
        inputs = tuple(dict.fromkeys(_histories(layer['inbound_nodes'])))
        name = str(layer['name'])
        nodes[name] = Node(name, str(layer['class_name']), layer['config'], inputs)
    connections = sum(len(node.inputs) for node in nodes.values())
    if len(nodes) > MAX_LAYERS or connections > MAX_CONNECTIONS:
        raise ValueError(f'{len(nodes)} layers with {connections} connections are too many')
    last = [node.name for node in nodes.values() if node.kind == _PATCHES]
    if len(last) != 1:
        raise ValueError(f'one {_PATCHES} is needed, there are {len(last)}')
    # Backwards from the patches: the rest of the graph is PtychoPINN's forward model, with classes
    # of its own that nobody needs to know here.
    needed: dict[str, Node] = {}
    waiting = list(last)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = nodes[name]
            waiting += nodes[name].inputs
    ordered = {name: node for name, node in nodes.items() if name in needed}
    for node in ordered.values():
        for name in node.inputs:
            ordered[name].children.append(node.name)
    return ordered


def _histories(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        history = value.get('keras_history')
        if isinstance(history, list) and history:
            yield str(history[0])
        for part in value.values():
            yield from _histories(part)
    elif isinstance(value, list):
        for part in value:
            yield from _histories(part)


def _check_graph(graph: Mapping[str, Node], source: str) -> None:
    for node in graph.values():
        if node.kind == _PATCHES and node.config.get('use_polar') is not True:
            raise ArchiveError(
                f'{source}: {node.name!r} takes the two outputs as real and imaginary part, as '
                'PtychoPINN did by mistake until 26 January 2026. Such a model means nothing as '
                'amplitude and phase; train it again.'
            )
        if node.kind not in KNOWN_CLASSES:
            raise ArchiveError(
                f'{source}: the layer {node.name!r} is a {node.kind}, which the published network '
                'does not have. Only architecture cnn is read.'
            )
        if node.kind != 'Conv2D':
            continue
        expected = {'kernel_size': [3, 3], 'strides': [1, 1], 'padding': 'same', 'use_bias': True}
        for name, value in expected.items():
            if node.config.get(name) != value:
                raise ArchiveError(
                    f'{source}: the convolution {node.name!r} must have {name} {value}; it has '
                    f'{node.config.get(name)}.'
                )


def _find_roles(graph: Mapping[str, Node], source: str) -> tuple[dict[str, str], str]:
    """Return the layer for each of our convolutions, and the amplitude's activation."""
    roles: dict[str, str] = {}
    root = next((name for name, node in graph.items() if node.kind == 'InputLayer'), None)
    if root is None:
        raise ArchiveError(f'{source}: the patches are computed from no InputLayer.')
    encoder, starts = _chain(graph, _next_convolutions(graph, root), source)
    # Two convolutions are a block, in the encoder and in the decoders.
    for index, name in enumerate(encoder):
        roles[f'encoder/{index // 2}/{index % 2 + 1}'] = name
    activations: dict[str, str] = {}
    missing = f'{source}: a decoder of amplitude and one of phase are needed.'
    if len(starts) != 2:
        raise ArchiveError(missing)
    for start in starts:
        chain, ends = _chain(graph, [start], source)
        if len(ends) > 2:
            raise ArchiveError(f'{source}: after {chain[-1]!r} there are more ways than two.')
        found: dict[str, str] = {}
        border: list[str] = []
        if not ends:
            # There is one way alone: the last of the chain is the head.
            *chain, head = chain
            found['last'] = head
        # Of the two ways after the blocks one has a single convolution, the head; the other is the
        # border's.
        for end in ends:
            branch, _ = _chain(graph, [end], source)
            if len(branch) == 1:
                found['last'] = branch[0]
            else:
                border = branch
        branch_name, activation = _head_of(graph, found.get('last', ''), source)
        activations[branch_name] = activation
        for index, name in enumerate(chain):
            found[f'{index // 2}/{index % 2 + 1}'] = name
        found |= {f'border/{index + 1}': name for index, name in enumerate(border)}
        roles |= {f'{branch_name}/{part}': name for part, name in found.items()}
    if set(activations) != {'amplitude', 'phase'}:
        raise ArchiveError(missing)
    return roles, activations['amplitude']


def _chain(
    graph: Mapping[str, Node], starts: list[str], source: str
) -> tuple[list[str], list[str]]:
    """Follow convolutions while one leads to one; return them and where the ways part."""
    chain: dict[str, None] = {}
    while len(starts) == 1:
        if starts[0] in chain:
            raise ArchiveError(f'{source}: the layer {starts[0]!r} is computed from itself.')
        chain[starts[0]] = None
        starts = _next_convolutions(graph, starts[0])
    return list(chain), starts


def _next_convolutions(graph: Mapping[str, Node], name: str) -> list[str]:
    """Return the convolutions that are reached through other layers."""
    # It is a dictionary, as a set would lose the order of the graph.
    found: dict[str, None] = {}
    waiting, seen = list(graph[name].children), set()
    while waiting:
        child = waiting.pop(0)
        if child in seen:
            continue
        seen.add(child)
        if graph[child].kind == 'Conv2D':
            found[child] = None
        else:
            waiting += graph[child].children
    return list(found)


def _head_of(graph: Mapping[str, Node], name: str, source: str) -> tuple[str, str]:
    """Return whether a last convolution makes the amplitude or the phase, and its activation."""
    for child in graph[name].children if name else ():
        node = graph[child]
        if node.kind != 'ActivationLayer':
            continue
        activation = str(node.config.get('activation_name'))
        scale = float(node.config.get('scale', 1.0))
        # Names of layers differ from version to version; what ends a decoder shows what it makes.
        if activation == 'tanh' and math.isclose(scale, math.pi, rel_tol=1e-6):
            return 'phase', 'pi-tanh'
        if activation in ACTIVATION_NAMES and scale == 1.0:
            return 'amplitude', ACTIVATION_NAMES[activation]
        raise ArchiveError(
            f'{source}: the activation {activation!r} (scale {scale:g}) of {child!r} is not read; '
            f'read are {", ".join(ACTIVATION_NAMES)} for the amplitude and pi tanh for the phase.'
        )
    raise ArchiveError(f'{source}: the last convolution {name!r} of a decoder has no activation.')


def _read_kernels(data: bytes, source: str) -> dict[str, tuple[RealArray, RealArray]]:
    datasets, names = read_hdf5(data, source, skip='optimizer/')
    kernels: dict[str, tuple[RealArray, RealArray]] = {}
    for path, name in names.items():
        kernel, bias = datasets.pop(f'{path}/0', None), datasets.pop(f'{path}/1', None)
        if kernel is None or bias is None:
            continue
        if kernel.ndim != 4 or name in kernels:
            raise ArchiveError(
                f'{source}: the weights of {name!r} are not a convolution of its own.'
            )
        kernels[name] = (kernel, bias)
    if datasets:
        raise ArchiveError(f'{source}: {next(iter(datasets))!r} belongs to no named layer.')
    return kernels
