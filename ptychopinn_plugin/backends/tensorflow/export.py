"""A model's network as a Keras model, of layers that every Keras has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.backends.tensorflow.framework import tf
from ptychopinn_plugin.backends.tensorflow.network import from_stored
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import Convolution, Layer
from ptychopinn_plugin.storage.atomic import atomic_path

keras = tf.keras

ACTIVATIONS = {
    'none': 'linear',
    'relu': 'relu',
    'sigmoid': 'sigmoid',
    'swish': 'silu',
    'softplus': 'softplus',
    'pi-tanh': 'tanh',
}


def write_keras(model: Model, path: Path) -> None:
    """Write a model's network as a `.keras` file, without an optimizer.

    Parameters
    ----------
    model : Model
    path : Path
        Ends in '.keras', which Keras requires. Images go in and out with their channels last,
        (batch, height, width, channels).

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    made = build_keras(model)
    with atomic_path(path) as partial:
        made.save(partial)


def build_keras(model: Model) -> Any:
    """Return a functional Keras model with the weights of a model."""
    network = model.network
    first, size = network.layers[0], network.window_px
    images = keras.Input((size, size, first.out_channels), name='images')
    builder = _Builder(model)
    values = {'input': images}
    for layer in network.layers[1:]:
        values[layer.name] = builder.add(layer, [values[name] for name in layer.inputs])
    made = keras.Model(images, [values[name] for name in network.outputs])
    for name, layer in builder.convolutions.items():
        weights = [from_stored(np.asarray(model.weights[f'{name}/weight'], np.float32))]
        if layer.use_bias:
            weights.append(np.asarray(model.weights[f'{name}/bias'], np.float32))
        layer.set_weights(weights)
    return made


class _Builder:
    """Makes Keras layers; keeps the convolutions by the name of their weights."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.convolutions: dict[str, Any] = {}

    def add(self, layer: Layer, inputs: list[Any]) -> Any:
        """Return what a layer makes of its inputs.

        Raises
        ------
        ArchiveError
            If the layer is of unknown kind.
        """
        name, image = _name(layer.name), inputs[0]
        kinds: dict[str, Callable[[], Any]] = {
            'conv': lambda: self._convolve(layer, image),
            'average-pool': lambda: keras.layers.AveragePooling2D(layer.size, name=name)(image),
            'max-pool': lambda: keras.layers.MaxPooling2D(layer.size, name=name)(image),
            'upsample': lambda: keras.layers.UpSampling2D(layer.size, name=name)(image),
            'space-to-depth': lambda: _space_to_depth(name, image, layer.size),
            'depth-to-space': lambda: _depth_to_space(name, image, layer.size),
            'add': lambda: keras.layers.Add(name=name)(inputs),
            'channels': lambda: image[..., layer.start : layer.stop],
            'pad': lambda: keras.layers.ZeroPadding2D(layer.size, name=name)(image),
            'border': lambda: _border(name, image),
            'channel-gate': lambda: self._gate_channels(layer, image),
            'spatial-gate': lambda: self._gate_pixels(layer, image),
        }
        if layer.kind not in kinds:
            raise ArchiveError(f'Layer {layer.name!r} is of unknown kind {layer.kind!r}.')
        return kinds[layer.kind]()

    def _layer(self, name: str, made: Convolution, activation: str) -> Any:
        layer = keras.layers.Conv2D(
            made.out_channels,
            made.size,
            padding='same',
            activation=activation,
            use_bias=made.has_bias,
            name=_name(name),
        )
        self.convolutions[name] = layer
        return layer

    def _convolve(self, layer: Layer, image: Any) -> Any:
        made = layer.convolutions()[layer.name]
        convolved = self._layer(layer.name, made, ACTIVATIONS[layer.activation])(image)
        if layer.activation == 'pi-tanh':
            return keras.layers.Rescaling(np.pi, name=_name(f'{layer.name}/pi'))(convolved)
        return convolved

    def _gate_channels(self, layer: Layer, image: Any) -> Any:
        name, made = layer.name, layer.convolutions()
        reduce = self._layer(f'{name}/reduce', made[f'{name}/reduce'], 'relu')
        expand = self._layer(f'{name}/expand', made[f'{name}/expand'], 'linear')
        mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name=_name(f'{name}/mean'))(image)
        top = keras.layers.GlobalMaxPooling2D(keepdims=True, name=_name(f'{name}/maximum'))(image)
        weighed = [expand(reduce(statistic)) for statistic in (mean, top)]
        total = keras.layers.Add(name=_name(f'{name}/sum'))(weighed)
        gate = keras.layers.Activation('sigmoid', name=_name(f'{name}/gate'))(total)
        return keras.layers.Multiply(name=_name(name))([image, gate])

    def _gate_pixels(self, layer: Layer, image: Any) -> Any:
        name = layer.name
        top = keras.ops.max(image, axis=-1, keepdims=True)
        mean = keras.ops.mean(image, axis=-1, keepdims=True)
        seen = keras.layers.Concatenate(name=_name(f'{name}/seen'))([top, mean])
        gate = self._layer(name, layer.convolutions()[name], 'sigmoid')(seen)
        return keras.layers.Multiply(name=_name(f'{name}/product'))([image, gate])


def _space_to_depth(name: str, image: Any, size: int) -> Any:
    rows, columns, channels = image.shape[1] // size, image.shape[2] // size, image.shape[3]
    blocks = keras.layers.Reshape((rows, size, columns, size, channels), name=f'{name}.cut')(image)
    blocks = keras.layers.Permute((1, 3, 2, 4, 5), name=f'{name}.sorted')(blocks)
    return keras.layers.Reshape((rows, columns, size * size * channels), name=name)(blocks)


def _depth_to_space(name: str, image: Any, size: int) -> Any:
    rows, columns, channels = image.shape[1], image.shape[2], image.shape[3] // size**2
    blocks = keras.layers.Reshape((rows, columns, size, size, channels), name=f'{name}.cut')(image)
    blocks = keras.layers.Permute((1, 3, 2, 4, 5), name=f'{name}.sorted')(blocks)
    return keras.layers.Reshape((rows * size, columns * size, channels), name=name)(blocks)


def _border(name: str, image: Any) -> Any:
    quarter = image.shape[1] // 4
    centre = keras.layers.Cropping2D(quarter, name=f'{name}.cropped')(image)
    centre = keras.layers.ZeroPadding2D(quarter, name=f'{name}.centre')(centre)
    return keras.layers.Subtract(name=name)([image, centre])


def _name(name: str) -> str:
    # Keras takes no slash in the name of a layer.
    return name.replace('/', '.')
