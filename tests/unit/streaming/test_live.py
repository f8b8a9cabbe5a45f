"""What happens when computing is slower than the source, and when nothing more comes."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.protocol import Observer, ignore_progress
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.readers.request import ReadingRequest
from ptychopinn_plugin.errors import DataError, OutputError
from ptychopinn_plugin.model_file import Model
from ptychopinn_plugin.network import describe_network
from ptychopinn_plugin.streaming import store as store_module
from ptychopinn_plugin.streaming.assembly import ScanRules
from ptychopinn_plugin.streaming.live import LiveReconstruction
from ptychopinn_plugin.streaming.matching import PatternMatcher
from ptychopinn_plugin.streaming.messages import (
    Ending,
    Opening,
    PatternBatch,
    PositionBatch,
    StreamMessage,
)
from ptychopinn_plugin.streaming.reception import Patience, Reception
from ptychopinn_plugin.streaming.settings import StreamSettings
from ptychopinn_plugin.streaming.store import PatternStore


class SlowBackend:
    """Takes its time to make a flat object: what a real one computes does not matter here."""

    name = 'slow'

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.store: PatternStore
        self.reception: Reception
        self.parts: list[Scan] = []
        self.refinements: list[RefinementConfig] = []

    def preview(
        self,
        scan: Scan,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        *,
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Return ones where the patterns lie."""
        time.sleep(self.seconds)
        self.parts.append(scan)
        self.refinements.append(refinement)
        origin = np.floor(scan.positions_px.min(axis=0)) - scan.pattern_shape[0] // 2
        size = np.ceil(np.ptp(scan.positions_px, axis=0)).astype(int) + scan.pattern_shape[0] + 1
        return Reconstruction(
            object_=np.ones(size, np.complex64),
            origin_px=origin,
            coverage=np.ones(size, np.float32),
            probe=scan.probe,
            positions_px=scan.positions_px,
            pattern_indexes=scan.pattern_indexes,
            backend='slow',
        )


class LateBackend(SlowBackend):
    """Has its first object when all patterns have come and no thread receives any more."""

    def preview(self, *arguments: Any, **options: Any) -> Reconstruction:
        """Wait for the end of the scan, and go on as the other does.

        With the last pattern in the store the scan is not over yet: until the thread that
        received it ends, which can take long on a busy machine, further parts would be predicted.
        """
        while not self.reception.is_over():
            time.sleep(0.002)
        return super().preview(*arguments, **options)


class Script:
    """A source that delivers what a test has written down, a message a call."""

    def __init__(self, messages: list[StreamMessage], *, is_done: bool = False) -> None:
        self.messages, self._ends = list(messages), is_done
        self.overrun = 0

    def __enter__(self) -> 'Script':
        return self

    def __exit__(self, *exception: object) -> None:
        return

    @property
    def is_done(self) -> bool:
        return self._ends and not self.messages

    def receive(self, timeout_s: float) -> list[StreamMessage]:
        if self.messages:
            return [self.messages.pop(0)]
        time.sleep(min(timeout_s, 0.01))
        return []


def model(*, is_prior: bool = False) -> Model:
    if is_prior:
        return Model.built_in()
    config = Config()
    network = describe_network(config.model, 32)
    probe = np.ones((1, 32, 32), np.complex64)
    return Model('slow', network, config, 1e4, {}, probe)


def messages_of_scan(scan: Scan, size: int = 1) -> list[StreamMessage]:
    found: list[StreamMessage] = [Opening(scan.probe, None, scan.geometry, len(scan), 'x')]
    for start in range(0, len(scan), size):
        rows = np.arange(start, min(start + size, len(scan)))
        found.append(PositionBatch(rows, scan.positions_px[rows], 'px'))
        found.append(PatternBatch(rows, scan.patterns[rows]))
    return found


@pytest.fixture
def follow() -> Callable[..., tuple[Reception, LiveReconstruction, PatternStore, list[Any]]]:
    """Return a function that follows sources to their end."""

    def run(
        sources: list[Script],
        backend: Any,
        *,
        is_prior: bool = False,
        patience: Patience | None = None,
        interrupt: Callable[[], bool] = lambda: False,
        wait_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> tuple[Reception, LiveReconstruction, PatternStore, list[Any]]:
        chosen = StreamSettings.from_dict({'update_seconds': 0.0, **settings})
        matcher = PatternMatcher(wait_s, 100, clock)
        store = PatternStore(
            keeps=chosen.final or is_prior,
            max_queued=chosen.queue,
            drops=chosen.when_full == 'drop',
        )
        backend.store = store
        written: list[Any] = []
        with Reception(matcher, store, patience or Patience()) as reception:
            backend.reception = reception
            live = LiveReconstruction(
                *(reception, store, backend, model(is_prior=is_prior)),
                *(InferenceConfig(), RefinementConfig(), ScanRules(ReadingRequest('x'))),
                *(chosen, written.append),
            )
            reception.begin(sources)
            live.follow(interrupt)
        return reception, live, store, written

    return run


def test_a_slow_network_makes_the_source_wait(scan: Scan, follow: Any) -> None:
    """No pattern is lost, and the queue stays as short as it was set."""
    source = Script(messages_of_scan(scan))
    lengths: list[int] = []

    class Watching(SlowBackend):
        def preview(self, *arguments: Any, **options: Any) -> Reconstruction:
            while not lengths and self.store.n_queued < 6:
                time.sleep(0.002)
            # If the source did not wait now, more would come.
            time.sleep(0.05)
            lengths.append(len(source.messages))
            return super().preview(*arguments, **options)

    reception, live, store, written = follow(
        [source], Watching(), final=False, queue=6, update_patterns=6
    )
    assert live.growing.n_patterns == 36
    assert store.dropped == 0
    assert reception.ended == 'complete'
    # After the first part: six predicted, six queued, one in hand; two messages for each pattern.
    assert 2 * (36 - 14) <= lengths[0] <= 2 * (36 - 12)
    assert len(written[-1].positions_px) == 36


def test_a_source_that_waits_is_not_idle(scan: Scan, follow: Any) -> None:
    """Predicting takes longer than a source may be silent."""
    options = {'final': False, 'queue': 8, 'update_patterns': 8}
    source = Script(messages_of_scan(scan, size=4)[:-1])
    reception, live, _, _ = follow(
        [source], SlowBackend(1.5), patience=Patience(idle_s=1.2), **options
    )
    assert (reception.ended, live.growing.n_patterns) == ('idle', 32)


def test_or_patterns_are_dropped_and_counted(scan: Scan, follow: Any) -> None:
    options = {'final': False, 'queue': 6, 'update_patterns': 6, 'when_full': 'drop'}
    reception, live, _, _ = follow([Script(messages_of_scan(scan))], LateBackend(), **options)
    counts = reception.counts()
    assert counts['received'] == 36
    # Six were queued, and six may have been taken before; the others met a full queue.
    assert 24 <= counts['queue_full'] <= 30
    assert live.growing.n_patterns + counts['queue_full'] == 36


def test_a_scan_that_is_kept_never_waits_for_the_network(scan: Scan, follow: Any) -> None:
    """The network lags behind; all patterns are there for the reconstruction at the end."""
    backend = LateBackend()
    # Where a queue would be full at once, and patterns left out.
    reception, live, store, _ = follow(
        [Script(messages_of_scan(scan))], backend, update_patterns=6, queue=6, when_full='drop'
    )
    assert (store.n_appended, store.dropped) == (36, 0)
    assert live.growing.n_patterns <= 6
    assert reception.counts()['queue_full'] == 0
    np.testing.assert_array_equal(store.read(0, 36).patterns, scan.patterns)


def test_the_built_in_model_iterates_again_when_a_quarter_is_new(scan: Scan, follow: Any) -> None:
    class Slowly(Script):
        def receive(self, timeout_s: float) -> list[StreamMessage]:
            time.sleep(0.02)
            return super().receive(timeout_s)

    backend = SlowBackend()
    _, live, _, written = follow(
        [Slowly(messages_of_scan(scan))], backend, is_prior=True, final=False
    )
    sizes = [len(part) for part in backend.parts]
    assert 16 <= sizes[0] < 30
    assert sizes[-1] == 36
    assert all(later >= 1.25 * before for before, later in pairwise(sizes[:-1]))
    # Each object takes the place of the one before.
    assert live.growing.n_patterns == len(written[-1].positions_px) == 36
    assert all(0 < each.max_seconds <= 5 for each in backend.refinements)


def test_a_part_that_cannot_be_shown_is_no_end(
    scan: Scan, follow: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(SlowBackend):
        def preview(self, scan: Scan, *arguments: Any, **options: Any) -> Reconstruction:
            if 0 in scan.pattern_indexes:
                raise DataError('Too dark.')
            return super().preview(scan, *arguments, **options)

    source = Script(messages_of_scan(scan))
    _, live, _, _ = follow([source], Failing(), final=False, update_patterns=9)
    assert (live.failed, live.growing.n_patterns) == (9, 27)
    assert caplog.text.count('A part of the scan is not shown: Too dark.') == 1


def test_patterns_without_positions_are_left_out_after_a_time(scan: Scan, follow: Any) -> None:
    patterns = [each for each in messages_of_scan(scan) if not isinstance(each, PositionBatch)]
    positions = PositionBatch(np.arange(30), scan.positions_px[:30], 'px')
    reception, _, store, _ = follow(
        [Script([positions, *patterns])],
        SlowBackend(),
        wait_s=60.0,
        clock=lambda: time.monotonic() + 61.0,
    )
    assert store.n_appended == 30
    counts = reception.counts()
    assert (counts['received'], counts['matched'], counts['without_position']) == (36, 30, 6)
    assert (counts['lost'], reception.ended) == (0, 'complete')


def test_the_end_is_named(scan: Scan, follow: Any) -> None:
    messages = messages_of_scan(scan)
    idle = Patience(idle_s=1.0)
    reception, _, store, _ = follow([Script(messages[:41])], SlowBackend(), patience=idle)
    assert (reception.ended, store.n_appended) == ('idle', 20)
    assert reception.counts()['lost'] == 16
    # A scan that is cut short has fewer patterns than were announced.
    messages = [*messages[:41], Ending(20)]
    reception, _, _, _ = follow([Script(messages)], SlowBackend())
    assert (reception.ended, reception.counts()['lost']) == ('complete', 0)
    reception, _, _, _ = follow([Script(messages[:41], is_done=True)], SlowBackend())
    assert reception.ended == 'closed'
    reception, _, _, _ = follow([Script([])], SlowBackend(), patience=Patience(start_s=0.3))
    assert reception.ended == 'no-start'
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    reception, _, store, _ = follow([Script(messages[:41])], SlowBackend(), interrupt=stop.is_set)
    assert (reception.ended, store.n_appended) == ('interrupted', 20)


def test_a_full_disk_leaves_what_has_come_before(
    scan: Scan, follow: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_module, 'STORED_BLOCK_BYTES', 10 * scan.patterns[:1].nbytes)
    new_array, blocks = store_module.new_array, []

    def fill(*arguments: Any, **options: Any) -> Any:
        blocks.append(arguments)
        if len(blocks) == 3:
            raise OutputError('No space is left.')
        return new_array(*arguments, **options)

    monkeypatch.setattr(store_module, 'new_array', fill)
    source = Script(messages_of_scan(scan))
    reception, _, store, _ = follow([source], SlowBackend(), update_patterns=64)
    assert (reception.ended, store.n_appended) == ('no-space', 20)
    assert 'The scan ends here: No space is left.' in caplog.text


def test_a_source_that_fails_ends_it_with_its_error(follow: Any) -> None:
    class Broken(Script):
        def receive(self, timeout_s: float) -> list[StreamMessage]:
            raise DataError('The file is another one.')

    with pytest.raises(DataError, match='another one'):
        follow([Broken([])], SlowBackend())


def test_a_backend_without_previews_is_named(
    scan: Scan, follow: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain:
        name = 'plain'

    _, live, store, written = follow([Script(messages_of_scan(scan))], Plain())
    assert 'The backend plain has no previews' in caplog.text
    assert (store.n_appended, live.growing.n_patterns, written) == (36, 0, [])
