"""Time and memory of scans that are larger than the memory that they may take.

    python benchmarks/large_scans.py [16384 65536] [--max-memory GIB] [--iterations 3]

Each row is a process of its own, which reads a simulated scan of 64 x 64 pixels and iterates from a
flat object: with its patterns in memory, and in a temporary file. Printed are seconds of reading,
patterns a second of the iterations, and the largest memory of the process beyond what the package
and its framework take. The two objects must agree. The scan is a block of 64 x 64 positions that
is repeated on an object with its period, so that a million patterns are made in a minute or two.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.storage.scratch import Usage, new_array

SIDE = 64
STEP_PX = 5.5
PERIOD_PX = int(SIDE * STEP_PX)


def make_scan(n_patterns: int) -> Scan:
    """Return a scan of at least this number of patterns, in whole blocks; they lie in a file."""
    settings = SimulationConfig(rows=SIDE, columns=SIDE, step_px=STEP_PX, jitter_px=1.0)
    cell = simulate(settings).object_
    assert cell is not None
    block = simulate(settings, object_=np.tile(cell[:PERIOD_PX, :PERIOD_PX], (3, 3)))
    across = int(np.ceil(np.sqrt(n_patterns / len(block))))
    patterns = new_array(
        (across**2 * len(block), *block.pattern_shape), block.patterns.dtype, memory_bytes=0
    )
    usage, positions_px = Usage(patterns), []
    for number in range(across**2):
        patterns[number * len(block) : (number + 1) * len(block)] = block.patterns
        usage.add(block.patterns.nbytes)
        positions_px.append(block.positions_px + PERIOD_PX * np.array(divmod(number, across)))
    return Scan(patterns=patterns, positions_px=np.concatenate(positions_px), probe=block.probe)


def measure(path: Path, output: Path, backend_name: str, iterations: int, limit: float) -> None:
    """Reconstruct a scan in this process, and print what it took."""
    backend = create_backend(backend_name)
    first = simulate(SimulationConfig(rows=4, columns=4))
    backend.refine(first, RefinementConfig(iterations=1), device='cpu')
    before = _peak_mib()
    begun = time.perf_counter()
    scan = load_scan(path, max_memory_gib=limit)
    read_s = time.perf_counter() - begun
    found = backend.refine(scan, RefinementConfig(iterations=iterations), device='cpu')
    np.save(output, found.object_)
    print(
        json.dumps(
            {
                'read_s': read_s,
                'patterns_per_second': len(scan) * iterations / found.timing['refine'],
                'whole_s': time.perf_counter() - begun,
                'memory_mib': _peak_mib() - before,
            }
        )
    )


def _peak_mib() -> float:
    """Return the largest memory of this process so far, in MiB; Linux keeps it."""
    text = Path('/proc/self/status').read_text(encoding='ascii')
    return int(text.split('VmHWM:')[1].split()[0]) / 1024


def run_row(
    path: Path, output: Path, options: argparse.Namespace, limit: float
) -> dict[str, float]:
    """Return what another process measures."""
    where = ['--here', str(path), str(output), str(limit)]
    settings = ['--backend', options.backend, '--iterations', str(options.iterations)]
    done = subprocess.run(
        [sys.executable, __file__, *where, *settings], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a row for each size, in memory and in a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('sizes', nargs='*', type=int, default=[16384, 65536])
    parser.add_argument('--max-memory', type=float, help='GiB; a quarter of the roots if not given')
    parser.add_argument('--stored-only', action='store_true', help='nothing in memory')
    parser.add_argument('--iterations', type=int, default=3)
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument(
        '--here', nargs=3, metavar=('SCAN', 'OBJECT', 'GIB'), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.here:
        path, output, limit = options.here
        measure(Path(path), Path(output), options.backend, options.iterations, float(limit))
        return
    print('patterns, GiB of roots | where | read s | patterns/s | whole s | MiB')
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'scan.npz'
            scan = make_scan(size)
            roots_gib = 4 * scan.patterns.size / 2**30
            write_scan(path, scan)
            n_patterns = len(scan)
            del scan
            limit = roots_gib / 4 if options.max_memory is None else options.max_memory
            rows = {'in a file': limit} if options.stored_only else {'memory': 1e5, 'file': limit}
            objects = []
            for where, allowed in rows.items():
                output = Path(folder) / 'object.npy'
                row = run_row(path, output, options, allowed)
                objects.append(np.load(output))
                print(
                    f'{n_patterns:,}, {roots_gib:.2f} | {where} | {row["read_s"]:.1f} | '
                    f'{row["patterns_per_second"]:,.0f} | {row["whole_s"]:.0f} | '
                    f'{row["memory_mib"]:,.0f}',
                    flush=True,
                )
            if len(objects) == 2:
                print(
                    f'largest difference of the objects: {abs(objects[1] - objects[0]).max():.1e}'
                )


if __name__ == '__main__':
    main()
