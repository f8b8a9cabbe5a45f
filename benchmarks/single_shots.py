"""Patterns one by one and in groups of four, as a published table has them (arXiv 2602.21361).

    python benchmarks/single_shots.py --beam curved --minutes 9 --output single_shots.json

Trains on four dense scans of lines without phase (2116 patterns of 64 x 64 pixels at 10^9 counts),
then reconstructs other lines under the same beam: 36 patterns each alone, and 9 groups of four
neighbours, with the trained network, the built-in model and iterations from a flat object in the
same run. The amplitude SSIM is that of the middles of all patches, side by side. `--counts`
changes the dose, `--objects` the kind of object (lines, or what the corpus of the prior draws).
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, one_by_one
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.pretraining.evaluation import mosaic_ssim
from ptychopinn_plugin.pretraining.objects import draw_lines, draw_object
from ptychopinn_plugin.pretraining.probes import curved_probe

Reconstructing = Callable[[Scan], Reconstruction]

SIZE, STEP_PX = 64, 4.0
CURVATURES = {'curved': 0.6, 'flat': 0.0, 'uneven': 0.0}
TRAINING_SIDE, TRAINING_SCANS = 23, 4
SINGLE_SHOTS, GROUPS = 36, 9


def make_probe(beam: str) -> ComplexArray:
    """Make a beam that holds 90 % of its energy within 23 pixels.

    That of 'uneven' has a flat phase as well, but is brighter on one side: where a beam of flat
    phase is the same after a rotation by 180 degrees, a pattern does not distinguish an object
    without phase from its twin, the object rotated by 180 degrees.
    """
    probe = curved_probe(SIZE, width_px=26.0, edge=0.15, curvature=CURVATURES[beam])
    if beam != 'uneven':
        return probe
    y, x = (np.indices((SIZE, SIZE)) - SIZE // 2) / 13
    lobe = np.exp(-((x - 0.45) ** 2 + (y + 0.3) ** 2) / 0.3)
    return np.asarray(probe * (0.6 + 0.25 * x + 0.15 * y).clip(min=0.1) * (1 + 0.8 * lobe))


def make_scan(options: argparse.Namespace, side: int, step_px: float, seed: int) -> Scan:
    """Simulate a raster of side x side positions over a new object."""
    config = SimulationConfig(
        size=SIZE,
        path_kind='raster',
        rows=side,
        columns=side,
        step_px=step_px,
        photons=options.counts,
        seed=seed,
    )
    edge = int(np.ceil((side - 1) * step_px)) + SIZE + 16
    draw = draw_lines if options.objects == 'lines' else draw_object
    object_ = draw(np.random.default_rng(seed), (edge, edge))
    return simulate(config, object_=object_, probe=make_probe(options.beam))


class Judge:
    """Reconstructs the test scans, and compares.

    Parameters
    ----------
    options : Namespace
    """

    def __init__(self, options: argparse.Namespace) -> None:
        alone = make_scan(options, 6, SIZE, 2000 + options.seed)
        self.alone = one_by_one(alone)
        self.groups, self.centres = _groups_of_four(options)

    def score(self, reconstruct: Reconstructing) -> dict[str, float]:
        """Return the SSIM of patterns alone and of groups, and the seconds of both."""
        scores: dict[str, float] = {}
        for what, scan, centres in (
            ('one by one', self.alone, self.alone.positions_px),
            ('groups of four', self.groups, self.centres),
        ):
            started = time.perf_counter()
            found = reconstruct(scan)
            scores[f'{what}, s'] = round(time.perf_counter() - started, 2)
            scores[what] = round(mosaic_ssim(found, scan, centres), 3)
        return scores


def _groups_of_four(options: argparse.Namespace) -> tuple[Scan, FloatArray]:
    """Return a scan of groups that share nothing, and the middle of each group."""
    side = int(np.sqrt(GROUPS))
    pitch = int(np.ceil(SIZE / STEP_PX)) + 1
    columns = (side - 1) * pitch + 2
    scan = make_scan(options, columns, STEP_PX, 3000 + options.seed)
    lines = (np.arange(side)[:, None] * pitch + np.arange(2)).ravel()
    scan = scan.subset((lines[:, None] * columns + lines).ravel())
    nearby = scan.positions_px.reshape(side, 2, side, 2, 2)
    return scan, nearby.mean(axis=(1, 3)).reshape(-1, 2)


def train(options: argparse.Namespace) -> Backend:
    """Train on dense scans of other objects."""
    scans = [
        make_scan(options, TRAINING_SIDE, STEP_PX, 1000 * options.seed + number)
        for number in range(TRAINING_SCANS)
    ]
    config = Config.from_toml(options.config) if options.config else Config()
    config = config.replace(
        training=config.training.replace(max_minutes=options.minutes, seed=options.seed)
    )
    backend, last = create_backend(options.backend), [0.0]

    def show(progress: Progress) -> None:
        if time.perf_counter() - last[0] > 30:
            last[0] = time.perf_counter()
            print(progress.stage, f'{progress.step}/{progress.total}', flush=True)

    trained = backend.train(scans, config, observer=show)
    print(f'{len(trained.history)} epochs', trained.history[-1], flush=True)
    if options.save:
        backend.save_model(options.save)
    return backend


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--beam', choices=sorted(CURVATURES), default='curved')
    parser.add_argument('--counts', type=float, default=1e9)
    parser.add_argument('--objects', choices=('lines', 'corpus'), default='lines')
    parser.add_argument('--minutes', type=float, default=9, help='0 does not train')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--config', type=Path)
    parser.add_argument('--model', type=Path, help='use this model instead of training')
    parser.add_argument('--save', type=Path, help='write the model here')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    judge = Judge(options)
    cpu, plain = InferenceConfig(device='cpu'), RefinementConfig()
    backend = create_backend(options.backend)
    rows = {}

    def note(way: str, reconstruct: Reconstructing) -> None:
        rows[way] = judge.score(reconstruct)
        print(f'{options.beam} {options.counts:.0e} {way:24s} {rows[way]}', flush=True)

    backend.model = Model.built_in()
    note('built-in', lambda scan: backend.reconstruct(scan, cpu, plain))
    for count in (100, 300):
        refinement = RefinementConfig(iterations=count)
        note(
            f'flat + {count}', lambda scan, refinement=refinement: backend.refine(scan, refinement)
        )
    if options.model or options.minutes:
        if options.model:
            backend.open_model(options.model)
        else:
            backend = train(options)
        for count in (0, 10, 30, 100):
            refinement = RefinementConfig(iterations=count)
            note(
                f'trained + {count}',
                lambda scan, refinement=refinement: backend.reconstruct(scan, cpu, refinement),
            )
    if options.output:
        machine = f'{platform.processor()} {os.cpu_count()} cores'
        settings = {name: str(value) for name, value in vars(options).items()}
        rows |= {'machine': machine, 'date': time.strftime('%Y-%m-%d'), 'settings': settings}
        options.output.write_text(json.dumps(rows, indent=2))


if __name__ == '__main__':
    main()
