"""Patterns and positions meet by index, in any order; what waits is bounded in time and number."""

import numpy as np
import pytest

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming import matching
from ptychopinn_plugin.streaming.index_ranges import IndexRanges
from ptychopinn_plugin.streaming.matching import MatchedBatch, PatternMatcher
from ptychopinn_plugin.streaming.messages import PatternBatch, PositionBatch, Unit


class Clock:
    """Shows the time that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def patterns(*indexes: int, at_s: float = 0.0) -> PatternBatch:
    """Return patterns that hold their own index in every pixel."""
    numbers = np.array(indexes, dtype=np.int64)
    return PatternBatch(numbers, np.ones((1, 2, 3)) * numbers[:, None, None], at_s)


def positions(*indexes: int, unit: Unit = 'px') -> PositionBatch:
    """Return positions (index, -index)."""
    numbers = np.array(indexes, dtype=np.int64)
    return PositionBatch(numbers, np.stack([numbers, -numbers], axis=1).astype(float), unit)


def check(batch: MatchedBatch | None, *indexes: int) -> None:
    """Check that these patterns have come, each with its own position."""
    assert batch is not None
    assert batch.indexes.tolist() == list(indexes)
    assert batch.patterns[:, 0, 0].tolist() == list(indexes)
    assert batch.positions.tolist() == [[index, -index] for index in indexes]


def test_whichever_comes_first() -> None:
    matcher = PatternMatcher(1.0, 10)
    assert matcher.add_patterns(patterns(0, 5, 2)) is None
    check(matcher.add_positions(positions(2, 7, 0)), 2, 0)
    check(matcher.add_patterns(patterns(7, 8)), 7)
    check(matcher.add_positions(positions(8, 5)), 8, 5)
    assert (matcher.counts.received, matcher.counts.matched, matcher.waiting) == (5, 5, 0)


def test_a_pattern_waits_for_a_time() -> None:
    clock = Clock()
    matcher = PatternMatcher(10.0, 10, clock)
    matcher.add_patterns(patterns(1, at_s=0.0))
    matcher.add_patterns(patterns(2, at_s=4.0))
    clock.now_s = 10.0
    matcher.expire()
    assert matcher.waiting == 2
    clock.now_s = 10.1
    matcher.expire()
    assert (matcher.waiting, matcher.counts.without_position) == (1, 1)
    assert matcher.add_positions(positions(1)) is None
    check(matcher.add_positions(positions(2)), 2)


def test_no_more_patterns_wait_than_may() -> None:
    matcher = PatternMatcher(1.0, 3)
    for index in range(5):
        matcher.add_patterns(patterns(index))
    assert (matcher.waiting, matcher.counts.over_window) == (3, 2)
    check(matcher.add_positions(positions(0, 1, 2, 3, 4)), 2, 3, 4)


def test_nor_do_they_take_more_memory_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, 'MAX_WAITING_BYTES', 2 * patterns(0).patterns.nbytes)
    matcher = PatternMatcher(1.0, 100)
    matcher.add_patterns(patterns(0, 1, 2, 3, 4))
    assert (matcher.waiting, matcher.counts.over_window) == (2, 3)


def test_waiting_positions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, 'MAX_WAITING_POSITIONS', 2)
    matcher = PatternMatcher(1.0, 10)
    matcher.add_positions(positions(0, 1, 2))
    assert (matcher.waiting_positions, matcher.counts.unused_positions) == (2, 1)
    assert matcher.add_patterns(patterns(0)) is None


def test_the_first_of_repeated_patterns_counts() -> None:
    matcher = PatternMatcher(1.0, 10)
    matcher.add_patterns(patterns(3, 3))
    check(matcher.add_positions(positions(3)), 3)
    assert matcher.add_patterns(patterns(3)) is None
    assert matcher.add_positions(positions(3)) is None
    assert (matcher.counts.received, matcher.counts.repeated) == (1, 2)
    assert matcher.waiting_positions == 0


def test_a_waiting_pattern_keeps_no_batch_in_memory() -> None:
    matcher = PatternMatcher(1.0, 10)
    batch = patterns(*range(4))
    matcher.add_positions(positions(0, 1, 2))
    matcher.add_patterns(batch)
    batch.patterns[...] = -1
    check(matcher.add_positions(positions(3)), 3)


def test_units_and_shapes_stay() -> None:
    matcher = PatternMatcher(1.0, 10)
    matcher.add_positions(positions(0, unit='m'))
    with pytest.raises(DataError, match='in m and came in px'):
        matcher.add_positions(positions(1))
    matcher.add_patterns(patterns(1))
    with pytest.raises(DataError, match=r'\(2, 3\), as the first one; got float64 of shape \(3,'):
        matcher.add_patterns(PatternBatch(np.array([2]), np.ones((1, 3, 3))))


def test_ranges_hold_what_a_set_holds() -> None:
    rng = np.random.default_rng(1)
    ranges, known = IndexRanges(), set()
    for index in rng.integers(0, 300, 500).tolist():
        assert (index in ranges) == (index in known)
        assert ranges.add(index) == (index not in known)
        known.add(index)
        assert len(ranges) == len(known)
        assert ranges.gaps() == max(known) - min(known) + 1 - len(known)
    for index in range(300):
        ranges.add(index)
    assert ranges.gaps() == 0
    assert vars(ranges)['_starts'] == [0]
