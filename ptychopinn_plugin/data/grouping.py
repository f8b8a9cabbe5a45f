"""Groups of neighbouring positions, and blocks of a scan that fit into memory."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ptychopinn_plugin.array_types import FloatArray, IntArray
from ptychopinn_plugin.data.outline import ScanOutline
from ptychopinn_plugin.data.places import Places, find_places
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import illuminated_size


@dataclass(frozen=True)
class IlluminationGap:
    """How far apart illuminations are of which no two touch.

    Attributes
    ----------
    distance_px : float
        Between the two nearest positions.
    probe_width_px : int
        Of the square that holds nearly all of the light.
    """

    distance_px: float
    probe_width_px: int


MAX_FIELD_PX = 1 << 30
"""A box of all positions with more pixels than this is a wrong unit, not a scan."""


def training_groups(
    positions_px: FloatArray,
    group_size: int,
    neighbor_count: int,
    rng: np.random.Generator,
    n_groups: int | None = None,
) -> IntArray:
    """Draw groups: a seed, and others at random among its nearest neighbours.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        Centres of the patches, or their origins: only differences matter.
    group_size : int
        The square of the gridsize.
    neighbor_count : int
        The number of neighbours to choose from; at least ``group_size - 1`` are taken into
        account. Each is measured at another place, where there are as many places.
    rng : numpy.random.Generator
    n_groups : int, optional
        The number of seeds, all different; each position is one where not given.

    Returns
    -------
    ndarray of int64, shape (n_groups, group_size)
        Numbers of positions, the seed first.

    Raises
    ------
    DataError
        If there are fewer positions than a group holds.
    """
    n_positions = len(positions_px)
    check_group_size(n_positions, group_size)
    seeds = rng.permutation(n_positions)[: n_groups or n_positions]
    if group_size == 1:
        return seeds[:, np.newaxis].astype(np.int64)
    count = max(neighbor_count, group_size - 1)
    near = _neighbours(positions_px, seeds, count, group_size - 1)
    # The order of random numbers is a random order, so each row is a choice without repeats.
    choice = rng.random(near.shape).argsort(axis=1)[:, : group_size - 1]
    others = np.take_along_axis(near, choice, axis=1)
    return np.concatenate([seeds[:, np.newaxis], others], axis=1).astype(np.int64)


def covering_groups(positions_px: FloatArray, group_size: int) -> IntArray:
    """Form groups so that every position is in at least one, with few repeats.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        Centres of the patches, or their origins: only differences matter.
    group_size : int
        The square of the gridsize.

    Returns
    -------
    ndarray of int64, shape (n_groups, group_size)
        Numbers of positions: a seed first, then its nearest neighbours, those without a group
        before others.

    Raises
    ------
    DataError
        If there are fewer positions than a group holds.
    """
    n_positions = len(positions_px)
    check_group_size(n_positions, group_size)
    everyone = np.arange(n_positions)
    if group_size == 1:
        return everyone[:, np.newaxis]
    # Three times a group is looked at: where most neighbours are covered, others lie farther off.
    near = _neighbours(positions_px, everyone, 3 * group_size, group_size - 1)
    covered = np.zeros(n_positions, dtype=bool)
    groups = []
    # They go row by row from the top, so that groups grow side by side and leave few gaps.
    for seed in np.lexsort((positions_px[:, 1], positions_px[:, 0])):
        if covered[seed]:
            continue
        # The sort is stable: among the uncovered, and then the others, the nearest come first.
        others = near[seed][np.argsort(covered[near[seed]], kind='stable')][: group_size - 1]
        group = np.concatenate([[seed], others])
        covered[group] = True
        groups.append(group)
    return np.array(groups, dtype=np.int64)


def spatial_blocks(positions_px: FloatArray, largest: int) -> list[IntArray]:
    """Split positions into compact blocks by halving the longer side.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        Centres of the patches, or their origins: only differences matter.
    largest : int
        The largest number of positions in a block.

    Returns
    -------
    list of ndarray of int64
        Numbers of positions; each is in one block.
    """
    blocks: list[IntArray] = [np.arange(len(positions_px))]
    result: list[IntArray] = []
    while blocks:
        block = blocks.pop()
        if len(block) <= largest:
            result.append(block)
            continue
        points = positions_px[block]
        axis = int(np.argmax(np.ptp(points, axis=0)))
        order = block[np.argsort(points[:, axis], kind='stable')]
        # The first half is taken up next, so that neighbours follow each other in the result.
        blocks += [order[len(order) // 2 :], order[: len(order) // 2]]
    return result


def _neighbours(positions_px: FloatArray, seeds: IntArray, count: int, least: int) -> IntArray:
    """Return the nearest positions to each seed, (n_seeds, count) or fewer, at distinct places.

    Where there are not `least` other places, positions of one place are neighbours as well.
    """
    places = Places(positions_px)
    count = min(count, len(positions_px) - 1)
    # Without repeats each position is a place of its own, and is searched as it is.
    if not places.repeats or len(places) <= least:
        return _nearest_others(cKDTree(positions_px), positions_px, seeds, count)
    near = _nearest_others(
        places.tree, places.positions_px, places.place_of[seeds], min(count, len(places) - 1)
    )
    # The exposures of a place are shared out among the groups.
    return places.exposure(near, places.ranks()[seeds][:, np.newaxis])


def _nearest_others(tree: cKDTree, points: FloatArray, seeds: IntArray, count: int) -> IntArray:
    """Return the nearest points to each seed but the seed itself, (n_seeds, count)."""
    _, found = tree.query(points[seeds], k=count + 1)
    found = found.reshape(len(seeds), count + 1)
    # Drop the seed itself, which need not come first where points repeat.
    keep = found != seeds[:, np.newaxis]
    keep[keep.all(axis=1), -1] = False
    return np.asarray(found[keep].reshape(len(seeds), count), dtype=np.int64)


def check_group_size(n_positions: int, group_size: int) -> None:
    """Check that a scan has as many positions as a group holds.

    Raises
    ------
    DataError
        If it has fewer.
    """
    if n_positions < group_size:
        raise DataError(
            f'A group holds {group_size} patterns, but there are only {n_positions}. '
            'Use a smaller gridsize, or a model that has one.'
        )


def check_before_run(
    scan: Scan | ScanOutline,
    gridsize: int,
    *,
    single_shot: bool = False,
    n_used: int | None = None,
) -> None:
    """Check what a run needs of a scan before a framework is imported, which takes seconds.

    Parameters
    ----------
    scan : Scan or ScanOutline
    gridsize : int
        Of the network; a group holds its square of patterns.
    single_shot : bool
        Whether patterns share nothing, and so need not overlap.
    n_used : int, optional
        How many of the patterns are used at most.

    Raises
    ------
    DataError
        See `check_positions` and `check_group_size`.
    """
    if not single_shot:
        check_positions(scan)
    check_group_size(min(len(scan), n_used or len(scan)), gridsize**2)


def check_positions(scan: Scan | ScanOutline) -> None:
    """Check that positions are pixels and that illuminations overlap.

    Parameters
    ----------
    scan : Scan or ScanOutline
        Where it has no probe yet, nothing is known of its illuminations.

    Raises
    ------
    DataError
        If several positions are all the same, span less than a pixel, or more than any canvas could
        hold, or if no two illuminations touch.
    """
    if len(scan) < 2:
        return
    extent = np.ptp(scan.positions_px, axis=0)
    spans = f'{extent[0]:.3g} x {extent[1]:.3g} px (y, x)'
    if extent.max() == 0:
        raise DataError(
            f'{scan.name}: positions must differ; all {len(scan)} of them are '
            f'{np.round(scan.positions_px[0], 1).tolist()} (y, x). Where the beam did stay in one '
            'place, reconstruct each pattern alone with --single-shot (reading.single_shot); else '
            'give the positions of the scan.'
        )
    if extent.max() < 1:
        raise DataError(
            f'{scan.name}: positions must be object pixels; {len(scan)} of them span {spans}. '
            'Are they in metres? Divide them by the size of an object pixel: '
            '--scale-positions FACTOR, which ptychopinn check finds.'
        )
    if np.prod(extent + scan.pattern_shape) > MAX_FIELD_PX:
        raise DataError(
            f'{scan.name}: positions must be object pixels; they span {spans}. '
            'Check for outliers, and their unit: --scale-positions FACTOR, which ptychopinn check '
            'finds.'
        )
    if scan.is_single_shot:
        return
    gap = illumination_gap(scan)
    if gap is not None:
        raise DataError(
            f'{scan.name}: neighbouring illuminations must overlap; the nearest positions are '
            f'{gap.distance_px:.1f} px apart and the probe is {gap.probe_width_px} px wide. Check '
            'the unit of the positions; where they are right, reconstruct each pattern alone with '
            '--single-shot (reading.single_shot), or scan with smaller steps.'
        )


def illumination_gap(scan: Scan | ScanOutline) -> IlluminationGap | None:
    """Return how far apart illuminations are; None where some touch, or no probe is known."""
    if len(scan) < 2 or scan.probe is None:
        return None
    # A position that was measured twice is no neighbour.
    places = np.rint(scan.positions_px[find_places(scan.positions_px)[0]])
    if len(places) < 2:
        return None
    nearest = float(cKDTree(places).query(places, k=2)[0][:, 1].min())
    # The faint rim of a probe reaches far, and holds nothing together.
    width = illuminated_size(scan.probe, share=0.98, multiple=2)
    return IlluminationGap(nearest, width) if nearest > width else None
