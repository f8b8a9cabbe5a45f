"""From the threads that receive to the one that computes, in bounded memory."""

import threading
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.storage.scratch import is_stored
from ptychopinn_plugin.streaming import store as module
from ptychopinn_plugin.streaming.matching import MatchedBatch
from ptychopinn_plugin.streaming.store import PatternStore

SIDE = 16


def batch(start: int, count: int) -> MatchedBatch:
    """Return patterns that hold their index in every pixel."""
    numbers = np.arange(start, start + count)
    patterns = np.broadcast_to(numbers[:, None, None], (count, SIDE, SIDE)).astype(np.uint16)
    return MatchedBatch(numbers, patterns, np.stack([numbers, numbers], 1) * 1.0, numbers * 1.0)


def check(found: MatchedBatch | None, start: int, count: int) -> None:
    assert found is not None
    wanted = batch(start, count)
    for name in ('indexes', 'patterns', 'positions', 'received_s'):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a block hold eight patterns."""
    monkeypatch.setattr(module, 'STORED_BLOCK_BYTES', 8 * SIDE * SIDE * 2)


def test_what_is_kept_can_be_read_again() -> None:
    store = PatternStore(keeps=True, max_queued=1, drops=False)
    for start in range(0, 60, 5):
        store.append(batch(start, 5), never)
    check(store.take(20, 0.0), 0, 20)
    check(store.take(20, 0.0), 20, 20)
    assert store.take(21, 0.0) is None
    check(store.read(0, 60), 0, 60)
    assert (store.n_appended, store.n_queued, store.dropped) == (60, 20, 0)


def test_what_is_beyond_the_memory_lies_in_a_file() -> None:
    limit = 20 * SIDE * SIDE * 2
    store = PatternStore(keeps=True, max_queued=1, drops=False, memory_bytes=limit)
    store.append(batch(0, 60), never)
    blocks: list[Any] = vars(store)['_blocks']
    in_memory = [each.patterns.nbytes for each in blocks if not is_stored(each.patterns)]
    assert sum(in_memory) <= limit
    assert len(in_memory) == 2
    assert len(blocks) == 8
    check(store.read(0, 60), 0, 60)


def test_a_full_queue_makes_the_sender_wait() -> None:
    store = PatternStore(keeps=False, max_queued=10, drops=False)
    done: list[int] = []
    is_waiting = threading.Event()

    def is_stopping() -> bool:
        # The store calls it before it waits.
        is_waiting.set()
        return False

    def send() -> None:
        for start in range(0, 100, 4):
            store.append(batch(start, 4), is_stopping)
            done.append(start)

    thread = threading.Thread(target=send)
    thread.start()
    assert is_waiting.wait(30)
    # Ten are queued; the rest of a batch that does not fit waits.
    assert (store.n_queued, done) == (10, [0, 4])
    for start in range(0, 100, 5):
        check(store.take(5, 5.0), start, 5)
        blocks: list[Any] = vars(store)['_blocks']
        assert sum(len(each.indexes) for each in blocks) <= 10 + 2 * 8
    thread.join()
    assert store.dropped == 0


def test_or_new_patterns_are_left_out_and_counted() -> None:
    store = PatternStore(keeps=False, max_queued=10, drops=True)
    store.append(batch(0, 7), never)
    store.append(batch(7, 7), never)
    assert (store.n_queued, store.dropped) == (10, 4)
    check(store.take(10, 0.0), 0, 10)
    store.append(batch(20, 3), never)
    check(store.take(3, 0.0), 20, 3)


def test_who_waits_is_let_go_when_nobody_takes_any_more() -> None:
    store = PatternStore(keeps=False, max_queued=2, drops=False)
    store.append(batch(0, 5), lambda: True)
    assert (store.n_queued, store.dropped) == (2, 3)


def test_the_rest_is_taken_once_the_store_is_closed() -> None:
    store = PatternStore(keeps=False, max_queued=10, drops=False)
    store.append(batch(0, 3), never)
    assert store.take(4, 0.0) is None
    store.close()
    assert store.take(4, 0.0, at_least=4) is None
    check(store.take(4, 0.0), 0, 3)
    assert store.take(4, 0.0) is None
