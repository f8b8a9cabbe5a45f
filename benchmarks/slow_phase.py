"""Whether the data decide the slow phase that the built-in model leaves wrong.

    python benchmarks/slow_phase.py --seeds 1 2 3 --output slow_phase.json

The object of the built-in model has phase errors, and those slower than a scale are taken away with
the help of the truth. Then 30 iterations follow, from the object as it was, from the corrected one,
and from the true object. Where the corrected or true object ends at no lower loss, the patterns fit
both alike, and no iteration could have found it: only knowledge of objects can.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from quality import score, test_scans
from scipy.ndimage import gaussian_filter

from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.requests import IterationRequest
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.physics import normalize_probe

SCALES_PX = (32, 16, 8)
ROWS = ('5.5 px, 1e5 counts', '16.5 px, 1e5 counts', '22.0 px, 1e5 counts', '27.5 px, 1e5 counts')
ITERATIONS = 30


def truth_on_canvas(scan: Scan, found: Reconstruction) -> np.ndarray:
    """Return the true object where the reconstruction has its pixels, and 1 around it."""
    canvas = np.ones_like(found.object_)
    truth = scan.object_
    first = np.rint(found.origin_px).astype(int)
    begin = np.maximum(first, 0)
    end = np.minimum(first + canvas.shape, truth.shape)
    there = tuple(slice(a, b) for a, b in zip(begin, end, strict=True))
    here = tuple(slice(a, b) for a, b in zip(begin - first, end - first, strict=True))
    canvas[here] = truth[there]
    return canvas


def without_slow_errors(
    object_: np.ndarray, truth: np.ndarray, coverage: np.ndarray, scale_px: float
) -> np.ndarray:
    """Take phase errors away that are slower than a scale, the width of a Gaussian."""
    quotient = object_ * truth.conj() * coverage
    slow = gaussian_filter(quotient.real, scale_px) + 1j * gaussian_filter(quotient.imag, scale_px)
    return (object_ * slow.conj() / np.maximum(np.abs(slow), 1e-12)).astype(np.complex64)


def measure(backend: Any, scan: Scan) -> dict[str, dict[str, float]]:
    """Return phase SSIM, amplitude SSIM and loss after iterations, from each start."""
    # The total variation decides some of what this is about.
    free = RefinementConfig(total_variation=0.0)
    found = backend.reconstruct(scan, InferenceConfig(device='cpu'), free)
    photons = scan.mean_photons()
    with backend.computing_on('cpu') as (device, _):
        probe = normalize_probe(scan.probe, photons)
        forward = backend.build_forward(scan, probe, photons, device, 0)
        truth = truth_on_canvas(scan, found)
        starts = {'as it is': found.object_}
        for scale in SCALES_PX:
            starts[f'right beyond {scale} px'] = without_slow_errors(
                found.object_, truth, found.coverage, scale
            )
        starts['the true object'] = truth
        rows = {}
        for name, start in starts.items():
            request = IterationRequest(IterationSchedule(ITERATIONS))
            ended, *_ = backend.iterate(forward, forward.to_tensor(start), request, lambda *_: None)
            figures = score(replace(found, object_=backend.to_numpy(ended)), scan)
            loss = forward.evaluate_loss(ended)
            rows[name] = {
                'phase_ssim_before': score(replace(found, object_=start), scan)['phase_ssim'],
                **{key: figures[key] for key in ('phase_ssim', 'amplitude_ssim')},
                'loss': round(loss, 5),
            }
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, nargs='*', default=[1, 2, 3])
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    backend = create_backend('pytorch')
    backend.model = Model.built_in()
    found: dict[str, list[dict[str, dict[str, float]]]] = {}
    for seed in options.seeds:
        scans = test_scans(seed)
        for name in ROWS:
            found.setdefault(name, []).append(measure(backend, scans[name]))
            print(name, seed, found[name][-1], flush=True)
    print('| steps | slow phase | before | phase / amplitude after | loss |\n|---|---|---|---|---|')
    for name, runs in found.items():
        for start in runs[0]:
            mean = {key: np.mean([run[start][key] for run in runs]) for key in runs[0][start]}
            after = f'{mean["phase_ssim"]:.3f} / {mean["amplitude_ssim"]:.3f}'
            before = f'{mean["phase_ssim_before"]:.3f}'
            print(f'| {name} | {start} | {before} | {after} | {mean["loss"]:.4f} |')
    if options.output:
        options.output.write_text(json.dumps(found, indent=2))


if __name__ == '__main__':
    main()
