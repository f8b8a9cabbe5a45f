"""The object of a running scan, which grows with each part that is reconstructed."""

from dataclasses import replace

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.data import Reconstruction
from ptychopinn_plugin.errors import DataError

MAX_CANVAS_PX = 1 << 26
"""A larger object is not drawn while the scan runs: it takes a gigabyte, and a second to write."""

_GROWTH = 0.25
"""A canvas that is too small grows by this part of its side more than it must."""

_FLOOR = 1e-3
"""Below this share of the brightest coverage a pixel of the object stays 1."""


class GrowingObject:
    r"""Adds the objects of parts of a scan to one canvas.

    .. math:: O = \sum_p w_p\, e^{i \varphi_p} O_p / \sum_p w_p

    with the object :math:`O_p` of a part, its coverage :math:`w_p`, and the phase
    :math:`\varphi_p`, which no measurement gives and which brings the part into agreement with
    what lies there already. All parts are scaled to the energy that the first one's probe has.
    """

    def __init__(self) -> None:
        self._total: ComplexArray = np.zeros((0, 0), dtype=np.complex64)
        self._weight: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._origin_px: IntArray = np.zeros(2, dtype=np.int64)
        self._energy = 0.0
        self._first: Reconstruction | None = None
        self._positions_px: list[FloatArray] = []
        self._indexes: list[IntArray] = []

    @property
    def n_patterns(self) -> int:
        """The number of different patterns in the object."""
        return len(np.unique(np.concatenate(self._indexes))) if self._indexes else 0

    def add(self, part: Reconstruction) -> None:
        """Add the object of a part.

        Parameters
        ----------
        part : Reconstruction
            Its coordinates are those of the whole scan.

        Raises
        ------
        DataError
            If the canvas would be larger than `MAX_CANVAS_PX`.
        """
        origin = np.rint(part.origin_px).astype(np.int64)
        self._make_room(origin, part.object_.shape)
        energy = float((np.abs(part.probe) ** 2).sum(dtype=np.float64))
        if self._first is None:
            self._first, self._energy = part, energy
        # `coverage` is 1 where it is brightest; parts count by their patterns.
        weight = part.coverage * (len(part.positions_px) / part.coverage.sum(dtype=np.float64))
        # A probe of more energy makes an object of less, for the same counts.
        weighted = part.object_ * (weight * np.sqrt(energy / self._energy))
        top, left = (origin - self._origin_px).tolist()
        height, width = part.object_.shape
        there = (slice(top, top + height), slice(left, left + width))
        common = np.vdot(weighted, self._total[there])
        phase_factor = common / abs(common) if abs(common) > 0 else 1.0
        self._total[there] += weighted * np.complex64(phase_factor)
        self._weight[there] += weight.astype(np.float32)
        self._positions_px.append(part.positions_px)
        assert part.pattern_indexes is not None
        self._indexes.append(part.pattern_indexes)

    def reconstruction(self) -> Reconstruction | None:
        """Return the object so far; None where nothing was added."""
        if self._first is None:
            return None
        # Parts may share patterns, of which the newest position counts.
        indexes, last = np.unique(np.concatenate(self._indexes)[::-1], return_index=True)
        lit = self._weight > _FLOOR * self._weight.max()
        rows, columns = np.nonzero(lit)
        box = (
            slice(int(rows.min()), int(rows.max()) + 1),
            slice(int(columns.min()), int(columns.max()) + 1),
        )
        weight = self._weight[box]
        safe = np.where(lit[box], weight, 1)
        image = np.where(lit[box], self._total[box] / safe, 1).astype(np.complex64)
        return replace(
            self._first,
            object_=image,
            origin_px=np.add(self._origin_px, [rows.min(), columns.min()], dtype=np.float64),
            coverage=(weight / weight.max()).astype(np.float32),
            positions_px=np.concatenate(self._positions_px)[::-1][last],
            pattern_indexes=indexes,
            likelihoods=(),
            amplitude_residual=float('nan'),
        )

    def _make_room(self, origin: IntArray, shape: tuple[int, ...]) -> None:
        first, last = origin, origin + np.array(shape)
        if self._first is None:
            self._origin_px = first
            low, high = first, last
        else:
            low = self._origin_px
            high = low + np.array(self._total.shape)
            if (first >= low).all() and (last <= high).all():
                return
            spare = np.ceil(_GROWTH * (high - low)).astype(np.int64)
            low = np.where(first < low, np.minimum(first, low) - spare, low)
            high = np.where(last > high, np.maximum(last, high) + spare, high)
        size = (high - low).tolist()
        if size[0] * size[1] > MAX_CANVAS_PX:
            raise DataError(
                f'The object would have {size[0]} x {size[1]} pixels, more than are drawn while '
                'the scan runs. Are the positions in the unit that was stated?'
            )
        total = np.zeros(size, dtype=np.complex64)
        weight = np.zeros(size, dtype=np.float32)
        top, left = (self._origin_px - low).tolist()
        height, width = self._total.shape
        total[top : top + height, left : left + width] = self._total
        weight[top : top + height, left : left + width] = self._weight
        self._total, self._weight, self._origin_px = total, weight, low
