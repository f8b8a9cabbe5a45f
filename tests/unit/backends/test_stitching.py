"""From patterns to an object, pass by pass and block by block, with a framework that counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common import stitching
from ptychopinn_plugin.backends.common.requests import InferenceRequest
from ptychopinn_plugin.backends.common.stitching import StitchingKernels, block_size, stitch_object
from ptychopinn_plugin.backends.common.timing import Stopwatch
from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.network import NetworkDescription, describe_network


@dataclass
class Network:
    """A network of a description alone."""

    description: NetworkDescription


@dataclass
class Forward:
    """A row of positions, over an object that is a number: how often it was made anew."""

    patch_origins_px: Any
    flat_object: Any = lambda: 0


@dataclass
class Recorder:
    """Stands for a framework: what it was asked for, in order."""

    events: list[Any] = field(default_factory=list)
    predicted: list[Any] = field(default_factory=list)

    def kernels(self) -> StitchingKernels[Any, Any]:
        """Return the kernels that write down."""
        return StitchingKernels(self._predict, self._make, self._correct_drift)

    def _predict(
        self, network: Any, forward: Any, groups: Any, object_: int, flat: bool, request: Any
    ) -> Sequence[str]:
        self.predicted.append((object_, flat, groups, request))
        return ['first', 'second']

    def _make(self, forward: Any, before: int) -> 'Recorder._Stitcher':
        self.events.append(('make', before))
        return Recorder._Stitcher(self, before)

    def _correct_drift(self, forward: Any, object_: int) -> int:
        self.events.append(('correct', object_))
        return object_ + 100

    @dataclass
    class _Stitcher:
        recorder: 'Recorder'
        before: int

        def add(self, parts: list[str], phase_synchronization: bool) -> None:
            """Write down that patches were added."""
            self.recorder.events.append((*parts, phase_synchronization))

        def object_(self) -> int:
            """Return the next number."""
            return self.before + 1


@pytest.fixture
def network() -> Network:
    config = ModelConfig(pattern_size=32, filters_scale=0.25, passes=3, gridsize=2)
    return Network(describe_network(config, 16))


def make_forward(n_positions: int = 12) -> Forward:
    return Forward(np.stack([np.zeros(n_positions), np.arange(n_positions) * 3.0], axis=1))


def test_each_pass_goes_on_from_the_object_before(network: Network) -> None:
    recorder, shown = Recorder(), []

    def observe(done: int, object_: int) -> None:
        shown.append((done, object_))

    objects = stitch_object(recorder.kernels(), network, make_forward(), observer=observe)
    # The slow phase goes once, after the last pass.
    assert objects == [0, 1, 2, 103]
    assert shown == [(1, 1), (2, 2), (3, 103)]
    part = ('first', 'second', True)
    assert recorder.events == [
        *(('make', 0), part, ('make', 1), part, ('make', 2), part, ('correct', 3))
    ]
    assert [(object_, flat) for object_, flat, _, _ in recorder.predicted] == [
        *((0, True), (1, False), (2, False))
    ]
    _, _, groups, request = recorder.predicted[0]
    assert sorted(groups.ravel().tolist()) == list(range(12))
    assert request == InferenceRequest()


def test_a_request_asks_for_fewer_passes_without_synchronization(network: Network) -> None:
    recorder = Recorder()
    request = InferenceRequest(passes=2, phase_synchronization=False)
    assert stitch_object(recorder.kernels(), network, make_forward(), request) == [0, 1, 2]
    assert ('first', 'second', False) in recorder.events
    assert recorder.predicted[0][3] is request
    every = InferenceRequest(phase_synchronization=False)
    assert stitch_object(Recorder().kernels(), network, make_forward(), every) == [0, 1, 2, 3]
    # What is not the end of a network's passes keeps its slow phase.
    fewer = InferenceRequest(passes=1)
    assert stitch_object(Recorder().kernels(), network, make_forward(), fewer) == [0, 1]


def test_an_observer_stops_after_a_pass(network: Network) -> None:
    def observe(done: int, object_: int) -> bool:
        return done == 2

    objects = stitch_object(Recorder().kernels(), network, make_forward(), observer=observe)
    assert objects == [0, 1, 2]


def test_a_large_scan_goes_block_by_block(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block has groups of its own positions, and all of them come onto one canvas."""
    monkeypatch.setattr(stitching, 'BLOCK_BYTES', 8 * 16**2 * 8)
    recorder, laps = Recorder(), []

    class Watch(Stopwatch):
        def lap(self, name: str) -> None:
            laps.append(name)

    request = InferenceRequest(passes=1)
    watch = Watch(lambda: None)
    stitch_object(recorder.kernels(), network, make_forward(16), request, stopwatch=watch)
    blocks = [set(groups.ravel().tolist()) for _, _, groups, _ in recorder.predicted]
    assert blocks == [set(range(8)), set(range(8, 16))]
    assert [event[0] for event in recorder.events] == ['make', 'first', 'first']
    assert laps == ['predict', 'stitch'] * 2 + ['stitch']


def test_a_block_holds_what_fits_and_at_least_two_groups(network: Network) -> None:
    assert block_size(network.description, 8 * 16**2 * 50 + 1) == 50
    assert block_size(network.description, 1) == 8
