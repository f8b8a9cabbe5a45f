"""The network that is trained for any probe, window and dose."""

from ptychopinn_plugin.network import (
    FOLD,
    SWEEPNET_FILTERS,
    NetworkBuilder,
    NetworkDescription,
)

GENERAL_FEATURES = 9
"""All images of `physics.features.sweepnet_features`: those of 'sweepnet', the probe, the dose."""

ITERATIONS_BETWEEN = 5
"""Iterations of the engine after each pass but the last, in training as in use."""


def describe_general_network(window_px: int, passes: int = 3) -> NetworkDescription:
    """Describe the network that is trained for any probe, window and dose.

    Beside 'sweepnet' it sees the probe and the dose, and has a third scale of 8 x 8 pixels. Its
    activations are smooth: with 'relu' a run over very different scans once ended with a layer in
    which no channel was ever above zero.

    Parameters
    ----------
    window_px : int
        Side of the illuminated window, a multiple of 8.
    passes : int
    """
    filters = SWEEPNET_FILTERS
    net = NetworkBuilder(GENERAL_FEATURES)
    fine = net.regroup('fine/folded', 'space-to-depth', 'input')

    def conv(name: str, source: str, filters: int) -> str:
        return net.conv(name, source, filters, 'swish')

    fine = conv('fine/2', conv('fine/1', fine, filters), filters)
    coarse = net.resize('coarse/pool', 'average-pool', fine)
    coarse = conv('coarse/2', conv('coarse/1', coarse, 2 * filters), 2 * filters)
    wide = net.resize('wide/pool', 'average-pool', coarse)
    wide = conv('wide/2', conv('wide/1', wide, 2 * filters), 2 * filters)
    coarse = net.add('coarse/sum', coarse, net.resize('wide/up', 'upsample', wide))
    coarse = conv('coarse/3', coarse, filters)
    fine = net.add('fine/sum', fine, net.resize('coarse/up', 'upsample', coarse))
    last = net.conv('correction/folded', conv('fine/3', fine, filters), 2 * FOLD**2, 'none')
    correction = net.regroup('correction', 'depth-to-space', last)
    return NetworkDescription(
        architecture='sweepnet',
        layers=tuple(net.layers),
        outputs=(correction,),
        window_px=window_px,
        passes=passes,
        zero_layers=(last,),
        iterations_between=ITERATIONS_BETWEEN,
    )
