"""Compare the speed of the backends: in turns, on one machine, in one run.

    python benchmarks/backends.py [--rounds 5] [--size 64] [--architecture sweepnet] [--json FILE]

Each round trains an epoch, predicts and iterates with every backend, one right after the other,
so that whatever else the machine does weighs on all of them. The first round is not counted: there
frameworks compile. Prints the median rate of each and the median of the ratios of a round.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from statistics import median

from ptychopinn_plugin.backends.selection import create_backend, find_backends
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

Rates = dict[str, float]


def measure(name: str, scan: Scan, config: Config, iterations: int) -> Rates:
    """Return patterns a second of an epoch, a prediction and iterations."""
    backend = create_backend(name)
    trained = backend.train([scan], config)
    device = config.training.device
    alone = backend.reconstruct(
        scan, InferenceConfig(device=device), RefinementConfig(iterations=0)
    )
    refined = backend.refine(scan, RefinementConfig(iterations=iterations), device=device)
    return {
        'training': trained.history[-1]['patterns_per_second'],
        'network': len(scan) * trained.model.network.passes / alone.timing['predict'],
        'prediction with stitching': len(scan) / (alone.timing['predict'] + alone.timing['stitch']),
        'iterations': len(scan) * iterations / refined.timing['refine'],
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--size', type=int, default=64)
    parser.add_argument('--patterns', type=int, default=512)
    parser.add_argument('--architecture', default='sweepnet')
    parser.add_argument('--gridsize', type=int, default=1)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--iterations', type=int, default=10)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--json', type=Path)
    options = parser.parse_args()
    scan = simulate(SimulationConfig(size=options.size, n_positions=options.patterns))
    training = {
        'epochs': 1,
        'target': 'none',
        'device': options.device,
        'batch_size': options.batch_size,
    }
    model = {'architecture': options.architecture, 'gridsize': options.gridsize}
    config = Config.from_dict({'training': training, 'model': model})
    names = [name for name, spec in find_backends().items() if spec.problem() is None]
    rounds: list[dict[str, Rates]] = []
    for number in range(options.rounds + 1):
        rates = {name: measure(name, scan, config, options.iterations) for name in names}
        print(f'round {number}', {name: round(r['training']) for name, r in rates.items()})
        rounds += [rates] if number else []
    print(f'{platform.processor()}, {os.cpu_count()} cores; patterns a second')
    rows = {}
    for what in rounds[0][names[0]]:
        rows[what] = {name: median(r[name][what] for r in rounds) for name in names}
        ratio = median(r[names[-1]][what] / r[names[0]][what] for r in rounds)
        rows[what][f'{names[-1]} / {names[0]}'] = ratio
        print(f'{what:28s}', {name: round(value, 2) for name, value in rows[what].items()})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == '__main__':
    main()
