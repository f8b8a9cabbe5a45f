"""Train on real scans and reconstruct them: pictures and relative amplitude residuals.

    python benchmarks/real.py DATA --output DIR --minutes 4

The probes in such files are guesses, so target, training and iterations correct them.

DATA is a folder of NPZ scans in Ptychodus' layout; for each, DIR/NAME gets `network.png`,
`refined.png`, `flat.png` (iterations alone) and `metrics.json`.
"""

import argparse
import json
from pathlib import Path

from ptychopinn_plugin.backends.common.iteration_plan import ITERATIONS
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import load_scan
from ptychopinn_plugin.plots import plot_reconstruction


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--minutes', type=float, default=5)
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--iterations', type=int, default=ITERATIONS)
    parser.add_argument('--only', help='the name of one scan')
    options = parser.parse_args()
    for path in sorted(options.data.glob('*.npz')):
        if options.only not in (None, path.stem):
            continue
        folder = options.output / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        scan = load_scan(path)
        backend = create_backend(options.backend)
        config = Config()
        config = config.replace(
            training=config.training.replace(max_minutes=options.minutes, probe_trainable=True)
        )
        backend.train([scan], config)
        refinement = RefinementConfig(iterations=options.iterations, probe=True)
        results = {
            'network': backend.reconstruct(scan, InferenceConfig(), RefinementConfig(iterations=0)),
            'refined': backend.reconstruct(scan, InferenceConfig(), refinement),
            'flat': backend.refine(scan, refinement),
        }
        metrics = {}
        for name, result in results.items():
            plot_reconstruction(result, folder / f'{name}.png')
            metrics[name] = {
                'amplitude_residual': result.amplitude_residual,
                'seconds': sum(result.timing.values()),
            }
        (folder / 'metrics.json').write_text(json.dumps(metrics, indent=2))
        print(path.name, json.dumps(metrics))


if __name__ == '__main__':
    main()
