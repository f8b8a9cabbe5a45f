"""What a pretrained network does on scans that it has never seen, without any training.

    python benchmarks/pretrained.py MODEL --output pretrained.json [--seeds 1 2 3]

MODEL is what `python -m ptychopinn_plugin.pretraining` wrote. Prints a row a scan: network alone,
with iterations after them, and the same iterations from a flat start in the same run. Then patterns
of lines that share nothing, each alone.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from quality import measure, test_scans

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_file import read_model
from ptychopinn_plugin.pretraining.evaluation import lines_alone, mosaic_ssim
from ptychopinn_plugin.pretraining.learner import reconstruct_alone

BEAMS = {'curved': 0.6, 'flat-phase': 0.0}
COUNTS = (1e9, 1e6, 1e4)


def lines(seed: int) -> dict[str, Scan]:
    """Simulate lines without phase under both beams, at three doses."""
    return {
        f'lines, {beam} beam, {photons:.0e} counts': lines_alone(
            curvature, photons, seed=2000 + seed
        )
        for beam, curvature in BEAMS.items()
        for photons in COUNTS
    }


def score_alone(model: Model, scan: Scan, iterations: list[int]) -> dict[str, dict[str, float]]:
    """Reconstruct patterns that share nothing in every way."""

    def timed(reconstruct: Callable[[], Reconstruction]) -> dict[str, float]:
        started = time.perf_counter()
        found = reconstruct()
        return {
            'amplitude_ssim': round(mosaic_ssim(found, scan), 3),
            'residual': round(found.amplitude_residual, 6),
            'seconds': round(time.perf_counter() - started, 2),
        }

    rows = {}
    for count in (0, *iterations):
        rows[f'network + {count}'] = timed(partial(reconstruct_alone, model, scan, count))
        if count:
            rows[f'flat + {count}'] = timed(partial(reconstruct_alone, None, scan, count))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', type=Path)
    parser.add_argument('--seeds', type=int, nargs='*', default=[1])
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--iterations', type=int, nargs='*', default=[30, 100])
    parser.add_argument('--only', help='scans whose name holds this')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    backend = create_backend(options.backend)
    model = read_model(options.model)
    backend.model = model
    results: dict[str, object] = {
        'machine': f'{platform.processor()} {os.cpu_count()} cores',
        'date': time.strftime('%Y-%m-%d'),
        'provenance': dict(model.provenance),
    }
    for seed in options.seeds:
        for name, scan in {**test_scans(seed), **lines(seed)}.items():
            if options.only and options.only not in name:
                continue
            if name.startswith('lines'):
                rows = score_alone(model, scan, options.iterations)
            else:
                rows = measure(backend, scan, options.iterations)
            results[f'{name}, seed {seed}'] = rows
            for way, row in rows.items():
                print(f'{name:36s} {seed} {way:14s} {row}', flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


if __name__ == '__main__':
    main()
