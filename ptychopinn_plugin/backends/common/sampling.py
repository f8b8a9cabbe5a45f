"""What the network learns from: parts of scans, each with the estimates that it would meet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, IntArray, RealArray
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data.grouping import covering_groups, training_groups
from ptychopinn_plugin.data.places import Places
from ptychopinn_plugin.network import NetworkDescription

SUBSCAN_SIZE = 256
"""In this number of positions neighbours matter, and a CPU predicts them in half a second."""

VALIDATION = -1
"""A scan that is only validated on has this index; it gets the probe that inference would take."""

SUBSCANS_TOGETHER = 4
"""The batches of this number of sub-scans are drawn in random order."""

REPEATS = 2
"""Each group of a sub-scan is drawn this number of times, for one pass or another."""

SPACINGS = (0.0, 0.0, 0.0, 1.6, 2.4, 3.2, 4.0, 4.8)
"""Sub-scans are thinned to one of these spacings, in steps of the scan (0 keeps all positions).

Those with little overlap teach what to do where iterations fail.
"""

EXPOSURES = (1.0, 1.0, 0.3, 0.1)
"""Sub-scans keep one of these shares of the counts.

Binomial thinning of Poisson counts is what a shorter exposure counts.
"""

MIN_PLACES = 16
"""Of places that were measured again and again, a sub-scan has at least this number."""

VALIDATION_BATCH = 64
"""At most this number of patterns is validated together."""


@dataclass
class TrainingScan:
    """A scan on the device, and what is known of its object.

    Attributes
    ----------
    index : int
        Among the training scans, or `VALIDATION`.
    forward : ForwardModel
        Of the framework that trains.
    patch_origins_px : ndarray, shape (n_positions, 2)
        On the canvas.
    members : ndarray of int64
        Positions to learn from.
    labels : tensor of complex64, shape `forward.canvas_shape`, optional
        The target's or the known object.
    countable : bool
        Whether counts are whole numbers, so that they can be thinned.
    probe_of : int, optional
        For a scan that is only validated on: the training scan that came with the same probe, whose
        correction it gets, as in inference.
    """

    index: int
    forward: Any
    patch_origins_px: FloatArray
    members: IntArray
    labels: Any
    countable: bool
    probe_of: int | None = None

    @cached_property
    def places(self) -> Places:
        """Where the members lie; found once, as it takes a look at all of them."""
        return Places(self.patch_origins_px[self.members])


@dataclass(frozen=True)
class SubScan:
    """Some positions of a scan and the estimates that each pass starts from.

    Attributes
    ----------
    training_scan_index : int
        Which training scan it is cut from.
    exposure : float
        Its counts as a share of the measured ones.
    forward : ForwardModel
        Of these positions.
    groups : ndarray of int64, shape (n_groups, group_size)
    objects : list of tensors of complex64
        What each pass is given; the first is flat.
    labels, label_coverage : tensors, optional
        On the sub-scan's canvas.
    """

    training_scan_index: int
    exposure: float
    forward: Any
    groups: IntArray
    objects: Sequence[Any]
    labels: Any
    label_coverage: Any


@dataclass(frozen=True)
class Batch:
    """Groups of one sub-scan, for one pass, seen in one of four rotations."""

    subscan: SubScan
    number_of_pass: int
    groups: IntArray
    rotations: int = 0

    @property
    def object_(self) -> Any:
        """The estimate that the pass starts from."""
        return self.subscan.objects[self.number_of_pass]

    @property
    def is_flat(self) -> bool:
        """Whether that is the flat start."""
        return self.number_of_pass == 0


MakeSubScan = Callable[[TrainingScan, IntArray, IntArray, float, np.random.Generator], SubScan]
"""It cuts members and groups of a scan out, at an exposure, and predicts their object."""


def thinned_amplitudes(
    amplitudes: RealArray, exposure: float, rng: np.random.Generator
) -> RealArray:
    """Return the amplitudes that a share of the exposure would have measured."""
    # The squares of float32 roots are not whole any more, and a binomial needs whole counts.
    counts = np.rint(amplitudes**2).astype(np.int64)
    return np.asarray(np.sqrt(rng.binomial(counts, exposure)), dtype=np.float32)


def make_subscan(
    scan: TrainingScan,
    members: IntArray,
    groups: IntArray,
    exposure: float,
    rng: np.random.Generator,
    *,
    predict: Callable[[Any], Sequence[Any]],
    to_numpy: Callable[[Any], RealArray],
) -> SubScan:
    """Cut positions out of a scan and let the network predict their object pass by pass.

    Parameters
    ----------
    scan : TrainingScan
    members : ndarray of int64, shape (n_members,)
        Positions of the scan.
    groups : ndarray of int64, shape (n_groups, group_size)
        Indices of `members`.
    exposure : float
        Share of the counts, above 0 and at most 1; it is 1 where counts cannot be thinned.
    rng : numpy.random.Generator
    predict : callable
        Returns what each pass of the network is given, from a forward model.
    to_numpy : callable
        Returns a tensor's values.
    """
    amplitudes = None
    if exposure < 1 and scan.countable:
        measured = to_numpy(scan.forward.measured(members))
        amplitudes = thinned_amplitudes(measured, exposure, rng)
    else:
        exposure = 1.0
    forward = scan.forward.subset(members, amplitudes, exposure)
    top, left = (forward.origin_px - scan.forward.origin_px).tolist()
    height, width = forward.canvas_shape
    box = (slice(top, top + height), slice(left, left + width))
    return SubScan(
        training_scan_index=scan.index,
        exposure=exposure,
        forward=forward,
        groups=groups,
        objects=predict(forward),
        labels=None if scan.labels is None else scan.labels[box],
        label_coverage=scan.forward.lit_area(box),
    )


def draw_subscan(
    description: NetworkDescription,
    scan: TrainingScan,
    config: Config,
    rng: np.random.Generator,
    make: MakeSubScan,
) -> SubScan:
    """Draw positions at random density, place and exposure."""
    group_size, places = description.group_size, scan.places
    spacing = SPACINGS[rng.integers(len(SPACINGS))] * places.step_px
    exposure = EXPOSURES[rng.integers(len(EXPOSURES))]
    if description.architecture == 'cnn':
        # It sees one group at a time: neither density nor neighbours change what it meets.
        spacing, exposure = 0.0, 1.0
    chosen = _draw_positions(places, spacing, group_size, rng)
    limit = config.training.n_groups
    if limit is not None:
        # The sub-scans of an epoch share it.
        limit = -(-limit // -(-limit // SUBSCAN_SIZE))
    groups = training_groups(
        scan.patch_origins_px[scan.members[chosen]],
        group_size,
        config.training.neighbor_count,
        rng,
        limit,
    )
    return make(scan, scan.members[chosen], groups, exposure, rng)


def _draw_positions(
    places: Places, spacing_px: float, group_size: int, rng: np.random.Generator
) -> IntArray:
    """Draw positions that lie together; return their numbers in ascending order."""
    least = max(4, group_size)
    if not places.repeats:
        return places.thinned_around_one(SUBSCAN_SIZE, spacing_px, least, rng)
    # A network meets places with one exposure and with many, and neighbours in either case.
    most = min(SUBSCAN_SIZE // max(MIN_PLACES, group_size), int(np.ceil(places.exposures.mean())))
    count = 2 ** int(rng.integers(np.log2(max(1, most)) + 1))
    while True:
        drawn = places.thinned_around_one(SUBSCAN_SIZE // count, spacing_px, least, rng)
        # From fewer positions than a group holds nothing can be learned.
        each = np.minimum(places.exposures[drawn], count)
        if each.sum() >= group_size or count >= places.exposures.max():
            break
        count *= 2
    first = rng.integers(places.exposures[drawn])
    within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    return np.sort(places.exposure(np.repeat(drawn, each), np.repeat(first, each) + within))


def epoch_parts(
    description: NetworkDescription,
    scans: Sequence[TrainingScan],
    config: Config,
    seeds: Sequence[int],
    make: MakeSubScan,
    first: int = 0,
) -> Iterator[list[Batch]]:
    """Yield the batches of an epoch in parts, in which a position is met about `REPEATS` times.

    It is less often met where sub-scans leave positions out. A part holds the batches of
    `SUBSCANS_TOGETHER` sub-scans. Each has random numbers of its own, so that an epoch can begin
    with any of them.

    Parameters
    ----------
    description : NetworkDescription
    scans : sequence of TrainingScan
    config : Config
    seeds : sequence of int
        Of the epoch.
    make : callable
    first : int
        The parts before this one are left out.
    """
    limit = config.training.n_groups
    schedule = [
        scan
        for scan in scans
        for _ in range(-(-min(limit or len(scan.members), len(scan.members)) // SUBSCAN_SIZE))
    ]
    order = np.random.default_rng(seeds).permutation(len(schedule))
    per_batch = max(1, config.training.batch_size // description.group_size)
    for start in range(first * SUBSCANS_TOGETHER, len(order), SUBSCANS_TOGETHER):
        rng = np.random.default_rng([*seeds, start])
        batches = []
        for index in order[start : start + SUBSCANS_TOGETHER]:
            subscan = draw_subscan(description, schedule[index], config, rng, make)
            batches += list(subscan_batches(subscan, per_batch, rng))
        # Batches of one sub-scan are much alike, so that those of several are mixed.
        yield [batches[index] for index in rng.permutation(len(batches))]


def subscan_batches(subscan: SubScan, per_batch: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield the groups of a sub-scan `REPEATS` times, passes in turn, rotations at random."""
    passes = len(subscan.objects)
    # A sub-scan of few batches would else teach the first passes alone.
    count = int(rng.integers(passes))
    for _ in range(REPEATS):
        order = rng.permutation(len(subscan.groups))
        for start in range(0, len(order), per_batch):
            groups = subscan.groups[order[start : start + per_batch]]
            yield Batch(subscan, count % passes, groups, int(rng.integers(4)))
            count += 1


def validation_batches(subscan: SubScan) -> Iterator[Batch]:
    """Yield all groups of a sub-scan in order, for every pass."""
    per_batch = max(1, VALIDATION_BATCH // subscan.groups.shape[1])
    for number in range(len(subscan.objects)):
        for start in range(0, len(subscan.groups), per_batch):
            yield Batch(subscan, number, subscan.groups[start : start + per_batch])


class Sampler:
    """Draws the batches of training and of validation; a `training_loop.TrainingData`.

    Parameters
    ----------
    description : NetworkDescription
    scans : sequence of TrainingScan
        To learn from.
    held_out : sequence of (TrainingScan, ndarray of int64)
        To validate on: scans, and positions of each.
    config : Config
    make : callable
    """

    def __init__(
        self,
        description: NetworkDescription,
        scans: Sequence[TrainingScan],
        held_out: Sequence[tuple[TrainingScan, IntArray]],
        config: Config,
        make: MakeSubScan,
    ) -> None:
        self.description = description
        self.scans = scans
        self.held_out = held_out
        self.config = config
        self.make = make

    @property
    def batches_per_epoch(self) -> float:
        """How many batches an epoch has where no sub-scan is thinned."""
        settings = self.config.training
        limit = settings.n_groups
        groups = sum(min(limit or len(s.members), len(s.members)) for s in self.scans)
        per_batch = max(1, settings.batch_size // self.config.model.gridsize**2)
        return max(1.0, REPEATS * groups / per_batch)

    def parts(self, seeds: Sequence[int], first: int = 0) -> Iterator[list[Batch]]:
        """Yield the batches of an epoch in parts, from the one of number `first`."""
        return epoch_parts(self.description, self.scans, self.config, seeds, self.make, first)

    def validation_batches(self) -> Iterator[Batch]:
        """Yield all held-out groups in order, for every pass of the network as it is."""
        # At full exposure nothing is drawn.
        unused = np.random.default_rng(0)
        for scan, members in self.held_out:
            patch_origins_px = scan.patch_origins_px[members]
            groups = covering_groups(patch_origins_px, self.description.group_size)
            yield from validation_batches(self.make(scan, members, groups, 1.0, unused))
