"""Time what an epoch of training spends on choosing sub-scans: it must grow with the scan alone.

    python benchmarks/linear_cost.py [4096 16384 65536] [--against CHECKOUT]

Prints seconds of one thread for an epoch, and how the cost of a position compares with that of the
smallest scan. With --against, another checkout of this package is measured in turns with this one.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

from ptychopinn_plugin.backends.common.sampling import SubScan, TrainingScan, draw_subscan
from ptychopinn_plugin.config import Config, ModelConfig
from ptychopinn_plugin.network import describe_network

SUBSCANS = 40
"""This number of sub-scans is drawn, the same at every size; an epoch is counted by their mean."""


def make_scan(n_positions: int) -> TrainingScan:
    """Return a jittered raster of positions without patterns."""
    side = round(n_positions**0.5)
    raster = 5.5 * np.stack(np.mgrid[:side, :side], axis=-1).reshape(-1, 2)
    positions_px = raster + np.random.default_rng(0).uniform(-1, 1, raster.shape)
    return TrainingScan(
        0, None, positions_px, np.arange(len(positions_px)), labels=None, countable=True
    )


def epoch_seconds(n_positions: int, repeats: int = 5) -> float:
    """Return seconds of the processor for choosing the sub-scans of an epoch.

    Each sub-scan counts by the quickest of some repeats, so that other work does not weigh on it.
    """
    description, config = describe_network(ModelConfig(), 64), Config()

    def make(*arguments: object) -> SubScan:
        groups = np.asarray(arguments[2])
        return SubScan(0, 1.0, None, groups, ['flat'], labels=None, label_coverage=None)

    def draw(scan: TrainingScan, seed: int) -> float:
        begun = time.process_time()
        draw_subscan(description, scan, config, np.random.default_rng(seed), make)
        return time.process_time() - begun

    # What is found out about the whole scan is done with the first sub-scan, once.
    first = min(draw(make_scan(n_positions), 0) for _ in range(2))
    scan = make_scan(n_positions)
    draw(scan, 0)
    seeds = range(SUBSCANS if first < 0.2 else SUBSCANS // 4)
    each = [min(draw(scan, seed) for _ in range(repeats)) for seed in seeds]
    return max(0.0, first - each[0]) + n_positions / 256 * float(np.mean(each))


def measure(checkout: str, sizes: list[int]) -> dict[str, float]:
    """Measure a checkout in a process of its own."""
    environment = {**os.environ, 'PYTHONPATH': checkout}
    command = [sys.executable, __file__, *map(str, sizes), '--json']
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('positions', type=int, nargs='*', default=[1024, 4096, 16384, 65536])
    parser.add_argument('--against', help='another checkout of this package')
    parser.add_argument('--json', action='store_true', help='print this checkout as JSON')
    options = parser.parse_args()
    sizes = sorted(options.positions)
    if options.json:
        print(json.dumps({str(size): epoch_seconds(size) for size in sizes}))
        return
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for checkout in [here, *([options.against] if options.against else [])]:
        seconds = measure(checkout, sizes)
        print(checkout if options.against else 'choosing the sub-scans of an epoch')
        for size in sizes:
            ratio = seconds[str(size)] / seconds[str(sizes[0])] * sizes[0] / size
            print(
                f'{size:8d} positions: {seconds[str(size)]:8.3f} s, {ratio:6.2f} times a position'
            )


if __name__ == '__main__':
    main()
