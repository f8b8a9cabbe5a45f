"""How fast Ptychodus' worker answers: what an inference costs besides, Stop, and a killed worker.

    python benchmarks/worker.py [--backend pytorch] [--rounds 5]

What `tests/host/test_worker.py` allows more time for, as it runs beside other tests. Seconds.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig, TrainingConfig
from ptychopinn_plugin.data import Scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import WorkerError
from ptychopinn_plugin.host.worker.arrays import ScanArrays
from ptychopinn_plugin.host.worker.client import Run, Worker
from ptychopinn_plugin.host.worker.messages import (
    ReconstructionDone,
    ReconstructJob,
    RunProgress,
    TrainJob,
)


def train(backend: str, folder: Path, epochs: int) -> TrainJob:
    """Return a training of the scan in a folder, on the default network."""
    training = TrainingConfig(epochs=epochs, target_iterations=10, device='cpu')
    return TrainJob(
        backend,
        (folder / 'scan.npz',),
        Config(training=training),
        folder / 'model.zip',
        keep_training_state=False,
    )


def infer(backend: str, folder: Path, scan: Scan) -> tuple[ReconstructJob, ScanArrays]:
    """Return an inference and its arrays."""
    job = ReconstructJob(
        backend,
        folder / 'model.zip',
        InferenceConfig(device='cpu'),
        RefinementConfig(iterations=10),
        name=scan.name,
    )
    return job, ScanArrays.of(scan)


def until_trained(run: Run, epochs: int) -> None:
    """Read events until this number of epochs has ended."""
    for event in run.events():
        progress = event and event.report
        epochs -= isinstance(progress, RunProgress) and progress.is_epoch_end
        if epochs == 0:
            return


def main() -> None:
    """Print a line for each question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--rounds', type=int, default=5)
    given = parser.parse_args()
    scan = simulate(SimulationConfig(seed=1, n_positions=1024))
    with tempfile.TemporaryDirectory() as name:
        folder, worker = Path(name), Worker()
        write_scan(folder / 'scan.npz', scan)
        with worker.run(train(given.backend, folder, 1)) as run:
            list(run.events())
        worker.close()

        job, arrays = infer(given.backend, folder, scan)
        besides = []
        for _ in range(given.rounds + 1):
            began = time.perf_counter()
            with worker.run(job, arrays) as run:
                events = [event for event in run.events(tick_s=60.0) if event is not None]
            spent = time.perf_counter() - began
            done = events[-1].report
            assert isinstance(done, ReconstructionDone)
            besides.append(spent - sum(done.timing.values()))
        report('first inference, besides its computation', besides[:1])
        report('the next ones, besides their computation', besides[1:])

        stops = []
        for _ in range(given.rounds):
            with worker.run(train(given.backend, folder, 1000)) as run:
                until_trained(run, 1)
                began = time.perf_counter()
                run.stop()
                list(run.events(tick_s=60.0))
                stops.append(time.perf_counter() - began)
        report('Stop of a training, model written', stops)

        deaths = []
        for _ in range(given.rounds):
            with worker.run(train(given.backend, folder, 1000)) as run:
                until_trained(run, 1)
                began = time.perf_counter()
                assert worker.pid is not None
                os.kill(worker.pid, signal.SIGKILL)
                try:
                    list(run.events())
                except WorkerError:
                    deaths.append(time.perf_counter() - began)
        report('error after SIGKILL', deaths)
        worker.close()


def report(what: str, seconds: list[float]) -> None:
    """Print median and largest of some times."""
    print(
        f'{what}: median {statistics.median(seconds):.2f}, largest {max(seconds):.2f}', flush=True
    )


if __name__ == '__main__':
    main()
