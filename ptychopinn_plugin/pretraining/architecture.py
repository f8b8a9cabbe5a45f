"""The network that corrects an object between iterations."""

from ptychopinn_plugin.backends.common.prior import COARSEST_PX
from ptychopinn_plugin.network import FOLD, SWEEPNET_FILTERS, NetworkBuilder, NetworkDescription
from ptychopinn_plugin.physics.prior_features import PRIOR_FEATURES

ITERATIONS_BEFORE = 10
"""This number of iterations from a flat object comes before the first pass."""

ITERATIONS_BETWEEN = 10
"""This number of iterations lies between one pass and the next."""

PASSES = 10
"""The network passes over the object this many times where illuminations hardly touch."""


def describe_prior() -> NetworkDescription:
    """Describe a small U-Net with additive skips and three scales, on the object's pixel grid.

    Its activations are smooth, as its corrections are added many times.
    """
    filters = SWEEPNET_FILTERS
    net = NetworkBuilder(PRIOR_FEATURES)

    def conv(name: str, source: str, filters: int) -> str:
        return net.conv(name, source, filters, 'swish')

    fine = net.regroup('fine/folded', 'space-to-depth', 'input')
    fine = conv('fine/2', conv('fine/1', fine, filters), filters)
    coarse = net.resize('coarse/pool', 'average-pool', fine)
    coarse = conv('coarse/2', conv('coarse/1', coarse, 2 * filters), 2 * filters)
    wide = net.resize('wide/pool', 'average-pool', coarse)
    for number in (1, 2, 3):
        wide = conv(f'wide/{number}', wide, 2 * filters)
    coarse = net.add('coarse/sum', coarse, net.resize('wide/up', 'upsample', wide))
    coarse = conv('coarse/3', coarse, filters)
    fine = net.add('fine/sum', fine, net.resize('coarse/up', 'upsample', coarse))
    last = net.conv('correction/folded', conv('fine/3', fine, filters), 2 * FOLD**2, 'none')
    correction = net.regroup('correction', 'depth-to-space', last)
    return NetworkDescription(
        architecture='prior',
        layers=tuple(net.layers),
        outputs=(correction,),
        window_px=COARSEST_PX,
        passes=PASSES,
        zero_layers=(last,),
        iterations_before=ITERATIONS_BEFORE,
        iterations_between=ITERATIONS_BETWEEN,
    )
