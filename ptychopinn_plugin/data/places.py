"""Where a scan was measured: patterns of one place together, and what lies near a place."""

from functools import cached_property
from itertools import islice

import numpy as np
from scipy.spatial import cKDTree

from ptychopinn_plugin.array_types import FloatArray, IntArray

WHOLE_SCAN = 4096
"""Up to this number of places, all of them are thinned; of more, only those around one."""

SAME_PLACE_PX = 0.99
"""Positions nearer than this are one place."""

AREA_PER_DISC = 1.6
"""Thinning to a spacing of s keeps one position in about this times s², with a margin.

Random sequential adsorption covers 0.547 of a plane with discs as wide as the spacing, which is one
in 1.44 s²; a tenth more keeps the border of the thinned region out of what is chosen inside.
"""

TRIED_TOGETHER = 32
"""Thinning looks at the surroundings of this number of positions in one call."""


def find_places(positions_px: FloatArray) -> tuple[IntArray, IntArray]:
    """Merge positions that lie within a pixel of each other.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        Centres of the patches, or their origins: only differences matter.

    Returns
    -------
    first : ndarray of int64, shape (n_places,)
        The first position of each place, in ascending order.
    place_of : ndarray of int64, shape (n_positions,)
        The place of each position.
    """
    pixels = np.rint(positions_px).astype(np.int64)
    pixels -= pixels.min(axis=0)
    # A pixel is one number, because numbers are sorted much faster than rows.
    keys = pixels[:, 0] * (pixels[:, 1].max() + 1) + pixels[:, 1]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    # They are numbered by their pixels so far, and are to be numbered as they were first visited.
    order = np.argsort(first, kind='stable')
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return _joined(positions_px, first[order].astype(np.int64), rank[inverse.reshape(-1)])


def _joined(
    positions_px: FloatArray, first: IntArray, place_of: IntArray
) -> tuple[IntArray, IntArray]:
    """Join places nearer than a pixel, which the border of a pixel parts, to the first of them."""
    near = cKDTree(positions_px[first]).query_pairs(SAME_PLACE_PX, output_type='ndarray')
    if len(near) == 0:
        return first, place_of
    leader = np.arange(len(first))
    # In ascending order, so that no place joins one that has joined another: lines of fine steps
    # do not become one place.
    for low, high in sorted(zip(near.min(axis=1).tolist(), near.max(axis=1).tolist(), strict=True)):
        if leader[low] == low and leader[high] == high:
            leader[high] = low
    kept, place = np.unique(leader, return_inverse=True)
    return first[kept], place.reshape(-1)[place_of]


class Places:
    """The distinct places of a scan, and which positions were measured at each.

    Queries are local: what they cost does not depend on the number of places.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        Centres of the patches, or their origins: only differences matter.

    Attributes
    ----------
    positions_px : ndarray, shape (n_places, 2)
        That of the first position of each place.
    place_of : ndarray of int64, shape (n_positions,)
    exposures : ndarray of int64, shape (n_places,)
        The number of positions of each place.
    """

    def __init__(self, positions_px: FloatArray) -> None:
        first, self.place_of = find_places(positions_px)
        self.positions_px: FloatArray = np.asarray(positions_px)[first]
        self.exposures: IntArray = np.bincount(self.place_of, minlength=len(first))
        # Positions in the order of their places, and where each place begins in it: what belongs to
        # a place is found without a search.
        self._by_place: IntArray = np.argsort(self.place_of, kind='stable')
        self._starts: IntArray = np.cumsum(self.exposures) - self.exposures

    def __len__(self) -> int:
        return len(self.positions_px)

    @property
    def repeats(self) -> bool:
        """Whether some place was measured more than once."""
        return len(self) < len(self.place_of)

    @cached_property
    def tree(self) -> cKDTree:
        """The places, to be searched."""
        return cKDTree(self.positions_px)

    @cached_property
    def step_px(self) -> float:
        """The median distance of a place to the nearest other one, in pixels; 0 for one place."""
        if len(self) < 2:
            return 0.0
        return float(np.median(self.tree.query(self.positions_px, k=2)[0][:, 1]))

    @cached_property
    def area_px(self) -> float:
        """The usual area for each place, in square pixels; some places are looked at."""
        # Taken at even intervals, places of a raster could all lie on one edge.
        which = np.random.default_rng(0).integers(len(self), size=256)
        some = self.positions_px[which]
        # Sixteen neighbours and the place itself are few enough to be near, and enough that it does
        # not matter whether the scan is a raster.
        near = min(17, len(self))
        reach = float(np.median(self.tree.query(some, k=[near])[0]))
        return max(np.pi * reach**2 / near, 1e-9)

    def ranks(self) -> IntArray:
        """Return which of the exposures of its place each position is, counted from 0."""
        ranks = np.empty(len(self.place_of), dtype=np.int64)
        places = self.place_of[self._by_place]
        ranks[self._by_place] = np.arange(len(places)) - self._starts[places]
        return ranks

    def exposure(self, places: IntArray, number: IntArray) -> IntArray:
        """Return the position that is this exposure of a place, counted on from the last one."""
        return np.asarray(self._by_place[self._starts[places] + number % self.exposures[places]])

    def nearest(self, centre_px: FloatArray, count: int) -> IntArray:
        """Return the places nearest to a point, the nearest first; of equal ones the first.

        Parameters
        ----------
        centre_px : ndarray, shape (2,)
        count : int
            Fewer are returned where there are not as many.
        """
        if count >= len(self):
            near: IntArray = np.arange(len(self))
        else:
            reach = self.tree.query(centre_px, k=[count])[0][0]
            # Whatever is as far as the last one competes with it.
            found = self.tree.query_ball_point(centre_px, reach * (1 + 1e-9) + 1e-9)
            near = np.sort(np.array(found, dtype=np.int64))
        distance = ((self.positions_px[near] - centre_px) ** 2).sum(axis=1)
        return near[np.argsort(distance, kind='stable')[:count]]

    def thinned_around_one(
        self, count: int, spacing_px: float, least: int, rng: np.random.Generator
    ) -> IntArray:
        """Draw places that lie together, no two nearer than a spacing.

        Parameters
        ----------
        count : int
            At most this number.
        spacing_px : float
            With 0, all are kept.
        least : int
            Where thinning leaves fewer than this, all are kept.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of int64, shape (n_chosen,)
            Places, in ascending order.
        """
        if spacing_px <= 0:
            return np.sort(self.nearest(self.positions_px[rng.integers(len(self))], count))
        if len(self) <= WHOLE_SCAN:
            return self._thinned_whole(count, spacing_px, least, rng)
        centre = self.positions_px[rng.integers(len(self))]
        size = round(AREA_PER_DISC * count * spacing_px**2 / self.area_px)
        while True:
            size = min(max(size, count), len(self))
            reach = self.tree.query(centre, k=[size])[0][0]
            # They are sorted, as the order of a tree must not decide over what a seed draws.
            region = np.sort(np.array(self.tree.query_ball_point(centre, reach), dtype=np.int64))
            # The border is thinned without what lies beyond it, which is why the region is larger.
            chosen = region[thin_positions(self.positions_px[region], spacing_px, rng)]
            if len(chosen) >= count or size == len(self):
                break
            # Places lie closer together here than elsewhere.
            size = round(1.3 * size)
        if len(chosen) < least:
            chosen = region
        return self._around(centre, chosen, count)

    def _thinned_whole(
        self, count: int, spacing_px: float, least: int, rng: np.random.Generator
    ) -> IntArray:
        chosen = thin_positions(self.positions_px, spacing_px, rng)
        if len(chosen) < least:
            chosen = np.arange(len(self))
        return self._around(self.positions_px[chosen[rng.integers(len(chosen))]], chosen, count)

    def _around(self, centre_px: FloatArray, chosen: IntArray, count: int) -> IntArray:
        chosen = np.sort(chosen)
        distance = ((self.positions_px[chosen] - centre_px) ** 2).sum(axis=1)
        return np.sort(chosen[np.argsort(distance, kind='stable')[:count]])


def thin_positions(
    positions_px: FloatArray, spacing_px: float, rng: np.random.Generator
) -> IntArray:
    """Choose positions no two of which are nearer than `spacing_px`, until no other fits.

    Parameters
    ----------
    positions_px : ndarray, shape (n_positions, 2)
        Centres of the patches, or their origins: only differences matter.
    spacing_px : float
    rng : numpy.random.Generator
        Decides the order in which positions are tried.

    Returns
    -------
    ndarray of int64, shape (n_chosen,)
        Numbers of positions, sorted.
    """
    # It is searched little more often than it is built, and so need not be balanced.
    tree = cKDTree(positions_px, balanced_tree=False, compact_nodes=False)
    # Bytes and lists are much quicker than arrays where elements are taken one by one.
    taken = bytearray(len(positions_px))
    chosen: list[int] = []
    order = iter(rng.permutation(len(positions_px)).tolist())
    while tried := list(islice((i for i in order if not taken[i]), TRIED_TOGETHER)):
        around = tree.query_ball_point(positions_px[tried], spacing_px, return_sorted=False)
        for index, neighbours in zip(tried, around, strict=True):
            if not taken[index]:
                chosen.append(index)
                for near in neighbours:
                    taken[near] = 1
    return np.sort(np.array(chosen, dtype=np.int64))


def median_step(positions_px: FloatArray) -> float:
    """Return the median distance between neighbouring places, in pixels; 0 for one place."""
    return Places(positions_px).step_px
