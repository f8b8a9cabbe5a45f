"""Percentiles of times in a fixed amount of memory."""

import math

import numpy as np

from ptychopinn_plugin.array_types import FloatArray

MIN_LATENCY_S, MAX_LATENCY_S = 1e-6, 1e6

_STEP = 0.01
"""Bins are a hundredth of a factor e apart, and percentiles are as exact as that."""

LATENCY_PERCENTILES = (50, 90, 99)


class LatencyHistogram:
    """Counts times in bins of equal ratio, 1 % wide."""

    def __init__(self) -> None:
        bins = math.ceil(math.log(MAX_LATENCY_S / MIN_LATENCY_S) / _STEP) + 1
        self._counts = np.zeros(bins, dtype=np.int64)
        self._longest = 0.0

    def add(self, seconds: FloatArray) -> None:
        """Count times in seconds, shape (n,)."""
        if not len(seconds):
            return
        inside = np.clip(seconds, MIN_LATENCY_S, MAX_LATENCY_S)
        bins = np.floor(np.log(inside / MIN_LATENCY_S) / _STEP).astype(np.int64)
        self._counts += np.bincount(bins, minlength=len(self._counts))
        self._longest = max(self._longest, float(seconds.max()))

    def to_dict(self) -> dict[str, float | None]:
        """Return the seconds of each percentile, and the longest; None where nothing was counted.

        The names are 'p50_s', 'p90_s', 'p99_s' and 'max_s'.
        """
        total = int(self._counts.sum())
        if not total:
            return {**{f'p{each}_s': None for each in LATENCY_PERCENTILES}, 'max_s': None}
        reached = np.cumsum(self._counts)
        found = {}
        for each in LATENCY_PERCENTILES:
            bin_number = int(np.searchsorted(reached, math.ceil(total * each / 100)))
            middle = MIN_LATENCY_S * math.exp((bin_number + 0.5) * _STEP)
            found[f'p{each}_s'] = min(middle, self._longest)
        return {**found, 'max_s': self._longest}
