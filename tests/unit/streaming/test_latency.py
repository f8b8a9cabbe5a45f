"""Percentiles of many times, in the memory of few."""

import numpy as np

from ptychopinn_plugin.streaming.latency import LatencyHistogram


def test_percentiles_are_those_of_numpy_within_a_hundredth() -> None:
    times = np.exp(np.random.default_rng(0).normal(-2, 2, 20000))
    found = LatencyHistogram()
    for part in np.array_split(times, 7):
        found.add(part)
    values = found.to_dict()
    for percent in (50, 90, 99):
        exact = np.percentile(times, percent)
        assert abs(values[f'p{percent}_s'] / exact - 1) < 0.02
    assert values['max_s'] == times.max()


def test_no_time_is_longer_than_the_longest() -> None:
    found = LatencyHistogram()
    assert found.to_dict()['p50_s'] is None
    found.add(np.array([0.5]))
    assert set(found.to_dict().values()) == {0.5} or found.to_dict()['p50_s'] <= 0.5
    found.add(np.array([0.0, 1e9]))
    assert found.to_dict()['max_s'] == 1e9
