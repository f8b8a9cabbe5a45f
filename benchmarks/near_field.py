"""Scans of the near field, against the true object: iterations on both backends, and a network.

    python benchmarks/near_field.py --minutes 3 --output near_field.json

Frames of 64² behind a diffuser whose light fills them; a smooth beam; and frames cut out of larger
ones, into which light comes from outside: as they are, with a margin, and with a masked edge. With
`--minutes`, a network is trained on one scan and applied to another. Residuals are in times of shot
noise, SSIM is amplitude / phase.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.data.preparation import with_frame_margin
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.evaluation import evaluate

SIZE, EDGE_PX, MARGIN_PX = 64, 16, 8
BEHIND_DIFFUSER = SimulationConfig(
    size=SIZE,
    rows=12,
    columns=12,
    step_px=8.0,
    fresnel_number=0.06,
    probe_kind='diffuser',
    photons=1e6,
)


def cut_out(scan: Scan, size: int) -> Scan:
    """Keep the middle of each frame and of the probe."""
    first = (scan.pattern_shape[0] - size) // 2
    middle = (..., slice(first, first + size), slice(first, first + size))
    assert scan.bad_pixels is not None
    return dataclasses.replace(
        scan,
        patterns=scan.patterns[middle],
        probe=scan.probe[middle],
        bad_pixels=scan.bad_pixels[middle],
    )


def with_masked_edge(scan: Scan, width: int) -> Scan:
    """Mark the pixels along the edges as bad."""
    bad_pixels = np.ones(scan.pattern_shape, dtype=np.bool_)
    bad_pixels[width:-width, width:-width] = False
    return dataclasses.replace(scan, bad_pixels=bad_pixels)


def cases() -> list[tuple[str, Scan, bool]]:
    """Return names, scans, and whether the probe is refined."""
    larger = dataclasses.replace(BEHIND_DIFFUSER, size=2 * SIZE, photons=4e6)
    open_frames = cut_out(simulate(larger), SIZE)
    smooth = dataclasses.replace(BEHIND_DIFFUSER, probe_kind='defocused')
    return [
        ('diffuser', simulate(BEHIND_DIFFUSER), False),
        ('smooth beam', simulate(smooth), False),
        ('light from outside', open_frames, False),
        (f'the same, margin {MARGIN_PX}', with_frame_margin(open_frames, MARGIN_PX), True),
        (f'the same, edge {EDGE_PX} masked', with_masked_edge(open_frames, EDGE_PX), False),
    ]


def row_of(found: Reconstruction, scan: Scan, seconds: float) -> dict[str, Any]:
    """Return what is reported of a reconstruction."""
    compared = evaluate(found, scan)
    over = None if found.misfit is None else found.misfit.over_noise
    return {
        'over_noise': None if over is None else round(over, 2),
        'amplitude': round(compared.amplitude.ssim, 3),
        'phase': round(compared.phase.ssim, 3),
        'seconds': round(seconds, 1),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--iterations', type=int, default=60)
    parser.add_argument('--minutes', type=float, default=0.0, help='of training on each backend')
    parser.add_argument('--backends', nargs='*', default=['pytorch', 'tensorflow'])
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def add(case: str, run: str, backend: str, row: dict[str, Any]) -> None:
        rows.append({'case': case, 'run': run, 'backend': backend, **row})
        print(json.dumps(rows[-1]), flush=True)

    for name in options.backends:
        backend = create_backend(name)
        for case, scan, refines_probe in cases():
            settings = RefinementConfig(iterations=options.iterations, probe=refines_probe)
            begun = time.perf_counter()
            found = backend.refine(scan, settings, device='cpu')
            add(case, 'iterations', name, row_of(found, scan, time.perf_counter() - begun))
        if options.minutes:
            for run, row in trained(name, options.minutes):
                add('diffuser, another object', run, name, row)
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2))


def trained(name: str, minutes: float) -> list[tuple[str, dict[str, Any]]]:
    """Train on one scan, and reconstruct another one with and without iterations."""
    backend = create_backend(name)
    scan = simulate(BEHIND_DIFFUSER)
    other = simulate(dataclasses.replace(BEHIND_DIFFUSER, seed=2))
    config = Config()
    training = config.training.replace(max_minutes=minutes, device='cpu')
    backend.train([scan], dataclasses.replace(config, training=training))
    found = []
    for iterations in (0, 10):
        settings = RefinementConfig(iterations=iterations)
        begun = time.perf_counter()
        result = backend.reconstruct(other, InferenceConfig(device='cpu'), settings)
        run = f'network, {iterations} iterations'
        found.append((run, row_of(result, other, time.perf_counter() - begun)))
    begun = time.perf_counter()
    flat = backend.refine(other, RefinementConfig(iterations=10), device='cpu')
    found.append(('flat start, 10 iterations', row_of(flat, other, time.perf_counter() - begun)))
    return found


if __name__ == '__main__':
    main()
