"""Train once, then reconstruct unseen scans: dense, faint, and with little overlap.

    python benchmarks/quality.py --minutes 9 --output results.json [--backend pytorch] [--ptychi]

Prints a row a scan: network alone, network and iterations, iterations from a flat start; with
--ptychi also Pty-Chi's rPIE and LSQ-ML on the dense scan in the same run. With --planned, the plans
that nobody has overruled are compared instead: those of the trained network with and without the
passes of the built-in model, and that of the built-in model alone.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np

from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate, thin_scan
from ptychopinn_plugin.evaluation import evaluate
from ptychopinn_plugin.model import Model


def test_scans(seed: int) -> dict[str, Scan]:
    """Simulate the unseen scans; the object is another one than in training."""
    bright = simulate(SimulationConfig(seed=seed + 1, n_positions=1024))
    faint = simulate(SimulationConfig(seed=seed + 1, n_positions=1024, photons=1e4))
    scans = {'5.5 px, 1e5 counts': bright, '5.5 px, 1e4 counts': faint}
    for every in (3, 4, 5):
        scans[f'{5.5 * every} px, 1e5 counts'] = thin_scan(bright, every, 32)
    for every in (3, 5):
        scans[f'{5.5 * every} px, 1e4 counts'] = thin_scan(faint, every, 32)
    return scans


def score(reconstruction: Reconstruction, scan: Scan) -> dict[str, float]:
    """Return phase and amplitude SSIM, FRC-0.5, seconds and patterns a second."""
    result = evaluate(reconstruction, scan)
    seconds = sum(reconstruction.timing.values())
    return {
        'phase_ssim': round(result.phase.ssim, 3),
        'amplitude_ssim': round(result.amplitude.ssim, 3),
        'frc_0.5': round(float(result.ring_correlation.crossing(0.5)), 3),
        'residual': round(reconstruction.amplitude_residual, 5),
        'seconds': round(seconds, 2),
        'patterns_per_second': round(len(scan) / seconds) if seconds else 0,
    }


def measure(backend: Backend, scan: Scan, iterations: list[int]) -> dict[str, dict[str, float]]:
    """Reconstruct one scan in every way."""
    backend.reconstruct(
        scan.subset(np.arange(min(64, len(scan)))),
        InferenceConfig(),
        RefinementConfig(iterations=0),
    )
    rows = {}
    for count in (0, *iterations):
        # The tables compare networks and iterations, neither helped by anything else.
        refinement = RefinementConfig(iterations=count, total_variation=0.0)
        found = backend.reconstruct(scan, InferenceConfig(), refinement)
        rows[f'network + {count}'] = score(found, scan)
        if count:
            assert np.all(np.diff(found.likelihoods) <= 0)
            flat = backend.refine(scan, refinement)
            rows[f'flat + {count}'] = score(flat, scan)
            rows[f'flat + {count}']['iteration_patterns_per_second'] = round(
                len(scan) * count / flat.timing['refine']
            )
    return rows


def measure_planned(backend: Backend, scan: Scan) -> dict[str, dict[str, float]]:
    """Reconstruct one scan by the plans of the trained network and of the built-in model."""
    built_in = create_backend(backend.name)
    built_in.model = Model.built_in()
    cpu = InferenceConfig(device='cpu')
    ways = {
        'network, no prior': (backend, cpu.replace(prior_passes=0)),
        'network and prior': (backend, cpu),
        'built-in': (built_in, cpu),
    }
    return {
        way: score(one.reconstruct(scan, inference, RefinementConfig()), scan)
        for way, (one, inference) in ways.items()
    }


def measure_ptychi(scan: Scan) -> dict[str, dict[str, float]]:
    """Run Pty-Chi on one scan."""
    from ptychopinn_plugin.bench.rivals import run_ptychi

    rows = {}
    for engine, epochs in (('rpie', 10), ('rpie', 100), ('lsqml', 10), ('lsqml', 100)):
        rival = run_ptychi(scan, engine, epochs)
        rows[f'ptychi {engine} {epochs}'] = {
            **score(rival.reconstruction, scan),
            'seconds': round(rival.seconds, 2),
            'iteration_patterns_per_second': round(rival.patterns_per_second),
        }
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=9)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--config', type=Path)
    parser.add_argument('--model', type=Path, help='use this model instead of training')
    parser.add_argument('--save', type=Path, help='write the model here')
    parser.add_argument('--output', type=Path)
    parser.add_argument('--iterations', type=int, nargs='*', default=[10, 30, 100])
    parser.add_argument('--ptychi', action='store_true')
    parser.add_argument('--planned', action='store_true')
    options = parser.parse_args()
    backend = create_backend(options.backend)
    config = Config.from_toml(options.config) if options.config else Config()
    config = config.replace(
        training=config.training.replace(max_minutes=options.minutes, seed=options.seed)
    )
    results: dict[str, object] = {
        'machine': f'{platform.processor()} {os.cpu_count()} cores',
        'date': time.strftime('%Y-%m-%d'),
        'minutes': options.minutes,
    }
    if options.model:
        backend.open_model(options.model)
    else:
        last = [0.0]

        def show(progress: Progress) -> None:
            if time.perf_counter() - last[0] > 30:
                last[0] = time.perf_counter()
                print(progress.stage, f'{progress.step}/{progress.total}', dict(progress.losses))

        trained = backend.train(
            [simulate(SimulationConfig(seed=options.seed))], config, observer=show
        )
        results['history'] = [dict(row) for row in trained.history]
        print({name: round(value, 4) for name, value in trained.history[-1].items()})
        if options.save:
            backend.save_model(options.save)
    scans = test_scans(options.seed)
    for name, scan in scans.items():
        if options.planned:
            rows = measure_planned(backend, scan)
        else:
            rows = measure(backend, scan, options.iterations)
        results[name] = rows
        for way, row in rows.items():
            print(f'{name:22s} {way:14s} {row}', flush=True)
    if options.ptychi:
        rows = measure_ptychi(scans['5.5 px, 1e5 counts'])
        results['ptychi'] = rows
        for way, row in rows.items():
            print(way, row)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


if __name__ == '__main__':
    main()
