r"""The least work that a pattern takes, counted from the configuration.

A two-dimensional transform of N x N pixels takes :math:`5 N^2 \log_2 N^2` operations [1]_, and a
convolution two for each weight and pixel. The least time is that of the operations or that of the
bytes, whichever is longer, at the peaks of the machine [2]_: no implementation of the same
algorithm is quicker.

References
----------
.. [1] M. Frigo, S. Johnson, Proc. IEEE 93 (2005) 216, doi:10.1109/JPROC.2004.840301.
.. [2] S. Williams, A. Waterman, D. Patterson, Commun. ACM 52 (2009) 65,
   doi:10.1145/1498765.1498785.
"""

import math
from dataclasses import dataclass

from ptychopinn_plugin.backends.common.sampling import REPEATS
from ptychopinn_plugin.bench.machine import Peaks
from ptychopinn_plugin.network import NetworkDescription

WAVE_OPERATIONS = 40
"""An amplitude projection takes this number for each pixel and mode: two complex products, a square
of the modulus, a quotient, a root and a factor, where a complex product takes six."""

PATCH_OPERATIONS = 20
"""Each pixel of a predicted patch takes these: features before the network, a phase and a sum after
it."""

STITCHING_OPERATIONS = 16
"""Each pixel of a patch takes these: weights, a phase factor, sums on the canvas and over cells."""

BACKWARD = 3
"""A gradient takes twice the operations of the forward computation, which it includes here."""


@dataclass(frozen=True)
class Work:
    """Operations and bytes of one pattern."""

    operations: float
    bytes: float

    def __add__(self, other: 'Work') -> 'Work':
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def __mul__(self, factor: float) -> 'Work':
        return Work(self.operations * factor, self.bytes * factor)

    def seconds(self, peaks: Peaks) -> float:
        """Return the least time on a machine."""
        return max(
            self.operations / peaks.operations_per_second, self.bytes / peaks.bytes_per_second
        )


def network_operations(description: NetworkDescription) -> float:
    """Return the operations of the network's convolutions on one input."""
    side = {'': float(description.window_px)}
    total = 0.0
    for layer in description.layers:
        here = side[layer.inputs[0]] if layer.inputs and layer.inputs[0] in side else side['']
        match layer.kind:
            case 'average-pool' | 'max-pool' | 'space-to-depth':
                after = here / layer.size
            case 'upsample' | 'depth-to-space':
                after = here * layer.size
            case _:
                after = here
        side[layer.name] = after
        # The convolutions of a gate of channels see one pixel.
        pixels = 1.0 if layer.kind == 'channel-gate' else here**2
        for conv in layer.convolutions().values():
            total += 2 * conv.in_channels * conv.out_channels * conv.size**2 * pixels
    return total


def transform_operations(size: int) -> float:
    """Return the operations of one transform of `size` x `size` complex pixels."""
    return 5 * size**2 * math.log2(size**2)


def projection_work(size: int, modes: int) -> Work:
    """Return the work of an amplitude projection: two transforms of each mode."""
    operations = modes * (2 * transform_operations(size) + WAVE_OPERATIONS * size**2)
    # Amplitudes and probes are read, and so is the patch, which is then changed.
    return Work(operations, size**2 * (4 + 8 * modes + 8 + 16))


def prediction_work(description: NetworkDescription, size: int, modes: int) -> Work:
    """Return the work of predicting the patch of a pattern in every pass."""
    window = description.window_px
    network = Work(
        network_operations(description) + PATCH_OPERATIONS * window**2, window**2 * 4 * (6 + 2)
    )
    if description.architecture == 'cnn':
        return Work(network.operations / description.group_size, 4 * size**2 + 8 * window**2)
    return (projection_work(size, modes) + network) * description.passes


def stitching_work(description: NetworkDescription) -> Work:
    """Return the work of putting the patch of a pattern on the canvas in every pass."""
    pixels = description.window_px**2
    # A patch and its weights are read, and added to the object and the weights of the canvas.
    return Work(STITCHING_OPERATIONS * pixels, pixels * (8 + 4 + 16 + 8)) * description.passes


def training_work(description: NetworkDescription, size: int, modes: int) -> Work:
    """Return the work of one pattern of a batch: its gradient, and its share of its sub-scan."""
    network = network_operations(description)
    diffraction = modes * (2 * transform_operations(size) + WAVE_OPERATIONS * size**2)
    gradient = Work(BACKWARD * network + diffraction, size**2 * (4 + 8 * modes + 16) + 32 * size**2)
    if description.architecture == 'cnn':
        return gradient
    passes = description.passes
    one_pass = prediction_work(description, size, modes) * (1 / passes)
    # Every sub-scan is predicted in all passes but the last, and met this number of times.
    before = (one_pass + stitching_work(description) * (1 / passes)) * ((passes - 1) / REPEATS)
    return gradient + projection_work(size, modes) + before


def iteration_work(size: int, modes: int, stride: int = 1) -> Work:
    """Return the work of one pattern in an iteration: its update, and its likelihood after it.

    Parameters
    ----------
    size, modes : int
    stride : int
        One pattern in this number is compared with the object that an iteration leaves.
    """
    likelihood = Work(
        modes * (transform_operations(size) + WAVE_OPERATIONS / 2 * size**2),
        size**2 * (4 + 8 * modes + 8),
    )
    # The update, the weights and the object on the canvas.
    placing = Work(6 * size**2, size**2 * (16 + 8))
    return projection_work(size, modes) + likelihood * (1 / stride) + placing
