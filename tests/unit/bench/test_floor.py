"""Operations and bytes of a pattern, counted by hand for small cases."""

import math
import os
import sys
from pathlib import Path

import pytest

from ptychopinn_plugin.bench.floor import (
    Work,
    iteration_work,
    network_operations,
    prediction_work,
    stitching_work,
    training_work,
    transform_operations,
)
from ptychopinn_plugin.bench.machine import Peaks, measure_peaks
from ptychopinn_plugin.bench.measurement import _COMMAND, _spend
from ptychopinn_plugin.config import ModelConfig
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.network import Layer, NetworkDescription, describe_network


def test_convolutions_are_counted_where_their_images_are() -> None:
    layers = (
        Layer('first', 'conv', in_channels=6, out_channels=4),
        Layer('half', 'space-to-depth', ('first',), size=2),
        Layer('second', 'conv', ('half',), in_channels=16, out_channels=8),
        Layer('whole', 'depth-to-space', ('second',), size=2),
        Layer('third', 'conv', ('whole',), in_channels=2, out_channels=2, size=1),
    )
    description = NetworkDescription('sweepnet', layers, ('third',), window_px=8)
    expected = 2 * (6 * 4 * 9 * 64 + 16 * 8 * 9 * 16 + 2 * 2 * 64)
    assert network_operations(description) == expected


def test_a_transform_has_the_operations_of_the_fast_algorithm() -> None:
    assert transform_operations(8) == 5 * 64 * math.log2(64)


def test_the_slower_of_arithmetic_and_memory_decides() -> None:
    peaks = Peaks(operations_per_second=100.0, bytes_per_second=10.0)
    assert Work(200, 10).seconds(peaks) == 2
    assert Work(200, 50).seconds(peaks) == 5
    assert (Work(1, 2) + Work(3, 4)) * 2 == Work(8, 12)


@pytest.mark.parametrize('modes', [1, 3])
def test_work_grows_with_size_modes_and_passes(modes: int) -> None:
    small, large = (describe_network(ModelConfig(), side) for side in (32, 64))
    one = prediction_work(small, 64, modes)
    assert prediction_work(large, 128, modes).operations > 3.9 * one.operations
    assert training_work(small, 64, modes).operations > one.operations / small.passes
    iteration = iteration_work(64, modes).operations
    assert iteration > 3 * modes * transform_operations(64)
    fewer = iteration_work(64, modes, stride=3).operations
    assert iteration - fewer > 2 / 3 * modes * transform_operations(64)
    assert stitching_work(small).operations < one.operations


def test_peaks_are_measured() -> None:
    peaks = measure_peaks(repeats=1)
    assert peaks.operations_per_second > 1e7
    assert peaks.bytes_per_second > 1e7


def test_a_process_is_measured_to_its_end(tmp_path: Path) -> None:
    peak = tmp_path / 'peak'
    held = bytearray(os.urandom(1 << 20) * 300)
    assert _spend([sys.executable, '-c', _COMMAND, str(peak), '--version']) > 0
    # It is the peak of that process, which is smaller than this one.
    assert 1 << 20 < int(peak.read_text()) < len(held)
    with pytest.raises(DataError, match=r'ended with code 3: lost\. Run it alone'):
        _spend([sys.executable, '-c', 'print("lost"); raise SystemExit(3)'])
