"""What an epoch is made of."""

import numpy as np

from ptychopinn_plugin.backends.common.sampling import REPEATS, SubScan, subscan_batches


def test_a_lesson_is_met_in_all_passes_and_orientations() -> None:
    groups = np.arange(200)[:, np.newaxis]
    subscan = SubScan(
        0, 1.0, None, groups, objects=['flat', 'first', 'second'], labels=None, label_coverage=None
    )
    batches = list(subscan_batches(subscan, 8, np.random.default_rng(0)))
    met = np.concatenate([batch.groups.ravel() for batch in batches])
    assert np.array_equal(np.bincount(met), np.full(len(groups), REPEATS))
    assert {batch.number_of_pass for batch in batches} == {0, 1, 2}
    assert {batch.rotations for batch in batches} == {0, 1, 2, 3}
