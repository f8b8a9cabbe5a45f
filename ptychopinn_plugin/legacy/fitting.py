"""Old weights into the layers of a description: every one fits, or an error names the first."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.network import NetworkDescription


@dataclass(frozen=True)
class OldWeight:
    """A weight of an old file.

    Attributes
    ----------
    name : str
        In the old file.
    values : ndarray
        Kernels as (out, in, height, width).
    """

    name: str
    values: RealArray


def repeat_amplitude(weights: Mapping[str, OldWeight]) -> dict[str, OldWeight]:
    """Give the amplitude as many outputs as the phase, where one stands for a whole group.

    Older versions of PtychoPINN predicted one amplitude for a group and a phase for each patch.
    """
    outputs = [weights[f'{name}/last/bias'].values.shape[0] for name in ('amplitude', 'phase')]
    if outputs[0] != 1:
        return dict(weights)
    last = ('amplitude/last/', 'amplitude/border/3/')
    return {
        name: dataclasses.replace(weight, values=np.repeat(weight.values, outputs[1], axis=0))
        if name.startswith(last)
        else weight
        for name, weight in weights.items()
    }


def last_image_channels(weights: Mapping[str, OldWeight]) -> int:
    """Return how many channels come out of the last block of the amplitude's decoder."""
    blocks = [name for name in weights if re.fullmatch(r'amplitude/\d+/2/weight', name)]
    return weights[max(blocks)].values.shape[0] if blocks else 0


def fit_weights(
    network: NetworkDescription, old: Mapping[str, OldWeight], source: str
) -> dict[str, RealArray]:
    """Return the network's weights, in its order.

    Parameters
    ----------
    network : NetworkDescription
    old : mapping of str to OldWeight
        By the name that the weight has in `network`.
    source : str
        For messages.

    Raises
    ------
    ArchiveError
        Naming the first weight that is missing, left over, of another shape or not finite.
    """
    shapes = network.weight_shapes()
    fitted: dict[str, RealArray] = {}
    for name, shape in shapes.items():
        if name not in old:
            raise ArchiveError(
                f'{source}: there are no weights for the layer {name!r}, whose shape is {shape}. '
                'The file holds a network of another kind than its settings describe.'
            )
        values = old[name].values
        if values.shape != shape:
            raise ArchiveError(
                f'{source}: {old[name].name!r} does not fit the layer {name!r}: its shape must be '
                f'{shape}; it is {values.shape}. No weight was taken over.'
            )
        if values.dtype.kind != 'f' or not np.isfinite(values).all():
            raise ArchiveError(f'{source}: {old[name].name!r} holds values that are no numbers.')
        fitted[name] = np.ascontiguousarray(values, dtype=np.float32)
    # A weight that nothing takes would mean that another network was trained than the one that is
    # built.
    left = [weight.name for name, weight in old.items() if name not in shapes]
    if left:
        raise ArchiveError(
            f'{source}: the network has no layer for {left[0]!r} ({len(left)} such weights). '
            'The file holds a network of another kind than its settings describe.'
        )
    return fitted
