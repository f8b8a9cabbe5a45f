"""Which wrong patterns are found, and what the object gains without them.

    python benchmarks/outliers.py [--backend pytorch] [--real SCAN...]

Of a simulated scan two patterns are swapped, one is shifted by (3, -2) detector pixels, one has
twice the light and two show the beam without the object; the last rows are clean.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate, thin_scan
from ptychopinn_plugin.evaluation import evaluate

KINDS = ('swapped', 'swapped', 'shifted', 'doubled', 'blank', 'blank')


def spoil(scan: Scan, seed: int) -> tuple[Scan, dict[int, str]]:
    """Return a scan with wrong patterns, and which they are."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(len(scan), len(KINDS), replace=False)
    patterns = scan.patterns.astype(np.float32)
    patterns[numbers[[0, 1]]] = patterns[numbers[[1, 0]]]
    patterns[numbers[2]] = np.roll(patterns[numbers[2]], (3, -2), (0, 1))
    patterns[numbers[3]] *= 2
    far = sum(np.fft.fftshift(np.abs(np.fft.fft2(mode)) ** 2) for mode in scan.probe)
    patterns[numbers[4:]] = rng.poisson(far * scan.mean_counts() / far.sum(), (2, *far.shape))
    assert scan.pattern_indexes is not None
    wrong = dict(zip(scan.pattern_indexes[numbers].tolist(), KINDS, strict=True))
    return dataclasses.replace(scan, patterns=patterns), wrong


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--real', type=Path, nargs='*', default=[])
    options = parser.parse_args()
    backend = create_backend(options.backend)
    scans = {}
    for photons in (1e3, 1e4, 1e5):
        full = simulate(SimulationConfig(seed=2, n_positions=900, photons=photons))
        scans[f'5.5 px, {photons:.0e} counts'] = full.subset(np.arange(450))
        for every in (2, 3):
            scans[f'{5.5 * every} px, {photons:.0e} counts'] = thin_scan(full, every, 30)
    scans |= {path.stem: load_scan(path) for path in options.real}
    dropping = RefinementConfig(iterations=20, drop_outliers=True)
    for name, clean in scans.items():
        spoilt, wrong = spoil(clean, 5)
        found = backend.refine(spoilt, dropping)
        kept = backend.refine(spoilt, dropping.replace(drop_outliers=False))
        untouched = backend.refine(clean, dropping.replace(drop_outliers=False))
        listed = {outlier.pattern_index for outlier in found.dropped}
        by_mistake = len(untouched.pattern_fit.outliers) if untouched.pattern_fit else 0
        row = (
            f'{name}: {len(listed & set(wrong))} of {len(wrong)} found, '
            f'{len(listed - set(wrong))} others dropped of {len(clean)}; '
            f'missed {[kind for number, kind in wrong.items() if number not in listed]}; '
            f'clean: {by_mistake}'
        )
        if clean.object_ is not None:
            errors = [evaluate(result, clean).phase.mae for result in (kept, found, untouched)]
            row += '; phase error (rad) kept {:.3f}, dropped {:.3f}, clean {:.3f}'.format(*errors)
        print(row, flush=True)


if __name__ == '__main__':
    main()
