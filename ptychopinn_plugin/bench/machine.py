"""What this machine can do at most, measured in the run that it is compared with."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PRODUCT_SIDE = 1024
"""The product of matrices of this side is timed: it is large enough for the peak of a core."""

COPIED_BYTES = 1 << 27
"""A copy of this is far larger than any cache."""


@dataclass(frozen=True)
class Peaks:
    """What the machine reaches in the simplest work.

    Attributes
    ----------
    operations_per_second : float
        Of a large product of float32 matrices; a multiplication and an addition are two.
    bytes_per_second : float
        Of a large copy; each byte is read and written, and counts twice.
    """

    operations_per_second: float
    bytes_per_second: float


def measure_peaks(repeats: int = 5) -> Peaks:
    """Time a large matrix product and a large copy; the quickest of some repeats counts."""
    rng = np.random.default_rng(0)
    first, second = rng.random((2, PRODUCT_SIDE, PRODUCT_SIDE), dtype=np.float32)
    product = np.empty_like(first)
    source = np.ones(COPIED_BYTES // 4, dtype=np.float32)
    target = np.zeros_like(source)
    operations = 2 * PRODUCT_SIDE**3 / _quickest(lambda: np.matmul(first, second, product), repeats)
    moved = 2 * source.nbytes / _quickest(lambda: np.copyto(target, source), repeats)
    return Peaks(operations, moved)


def _quickest(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def describe_conditions() -> dict[str, object]:
    """Return the processor, its cores, and how busy the machine was with other work."""
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    threads = os.environ.get('OMP_NUM_THREADS')
    return {
        'processor': platform.processor() or platform.machine(),
        'system': platform.system(),
        'cores': os.cpu_count(),
        'threads': int(threads) if threads and threads.isdigit() else None,
        'load': load,
        'python': platform.python_version(),
    }
