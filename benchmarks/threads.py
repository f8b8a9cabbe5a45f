"""What threads cost beside other programs: all of them, one, and as many as a trial finds best.

    python benchmarks/threads.py [--neighbours 0 1] [--rounds 1] [--output threads.json]

Each row is a process of its own: the built-in model with five iterations on 256 simulated
patterns, the better of two calls in seconds, beside a number of programs that do nothing but count.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model import Model

WAYS = {'all': os.cpu_count() or 1, 'one': 1, 'by trial': None}
"""Each way has this number of threads, or the one that trials find where it is None."""

BUSY = 'while True: pass'
PATTERNS, ITERATIONS = 256, 5


def measure() -> dict[str, float | int | None]:
    """Return a row, measured in this process."""
    scan = simulate(SimulationConfig(seed=1, n_positions=PATTERNS))
    backend = create_backend('pytorch')
    backend.model = Model.built_in()
    inference = InferenceConfig(device='cpu', prior_passes=1)
    best_s, threads = float('inf'), None
    for _ in range(2):
        begun = time.perf_counter()
        found = backend.reconstruct(scan, inference, RefinementConfig(iterations=ITERATIONS))
        best_s = min(best_s, time.perf_counter() - begun)
        threads = found.threads
    return {'seconds': round(best_s, 2), 'threads': threads}


def run_row(threads: int | None) -> dict[str, float | int | None]:
    """Return a row, measured in another process."""
    environment = {name: text for name, text in os.environ.items() if name != 'OMP_NUM_THREADS'}
    if threads is not None:
        environment['OMP_NUM_THREADS'] = str(threads)
    done = subprocess.run(
        [sys.executable, __file__, '--here'],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    row: dict[str, float | int | None] = json.loads(done.stdout)
    return row


def main() -> None:
    """Print a row for each number of neighbours, round and way, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--neighbours', type=int, nargs='*', default=[0, 1])
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--output', type=Path)
    parser.add_argument('--here', action='store_true', help='measure in this process')
    given = parser.parse_args()
    if given.here:
        print(json.dumps(measure()))
        return
    rows = []
    for neighbours in given.neighbours:
        busy = [subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(neighbours)]
        try:
            for _ in range(given.rounds):
                for way, threads in WAYS.items():
                    load = os.getloadavg()[0]
                    row = {'neighbours': neighbours, 'way': way, **run_row(threads)}
                    rows.append(row | {'load_before': round(load, 1)})
                    print(rows[-1], flush=True)
        finally:
            for process in busy:
                process.kill()
                process.wait()
    if given.output:
        given.output.write_text(json.dumps(rows, indent=2))


if __name__ == '__main__':
    main()
