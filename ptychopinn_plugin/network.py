"""The architecture as data: named layers that every backend builds and a model file stores."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.errors import ArchiveError, ConfigError

LayerKind = Literal[
    'input',
    'conv',
    'average-pool',
    'max-pool',
    'upsample',
    'space-to-depth',
    'depth-to-space',
    'add',
    'channels',
    'pad',
    'border',
    'channel-gate',
    'spatial-gate',
]
Activations = Literal['none', 'relu', 'sigmoid', 'swish', 'softplus', 'pi-tanh']

# These are the published filters of the encoder's blocks and the decoders', by the patterns' size.
CNN_FILTERS = {64: (32, 64, 128), 128: (16, 32, 64, 128), 256: (8, 16, 32, 64, 128)}
CNN_DECODER_FILTERS = {64: (64, 32), 128: (128, 64, 32), 256: (256, 128, 64, 32)}
SWEEPNET_FILTERS = 32
"""The network has this number of filters where 2 x 2 pixels are one, and twice as many where
4 x 4 are one. Multiples of 16 fill the vector units of a CPU."""

FOLD = 2
"""Blocks of this side in pixels become channels. At full size, images of few channels take most of
the time, in convolutions and between them."""

SWEEPNET_FEATURES = 6
"""This number of images of one pattern goes into sweepnet: `physics.features.sweepnet_features`."""

BORDER_CHANNELS = 4
"""This number of channels of a cnn decoder's last image makes the border."""

BORDER_FILTERS = 2048
"""Divided by the pattern's size, it is the number of filters at full size: 32 at 64 pixels."""

GATE_REDUCTION = 16
"""A channel gate has this many times fewer hidden channels than channels."""

GATE_SIZE = 7


@dataclass(frozen=True)
class Layer:
    """One layer; images are (batch, channels, height, width) in every description.

    Attributes
    ----------
    name : str
        A unique name; a convolution's weights are stored as ``name/weight`` and ``name/bias``.
    kind : str
        'conv' has a square kernel of odd `size`, stride 1 and zero padding that keeps the size;
        'average-pool', 'max-pool' and 'upsample' (nearest) change it by `size`;
        'space-to-depth' makes the channels of each block of `size` x `size` pixels, from left to
        right and row by row, into the channels of one pixel; 'depth-to-space' undoes that;
        'add' sums its inputs; 'channels' keeps channels `start` to `stop`;
        'pad' adds `size` zeros on each side; 'border' sets the central half to zero.
        'channel-gate' multiplies each channel by sigmoid(f(its mean) + f(its maximum)), where
        f = expand(relu(reduce(x))) are convolutions of size 1 with `hidden_channels` between;
        'spatial-gate' multiplies each pixel by the sigmoid of a convolution of `size`, without
        bias, of two images: the maximum over the channels and their mean. [1]_
    inputs : tuple of str
        Names of earlier layers.
    size : int
        The side of a kernel, block or margin in pixels, by `kind`.

    References
    ----------
    .. [1] S. Woo et al., CBAM, ECCV 2018, doi:10.1007/978-3-030-01234-2_1.
    """

    name: str
    kind: LayerKind
    inputs: tuple[str, ...] = ()
    in_channels: int = 0
    out_channels: int = 0
    size: int = 3
    start: int = 0
    stop: int = 0
    activation: Activations = 'none'
    hidden_channels: int = 0

    def convolutions(self) -> dict[str, 'Convolution']:
        """Return the convolutions inside the layer, by the name of their weights."""
        channels, hidden = self.in_channels, self.hidden_channels
        match self.kind:
            case 'conv':
                return {self.name: Convolution(channels, self.out_channels, self.size)}
            case 'channel-gate':
                return {
                    f'{self.name}/reduce': Convolution(channels, hidden, 1),
                    f'{self.name}/expand': Convolution(hidden, channels, 1),
                }
            case 'spatial-gate':
                return {self.name: Convolution(2, 1, self.size, has_bias=False)}
        return {}


@dataclass(frozen=True)
class Convolution:
    """A convolution with stride 1 and zero padding that keeps the size."""

    in_channels: int
    out_channels: int
    size: int
    has_bias: bool = True


@dataclass(frozen=True)
class NetworkDescription:
    """Everything that a framework needs to build the network.

    Attributes
    ----------
    architecture : str
        'sweepnet', 'cnn' or 'prior', which decides what inputs and outputs mean
        (`docs/physics.md`).
    layers : tuple of Layer
        In an order in which they can be computed.
    outputs : tuple of str
        The names of the layers that are returned. For sweepnet and prior it is one, with the real
        and the imaginary part of the correction; for cnn there are the amplitude and the phase,
        with one channel for each pattern of a group.
    window_px : int
        Side of the images that go in, in object or detector pixels.
    passes : int
        How often the network is applied to the stitched object.
    group_size : int
        Patterns in a group.
    zero_layers : tuple of str
        Convolutions that start at zero, so that training starts from the physics alone.
    iterations_before, iterations_between : int
        For 'prior': iterations before the first pass, and between passes.
    """

    architecture: str
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
    window_px: int
    passes: int = 1
    group_size: int = 1
    zero_layers: tuple[str, ...] = field(default=())
    iterations_before: int = 0
    iterations_between: int = 0

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each weight: (out, in, height, width) and (out,)."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            for name, conv in layer.convolutions().items():
                kernel = (conv.out_channels, conv.in_channels, conv.size, conv.size)
                shapes[f'{name}/weight'] = kernel
                if conv.has_bias:
                    shapes[f'{name}/bias'] = (conv.out_channels,)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from `to_dict`'s values.

        Raises
        ------
        ArchiveError
            If a value is missing, superfluous or of another type, or the layers are no graph.
        """
        try:
            layers = tuple(
                Layer(**{**layer, 'inputs': tuple(layer['inputs'])}) for layer in values['layers']
            )
            return cls(
                **{
                    **values,
                    'layers': layers,
                    'outputs': tuple(values['outputs']),
                    'zero_layers': tuple(values['zero_layers']),
                }
            )
        except (KeyError, TypeError) as error:
            raise ArchiveError(f'The network description is not readable: {error}.') from error

    def check_graph(self) -> None:
        """Raise ArchiveError unless layers have names of their own and inputs that come before.

        Raises
        ------
        ArchiveError
            If one has not, or the description names a layer that it lacks.
        """
        known: set[str] = set()
        for layer in self.layers:
            missing = [name for name in layer.inputs if name not in known]
            if missing or layer.name in known or (layer.kind != 'input' and not layer.inputs):
                raise ArchiveError(
                    f'The layer {layer.name!r} must have a name of its own and earlier layers as '
                    f'inputs; it has {list(layer.inputs)}.'
                )
            known.add(layer.name)
        unknown = [name for name in (*self.outputs, *self.zero_layers) if name not in known]
        if unknown:
            raise ArchiveError(f'The network has no layer {unknown[0]!r}, which it names.')


class NetworkBuilder:
    """Collects layers and counts their channels; each method returns the new layer's name."""

    def __init__(self, channels: int) -> None:
        self.layers: list[Layer] = [Layer('input', 'input', out_channels=channels)]
        self.channels = {'input': channels}

    def put(self, layer: Layer) -> str:
        self.layers.append(layer)
        self.channels[layer.name] = layer.out_channels
        return layer.name

    def conv(self, name: str, source: str, filters: int, activation: Activations = 'relu') -> str:
        channels = self.channels[source]
        return self.put(Layer(name, 'conv', (source,), channels, filters, activation=activation))

    def resize(self, name: str, kind: LayerKind, source: str, size: int = 2) -> str:
        channels = self.channels[source]
        return self.put(Layer(name, kind, (source,), channels, channels, size=size))

    def regroup(
        self, name: str, kind: Literal['space-to-depth', 'depth-to-space'], source: str
    ) -> str:
        before = self.channels[source]
        after = before * FOLD**2 if kind == 'space-to-depth' else before // FOLD**2
        return self.put(Layer(name, kind, (source,), before, after, size=FOLD))

    def add(self, name: str, *sources: str) -> str:
        channels = self.channels[sources[0]]
        return self.put(Layer(name, 'add', sources, channels, channels))

    def gates(self, block: str, source: str) -> str:
        channels = self.channels[source]
        hidden = max(1, channels // GATE_REDUCTION)
        name = f'{block}/channel-gate'
        gate = Layer(name, 'channel-gate', (source,), channels, channels, hidden_channels=hidden)
        name, inputs = f'{block}/spatial-gate', (self.put(gate),)
        return self.put(Layer(name, 'spatial-gate', inputs, channels, channels, size=GATE_SIZE))

    def cut(self, name: str, source: str, start: int, stop: int) -> str:
        channels = self.channels[source]
        return self.put(
            Layer(name, 'channels', (source,), channels, stop - start, start=start, stop=stop)
        )


def describe_network(config: ModelConfig, window_px: int) -> NetworkDescription:
    """Describe the network of a configuration.

    Parameters
    ----------
    config : ModelConfig
    window_px : int
        Side of the illuminated window, a multiple of 4; 'cnn' gets whole patterns instead.

    Raises
    ------
    ConfigError
        If 'cnn' has no layers for this size of patterns.
    """
    if config.architecture == 'sweepnet':
        return _describe_sweepnet(config, window_px)
    return describe_cnn(config)


def _describe_sweepnet(config: ModelConfig, window_px: int) -> NetworkDescription:
    """Describe a small U-Net with an additive skip, on the object's pixel grid.

    `docs/network.md` draws it. Sides below are shares of the window's.

    References
    ----------
    .. [1] O. Ronneberger, P. Fischer, T. Brox, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28.
    """
    filters = max(4, round(SWEEPNET_FILTERS * config.filters_scale))
    net = NetworkBuilder(SWEEPNET_FEATURES)
    fine = net.regroup('fine/folded', 'space-to-depth', 'input')  # 24 channels, 1/2
    fine = net.conv('fine/2', net.conv('fine/1', fine, filters), filters)
    coarse = net.resize('coarse/pool', 'average-pool', fine)  # 1/4
    coarse = net.conv('coarse/2', net.conv('coarse/1', coarse, 2 * filters), filters)
    fine = net.add('fine/sum', fine, net.resize('coarse/up', 'upsample', coarse))  # 1/2
    # It has no activation, as a correction has either sign.
    last = net.conv('correction/folded', net.conv('fine/3', fine, filters), 2 * FOLD**2, 'none')
    correction = net.regroup('correction', 'depth-to-space', last)
    return NetworkDescription(
        architecture='sweepnet',
        layers=tuple(net.layers),
        outputs=(correction,),
        window_px=window_px,
        passes=config.passes,
        group_size=config.gridsize**2,
        zero_layers=(last,),
    )


@dataclass(frozen=True)
class CnnVariant:
    """How the published network differs from framework to framework and over the years.

    The defaults are those of the published one, on TensorFlow.

    Attributes
    ----------
    attention : bool
        Whether gates follow the convolutions of each block of the encoder.
    border_channels : int
        The number of the last channels of a decoder's image from which the border is made.
    border_filters : int, optional
        The number of filters of the convolutions at full size, which make the border, or the
        patch without `pad_object`. Without a number it falls with the size of the patterns, as in
        the published network on TensorFlow.
    unseen_channels : int
        The number of last channels from which, without a border, the centre is not made.
    border_everywhere : bool
        Whether what the border's branch predicts is added to the centre as well.
    """

    attention: bool = False
    border_channels: int = BORDER_CHANNELS
    border_filters: int | None = None
    unseen_channels: int = BORDER_CHANNELS
    border_everywhere: bool = False


def describe_cnn(config: ModelConfig, variant: CnnVariant | None = None) -> NetworkDescription:
    """Describe the published encoder with two decoders (Hoidn et al. 2023).

    Parameters
    ----------
    config : ModelConfig
        With its `pattern_size`.
    variant : CnnVariant, optional
        The published one on TensorFlow where not given.

    Raises
    ------
    ConfigError
        If there are no layers for this size of patterns.

    References
    ----------
    .. [1] O. Hoidn et al., Sci. Rep. 13, 22789 (2023), doi:10.1038/s41598-023-48351-7.
    """
    if config.pattern_size not in CNN_FILTERS:
        raise ConfigError(
            f'Architecture cnn takes patterns of {", ".join(map(str, CNN_FILTERS))} pixels; got '
            f'pattern_size {config.pattern_size}. Choose one of them, or architecture sweepnet.'
        )
    variant = variant or CnnVariant()
    group_size = config.gridsize**2
    net = NetworkBuilder(group_size)
    code = 'input'
    for index, filters in enumerate(CNN_FILTERS[config.pattern_size]):
        block = f'encoder/{index}'
        scaled = max(1, round(filters * config.filters_scale))
        code = net.conv(f'{block}/2', net.conv(f'{block}/1', code, scaled), scaled)
        if variant.attention:
            code = net.gates(block, code)
        code = net.resize(f'{block}/pool', 'max-pool', code)
    outputs = group_size if config.overlap_constraint else 1
    last: Activations = config.amplitude_activation
    amplitude = _cnn_decoder(net, 'amplitude', code, config, outputs, last, variant)
    phase = _cnn_decoder(net, 'phase', code, config, outputs, 'pi-tanh', variant)
    return NetworkDescription(
        architecture='cnn',
        layers=tuple(net.layers),
        outputs=(amplitude, phase),
        window_px=config.pattern_size,
        group_size=group_size,
    )


def _cnn_decoder(
    net: NetworkBuilder,
    name: str,
    code: str,
    config: ModelConfig,
    outputs: int,
    activation: Activations,
    variant: CnnVariant,
) -> str:
    """Add a decoder: a centre that is padded and, from the last channels, a border around it."""
    assert config.pattern_size is not None
    image = code
    filters = [
        max(8, round(count * config.filters_scale))
        for count in CNN_DECODER_FILTERS[config.pattern_size]
    ]
    full_size = round(BORDER_FILTERS / config.pattern_size * config.filters_scale)
    full_size_filters = variant.border_filters or max(8, full_size)
    if not config.pad_object:
        filters.append(full_size_filters)
    for index, count in enumerate(filters):
        block = f'{name}/{index}'
        image = net.conv(f'{block}/2', net.conv(f'{block}/1', image, count), count)
        image = net.resize(f'{block}/up', 'upsample', image)
    channels = net.channels[image]
    if not config.pad_object:
        return net.conv(f'{name}/last', image, outputs, activation)
    # The centre is half as large as a patch, where the probe puts most of its light.
    quarter = config.pattern_size // 4
    spare = variant.border_channels if config.border_decoder else variant.unseen_channels
    centre = net.cut(f'{name}/centre', image, 0, channels - spare) if spare else image
    centre = net.conv(f'{name}/last', centre, outputs, activation)
    centre = net.resize(f'{name}/padded', 'pad', centre, quarter)
    if not config.border_decoder:
        return centre
    border = net.cut(f'{name}/rest', image, channels - spare, channels)
    border = net.conv(f'{name}/border/1', border, full_size_filters)
    border = net.conv(f'{name}/border/2', border, full_size_filters)
    border = net.resize(f'{name}/border/up', 'upsample', border)
    border = net.conv(f'{name}/border/3', border, outputs, 'swish')
    if not variant.border_everywhere:
        border = net.resize(f'{name}/border', 'border', border)
    return net.add(f'{name}', centre, border)
