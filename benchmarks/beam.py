"""Beams that drift and flicker: with and without intensities of their own, beside Pty-Chi.

    python benchmarks/beam.py --output beam.json [--seeds 1 2 3] [--positions 400] [--skip-ptychi]

Each row is the mean of the seeds. Pty-Chi's LSQ-ML gets the seconds of our iterations with
intensities, without its own correction of intensities and with it. Take one thread on a busy
machine (OMP_NUM_THREADS=1).
"""

import argparse
import json
from pathlib import Path

import numpy as np

from ptychopinn_plugin import api
from ptychopinn_plugin.bench.rivals import run_ptychi
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, beam_intensities, simulate
from ptychopinn_plugin.evaluation import evaluate

BEAMS = ((0.0, 0.0), (0.0, 0.05), (0.05, 0.0), (0.1, 0.0), (0.3, 0.0), (-0.5, 0.05))
"""Each beam drifts from the first pattern to the last, and flickers, as in `SimulationConfig`."""

TRIAL_EPOCHS = 4


def judge(found: Reconstruction, scan: Scan, true: np.ndarray) -> dict[str, float]:
    """Return figures against the truth; the error is that of the log intensities."""
    result = evaluate(found, scan)
    figures = {'phase_ssim': result.phase.ssim, 'amplitude_ssim': result.amplitude.ssim}
    if found.intensities is not None:
        figures['log_error'] = float(np.std(np.log(found.intensities / true)))
    if found.beam_variation is not None:
        figures['reported_variation'] = found.beam_variation
    return figures


def measure(config: SimulationConfig, *, against_ptychi: bool) -> dict[str, dict[str, float]]:
    """Reconstruct one scan in every way."""
    scan, rows, seconds = simulate(config), {}, 0.0
    true = beam_intensities(config, len(scan))
    for way, refines in (('iterations', False), ('with intensities', True)):
        found = api.refine(scan, RefinementConfig(intensities=refines), backend='pytorch')
        seconds = found.timing['refine']
        rows[way] = {**judge(found, scan, true), 'seconds': seconds}
    if against_ptychi:
        for way, refines in (('lsqml', False), ('lsqml with intensities', True)):
            trial = run_ptychi(scan, 'lsqml', TRIAL_EPOCHS, refine_intensities=refines)
            epochs = max(TRIAL_EPOCHS, round(seconds * trial.patterns_per_second / len(scan)))
            rival = run_ptychi(scan, 'lsqml', epochs, refine_intensities=refines)
            rows[way] = judge(rival.reconstruction, scan, true)
            rows[way] |= {'seconds': rival.seconds, 'epochs': epochs}
    return rows


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the seeds that have it; a steady beam has no report."""
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: np.mean([row[name] for row in rows if name in row]) for name in names}
    reported = sum('reported_variation' in row for row in rows)
    return {name: round(float(value), 4) for name, value in means.items()} | {'reported': reported}


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--positions', type=int, default=400)
    parser.add_argument('--skip-ptychi', action='store_true')
    options = parser.parse_args()
    table = []
    for drift, flicker in BEAMS:
        found = [
            measure(
                SimulationConfig(
                    n_positions=options.positions, beam_drift=drift, beam_flicker=flicker, seed=seed
                ),
                against_ptychi=not options.skip_ptychi,
            )
            for seed in options.seeds
        ]
        ways = {way: _mean([each[way] for each in found]) for way in found[0]}
        row = {'drift': drift, 'flicker': flicker, **ways}
        table.append(row)
        print(json.dumps(row), flush=True)
        options.output.write_text(json.dumps(table, indent=2), encoding='utf-8')


if __name__ == '__main__':
    main()
