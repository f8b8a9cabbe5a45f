"""Time prediction, stitching and iterations of larger and larger scans: each must stay linear.

    python benchmarks/scaling.py 2000 10000 40000 [--backend pytorch]

Patterns are small (32 pixels), so that the canvas counts for much.
"""

import argparse

import numpy as np

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig, TrainingConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

SWEEPS = 2


def make_scan(n_positions: int) -> Scan:
    """Simulate a scan of small patterns."""
    return simulate(
        SimulationConfig(
            seed=2,
            size=32,
            step_px=4.0,
            jitter_px=1.0,
            pupil_radius=0.12,
            defocus=100.0,
            n_positions=n_positions,
        )
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('patterns', type=int, nargs='+')
    parser.add_argument('--backend', default='pytorch')
    options = parser.parse_args()
    backend = create_backend(options.backend)
    backend.train(
        [make_scan(1000)], Config(training=TrainingConfig(epochs=3, target_iterations=10))
    )
    for count in options.patterns:
        scan = make_scan(count)
        found = backend.reconstruct(scan, InferenceConfig(), RefinementConfig(iterations=SWEEPS))
        seconds = found.timing
        print(
            f'{count} patterns, canvas {found.object_.shape}; patterns/s: '
            f'predict {count / seconds["predict"]:.0f}, stitch {count / seconds["stitch"]:.0f}, '
            f'iteration {SWEEPS * count / seconds["refine"]:.0f}; '
            f'likelihood {np.round(found.likelihoods, 4).tolist()}'
        )


if __name__ == '__main__':
    main()
