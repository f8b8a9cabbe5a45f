"""What the built-in prior does on scans and probes that it has never seen, without any training.

    python benchmarks/built_in.py --output built_in.json [--seeds 1 2 3] [--model MODEL]

Prints a row a scan and way: the built-in model with its own plan, and, in the same run, iterations
from a flat object with theirs, and as many as fit in the time of the built-in model. Then patterns
of lines that share nothing, each alone. Take one thread on a busy machine
(OMP_NUM_THREADS=1), and mind the load: seconds are compared.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from quality import score, test_scans

from ptychopinn_plugin.backends.protocol import Backend
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, load_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate, thin_scan
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_file import read_model
from ptychopinn_plugin.pretraining.evaluation import lines_alone, mosaic_ssim

BEAMS = {'curved': 0.6, 'flat-phase': 0.0}
COUNTS = (1e9, 1e6, 1e4)
MANY = 10_000
"""These are more iterations than a limit of time leaves room for."""


def sparse_faint_scans(seed: int) -> dict[str, Scan]:
    """Simulate the rows of 10^3 counts, which `quality.test_scans` does not have."""
    faint = simulate(SimulationConfig(seed=seed + 1, n_positions=1024, photons=1e3))
    return {
        '5.5 px, 1e3 counts': faint,
        '16.5 px, 1e3 counts': thin_scan(faint, 3, 32),
        '27.5 px, 1e3 counts': thin_scan(faint, 5, 32),
    }


def single_shots(seed: int) -> dict[str, Scan]:
    """Simulate lines without phase under both beams, at three doses."""
    return {
        f'lines, {beam} beam, {photons:.0e} counts': lines_alone(
            curvature, photons, seed=2000 + seed
        )
        for beam, curvature in BEAMS.items()
        for photons in COUNTS
    }


def judge(found: Reconstruction, scan: Scan) -> dict[str, float]:
    """Return figures: those of the benchmark, of a mosaic, or the residual where nobody knows."""
    if scan.is_single_shot:
        figures = {'amplitude_ssim': round(mosaic_ssim(found, scan), 3)}
    elif scan.object_ is not None:
        figures = score(found, scan)
    else:
        figures = {}
    misfit = None if found.misfit is None else found.misfit.over_noise
    return {
        **figures,
        'residual': round(found.amplitude_residual, 6),
        'times_shot_noise': float('nan') if misfit is None else round(misfit, 3),
    }


def block_losses(found: Reconstruction) -> list[float]:
    """Return the loss at the end of each block of iterations, between which a prior passes."""
    ends = np.cumsum(found.provenance['course']['done'])
    return [round(found.likelihoods[end], 6) for end in ends]


def measure(backend: Backend, scan: Scan) -> dict[str, dict[str, Any]]:
    """Reconstruct one scan in every way."""
    assert backend.model is not None
    cpu = InferenceConfig(device='cpu')
    rows: dict[str, dict[str, Any]] = {}

    def note(way: str, reconstruct: Callable[[], Reconstruction]) -> float:
        started = time.perf_counter()
        found = reconstruct()
        seconds = time.perf_counter() - started
        course = found.provenance['course']
        done = {'iterations': sum(course['done']), 'seconds': round(seconds, 2)}
        rows[way] = {**judge(found, scan), **done, 'block_losses': block_losses(found)}
        return seconds

    seconds = note('built-in', lambda: backend.reconstruct(scan, cpu, RefinementConfig()))
    as_long = RefinementConfig(iterations=MANY, max_seconds=seconds)
    note('flat, same time', lambda: backend.refine(scan, as_long, device='cpu'))
    note('flat, its plan', lambda: backend.refine(scan, RefinementConfig(), device='cpu'))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('scans', type=Path, nargs='*', help='scans in files, in place of these')
    parser.add_argument('--model', type=Path, help='another prior than the built-in one')
    parser.add_argument('--seeds', type=int, nargs='*', default=[1])
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--only', nargs='*', help='scans whose name holds one of these')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    backend = create_backend(options.backend)
    backend.model = Model.built_in() if options.model is None else read_model(options.model)
    results: dict[str, object] = {
        'machine': f'{platform.processor()} {os.cpu_count()} cores',
        'date': time.strftime('%Y-%m-%d'),
        'provenance': dict(backend.model.provenance),
    }
    # The first call loads libraries.
    measure(backend, simulate(SimulationConfig(size=64, rows=6, columns=6, step_px=8.0)))
    for seed in options.seeds:
        scans = {**test_scans(seed), **sparse_faint_scans(seed), **single_shots(seed)}
        for name, scan in ({path.stem: load_scan(path) for path in options.scans} or scans).items():
            if options.only and not any(part in name for part in options.only):
                continue
            rows = measure(backend, scan)
            results[f'{name}, seed {seed}'] = rows
            for way, row in rows.items():
                print(f'{name:36s} {seed} {way:16s} {row}', flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


if __name__ == '__main__':
    main()
