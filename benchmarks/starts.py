"""What trials of starts do for patterns that stand alone, with objects of several kinds.

    python benchmarks/starts.py --output starts.json

36 patterns of 64 x 64 pixels under the curved beam of `single_shots.py`, each reconstructed alone:
iterations and the built-in model by their plans, from a flat object and from the best of three
starts. The objects are lines of random direction, width and value: as an amplitude without phase,
as a phase of up to 2 rad, as that phase with a tenth or two fifths of absorption, and as an
amplitude with a phase of up to 1 rad; and objects of all kinds from the corpus. A row has the
start that was chosen for each seed, and the mean amplitude and phase SSIM of the middles of all
patches, where each patch gets the truth's mean phase.
"""

import argparse
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import single_shots

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Scan, one_by_one
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.pretraining.evaluation import mosaic_ssim
from ptychopinn_plugin.pretraining.objects import draw_lines, draw_object

KINDS = ('lines', 'phase', 'phase, 0.1', 'phase, 0.4', 'both', 'corpus')


def draw(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> ComplexArray:
    """Draw an object of one of `KINDS`."""
    if kind == 'corpus':
        return draw_object(rng, shape)
    lines = draw_lines(rng, shape).real
    if kind in ('lines', 'both'):
        return np.asarray(lines * np.exp(1j * lines * (kind == 'both')))
    absorption = float(kind.partition(',')[2] or 0)
    return np.asarray((1 - absorption * lines) * np.exp(1j * single_shots.PHASE_RAD * lines))


def make_scan(kind: str, counts: float, seed: int) -> Scan:
    """Simulate patterns that share nothing."""
    options = Namespace(beam='curved', counts=counts, objects=kind)
    return one_by_one(single_shots.make_scan(options, 6, single_shots.SIZE, 2000 + seed))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--counts', type=float, nargs='*', default=[1e9, 1e6, 1e5])
    parser.add_argument('--kinds', nargs='*', default=list(KINDS))
    parser.add_argument('--seeds', type=int, nargs='*', default=[1, 2, 3])
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    single_shots.draw = draw
    backend, cpu = create_backend(options.backend), InferenceConfig(device='cpu')
    backend.model = Model.built_in()
    auto, flat = RefinementConfig(), RefinementConfig(object_type='complex')
    ways = {
        'iterations, flat': lambda scan: backend.refine(scan, flat, device='cpu'),
        'iterations': lambda scan: backend.refine(scan, auto, device='cpu'),
        'built-in, flat': lambda scan: backend.reconstruct(scan, cpu, flat),
        'built-in': lambda scan: backend.reconstruct(scan, cpu, auto),
    }
    results = []
    for counts in options.counts:
        for kind in options.kinds:
            row: dict[str, object] = {'counts': counts, 'kind': kind}
            scans = [make_scan(kind, counts, seed) for seed in options.seeds]
            for way, reconstruct in ways.items():
                found = [reconstruct(scan) for scan in scans]
                places = [scan.positions_px for scan in scans]
                amplitude = np.mean([mosaic_ssim(*pair) for pair in zip(found, scans, strict=True)])
                triples = zip(found, scans, places, strict=True)
                phase = np.mean([single_shots.phase_ssim(*triple) for triple in triples])
                row[way] = f'{amplitude:.2f} / {phase:.2f}'
            row['starts'] = [each.provenance['course']['start'] for each in found]
            results.append(row)
            print(row, flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


if __name__ == '__main__':
    main()
