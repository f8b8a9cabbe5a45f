"""One run on a card: every value beside the CPU's, rates beside their targets, memory, precisions.

    python benchmarks/gpu.py --output gpu.json [--device cuda] [--backend pytorch] [--quick]

It takes some minutes and writes one JSON; a part that fails is named in it, and the others go on.
With `--device cpu --quick` it runs anywhere, which tests the script and nothing else. Targets are
those that were set for an H100; a rate names the card on which it was measured.
"""

import argparse
import json
import platform
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

TARGETS = {
    'prediction + stitching, 64 px': 60_000,
    'prediction + stitching, 128 px': 20_000,
    'training, 64 px': 10_000,
    'warm reconstruction of 128 px, s': 1.0,
    'stitching, share of prediction': 0.2,
}
"""These are patterns a second, seconds, and a share, for 10,000 patterns."""

AGREEMENT = {'one iteration': 1e-4, 'ten iterations': 1e-2, 'prediction': 1e-3, 'losses': 1e-3}
"""Rounding explains relative differences between the card and the CPU of up to this."""


@dataclass(frozen=True)
class Run:
    """What is measured, and how much of it.

    Attributes
    ----------
    backend, device : str
    patterns : int
        Of the scans that are timed.
    batch_size : int
    """

    backend: str
    device: str
    patterns: int
    batch_size: int

    def scan(self, size: int) -> Scan:
        """Return a scan of patterns of this side in pixels."""
        return simulate(SimulationConfig(size=size, n_positions=self.patterns, seed=1))

    def config(self, **training: Any) -> Config:
        """Return the settings of one short training on the device."""
        values = {'epochs': 1, 'target': 'none', 'device': self.device, **training}
        return Config.from_dict({'training': values})

    def inference(self, **settings: Any) -> InferenceConfig:
        """Return the settings of a prediction on the device."""
        values = {'device': self.device, 'batch_size': self.batch_size, **settings}
        return InferenceConfig.from_dict({'test_time_rotations': 'one', **values})


def describe(run: Run) -> dict[str, Any]:
    """Return what computes."""
    found: dict[str, Any] = {'platform': platform.platform(), 'device': run.device}
    if run.backend == 'pytorch':
        import torch

        found['framework'] = f'torch {torch.__version__}'
        if run.device.startswith('cuda'):
            card = torch.cuda.get_device_properties(run.device)
            found |= {'card': card.name, 'gib': round(card.total_memory / 2**30, 1)}
    else:
        import tensorflow as tf

        found['framework'] = f'tensorflow {tf.__version__}'
        cards = tf.config.list_physical_devices('GPU')
        found['card'] = [tf.config.experimental.get_device_details(card) for card in cards]
    return found


def agreement(run: Run) -> dict[str, dict[str, Any]]:
    """Compare iterations, prediction and the losses of a training with the CPU's."""
    scan = simulate(SimulationConfig(n_positions=144, seed=2))
    found = {}

    def compare(what: str, compute: Callable[[str], Any]) -> None:
        ours, cpu = (np.asarray(compute(device)) for device in (run.device, 'cpu'))
        difference = float(np.abs(ours - cpu).max() / np.abs(cpu).max())
        limit = AGREEMENT[what]
        found[what] = {'difference': difference, 'limit': limit, 'agrees': difference <= limit}

    backend = create_backend(run.backend)
    for what, iterations in (('one iteration', 1), ('ten iterations', 10)):
        settings = RefinementConfig(iterations=iterations)
        compare(what, lambda device, s=settings: backend.refine(scan, s, device=device).object_)
    histories = {}
    for device in (run.device, 'cpu'):
        config = run.config(device=device, epochs=2)
        histories[device] = [row['loss'] for row in backend.train([scan], config).history]
    compare('losses', lambda device: histories[device])
    alone = RefinementConfig(iterations=0)
    compare(
        'prediction',
        lambda device: backend.reconstruct(scan, run.inference(device=device), alone).object_,
    )
    return found


def rates(run: Run) -> dict[str, dict[str, Any]]:
    """Time training, prediction with stitching and iterations; the second of two times counts."""
    found: dict[str, dict[str, Any]] = {}

    def put(what: str, value: float) -> None:
        found[what] = {'value': value, 'target': TARGETS.get(what)}

    alone = RefinementConfig(iterations=0)
    for size in (64, 128):
        scan, backend = run.scan(size), create_backend(run.backend)
        for _ in range(2):
            history = backend.train([scan], run.config(batch_size=run.batch_size)).history
        put(f'training, {size} px', history[-1]['patterns_per_second'])
        for _ in range(2):
            begun = time.perf_counter()
            timing = backend.reconstruct(scan, run.inference(), alone).timing
            warm_s = time.perf_counter() - begun
        both_s = timing['predict'] + timing['stitch']
        put(f'prediction + stitching, {size} px', len(scan) / both_s)
        put(f'warm reconstruction of {size} px, s', warm_s)
        if size == 64:
            put('stitching, share of prediction', timing['stitch'] / timing['predict'])
        settings = RefinementConfig(iterations=10, batch_size=run.batch_size)
        for _ in range(2):
            refined = backend.refine(scan, settings, device=run.device).timing['refine']
        put(f'iterations, {size} px', 10 * len(scan) / refined)
    return found


def precisions(run: Run) -> dict[str, dict[str, Any]]:
    """Train with each arithmetic: the rate, and the loss beside that of float32."""
    scan, found = run.scan(64), {}
    for precision in ('float32', 'bfloat16', 'float16'):
        backend = create_backend(run.backend)
        config = run.config(precision=precision, epochs=2, batch_size=run.batch_size)
        last = backend.train([scan], config).history[-1]
        found[precision] = {
            'patterns_per_second': last['patterns_per_second'],
            'loss': last['loss'],
        }
    return found


def memory(run: Run) -> dict[str, Any]:
    """Measure the largest memory of the card, and that less of it halves the batch and goes on."""
    if run.backend != 'pytorch' or not run.device.startswith('cuda'):
        return {'left_out': 'PyTorch on a card reports its memory.'}
    import torch

    scan, backend = run.scan(64), create_backend(run.backend)
    settings = RefinementConfig(iterations=2, batch_size=run.batch_size)
    torch.cuda.reset_peak_memory_stats()
    plain = backend.refine(scan, settings, device=run.device)
    peak = torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(run.device).total_memory
    # Amplitudes and shifted probes stay; what a batch takes does not fit any more.
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.8 * peak / total))
    try:
        short = backend.refine(scan, settings, device=run.device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    difference = float(np.abs(short.object_ - plain.object_).max())
    return {'peak_gib': peak / 2**30, 'difference_with_less_memory': difference}


PARTS: dict[str, Callable[[Run], Any]] = {
    'machine': describe,
    'agreement': agreement,
    'rates': rates,
    'precisions': precisions,
    'memory': memory,
}


def main() -> None:
    """Measure every part, and write what was found after each of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--batch-size', type=int, default=2048)
    parser.add_argument('--quick', action='store_true', help='256 patterns, to test the script')
    options = parser.parse_args()
    patterns = 256 if options.quick else 10_000
    batch_size = min(options.batch_size, patterns)
    run = Run(options.backend, options.device, patterns, batch_size)
    report: dict[str, Any] = {'patterns': patterns, 'batch_size': batch_size}
    for name, measure in PARTS.items():
        begun = time.perf_counter()
        try:
            report[name] = measure(run)
        except Exception:  # noqa: BLE001 - what failed is in the report, and a card is rare
            report[name] = {'failed': traceback.format_exc()}
        print(f'{name}: {time.perf_counter() - begun:.0f} s')
        options.output.write_text(json.dumps(report, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
