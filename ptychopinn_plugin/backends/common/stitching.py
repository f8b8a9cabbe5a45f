"""From patterns to an object: passes of a network and stitching, the same in every backend."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.backends.common.requests import InferenceRequest
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.data.grouping import covering_groups, spatial_blocks
from ptychopinn_plugin.network import NetworkDescription

Image = TypeVar('Image')
Stitched = TypeVar('Stitched', covariant=True)
Part = TypeVar('Part')

BLOCK_BYTES = 1 << 26
"""Patches that are stitched together take this, and as much again weighted.

A larger scan is stitched block by block.
"""

STITCHING_FLOOR = 1e-3
"""Below this share of the brightest coverage a pixel stays as it was."""

UNIFORM_FRACTION = 0.01
"""Uniform weights count a pixel from this share of the probe's peak on."""


class Stitches(Protocol[Part, Stitched]):
    """Puts predicted patches together."""

    def add(self, parts: list[Part], phase_synchronization: bool) -> None:
        """Add patches, after their global phases are synchronized where the request has that."""
        ...

    def object_(self) -> Stitched:
        """Return the weighted mean of all patches."""
        ...


@dataclass(frozen=True)
class StitchingKernels(Generic[Part, Image]):
    """What a framework computes on the way from patterns to an object.

    Attributes
    ----------
    predict_batches : callable
        Yields a network's patches, batch by batch, with the weights of the request: given the
        network, the forward model, groups (n_groups, group_size), the object of the pass before,
        whether that is still flat, and the request.
    make_stitcher : callable
        Returns an empty stitcher, given the forward model and the object of the pass before.
    correct_phase_drift : callable
        Returns an object without the slow drift of its phase, given the forward model.
    """

    predict_batches: Callable[[Any, Any, IntArray, Image, bool, InferenceRequest], Iterable[Part]]
    make_stitcher: Callable[[Any, Image], Stitches[Part, Image]]
    correct_phase_drift: Callable[[Any, Image], Image]


def stitch_object(
    kernels: StitchingKernels[Part, Image],
    network: Any,
    forward: Any,
    request: InferenceRequest | None = None,
    *,
    stopwatch: Stopwatch | None = None,
    observer: Callable[[int, Image], bool | None] | None = None,
) -> list[Image]:
    """Let a network predict the patches of a scan, and stitch them, pass by pass.

    Parameters
    ----------
    kernels : StitchingKernels
    network : Network
    forward : ForwardModel
    request : InferenceRequest, optional
        Where it is not given, that of the defaults.
    stopwatch : Stopwatch, optional
        Gets the seconds of 'predict' and 'stitch'.
    observer : callable, optional
        Gets the number of passes done and the object; True stops.

    Returns
    -------
    list of tensor of complex64, shape `forward.canvas_shape`
        The flat start and the object after each pass.
    """
    request = InferenceRequest() if request is None else request
    stopwatch = Stopwatch(lambda: None) if stopwatch is None else stopwatch
    description: NetworkDescription = network.description
    passes = description.passes if request.passes is None else request.passes
    patch_origins_px = forward.patch_origins_px
    objects: list[Image] = [forward.flat_object()]
    # A large scan is stitched block by block: all of its patches at once would fill the memory.
    blocks = spatial_blocks(patch_origins_px, block_size(description, BLOCK_BYTES))
    for number in range(passes):
        stitcher = kernels.make_stitcher(forward, objects[-1])
        for block in blocks:
            groups = block[covering_groups(patch_origins_px[block], description.group_size)]
            parts = list(
                kernels.predict_batches(network, forward, groups, objects[-1], number == 0, request)
            )
            stopwatch.lap('predict')
            stitcher.add(parts, request.phase_synchronization)
            stopwatch.lap('stitch')
        objects.append(stitcher.object_())
        if request.phase_synchronization and number + 1 == description.passes:
            objects[-1] = kernels.correct_phase_drift(forward, objects[-1])
        stopwatch.lap('stitch')
        if observer is not None and observer(number + 1, objects[-1]):
            break
    return objects


def block_size(description: NetworkDescription, n_bytes: int) -> int:
    """Return how many patterns are stitched together."""
    # Twice a group: a block that is halved must still hold one.
    return max(2 * description.group_size, n_bytes // (8 * description.window_px**2))
