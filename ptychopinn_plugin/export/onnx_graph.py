"""A network's description and weights as an ONNX graph, written without any framework."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import Layer
from ptychopinn_plugin.storage.atomic import atomic_path

OPSET = 18
"""This is the first version with axes of reductions as inputs, and widely supported."""

IR_VERSION = 10
"""ONNX Runtime 1.18, the oldest that is tested, reads no newer file format."""

_ACTIVATIONS = {'relu': 'Relu', 'sigmoid': 'Sigmoid', 'softplus': 'Softplus'}


def write_onnx(model: Model, path: Path) -> None:
    """Write a model's network as ONNX; input 'images', a batch of any size.

    Parameters
    ----------
    model : Model
    path : Path

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    data = build_onnx(model).SerializeToString()
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def build_onnx(model: Model) -> onnx.ModelProto:
    """Build the graph of a network and check it.

    Parameters
    ----------
    model : Model

    Returns
    -------
    onnx.ModelProto
        Input 'images', float32 (batch, channels, window, window). Its metadata hold the
        architecture, the window, and the normalization (`photons`, `intensity_scale`).

    Raises
    ------
    ArchiveError
        If a layer or an activation is unknown.
    """
    network = model.network
    writer = _Writer(model)
    for layer in network.layers[1:]:
        writer.add(layer)
    size, first = network.window_px, network.layers[0]
    shape: list[str | int | None] = ['batch', first.out_channels, size, size]
    names = ('amplitude', 'phase') if len(network.outputs) == 2 else ('correction',)
    outputs = []
    by_name = {layer.name: layer for layer in network.layers}
    for name, source in zip(names, network.outputs, strict=True):
        # Layers have names of their own; what users look for is the meaning of an output.
        if source != name:
            writer.node('Identity', [source], name)
        channels = by_name[source].out_channels
        outputs.append(
            helper.make_tensor_value_info(
                name, onnx.TensorProto.FLOAT, ['batch', channels, size, size]
            )
        )
    graph = helper.make_graph(
        writer.nodes,
        f'ptychopinn {network.architecture}',
        [helper.make_tensor_value_info('images', onnx.TensorProto.FLOAT, shape)],
        outputs,
        writer.constants,
    )
    made = helper.make_model(
        graph,
        producer_name='ptychopinn-plugin',
        producer_version=__version__,
        opset_imports=[helper.make_opsetid('', OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(made, _metadata(model))
    # With its full check it infers all shapes, and finds layers that do not fit each other.
    onnx.checker.check_model(made, full_check=True)
    return made


def _metadata(model: Model) -> dict[str, str]:
    return {
        'architecture': model.network.architecture,
        'window_px': str(model.network.window_px),
        'group_size': str(model.network.group_size),
        'passes': str(model.network.passes),
        'photons': repr(model.photons),
        'intensity_scale': repr(model.intensity_scale),
    }


class _Writer:
    """Collects nodes and constants; a layer's output has the layer's name."""

    def __init__(self, model: Model) -> None:
        self.weights = model.weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.sizes = {'input': model.network.window_px}
        self._known: set[str] = set()

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node whose output has its name."""
        inputs = ['images' if source == 'input' else source for source in inputs]
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: RealArray) -> str:
        """Add a constant once."""
        if name not in self._known:
            self._known.add(name)
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, layer: Layer) -> None:
        """Add a layer.

        Raises
        ------
        ArchiveError
            If the layer is of unknown kind.
        """
        makers: dict[str, Callable[[Layer], None]] = {
            'conv': self._conv,
            'average-pool': self._pool,
            'max-pool': self._pool,
            'upsample': self._upsample,
            'space-to-depth': self._space_to_depth,
            'depth-to-space': self._depth_to_space,
            'add': self._sum,
            'channels': self._channels,
            'pad': self._pad,
            'border': self._border,
            'channel-gate': self._channel_gate,
            'spatial-gate': self._spatial_gate,
        }
        if layer.kind not in makers:
            raise ArchiveError(f'Layer {layer.name!r} is of unknown kind {layer.kind!r}.')
        makers[layer.kind](layer)
        self.sizes[layer.name] = self._size_of(layer)

    def _size_of(self, layer: Layer) -> int:
        before = self.sizes[layer.inputs[0]]
        match layer.kind:
            case 'average-pool' | 'max-pool' | 'space-to-depth':
                return before // layer.size
            case 'upsample' | 'depth-to-space':
                return before * layer.size
            case 'pad':
                return before + 2 * layer.size
        return before

    def _convolve(self, name: str, source: str, output: str) -> str:
        weight = self.weights[f'{name}/weight']
        inputs = [source, self.constant(f'{name}/weight', weight.astype(np.float32))]
        if f'{name}/bias' in self.weights:
            bias = self.weights[f'{name}/bias'].astype(np.float32)
            inputs.append(self.constant(f'{name}/bias', bias))
        side = weight.shape[-1]
        return self.node('Conv', inputs, output, kernel_shape=[side, side], pads=[side // 2] * 4)

    def _conv(self, layer: Layer) -> None:
        if layer.activation == 'none':
            self._convolve(layer.name, layer.inputs[0], layer.name)
            return
        plain = self._convolve(layer.name, layer.inputs[0], f'{layer.name}/convolved')
        if layer.activation in _ACTIVATIONS:
            self.node(_ACTIVATIONS[layer.activation], [plain], layer.name)
        elif layer.activation == 'swish':
            gate = self.node('Sigmoid', [plain], f'{layer.name}/gate')
            self.node('Mul', [plain, gate], layer.name)
        elif layer.activation == 'pi-tanh':
            bounded = self.node('Tanh', [plain], f'{layer.name}/tanh')
            self.node(
                'Mul', [bounded, self.constant('pi', np.array([np.pi], np.float32))], layer.name
            )
        else:
            raise ArchiveError(f'Layer {layer.name!r}: unknown activation {layer.activation!r}.')

    def _pool(self, layer: Layer) -> None:
        kind = 'AveragePool' if layer.kind == 'average-pool' else 'MaxPool'
        sides = [layer.size, layer.size]
        self.node(kind, list(layer.inputs), layer.name, kernel_shape=sides, strides=sides)

    def _upsample(self, layer: Layer) -> None:
        # With 'asymmetric' and 'floor' pixel i is a copy of pixel i // size, as in both backends.
        factors = np.array([1, 1, layer.size, layer.size], np.float32)
        scales = self.constant(f'upsample/{layer.size}', factors)
        self.node(
            'Resize',
            [layer.inputs[0], '', scales],
            layer.name,
            mode='nearest',
            nearest_mode='floor',
            coordinate_transformation_mode='asymmetric',
        )

    def _space_to_depth(self, layer: Layer) -> None:
        self.node('SpaceToDepth', list(layer.inputs), layer.name, blocksize=layer.size)

    def _depth_to_space(self, layer: Layer) -> None:
        self.node('DepthToSpace', list(layer.inputs), layer.name, blocksize=layer.size)

    def _sum(self, layer: Layer) -> None:
        self.node('Add', list(layer.inputs), layer.name)

    def _channels(self, layer: Layer) -> None:
        parts = {'start': layer.start, 'stop': layer.stop, 'axis': 1}
        ends = [
            self.constant(f'{layer.name}/{name}', np.array([value], np.int64))
            for name, value in parts.items()
        ]
        self.node('Slice', [layer.inputs[0], *ends], layer.name)

    def _pad(self, layer: Layer) -> None:
        sides = np.array([0, 0, layer.size, layer.size] * 2, np.int64)
        self.node('Pad', [layer.inputs[0], self.constant(f'{layer.name}/sides', sides)], layer.name)

    def _border(self, layer: Layer) -> None:
        side = self.sizes[layer.inputs[0]]
        mask = np.ones((1, 1, side, side), np.float32)
        mask[..., side // 4 : -(side // 4), side // 4 : -(side // 4)] = 0
        self.node('Mul', [layer.inputs[0], self.constant(f'border/{side}', mask)], layer.name)

    def _channel_gate(self, layer: Layer) -> None:
        name, (source,) = layer.name, layer.inputs
        axes = self.constant('height-width', np.array([2, 3], np.int64))
        weighed = []
        for kind in ('ReduceMean', 'ReduceMax'):
            part = f'{name}/{kind}'
            statistic = self.node(kind, [source, axes], part, keepdims=1)
            hidden = self._convolve(f'{name}/reduce', statistic, f'{part}/reduced')
            hidden = self.node('Relu', [hidden], f'{part}/hidden')
            weighed.append(self._convolve(f'{name}/expand', hidden, f'{part}/expanded'))
        total = self.node('Add', weighed, f'{name}/total')
        gate = self.node('Sigmoid', [total], f'{name}/gate')
        self.node('Mul', [source, gate], name)

    def _spatial_gate(self, layer: Layer) -> None:
        name, (source,) = layer.name, layer.inputs
        axes = self.constant('channel', np.array([1], np.int64))
        seen = [
            self.node(kind, [source, axes], f'{name}/{kind}', keepdims=1)
            for kind in ('ReduceMax', 'ReduceMean')
        ]
        both = self.node('Concat', seen, f'{name}/seen', axis=1)
        gate = self.node('Sigmoid', [self._convolve(name, both, f'{name}/map')], f'{name}/gate')
        self.node('Mul', [source, gate], name)
