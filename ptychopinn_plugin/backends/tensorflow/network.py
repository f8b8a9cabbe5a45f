"""Build a network from its description."""

from collections.abc import Callable, Mapping

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, tf
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.network import Layer, NetworkDescription

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'none': lambda x: x,
    'relu': tf.nn.relu,
    'sigmoid': tf.sigmoid,
    'swish': lambda x: x * tf.sigmoid(x),
    'softplus': tf.nn.softplus,
    'pi-tanh': lambda x: np.pi * tf.tanh(x),
}

Weights = Mapping[str, Tensor]


class Network:
    """The layers of a description, computed in their order.

    Images have their channels last, and kernels are (height, width, in, out), which TensorFlow
    computes on every device.

    Parameters
    ----------
    description : NetworkDescription
    precision : str
        'float32', 'bfloat16' or 'float16': arithmetic inside; weights stay float32.
    seed : int
        Of the first weights.
    """

    def __init__(
        self, description: NetworkDescription, precision: str = 'float32', seed: int = 0
    ) -> None:
        self.description = description
        self.precision = precision
        rng = np.random.default_rng(seed)
        self.weights: dict[str, Tensor] = {
            name: tf.constant(from_stored(first))
            for name, first in _first_weights(description, rng).items()
        }

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs for images of shape (batch, height, width, channels)."""
        return compute(self.description, self.precision, self.weights, images)

    def load_weights(self, weights: Mapping[str, RealArray]) -> None:
        """Take weights by layer name; each must be there and fit.

        Raises
        ------
        ArchiveError
            Naming the first weight that is missing or of another shape.
        """
        for name, shape in self.description.weight_shapes().items():
            if name not in weights:
                raise ArchiveError(f'The model holds no weight {name!r} of shape {shape}.')
            if weights[name].shape != shape:
                raise ArchiveError(
                    f'Weight {name!r} must have shape {shape}; got {weights[name].shape}.'
                )
            self.weights[name] = tf.constant(from_stored(weights[name]), tf.float32)

    def numpy_weights(self) -> dict[str, RealArray]:
        """Return copies of the weights by layer name, kernels as (out, in, height, width)."""
        return {name: to_stored(weight.numpy()) for name, weight in self.weights.items()}


def compute(
    description: NetworkDescription, precision: str, weights: Weights, images: Tensor
) -> tuple[Tensor, ...]:
    """Compute the outputs for images of shape (batch, height, width, channels), as float32."""
    # Outputs come back in float32: patches are added up and diffracted, which half precision, with
    # its three digits, would spoil.
    dtype = tf.as_dtype(precision)
    values = {'input': tf.cast(images, dtype)}
    for layer in description.layers[1:]:
        inputs = [values[name] for name in layer.inputs]
        if layer.kind == 'conv':
            values[layer.name] = _convolve(layer, inputs[0], weights, dtype)
        elif layer.kind in ('channel-gate', 'spatial-gate'):
            values[layer.name] = inputs[0] * _gate(layer, inputs[0], weights, dtype)
        else:
            values[layer.name] = _reshape(layer, inputs)
    return tuple(tf.cast(values[name], tf.float32) for name in description.outputs)


def _convolve(layer: Layer, image: Tensor, weights: Weights, dtype: tf.DType) -> Tensor:
    convolved = _linear(layer.name, image, weights, dtype)
    if layer.activation not in ('none', 'relu'):
        # Exponentials lose too much in half precision.
        convolved = tf.cast(convolved, tf.float32)
    return ACTIVATIONS[layer.activation](convolved)


def _linear(name: str, image: Tensor, weights: Weights, dtype: tf.DType) -> Tensor:
    """Return an image, (batch, height, width, channels), convolved, with its bias."""
    # Cast here and kept in float32: half precision would round small steps of the optimizer away.
    kernel = tf.cast(weights[f'{name}/weight'], dtype)
    # An image may come from a function of float32.
    convolved = tf.nn.conv2d(tf.cast(image, dtype), kernel, strides=1, padding='SAME')
    bias = weights.get(f'{name}/bias')
    return convolved if bias is None else tf.nn.bias_add(convolved, tf.cast(bias, dtype))


def _gate(layer: Layer, image: Tensor, weights: Weights, dtype: tf.DType) -> Tensor:
    r"""Return the factor on each channel or pixel [1]_.

    On channels it is :math:`\sigma(f(\mathrm{mean}) + f(\max))` of their means and maxima over all
    pixels, with :math:`f` two layers and a ReLU between them; on pixels :math:`\sigma` of a
    convolution of the maxima and means over all channels.

    References
    ----------
    .. [1] S. Woo et al., ECCV (2018), arXiv:1807.06521.
    """
    if layer.kind == 'spatial-gate':
        seen = (tf.reduce_max(image, 3, keepdims=True), tf.reduce_mean(image, 3, keepdims=True))
        return tf.sigmoid(_linear(layer.name, tf.concat(seen, 3), weights, dtype))

    def weigh(statistic: Tensor) -> Tensor:
        hidden = tf.nn.relu(_linear(f'{layer.name}/reduce', statistic, weights, dtype))
        return _linear(f'{layer.name}/expand', hidden, weights, dtype)

    mean = tf.reduce_mean(image, (1, 2), keepdims=True)
    return tf.sigmoid(weigh(mean) + weigh(tf.reduce_max(image, (1, 2), keepdims=True)))


def _reshape(layer: Layer, inputs: list[Tensor]) -> Tensor:
    """Return what a layer without weights makes of its inputs, (batch, height, width, channels).

    Raises
    ------
    ArchiveError
        If the layer is of unknown kind.
    """
    image, size = inputs[0], layer.size
    match layer.kind:
        case 'average-pool':
            return tf.nn.avg_pool2d(image, size, size, 'VALID')
        case 'max-pool':
            return tf.nn.max_pool2d(image, size, size, 'VALID')
        case 'upsample':
            return _upsample(image, size)
        case 'space-to-depth':
            return tf.nn.space_to_depth(image, size)
        case 'depth-to-space':
            return tf.nn.depth_to_space(image, size)
        case 'add':
            return image + inputs[1]
        case 'channels':
            return image[..., layer.start : layer.stop]
        case 'pad':
            return tf.pad(image, [[0, 0], [size, size], [size, size], [0, 0]])
        case 'border':
            return image * tf.cast(_border(tf.shape(image)[1], tf.shape(image)[2]), image.dtype)
    raise ArchiveError(f'Layer {layer.name!r} is of unknown kind {layer.kind!r}.')


def _upsample(image: Tensor, size: int) -> Tensor:
    """Repeat each pixel `size` times along both sides."""
    sides = tf.shape(image)
    rows = tf.broadcast_to(
        image[:, :, None, :, None], [sides[0], sides[1], size, sides[2], size, sides[3]]
    )
    # The number of channels must stay known, or no convolution can follow.
    return tf.reshape(rows, [sides[0], sides[1] * size, sides[2] * size, image.shape[3]])


def _border(height: Tensor, width: Tensor) -> Tensor:
    """Return 0 in the central half of an image, 1 around it; shape (height, width, 1)."""
    rows, columns = tf.range(height), tf.range(width)
    inner_rows = (rows >= height // 4) & (rows < height - height // 4)
    inner_columns = (columns >= width // 4) & (columns < width - width // 4)
    return ~(inner_rows[:, None] & inner_columns[None, :])[..., None]


def _first_weights(
    description: NetworkDescription, rng: np.random.Generator
) -> dict[str, RealArray]:
    """Draw weights and biases evenly within one over the root of a kernel's inputs.

    References
    ----------
    .. [1] Y. LeCun et al., Efficient BackProp (1998), section 4.6.
    """
    result: dict[str, RealArray] = {}
    shapes = description.weight_shapes()
    for name, shape in shapes.items():
        layer, _, _ = name.rpartition('/')
        # These are PyTorch's limits too, so that both backends start alike.
        limit = float(np.prod(shapes[f'{layer}/weight'][1:])) ** -0.5
        if layer in description.zero_layers:
            limit = 0.0
        result[name] = rng.uniform(-limit, limit, shape).astype(np.float32)
    return result


def from_stored(weight: RealArray) -> RealArray:
    """Turn a kernel of (out, in, height, width) to (height, width, in, out)."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight)


def to_stored(weight: RealArray) -> RealArray:
    """Undo `from_stored`."""
    return np.ascontiguousarray(weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight)
