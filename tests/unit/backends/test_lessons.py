"""What an epoch is made of."""

import numpy as np

from ptychopinn_plugin.backends.lessons import VISITS, Lesson, lesson_batches


def test_a_lesson_is_met_in_all_passes_and_orientations() -> None:
    groups = np.arange(200)[:, np.newaxis]
    lesson = Lesson(
        0, 1.0, None, groups, objects=['flat', 'first', 'second'], labels=None, label_coverage=None
    )
    batches = list(lesson_batches(lesson, 8, np.random.default_rng(0)))
    met = np.concatenate([batch.groups.ravel() for batch in batches])
    assert np.array_equal(np.bincount(met), np.full(len(groups), VISITS))
    assert {batch.number_of_pass for batch in batches} == {0, 1, 2}
    assert {batch.quarter_turns for batch in batches} == {0, 1, 2, 3}
