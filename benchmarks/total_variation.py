"""What a total variation does for objects of all kinds, where illuminations overlap little.

    python benchmarks/total_variation.py --output total_variation.json

Objects of each kind that the corpus of the learned prior has, under the probe of the benchmarks,
with middling strength: amplitudes from 0.4 to 1, phases over 1.5 rad. The built-in model and
iterations from a flat start, by their plans, with each weight of the total variation. Phase and
amplitude SSIM, a row for each scan and kind, and their means.
"""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, make_path, simulate, thin_scan
from ptychopinn_plugin.evaluation import evaluate
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.pretraining.objects import OBJECT_KINDS, spread

SIDE, STEP_PX, SIZE = 32, 5.5, 64
DEPTH, PHASE_RAD = 0.6, 1.5


def make_scan(kind: str, every: int, photons: float, seed: int) -> Scan:
    """Simulate an object of a kind, and thin its scan."""
    config = SimulationConfig(seed=seed, n_positions=SIDE**2, photons=photons)
    extent = make_path(config).extent_px
    shape = tuple(int(np.ceil(side)) + SIZE + 2 for side in extent)
    # Each kind has random numbers of its own, whichever kinds are measured.
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    first, second = (spread(image) for image in OBJECT_KINDS[kind][1](rng, shape))
    object_ = (1 - DEPTH * first) * np.exp(1j * PHASE_RAD * (second - 0.5))
    return thin_scan(simulate(config, object_=object_), every, SIDE)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=5)
    parser.add_argument('--every', type=int, nargs='*', default=[3, 4, 5], help='thinned to each')
    parser.add_argument('--photons', type=float, default=1e5)
    parser.add_argument('--weights', type=float, nargs='*', default=[0.0, 0.25, 0.5])
    parser.add_argument('--kinds', nargs='*', default=list(OBJECT_KINDS))
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    backend = create_backend(options.backend)
    backend.model = Model.built_in()
    results = []
    photons = options.photons
    for every in options.every:
        for kind in options.kinds:
            scan = make_scan(kind, every, photons, options.seed)
            row: dict[str, object] = {'step': every * STEP_PX, 'photons': photons, 'kind': kind}
            for weight in options.weights:
                refinement = RefinementConfig(total_variation=weight)
                ways = {
                    'built-in': backend.reconstruct(
                        scan, InferenceConfig(device='cpu'), refinement
                    ),
                    'flat': backend.refine(scan, refinement, device='cpu'),
                }
                for way, found in ways.items():
                    result = evaluate(found, scan)
                    row[f'{way} {weight:g}'] = [
                        round(result.phase.ssim, 3),
                        round(result.amplitude.ssim, 3),
                    ]
            results.append(row)
            print(row, flush=True)
        rows = results[-len(options.kinds) :]
        for name in [name for name in rows[0] if name not in ('step', 'photons', 'kind')]:
            phase, amplitude = np.mean([row[name] for row in rows], axis=0)
            print(f'{every * STEP_PX} px, {photons:g}: {name}: {phase:.3f} / {amplitude:.3f}')
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
