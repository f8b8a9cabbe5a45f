"""Refine the positions of scans, beside Pty-Chi's LSQ-ML with position correction.

    python benchmarks/positions.py --output positions.json
    python benchmarks/positions.py --errors 2 3.5 --seeds 1 2 3 --without-ptychi
    python benchmarks/positions.py --scan scan.npz --iterations 30 --refine-probe

Without a scan, one is simulated whose true positions are known; errors are normally distributed,
of a standard deviation in y and in x. Errors after refinement are distances, root mean square,
without their mean. Needs ``pip install 'ptychopinn-plugin[bench]'`` unless ``--without-ptychi``.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

Row = dict[str, Any]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--scan', type=Path, help='a scan whose true positions nobody knows')
    parser.add_argument('--side', type=int, default=16, help='rows and columns that are simulated')
    parser.add_argument('--errors', type=float, nargs='*', default=[0.0, 1.4, 5.0], help='px')
    parser.add_argument('--seeds', type=int, nargs='*', default=[1], help='of the errors')
    parser.add_argument('--step', type=float, default=5.5, help='px')
    parser.add_argument('--iterations', type=int, default=60)
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--refine-probe', action='store_true')
    parser.add_argument('--without-ptychi', action='store_true')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for name, scan, true_px in _cases(options):
        for refines in (False, True):
            row = _ours(scan, true_px, options, refines)
            rows.append({'case': name, 'run': 'refined' if refines else 'as given', **row})
            print(json.dumps(rows[-1]), flush=True)
        if not options.without_ptychi:
            rows.append({'case': name, 'run': 'Pty-Chi', **_ptychi(scan, true_px, options)})
            print(json.dumps(rows[-1]), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2))


def _cases(options: argparse.Namespace) -> list[tuple[str, Scan, FloatArray | None]]:
    if options.scan is not None:
        return [(options.scan.stem, load_scan(options.scan), None)]
    side = options.side
    scan = simulate(SimulationConfig(rows=side, columns=side, step_px=options.step))
    true_px = scan.positions_px
    cases: list[tuple[str, Scan, FloatArray | None]] = []
    for seed in options.seeds:
        rng = np.random.default_rng(seed)
        for error in options.errors:
            wrong = true_px + rng.normal(scale=error, size=true_px.shape)
            name = f'{error:g} px, seed {seed}'
            cases.append((name, dataclasses.replace(scan, positions_px=wrong), true_px))
    return cases


def _ours(
    scan: Scan, true_px: FloatArray | None, options: argparse.Namespace, refines: bool
) -> Row:
    refinement = RefinementConfig(
        iterations=options.iterations, positions=refines, probe=options.refine_probe
    )
    begun, begun_cpu = time.perf_counter(), time.process_time()
    found = create_backend(options.backend).refine(scan, refinement, device='cpu')
    return {
        'seconds': round(time.perf_counter() - begun, 1),
        'cpu_seconds': round(time.process_time() - begun_cpu, 1),
        'residual': found.amplitude_residual,
        **_errors(found.positions_px, scan.positions_px, true_px),
    }


def _errors(found: FloatArray, given: FloatArray, true_px: FloatArray | None) -> Row:
    errors = {'moved_px': _rms(found - given)}
    if true_px is not None:
        errors |= {'before_px': _rms(given - true_px), 'after_px': _rms(found - true_px)}
        rest = _without_affine(found - true_px, true_px)
        errors['farther_than_1_px'] = int((np.hypot(*rest.T) > 1).sum())
        errors['after_without_affine_px'] = _rms(_without_affine(found - true_px, true_px))
    return errors


def _without_affine(rest: FloatArray, true_px: FloatArray) -> FloatArray:
    design = np.column_stack([np.ones(len(true_px)), true_px])
    result: FloatArray = rest - design @ np.linalg.lstsq(design, rest, rcond=None)[0]
    return result


def _rms(rest: FloatArray) -> float:
    rest = rest - rest.mean(axis=0)
    return round(float(np.sqrt((rest**2).sum(axis=1).mean())), 4)


def _ptychi(scan: Scan, true_px: FloatArray | None, options: argparse.Namespace) -> Row:
    from ptychopinn_plugin.bench.rivals import run_ptychi

    rival = run_ptychi(
        scan,
        'lsqml',
        options.iterations,
        refine_positions=True,
        refine_probe=options.refine_probe,
    )
    return {
        'seconds': round(rival.seconds, 1),
        **_errors(rival.reconstruction.positions_px, scan.positions_px, true_px),
    }


if __name__ == '__main__':
    main()
