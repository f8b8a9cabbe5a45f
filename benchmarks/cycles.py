"""Train, infer and stop again and again in one host process, and look for what grows.

    python benchmarks/cycles.py --cycles 200

A cycle is a training of two epochs, an inference, and a training that is stopped after its first
epoch, as clicks in Ptychodus' window cause them. After each cycle are counted: the memory of this
process and of the worker, their threads, their open files, the processes below this one, and
their blocks of shared memory. From the fifth cycle on (of fewer than ten, from the middle)
nothing may grow: numbers stay, and memory grows by at most `MAX_GROWTH_MIB` in all. Where
something grows this program ends with 1.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ptychopinn_plugin.config import (
    Config,
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
)
from ptychopinn_plugin.data import write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.host.worker.arrays import ScanArrays
from ptychopinn_plugin.host.worker.blocks import FOLDER
from ptychopinn_plugin.host.worker.client import Worker, wait_for_end
from ptychopinn_plugin.host.worker.messages import (
    ReconstructJob,
    RunProgress,
    TrainJob,
)

WARM_CYCLES = 5
"""In the first cycles frameworks compile, which takes memory."""

MAX_GROWTH_MIB = 60.0
"""Memory of the process or of the worker may grow by this much after `WARM_CYCLES`."""


def measure(pid: int) -> dict[str, float]:
    """Return memory in MiB, threads and open files of a process."""
    status = Path(f'/proc/{pid}/status').read_text()
    fields = dict(line.split(':', 1) for line in status.splitlines())
    return {
        'MiB': int(fields['VmRSS'].split()[0]) / 1024,
        'threads': int(fields['Threads']),
        'files': len(os.listdir(f'/proc/{pid}/fd')),
    }


def count_children(pid: int) -> int:
    """Return the number of processes that a process has started and that are there still."""
    tasks = Path(f'/proc/{pid}/task').iterdir()
    return sum(len((task / 'children').read_text().split()) for task in tasks)


def count_blocks(*pids: int) -> int:
    """Return the number of blocks of shared memory that these processes have made."""
    names = [path.name.split('-') for path in FOLDER.glob('ppnn-*')]
    return sum(int(name[2], 16) in pids for name in names)


def run_cycles(cycles: int, backend: str, folder: Path) -> Iterator[dict[str, float]]:
    """Yield what is measured after each cycle."""
    scan = simulate(SimulationConfig(size=32, rows=8, columns=8, step_px=4.0, pupil_radius=0.12))
    write_scan(folder / 'scan.npz', scan)
    arrays = ScanArrays.of(scan)

    def training(epochs: int) -> TrainJob:
        return TrainJob(
            backend,
            (folder / 'scan.npz',),
            Config(
                ModelConfig(filters_scale=0.25, passes=1),
                TrainingConfig(epochs=epochs, target_iterations=5, device='cpu'),
            ),
            folder / 'model.zip',
            keep_training_state=False,
        )

    infer = ReconstructJob(
        backend,
        folder / 'model.zip',
        InferenceConfig(device='cpu'),
        RefinementConfig(iterations=5),
    )
    worker = Worker()
    try:
        for _ in range(cycles):
            with worker.run(training(2)) as run:
                list(run.events())
            with worker.run(infer, arrays) as run:
                list(run.events())
            with worker.run(training(100_000)) as run:
                events = run.events()
                for event in events:
                    if (
                        event
                        and isinstance(event.report, RunProgress)
                        and event.report.is_epoch_end
                    ):
                        break
                assert wait_for_end(run, events, 60.0) is not None, 'the run did not stop'
            assert worker.pid is not None
            own, other = measure(os.getpid()), measure(worker.pid)
            yield {
                **{f'host {name}': value for name, value in own.items()},
                **{f'worker {name}': value for name, value in other.items()},
                'processes': count_children(os.getpid()),
                'shared memory': count_blocks(os.getpid(), worker.pid),
                'files of the folder': len(list(folder.rglob('*'))),
            }
    finally:
        worker.close()


def find_growth(rows: list[dict[str, float]]) -> list[str]:
    """Return what has grown since the first of these cycles."""
    first, last = rows[0], rows[-1]
    grown = []
    for name, value in last.items():
        allowed = MAX_GROWTH_MIB if name.endswith('MiB') else 0
        # A thread that ends a moment later is no growth: the least of the last cycles counts.
        least = min(row[name] for row in rows[-max(1, min(3, len(rows) // 2)) :])
        if least > first[name] + allowed:
            grown.append(f'{name} from {first[name]:.0f} to {value:.0f}')
    return grown


def main() -> int:
    """Print a line for the first and last cycles and some between, and what has grown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--cycles', type=int, default=200)
    parser.add_argument('--backend', default='pytorch')
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        for row in run_cycles(options.cycles, options.backend, Path(name)):
            rows.append(row)
            if len(rows) == 1:
                print('| cycle |', ' | '.join(row), '|')
                print('|---' * (1 + len(row)) + '|')
            if len(rows) in (1, WARM_CYCLES, options.cycles) or len(rows) % 50 == 0:
                print(f'| {len(rows)} |', ' | '.join(f'{v:.0f}' for v in row.values()), '|')
    grown = find_growth(rows[min(WARM_CYCLES, len(rows) // 2) - 1 :])
    print('; '.join(grown) or f'{len(rows)} cycles, and nothing has grown')
    return 1 if grown else 0


if __name__ == '__main__':
    sys.exit(main())
