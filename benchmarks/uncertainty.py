"""How often the truth lies within the 90 % interval that each pixel states.

    python benchmarks/uncertainty.py [--seeds 3 4] [--backend pytorch] [--object dead-leaves]

The scans are those of benchmarks/quality.py, smaller, with the built-in model. Global phase and
scale are removed, and of the phase error also the slow part, which is no error of single pixels;
the last column is with it. Pixels with a quarter of the brightest coverage or more count.
"""

import argparse
import time

import numpy as np

from ptychopinn_plugin.array_types import BoolArray, FloatArray
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate, thin_scan
from ptychopinn_plugin.model_file import Model
from ptychopinn_plugin.physics.uncertainty import estimate_uncertainty

Z_90 = 1.6449
"""Within this many standard deviations 90 % of a normal distribution lie."""

LIT = 0.25
ORDER = 4
"""The slow part of a phase is a sum of cosines up to this order in y and x together."""


def errors(
    found: Reconstruction, scan: Scan
) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    """Return the errors of amplitude, phase, and phase without its slow part, and where to look."""
    assert scan.object_ is not None
    top, left = np.rint(found.origin_px).astype(int)
    height, width = found.object_.shape
    padded = np.pad(scan.object_, 128, constant_values=np.nan)
    true = padded[128 + top : 128 + top + height, 128 + left : 128 + left + width]
    lit = (found.coverage >= LIT) & np.isfinite(true)
    true = np.where(lit, true, 1)
    image = found.object_ * np.exp(-1j * np.angle((found.object_ * true.conj())[lit].sum()))
    image = image * (np.abs(image) * np.abs(true))[lit].sum() / (np.abs(image) ** 2)[lit].sum()
    phase = np.angle(image * true.conj())
    y, x = (np.arange(side) / side for side in phase.shape)
    cosines = [
        np.cos(np.pi * i * y)[:, np.newaxis] * np.cos(np.pi * j * x)
        for i in range(ORDER)
        for j in range(ORDER - i)
    ]
    weights = np.linalg.lstsq(np.stack([c[lit] for c in cosines], axis=1), phase[lit], rcond=None)
    slow = sum(weight * cosine for weight, cosine in zip(weights[0], cosines, strict=True))
    return np.abs(image) - np.abs(true), phase, phase - slow, lit


def test_scan(seed: int, photons: float, every: int, kind: str) -> Scan:
    """Return a scan whose steps are `every` times 5.5 px."""
    config = SimulationConfig(seed=seed, n_positions=900, photons=photons)
    full = simulate(config.replace(object_kind=kind))
    side = {1: 14, 2: 12}.get(every, 30)
    scan = full if every == 1 else thin_scan(full, every, 30)
    columns = -(-30 // every)
    rows = min(side, columns)
    return scan.subset(np.array([i * columns + j for i in range(rows) for j in range(rows)]))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, nargs='+', default=[3])
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--object', default='dead-leaves')
    parser.add_argument('--steps', type=int, nargs='+', default=[1, 2, 3, 4, 5])
    parser.add_argument('--photons', type=float, nargs='+', default=[1e3, 1e4, 1e5, 1e6])
    options = parser.parse_args()
    backend = create_backend(options.backend)
    backend.model = Model.built_in()
    settings = backend.model.config
    print(
        '| step, counts | amplitude error, stated | within | phase error, stated | within | all |'
    )
    print('|---|---|---|---|---|---|')
    for every in options.steps:
        for photons in options.photons:
            rows = []
            for seed in options.seeds:
                scan = test_scan(seed, photons, every, options.object)
                found = backend.reconstruct(scan, settings.inference, settings.refinement)
                amplitude, phase, fast, lit = errors(found, scan)
                if found.amplitude_std is None or found.phase_std is None:
                    continue
                stds = (found.amplitude_std[lit], found.phase_std[lit])
                started = time.perf_counter()
                overlap = found.provenance['course']['overlap']
                estimate_uncertainty(found.object_, found.coverage * photons, overlap, 1.0)
                rows.append(
                    [
                        *(np.sqrt(np.mean(part**2)) for part in (amplitude[lit], stds[0])),
                        np.mean(np.abs(amplitude[lit]) < Z_90 * stds[0]),
                        *(np.sqrt(np.mean(part**2)) for part in (fast[lit], stds[1])),
                        np.mean(np.abs(fast[lit]) < Z_90 * stds[1]),
                        np.mean(np.abs(phase[lit]) < Z_90 * stds[1]),
                        (time.perf_counter() - started) / sum(found.timing.values()),
                    ]
                )
            if not rows:
                print(f'| {5.5 * every} px, {photons:.0e} | none | | | | |')
                continue
            mean = np.mean(rows, axis=0)
            print(
                f'| {5.5 * every} px, {photons:.0e} | {mean[0]:.3f}, {mean[1]:.3f} | '
                f'{mean[2]:.2f} | {mean[3]:.3f}, {mean[4]:.3f} | {mean[5]:.2f} | {mean[6]:.2f} |'
                f' time {mean[7]:.1%}',
                flush=True,
            )


if __name__ == '__main__':
    main()
