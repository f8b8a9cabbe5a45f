"""Patterns one by one and in groups of four, as a published table has them (arXiv 2602.21361).

    python benchmarks/single_shots.py --beam curved --minutes 9 --output single_shots.json
    python benchmarks/single_shots.py --beam curved --minutes 0 --seeds 1 2 3 --objects phase
    python benchmarks/single_shots.py --rates 36 256 1024 4096

Trains on four dense scans of lines without phase (2116 patterns of 64 x 64 pixels at 10^9 counts),
then reconstructs other lines under the same beam: 36 patterns each alone, and 9 groups of four
neighbours, with the trained network, the built-in model and iterations from a flat object in the
same run. The amplitude SSIM is that of the middles of all patches, side by side, and so is that of
the phase, where each patch gets the truth's mean phase, as nothing else fixes it.
Nothing but the network and the data decides: the total variation is left out, and nothing is
known of the object, unless `--object-type` states it; with 'auto' starts are tried.
`--counts` changes the dose, `--objects` the kind of object: lines without phase, the same lines as
a phase of up to 2 rad, or what the corpus of the prior draws. With `--rates`, copies of 36 patterns
are reconstructed, and patterns a second are printed, with the shares of passes and iterations; the
seconds of the processor are those that one thread computed, whatever else the machine did.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, ObjectType, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, one_by_one
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.metrics import ssim
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.pretraining.evaluation import MOSAIC_PX, mosaic_ssim
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


PHASE_RAD = 2.0
"""The lines of a phase object turn the phase by up to this."""


def draw(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> ComplexArray:
    """Draw an object: 'lines', 'phase' or 'corpus'."""
    if kind == 'corpus':
        return draw_object(rng, shape)
    lines = draw_lines(rng, shape)
    return lines if kind == 'lines' else np.exp(1j * PHASE_RAD * lines.real)


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
    object_ = draw(options.objects, np.random.default_rng(seed), (edge, edge))
    return simulate(config, object_=object_, probe=make_probe(options.beam))


def phase_ssim(found: Reconstruction, scan: Scan, tile_centres_px: FloatArray) -> float:
    """Return the SSIM of the phases of the middles of all patches, each with the truth's mean."""
    truth, image = [], []
    for y, x in np.floor(tile_centres_px + 0.5).astype(int) - MOSAIC_PX // 2:
        shift = np.rint(found.origin_px).astype(int)
        true = scan.object_[y : y + MOSAIC_PX, x : x + MOSAIC_PX]
        y, x = y - shift[0], x - shift[1]
        tile = found.object_[y : y + MOSAIC_PX, x : x + MOSAIC_PX]
        middle = np.exp(-1j * np.angle(true.mean()))
        aligned = tile * np.exp(-1j * np.angle((tile * true.conj()).sum()))
        truth.append(np.angle(true * middle))
        image.append(np.angle(aligned * middle))
    side = int(np.sqrt(len(truth)))
    joined = [
        np.vstack([np.hstack(tiles[row : row + side]) for row in range(0, side * side, side)])
        for tiles in (image, truth)
    ]
    return float(ssim(*joined))


class Judge:
    """Reconstructs the test scans, and compares.

    Parameters
    ----------
    options : Namespace
    seed : int
        Of the test objects.
    """

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self._has_phase = options.objects != 'lines'
        self.alone = one_by_one(make_scan(options, 6, SIZE, 2000 + seed))
        self.groups, self.centres = _groups_of_four(options, seed)

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
            if self._has_phase:
                scores[f'{what}, phase'] = round(phase_ssim(found, scan, centres), 3)
        return scores


def _groups_of_four(options: argparse.Namespace, seed: int) -> tuple[Scan, FloatArray]:
    """Return a scan of groups that share nothing, and the middle of each group."""
    side = int(np.sqrt(GROUPS))
    pitch = int(np.ceil(SIZE / STEP_PX)) + 1
    columns = (side - 1) * pitch + 2
    scan = make_scan(options, columns, STEP_PX, 3000 + seed)
    lines = (np.arange(side)[:, None] * pitch + np.arange(2)).ravel()
    scan = scan.subset((lines[:, None] * columns + lines).ravel())
    nearby = scan.positions_px.reshape(side, 2, side, 2, 2)
    return scan, nearby.mean(axis=(1, 3)).reshape(-1, 2)


def train(options: argparse.Namespace) -> Backend:
    """Train on dense scans of other objects."""
    seed = options.seeds[0]
    scans = [
        make_scan(options, TRAINING_SIDE, STEP_PX, 1000 * seed + number)
        for number in range(TRAINING_SCANS)
    ]
    config = Config.from_toml(options.config) if options.config else Config()
    config = config.replace(
        training=config.training.replace(max_minutes=options.minutes, seed=seed)
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


def write(options: argparse.Namespace, rows: dict[str, Any]) -> None:
    """Write the rows with the machine, the date and the options."""
    if options.output:
        machine = f'{platform.processor()} {os.cpu_count()} cores'
        settings = {name: str(value) for name, value in vars(options).items()}
        rows |= {'machine': machine, 'date': time.strftime('%Y-%m-%d'), 'settings': settings}
        options.output.write_text(json.dumps(rows, indent=2))


def measure_rates(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time the built-in model and iterations on many patterns, each alone."""
    few = one_by_one(make_scan(options, 6, SIZE, 2000 + options.seeds[0]))
    backend, rows = create_backend(options.backend), {}
    backend.model = Model.built_in()
    cpu = InferenceConfig(device=options.device)
    plain = RefinementConfig(total_variation=0.0, object_type=options.object_type)
    hundred = plain.replace(iterations=100)
    backend.reconstruct(few, cpu, plain)
    for count in options.rates:
        patterns = few.patterns[np.arange(count) % len(few)]
        many = one_by_one(Scan(patterns, np.zeros((count, 2)), few.probe))
        for way, reconstruct in (
            ('built-in', lambda scan: backend.reconstruct(scan, cpu, plain)),
            ('flat + 100', lambda scan: backend.refine(scan, hundred, device=options.device)),
        ):
            started, computed = time.perf_counter(), time.process_time()
            found = reconstruct(many)
            seconds = time.perf_counter() - started
            computed = time.process_time() - computed
            done = sum(found.provenance['course']['done'])
            rows[f'{way}, {count}'] = {
                'seconds': round(seconds, 2),
                'patterns_per_second': round(count / seconds, 1),
                'processor_s': round(computed, 2),
                'patterns_per_processor_second': round(count / computed, 1),
                'passes_s': round(found.timing.get('predict', 0.0), 2),
                'iterations_s': round(found.timing['refine'], 2),
                'iterations': done,
            }
            print(f'{way:12s} {count:5d} {rows[f"{way}, {count}"]}', flush=True)
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--beam', choices=sorted(CURVATURES), default='curved')
    parser.add_argument('--counts', type=float, default=1e9)
    parser.add_argument('--objects', choices=('lines', 'phase', 'corpus'), default='lines')
    parser.add_argument('--object-type', choices=get_args(ObjectType), default='complex')
    parser.add_argument('--minutes', type=float, default=9, help='0 does not train')
    parser.add_argument('--seeds', type=int, nargs='*', default=[1], help='the first trains')
    parser.add_argument('--rates', type=int, nargs='*', help='numbers of patterns, to be timed')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--config', type=Path)
    parser.add_argument('--model', type=Path, help='use this model instead of training')
    parser.add_argument('--save', type=Path, help='write the model here')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    if options.rates:
        write(options, measure_rates(options))
        return
    judges = [Judge(options, seed) for seed in options.seeds]
    cpu = InferenceConfig(device=options.device)
    plain = RefinementConfig(total_variation=0.0, object_type=options.object_type)
    backend = create_backend(options.backend)
    rows = {}

    def note(way: str, reconstruct: Reconstructing) -> None:
        scores = [judge.score(reconstruct) for judge in judges]
        rows[way] = {
            what: round(float(np.mean([s[what] for s in scores])), 3) for what in scores[0]
        }
        rows[f'{way}, each seed'] = scores
        print(f'{options.beam} {options.counts:.0e} {way:24s} {rows[way]}', flush=True)

    backend.model = Model.built_in()
    note('built-in', lambda scan: backend.reconstruct(scan, cpu, plain))
    for count in (100, 300):
        refinement = plain.replace(iterations=count)
        note(
            f'flat + {count}', lambda scan, refinement=refinement: backend.refine(scan, refinement)
        )
    if options.model or options.minutes:
        if options.model:
            backend.open_model(options.model)
        else:
            backend = train(options)
        for count in (0, 10, 30, 100):
            refinement = plain.replace(iterations=count)
            note(
                f'trained + {count}',
                lambda scan, refinement=refinement: backend.reconstruct(scan, cpu, refinement),
            )
    write(options, rows)


if __name__ == '__main__':
    main()
