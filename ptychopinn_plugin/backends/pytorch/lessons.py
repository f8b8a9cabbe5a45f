"""What the network learns from: parts of scans, each with the estimates that it would meet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin.arrays import FloatArray, IntArray
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.inference import predict_object
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data.grouping import median_step, thin_positions, training_groups

LESSON_POSITIONS = 256
"""Large enough for neighbours to matter, small enough to predict in half a second on a CPU."""

VALIDATION = -1
"""Index of a scan that is only validated on: it keeps its own probe."""

LESSONS_TOGETHER = 4
VISITS = 2
"""How often each group of a lesson is drawn, with one pass or another."""

SPACINGS = (0.0, 0.0, 0.0, 1.6, 2.4, 3.2, 4.0, 4.8)
"""In steps of the scan: lessons with little overlap teach what to do where sweeps fail."""

EXPOSURES = (1.0, 1.0, 0.3, 0.1)
"""Shares of the counts. Binomial thinning of Poisson counts is what a shorter exposure counts."""


@dataclass
class TrainingScan:
    """A scan on the device, and what is known of its object.

    Attributes
    ----------
    index : int
        Among the training scans, or `VALIDATION`.
    model : ForwardModel
    positions_px : ndarray, shape (n_positions, 2)
        On the canvas.
    members : ndarray of int64
        Positions to learn from.
    labels : Tensor of complex64, shape `model.canvas_shape`, optional
        The teacher's or the known object.
    countable : bool
        Whether counts are whole numbers, so that they can be thinned.
    """

    index: int
    model: ForwardModel
    positions_px: FloatArray
    members: IntArray
    labels: Tensor | None
    countable: bool


@dataclass(frozen=True)
class Lesson:
    """Some positions of a scan and the estimates that each pass starts from.

    Attributes
    ----------
    scan_index : int
        Which training scan it is cut from.
    exposure : float
        Its counts as a share of the measured ones.
    model : ForwardModel
        Of these positions.
    groups : Tensor of int64, shape (n_groups, group_size)
    objects : list of Tensor of complex64
        What each pass is given; the first is flat.
    labels, label_coverage : Tensor, optional
        On the lesson's canvas.
    """

    scan_index: int
    exposure: float
    model: ForwardModel
    groups: Tensor
    objects: list[Tensor]
    labels: Tensor | None
    label_coverage: Tensor


@dataclass(frozen=True)
class Batch:
    """Groups of one lesson, for one pass."""

    lesson: Lesson
    number_of_pass: int
    groups: Tensor


def make_lesson(
    network: Network,
    scan: TrainingScan,
    members: IntArray,
    groups: IntArray,
    exposure: float,
    rng: np.random.Generator,
) -> Lesson:
    """Cut positions out of a scan and let the network predict their object pass by pass."""
    where = torch.from_numpy(members).to(scan.model.device)
    amplitudes = None
    if exposure < 1 and scan.countable:
        counts = np.rint((scan.model.measured(where) ** 2).cpu().numpy()).astype(np.int64)
        thinned = np.sqrt(rng.binomial(counts, exposure)).astype(np.float32)
        amplitudes = torch.from_numpy(thinned).to(scan.model.device)
    else:
        exposure = 1.0
    model = scan.model.subset(where, amplitudes, exposure)
    top, left = (model.origin_px - scan.model.origin_px).tolist()
    height, width = model.canvas_shape
    box = (slice(top, top + height), slice(left, left + width))
    lit = (scan.model.coverage > 0.05 * scan.model.coverage.max()).float()
    with torch.no_grad():
        objects = predict_object(network, model, passes=network.description.passes - 1)
    return Lesson(
        scan_index=scan.index,
        exposure=exposure,
        model=model,
        groups=torch.from_numpy(groups).to(model.device),
        objects=objects,
        labels=None if scan.labels is None else scan.labels[box].contiguous(),
        label_coverage=lit[box].contiguous(),
    )


def draw_lesson(
    network: Network, scan: TrainingScan, config: Config, rng: np.random.Generator
) -> Lesson:
    """Draw positions at random density, place and exposure."""
    positions = scan.positions_px[scan.members]
    group_size = network.description.group_size
    chosen: IntArray = np.arange(len(positions))
    spacing = SPACINGS[rng.integers(len(SPACINGS))] * median_step(positions)
    exposure = EXPOSURES[rng.integers(len(EXPOSURES))]
    if network.description.architecture == 'cnn':
        # It sees one group at a time: neither density nor neighbours change what it meets.
        spacing, exposure = 0.0, 1.0
    if spacing > 0:
        thinned = thin_positions(positions, spacing, rng)
        chosen = thinned if len(thinned) >= max(4, group_size) else chosen
    centre = positions[chosen[rng.integers(len(chosen))]]
    distance = ((positions[chosen] - centre) ** 2).sum(axis=1)
    chosen = np.sort(chosen[np.argsort(distance, kind='stable')[:LESSON_POSITIONS]])
    limit = config.training.n_groups
    if limit is not None:
        # Shared by the lessons of an epoch.
        limit = -(-limit // -(-limit // LESSON_POSITIONS))
    groups = training_groups(
        positions[chosen], group_size, config.training.neighbor_count, rng, limit
    )
    return make_lesson(network, scan, scan.members[chosen], groups, exposure, rng)


def epoch_batches(
    network: Network, scans: Sequence[TrainingScan], config: Config, rng: np.random.Generator
) -> Iterator[Batch]:
    """Yield the batches of an epoch, in which about every position is met `VISITS` times."""
    limit = config.training.n_groups
    schedule = [
        scan
        for scan in scans
        for _ in range(-(-min(limit or len(scan.members), len(scan.members)) // LESSON_POSITIONS))
    ]
    order = rng.permutation(len(schedule))
    per_batch = max(1, config.training.batch_size // network.description.group_size)
    for start in range(0, len(order), LESSONS_TOGETHER):
        batches = []
        for index in order[start : start + LESSONS_TOGETHER]:
            lesson = draw_lesson(network, schedule[index], config, rng)
            batches += list(lesson_batches(lesson, per_batch, rng))
        for index in rng.permutation(len(batches)):
            yield batches[index]


def lesson_batches(lesson: Lesson, per_batch: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield the groups of a lesson `VISITS` times, passes in turn from a random one on."""
    passes = len(lesson.objects)
    count = int(rng.integers(passes))
    for _ in range(VISITS):
        order = torch.from_numpy(rng.permutation(len(lesson.groups))).to(lesson.groups.device)
        for some in order.split(per_batch):
            yield Batch(lesson, count % passes, lesson.groups[some])
            count += 1
