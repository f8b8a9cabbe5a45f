"""Probes that wobble: with and without eigenmodes, beside Pty-Chi's own.

    python benchmarks/opr.py --output opr.json [--seeds 1 2 3] [--positions 400] [--skip-ptychi]

Each row is the mean of the seeds. Our iterations have two eigenmodes, without and with a correction
of the probe itself. Pty-Chi's LSQ-ML gets the seconds of those without, without eigenmodes of its
own and with them; with them the probe is corrected too. `load` is that of the machine at the end of
a row. Take one thread on a busy machine (OMP_NUM_THREADS=1).
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from ptychopinn_plugin import api
from ptychopinn_plugin.bench.rivals import run_ptychi
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.evaluation import evaluate

WOBBLES = (0.0, 0.1, 0.15, 0.2)
"""Each is the standard deviation of the probe, as a share of its amplitude."""

OPR_MODES = 2

TRIAL_EPOCHS = 4


def judge(found: Reconstruction, scan: Scan) -> dict[str, float]:
    """Return figures against the truth."""
    result = evaluate(found, scan)
    figures = {'phase_ssim': result.phase.ssim, 'amplitude_ssim': result.amplitude.ssim}
    if found.probe_variation is not None:
        figures['rms'] = found.probe_variation.rms(found.probe)
    return figures


def measure(config: SimulationConfig, *, against_ptychi: bool) -> dict[str, dict[str, float]]:
    """Reconstruct one scan in every way."""
    scan, rows, seconds = simulate(config), {}, 0.0
    settings = {
        'iterations': RefinementConfig(),
        'with eigenmodes and probe': RefinementConfig(opr_modes=OPR_MODES, probe=True),
        'with eigenmodes': RefinementConfig(opr_modes=OPR_MODES),
    }
    for way, refinement in settings.items():
        found = api.refine(scan, refinement, backend='pytorch')
        seconds = found.timing['refine']
        rows[way] = {**judge(found, scan), 'seconds': seconds}
    if against_ptychi:
        for way, modes in (('lsqml', 0), ('lsqml with eigenmodes', OPR_MODES)):
            options = {'opr_modes': modes, 'refine_probe': modes > 0}
            trial = run_ptychi(scan, 'lsqml', TRIAL_EPOCHS, **options)
            epochs = max(TRIAL_EPOCHS, round(seconds * trial.patterns_per_second / len(scan)))
            rival = run_ptychi(scan, 'lsqml', epochs, **options)
            rows[way] = judge(rival.reconstruction, scan)
            rows[way] |= {'seconds': rival.seconds, 'epochs': epochs}
    return rows


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the seeds that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: np.mean([row[name] for row in rows if name in row]) for name in names}
    return {name: round(float(value), 4) for name, value in means.items()}


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--positions', type=int, default=400)
    parser.add_argument('--wobbles', type=float, nargs='+', default=WOBBLES)
    parser.add_argument('--skip-ptychi', action='store_true')
    options = parser.parse_args()
    table = []
    for wobble in options.wobbles:
        found = [
            measure(
                SimulationConfig(n_positions=options.positions, probe_wobble=wobble, seed=seed),
                against_ptychi=not options.skip_ptychi,
            )
            for seed in options.seeds
        ]
        ways = {way: _mean([each[way] for each in found]) for way in found[0]}
        table.append({'wobble': wobble, 'load': os.getloadavg()[1], **ways})
        print(json.dumps(table[-1]), flush=True)
        options.output.write_text(json.dumps(table, indent=2), encoding='utf-8')


if __name__ == '__main__':
    main()
