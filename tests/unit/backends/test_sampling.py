"""What an epoch is made of."""

from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.array_types import FloatArray, IntArray
from ptychopinn_plugin.backends.common.sampling import (
    REPEATS,
    SubScan,
    TrainingScan,
    make_subscan,
    subscan_batches,
)


def test_a_sub_scan_is_met_in_all_passes_and_rotations() -> None:
    groups = np.arange(200)[:, np.newaxis]
    subscan = SubScan(
        0, 1.0, None, groups, objects=['flat', 'first', 'second'], labels=None, label_coverage=None
    )
    batches = list(subscan_batches(subscan, 8, np.random.default_rng(0)))
    met = np.concatenate([batch.groups.ravel() for batch in batches])
    assert np.array_equal(np.bincount(met), np.full(len(groups), REPEATS))
    assert {batch.number_of_pass for batch in batches} == {0, 1, 2}
    assert {batch.rotations for batch in batches} == {0, 1, 2, 3}


class Strip:
    """A forward model of one row of positions, in NumPy: what cutting a sub-scan needs."""

    canvas_shape = (3, 8)

    def __init__(self, members: Any, amplitudes: Any = None, exposure: float = 1.0) -> None:
        self.members = np.asarray(members)
        self.origin_px = np.array([5, 10 + self.members.min()])
        self.amplitudes, self.exposure = amplitudes, exposure

    def measured(self, indices: IntArray) -> FloatArray:
        return np.sqrt(np.full((len(indices), 2, 2), 100.0))

    def subset(self, indices: IntArray, amplitudes: Any, exposure: float) -> 'Strip':
        return Strip(indices, amplitudes, exposure)

    def lit_area(self, box: tuple[slice, slice]) -> FloatArray:
        return (np.arange(3 * 20).reshape(3, 20) % 2)[box]


@pytest.mark.parametrize(
    ('exposure', 'countable', 'expected'), [(1.0, True, 1.0), (0.3, False, 1.0), (0.3, True, 0.3)]
)
def test_a_sub_scan_is_thinned_where_its_counts_can_be(
    exposure: float, countable: bool, expected: float
) -> None:
    labels = np.arange(3 * 20).reshape(3, 20)
    scan = TrainingScan(2, Strip(range(12)), np.zeros((12, 2)), np.arange(12), labels, countable)
    subscan = make_subscan(
        scan,
        np.array([4, 5]),
        np.array([[0], [1]]),
        exposure,
        np.random.default_rng(0),
        predict=lambda forward: ['flat', forward.exposure],
        to_numpy=np.asarray,
    )
    assert subscan.training_scan_index == 2
    assert subscan.exposure == subscan.forward.exposure == expected
    assert list(subscan.objects) == ['flat', expected]
    # Its canvas begins four columns to the right.
    np.testing.assert_array_equal(subscan.labels, labels[:, 4:12])
    np.testing.assert_array_equal(subscan.label_coverage, labels[:, 4:12] % 2)
    if expected == 1:
        assert subscan.forward.amplitudes is None
    else:
        mean = (subscan.forward.amplitudes**2).mean()
        assert mean == pytest.approx(30, abs=8)
