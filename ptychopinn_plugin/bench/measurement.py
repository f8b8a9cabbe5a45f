"""Measure training, prediction, stitching, iterations, starts and memory of each backend."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.backends.common.judged_patterns import judged_stride
from ptychopinn_plugin.backends.common.threads import requested_threads
from ptychopinn_plugin.backends.selection import create_backend, find_backends
from ptychopinn_plugin.bench import floor
from ptychopinn_plugin.bench.machine import Peaks, describe_conditions, measure_peaks
from ptychopinn_plugin.bench.rivals import run_ptychi
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import BackendUnavailableError, DataError
from ptychopinn_plugin.packages import is_importable

Show = Callable[[str], None]
"""It is called with a line of text on how far the measurement has come."""

RATE, SECONDS, BYTES = 'patterns/s', 's', 'times the patterns'

# A process measures its own peak: the one that its parent can read begins at the size of the
# parent.
_COMMAND = """
import sys
from pathlib import Path
from ptychopinn_plugin.cli import main
try:
    main(sys.argv[2:])
finally:
    try:
        status = Path('/proc/self/status').read_text()
        peak = 1024 * int(status.partition('VmHWM:')[2].split()[0])
    except (OSError, IndexError):
        try:
            import resource
            # macOS counts bytes.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        except ImportError:
            peak = 0
    Path(sys.argv[1]).write_text(str(peak))
"""

START_NOISE = 0.2
"""Starts are few, and differ at least by this share."""

MEMORY_NOISE = 0.05
"""Of the memory of a process, this share differs from run to run."""


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Attributes
    ----------
    sizes, batch_sizes : tuple of int
        Sides of patterns in pixels, and patterns in a batch.
    backends : tuple of str
        All that are installed, where it is empty.
    patterns, rounds, iterations : int
        Patterns of each scan, how often a rate is measured after a first time that does not count,
        and iterations of each time.
    precision, device : str
        As in the settings of a training.
    starts : int
        How many new processes are started with each backend, for the times to the first picture
        and for memory.
    rival : str, optional
        'ptychi', to measure its engines as well.
    """

    sizes: tuple[int, ...] = (64, 128, 256)
    batch_sizes: tuple[int, ...] = (32,)
    backends: tuple[str, ...] = ()
    patterns: int = 512
    rounds: int = 3
    iterations: int = 4
    precision: str = 'float32'
    device: str = 'cpu'
    starts: int = 2
    rival: str | None = None


@dataclass(frozen=True)
class BenchRow:
    """One figure.

    Attributes
    ----------
    what, backend : str
    size, batch_size : int
        0 where it does not matter.
    value : float
        In `unit`.
    share : float
        Of the floor: 1 is the best that this machine could do. It is what runs are compared by,
        as it depends least on the machine.
    noise : float
        How far apart repeats were, as a share of their median.
    floor : float
        In `unit`.
    """

    what: str
    backend: str
    size: int
    batch_size: int
    value: float
    unit: str
    share: float
    noise: float
    floor: float
    values: tuple[float, ...] = field(default=())

    @property
    def key(self) -> str:
        """What is the same in another run of the same measurement."""
        return f'{self.what} / {self.backend} / {self.size} px / batch {self.batch_size}'


def run_bench(options: BenchOptions, show: Show = lambda _: None) -> dict[str, Any]:
    """Measure, and return a report that JSON can hold.

    Parameters
    ----------
    options : BenchOptions
    show : callable

    Returns
    -------
    dict
        'version', 'machine', 'peaks', 'options', 'rows' (of `BenchRow`).

    Raises
    ------
    BackendUnavailableError
        If no backend is installed, or one that is named is not, or the rival is not.
    """
    names = options.backends or tuple(
        name for name, spec in find_backends().items() if spec.problem() is None
    )
    if not names:
        raise BackendUnavailableError(
            'A backend was expected; none is installed. '
            "Run: pip install 'ptychopinn-plugin[pytorch]'."
        )
    if options.rival is not None and not is_importable('ptychi'):
        raise BackendUnavailableError(
            'Pty-Chi was expected for --against ptychi; it is not installed. '
            "Run: pip install 'ptychopinn-plugin[bench]'."
        )
    machine = describe_conditions()
    show('peaks of the machine')
    peaks = measure_peaks()
    rows: list[BenchRow] = []
    for size in options.sizes:
        scan = simulate(SimulationConfig(size=size, n_positions=options.patterns, seed=1))
        for batch_size in options.batch_sizes:
            rows += _rates(options, names, scan, batch_size, peaks, show)
        if options.rival is not None:
            rows += _rivals(options, scan, peaks, show)
    if options.starts:
        scan = simulate(SimulationConfig(size=options.sizes[0], n_positions=options.patterns))
        for name in names:
            rows += _starts(options, name, scan, peaks, show)
    return {
        'version': __version__,
        'machine': machine,
        'peaks': asdict(peaks),
        'options': asdict(options),
        'rows': [{**asdict(row), 'key': row.key} for row in rows],
    }


def _with_all_threads(backend: Any) -> Any:
    """Take as many threads as the peaks are measured with, and no time to choose them."""
    if hasattr(backend, 'threads'):
        backend.threads = requested_threads(None) or os.cpu_count() or 1
    return backend


def _rates(
    options: BenchOptions,
    names: Sequence[str],
    scan: Scan,
    batch_size: int,
    peaks: Peaks,
    show: Show,
) -> Iterator[BenchRow]:
    """Measure the backends in turns, so that whatever else runs weighs on all of them."""
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in names}
    works: dict[str, Mapping[str, floor.Work]] = {}
    backends = {name: _with_all_threads(create_backend(name)) for name in names}
    for number in range(options.rounds + 1):
        for name, backend in backends.items():
            show(f'{scan.pattern_shape[0]} px, batches of {batch_size}, {name}, round {number}')
            rates, works[name] = _round(options, backend, scan, batch_size)
            # Frameworks compile in the first round.
            if number > 0:
                found[name].append(rates)
    for name, rounds in found.items():
        for what, work in works[name].items():
            values = tuple(rates[what] for rates in rounds)
            best = 1 / work.seconds(peaks)
            yield _row(what, name, scan, batch_size, values, best)


def _row(
    what: str, name: str, scan: Scan, batch_size: int, values: tuple[float, ...], best: float
) -> BenchRow:
    value = median(values)
    noise = (max(values) - min(values)) / value
    size = scan.pattern_shape[0]
    return BenchRow(what, name, size, batch_size, value, RATE, value / best, noise, best, values)


def _round(
    options: BenchOptions, backend: Any, scan: Scan, batch_size: int
) -> tuple[dict[str, float], dict[str, floor.Work]]:
    config = Config.from_dict(
        {
            'training': {
                'epochs': 1,
                'target': 'none',
                'validation_fraction': 0.0,
                'device': options.device,
                'batch_size': batch_size,
                'precision': options.precision,
            }
        }
    )
    trained = backend.train([scan], config)
    inference = InferenceConfig.from_dict(
        {'device': options.device, 'batch_size': batch_size, 'test_time_rotations': 'one'}
    )
    alone = backend.reconstruct(scan, inference, RefinementConfig(iterations=0)).timing
    refinement = RefinementConfig(iterations=options.iterations)
    refined = backend.refine(scan, refinement, device=options.device).timing
    network = trained.model.network
    size, modes = scan.pattern_shape[0], len(scan.probe)
    predicted = floor.prediction_work(network, size, modes)
    works = {
        'training step': floor.training_work(network, size, modes),
        'prediction': predicted,
        'prediction + stitching': predicted + floor.stitching_work(network),
        'iteration': floor.iteration_work(size, modes, judged_stride(len(scan))),
    }
    rates = {
        'training step': trained.history[-1]['patterns_per_second'],
        'prediction': len(scan) / alone['predict'],
        'prediction + stitching': len(scan) / (alone['predict'] + alone['stitch']),
        'iteration': len(scan) * options.iterations / refined['refine'],
    }
    return rates, works


def _rivals(options: BenchOptions, scan: Scan, peaks: Peaks, show: Show) -> Iterator[BenchRow]:
    """Measure the epochs of Pty-Chi on the same scan, against the floor of our iteration."""
    size, stride = scan.pattern_shape[0], judged_stride(len(scan))
    best = 1 / floor.iteration_work(size, len(scan.probe), stride).seconds(peaks)
    for engine in ('rpie', 'lsqml'):
        values = []
        for number in range(options.rounds):
            show(f'{scan.pattern_shape[0]} px, Pty-Chi {engine}, round {number + 1}')
            rival = run_ptychi(scan, engine, options.iterations + 1)
            values.append(rival.patterns_per_second)
        yield _row('iteration', f'ptychi {engine}', scan, 64, tuple(values), best)


def _starts(
    options: BenchOptions, name: str, scan: Scan, peaks: Peaks, show: Show
) -> Iterator[BenchRow]:
    """Time new processes from the command to the picture, and a second scan in a warm one."""
    backend = _with_all_threads(create_backend(name))
    settings = {'epochs': 1, 'target': 'none', 'device': options.device}
    network = backend.train([scan], Config.from_dict({'training': settings})).model.network
    inference = InferenceConfig.from_dict({'device': options.device})
    size, framework = scan.pattern_shape[0], find_backends()[name].framework
    cold, imports, warm, memory = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        model_path, scan_path = Path(folder) / 'model.h5.zip', Path(folder) / 'scan.npz'
        backend.save_model(model_path, inference_only=True)
        write_scan(scan_path, scan)
        for number in range(options.starts):
            show(f'{size} px, {name}, start {number + 1}')
            imports.append(_spend([sys.executable, '-c', f'import {framework}']))
            out = str(Path(folder) / f'out{number}')
            command = ['reconstruct', str(model_path), str(scan_path), '-o', out, '--refine', '0']
            command += ['--backend', name, '--device', options.device]
            peak = Path(folder) / 'peak'
            cold.append(_spend([sys.executable, '-c', _COMMAND, str(peak), *command]))
            memory.append(int(peak.read_text()))
            begun = time.perf_counter()
            backend.reconstruct(scan, inference, RefinementConfig(iterations=0))
            warm.append(time.perf_counter() - begun)
    work = floor.prediction_work(network, size, len(scan.probe)) + floor.stitching_work(network)
    computing = len(scan) * work.seconds(peaks)
    # No start is quicker than that of the framework alone.
    best = min(imports) + computing
    for what, values, least in (
        ('cold start to the picture', cold, best),
        ('warm start', warm, computing),
    ):
        value = median(values)
        noise = max(START_NOISE, (max(values) - min(values)) / value)
        yield BenchRow(
            what, name, size, 0, value, SECONDS, least / value, noise, least, tuple(values)
        )
    # The peak is 0 on Windows, where it is not measured.
    if min(memory) > 0:
        times = tuple(peak / scan.patterns.nbytes for peak in memory)
        yield BenchRow(
            'peak memory',
            name,
            size,
            0,
            median(times),
            BYTES,
            1 / median(times),
            MEMORY_NOISE,
            1.0,
            times,
        )


def _spend(command: Sequence[str]) -> float:
    """Run a command; return its seconds."""
    begun = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode != 0:
        lines = done.stdout.decode(errors='replace').strip().splitlines() or ['(no message)']
        raise DataError(
            'A process that is measured was expected to end well; it ended with code '
            f'{done.returncode}: {lines[-1]}. Run it alone: {" ".join(command)}.'
        )
    return seconds
