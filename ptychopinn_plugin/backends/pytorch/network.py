"""Build a network from its description."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.network import Layer, NetworkDescription

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    'none': lambda x: x,
    # It works in place, as a convolution's output is needed nowhere else.
    'relu': lambda x: functional.relu(x, inplace=True),
    'sigmoid': torch.sigmoid,
    'swish': functional.silu,
    'softplus': functional.softplus,
    # Phases lie between -pi and pi.
    'pi-tanh': lambda x: torch.pi * torch.tanh(x),
}


class Network(nn.Module):
    """The layers of a description, computed in their order.

    Parameters
    ----------
    description : NetworkDescription
    precision : str
        'float32', 'bfloat16' or 'float16': arithmetic inside; weights stay float32.
    """

    def __init__(self, description: NetworkDescription, precision: str = 'float32') -> None:
        super().__init__()
        self.description = description
        self.precision: torch.dtype = getattr(torch, precision)
        self.convolutions = nn.ModuleDict()
        for layer in description.layers:
            for name, made in layer.convolutions().items():
                conv = nn.Conv2d(
                    made.in_channels,
                    made.out_channels,
                    made.size,
                    # Sides of kernels are odd, so that images keep their size.
                    padding=made.size // 2,
                    bias=made.has_bias,
                )
                if layer.name in description.zero_layers:
                    for parameter in conv.parameters():
                        nn.init.zeros_(parameter)
                self.convolutions[_key(name)] = conv

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs for images of shape (batch, channels, height, width)."""
        # This order is faster on CPUs, and tensor cores need it.
        values = {'input': images.contiguous(memory_format=torch.channels_last)}
        # Autocast takes half precision alone; in full there is nothing to cast.
        mixed = self.precision != torch.float32
        with torch.autocast(images.device.type, self.precision, enabled=mixed):
            # The first layer is the input itself.
            for layer in self.description.layers[1:]:
                values[layer.name] = self._compute(layer, [values[name] for name in layer.inputs])
        return tuple(values[name] for name in self.description.outputs)

    def _compute(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        """Return what a layer makes of its inputs, (batch, channels, height, width).

        Raises
        ------
        ArchiveError
            If the layer is of unknown kind.
        """
        image = inputs[0]
        match layer.kind:
            case 'conv':
                convolved: Tensor = self.convolutions[_key(layer.name)](image)
                return ACTIVATIONS[layer.activation](convolved)
            case 'average-pool':
                return functional.avg_pool2d(image, layer.size)
            case 'max-pool':
                return functional.max_pool2d(image, layer.size)
            case 'upsample':
                return functional.interpolate(image, scale_factor=layer.size, mode='nearest')
            case 'space-to-depth':
                return _space_to_depth(image, layer.size)
            case 'depth-to-space':
                return _depth_to_space(image, layer.size)
            case 'add':
                return image + inputs[1]
            case 'channels':
                return image[:, layer.start : layer.stop]
            case 'pad':
                return functional.pad(image, (layer.size,) * 4)
            case 'border':
                height, width = image.shape[-2:]
                # One mask serves all images and channels.
                mask = torch.ones_like(image[:1, :1])
                mask[..., height // 4 : -(height // 4), width // 4 : -(width // 4)] = 0
                return image * mask
            case 'channel-gate':
                return self._gate_channels(layer.name, image)
            case 'spatial-gate':
                seen = torch.cat([image.amax(1, keepdim=True), image.mean(1, keepdim=True)], 1)
                return image * torch.sigmoid(self.convolutions[_key(layer.name)](seen))
        raise ArchiveError(f'Layer {layer.name!r} is of unknown kind {layer.kind!r}.')

    def _gate_channels(self, name: str, image: Tensor) -> Tensor:
        r"""Multiply each channel by a factor that follows from the image [1]_.

        The factor is :math:`\sigma(f(\mathrm{mean}) + f(\max))` of the channels' means and maxima
        over all pixels, with :math:`f` two layers and a ReLU between them.

        References
        ----------
        .. [1] S. Woo et al., ECCV (2018), arXiv:1807.06521.
        """
        reduce = self.convolutions[_key(f'{name}/reduce')]
        expand = self.convolutions[_key(f'{name}/expand')]

        def weigh(statistic: Tensor) -> Tensor:
            weighed: Tensor = expand(functional.relu(reduce(statistic)))
            return weighed

        total = weigh(image.mean((2, 3), keepdim=True)) + weigh(image.amax((2, 3), keepdim=True))
        return image * torch.sigmoid(total)

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
            # Torch changes no parameter in place while it records gradients.
            with torch.no_grad():
                self._parameter(name).copy_(torch.from_numpy(np.array(weights[name])))

    def numpy_weights(self) -> dict[str, RealArray]:
        """Return copies of the weights by layer name."""
        return {
            # On a CPU NumPy would share the parameter's memory, and training goes on.
            name: self._parameter(name).detach().cpu().numpy().copy()
            for name in self.description.weight_shapes()
        }

    def _parameter(self, name: str) -> Tensor:
        # The name of a layer may have a '/' itself, as 'gate/reduce' has.
        layer, _, part = name.rpartition('/')
        parameter = getattr(self.convolutions[_key(layer)], part)
        assert isinstance(parameter, Tensor)
        return parameter


def _space_to_depth(image: Tensor, size: int) -> Tensor:
    """Turn blocks of `size` x `size` pixels into channels; those of one pixel lie together.

    The channels (n, c, h, w) become (n, size * size * c, h / size, w / size), in TensorFlow's
    order, so that both backends read one model file.
    """
    # Channels lie last in memory (see `forward`), so that whole runs of them are copied.
    n, channels, height, width = image.shape
    rows, columns = height // size, width // size
    blocks = image.permute(0, 2, 3, 1).reshape(n, rows, size, columns, size, channels)
    folded = blocks.transpose(2, 3).reshape(n, rows, columns, size * size * channels)
    return folded.permute(0, 3, 1, 2)


def _depth_to_space(image: Tensor, size: int) -> Tensor:
    """Undo `_space_to_depth`: channels become blocks of `size` x `size` pixels."""
    n, _, rows, columns = image.shape
    # Of no images at all the number of channels could not be found.
    channels = image.shape[1] // size**2
    blocks = image.permute(0, 2, 3, 1).reshape(n, rows, columns, size, size, channels)
    spread = blocks.transpose(2, 3).reshape(n, rows * size, columns * size, channels)
    return spread.permute(0, 3, 1, 2)


def _key(name: str) -> str:
    # Torch allows no dot in a module's name, and takes '/' as it is.
    return name.replace('.', '_')
