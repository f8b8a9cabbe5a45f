"""How PyTorch's threads wait for each other: on a machine of one's own, and beside a busy program.

    python benchmarks/waiting.py [--rounds 3]

Each row is a process of its own, in turns: prediction with stitching, ten iterations (seconds, best
of three), and training (patterns a second, better of two epochs) on 1024 simulated patterns.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

POLICIES = ('default', 'PASSIVE')
BUSY = 'while True: pass'


def best_of_three(act: Callable[[], object]) -> float:
    """Return the seconds of the fastest of three calls."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def measure() -> str:
    """Return a row, measured in this process."""
    scan = simulate(SimulationConfig(seed=1, n_positions=1024))
    backend = create_backend('pytorch')
    config = Config.from_dict({'training': {'epochs': 2, 'target': 'none'}})
    history = backend.train([scan], config).history
    alone, iterations = RefinementConfig(iterations=0), RefinementConfig(iterations=10)
    predict_s = best_of_three(lambda: backend.reconstruct(scan, InferenceConfig(), alone))
    iteration_s = best_of_three(lambda: backend.refine(scan, iterations))
    rate = max(row['patterns_per_second'] for row in history)
    return (
        f'prediction {predict_s:.2f} s, ten iterations {iteration_s:.2f} s, training {rate:.0f}/s'
    )


def run_row(policy: str) -> str:
    """Return a row, measured in another process whose threads wait by `policy`."""
    given = {} if policy == 'default' else {'OMP_WAIT_POLICY': policy}
    command = [sys.executable, __file__, '--here']
    done = subprocess.run(
        command, env=os.environ | given, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def main() -> None:
    """Print a row for each policy, first in peace and then beside a busy program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--here', action='store_true', help='measure in this process')
    given = parser.parse_args()
    if given.here:
        print(measure())
        return
    for beside in ('nothing', 'a busy program'):
        busy = None if beside == 'nothing' else subprocess.Popen([sys.executable, '-c', BUSY])
        try:
            for _ in range(given.rounds):
                for policy in POLICIES:
                    print(f'beside {beside}, {policy}: {run_row(policy)}', flush=True)
        finally:
            if busy is not None:
                busy.kill()


if __name__ == '__main__':
    main()
