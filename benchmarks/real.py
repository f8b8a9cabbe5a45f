"""Real scans beside Pty-Chi: the same seconds, the same freedom, one ruler, one picture.

    python benchmarks/real.py DATA --output DIR [--seconds 60] [--minutes 4] [--only NAME]

DATA is a folder of NPZ scans in Ptychodus' layout. Probes in such files are guesses and positions a
little wrong, so that every way corrects both. For each scan DIR/NAME gets `metrics.json` and
`objects.png`. With --minutes a network is trained on the scan first, and reconstructs it as well.
Take one thread on a busy machine (OMP_NUM_THREADS=1).
"""

import argparse
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.bench.rivals import run_ptychi
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan, load_scan
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.physics import measure_misfit, predict_patterns

MANY = 10_000
"""These are more iterations than the time leaves room for."""

TRIAL_EPOCHS = 3
BATCH = 64
BRIGHT = 0.3
"""The picture shows the box in which the coverage reaches this share of its largest value."""


def judge(found: Reconstruction, scan: Scan) -> dict[str, float]:
    """Measure an object, its probe and its positions on all patterns, whoever made them."""
    assert scan.bad_pixels is not None
    # An object's pixel 0 may lie between the scan's pixels; patches are cut at its own.
    origin, margin = np.zeros(2, np.int64), max(scan.pattern_shape)
    positions = found.positions_px - found.origin_px + margin
    object_ = np.pad(found.object_.astype(np.complex128), margin, constant_values=1)
    missed = light = over = lit = 0.0
    for start in range(0, len(positions), BATCH):
        part = slice(start, start + BATCH)
        expected = predict_patterns(object_, origin, positions[part], found.probe)
        if found.intensities is not None:
            expected = expected * found.intensities[part][:, None, None]
        counts = scan.patterns[part].astype(np.float64)
        valid = np.broadcast_to(~scan.bad_pixels, counts.shape)
        missed += float(((np.sqrt(expected) - np.sqrt(counts)) ** 2)[valid].sum())
        light += float(counts[valid].sum())
        misfit = measure_misfit(expected, counts, ~scan.bad_pixels)
        if misfit is not None and misfit.over_noise is not None:
            over += misfit.over_noise * len(counts)
            lit += len(counts)
    return {'amplitude_residual': missed / light, 'times_shot_noise': over / lit}


def without_ramp(image: np.ndarray) -> np.ndarray:
    """Take out the mean slope of the phase, which probe and object exchange, and its mean."""
    slopes = [
        np.angle((image[1:] * image[:-1].conj()).sum()),
        np.angle((image[:, 1:] * image[:, :-1].conj()).sum()),
    ]
    y, x = np.indices(image.shape)
    image = image * np.exp(-1j * (slopes[0] * y + slopes[1] * x))
    return image * np.exp(-1j * np.angle(image.sum()))


def draw(results: Mapping[str, Reconstruction], path: Path) -> None:
    """Draw amplitudes and phases side by side, of the same part of the sample, on one scale."""
    first = next(iter(results.values()))
    box = first.covered_box(BRIGHT)
    pixel_m = first.geometry.pixel_width_m
    corner = first.origin_px + [part.start for part in box]
    sides = [part.stop - part.start for part in box]
    size = (3.2 * len(results) + 0.8, 6.4 * sides[0] / sides[1] + 0.6)
    figure = Figure(figsize=size, layout='constrained')
    grid = figure.subplots(2, len(results), squeeze=False)
    rulers: dict[str, Normalize] = {}
    for column, (title, found) in zip(grid.T, results.items(), strict=True):
        top, left = np.round(corner - found.origin_px).astype(int)
        image = found.object_[top : top + sides[0], left : left + sides[1]]
        image = without_ramp(image)
        # Probe and object share a factor, which is free.
        amplitude = np.abs(image) / np.median(np.abs(image))
        parts = {'gray': amplitude, 'viridis': np.angle(image)}
        for axes, (colours, values) in zip(column, parts.items(), strict=True):
            # The first one gives the scale for all, which are to be compared.
            ruler = rulers.setdefault(colours, Normalize(*np.percentile(values, [1, 99])))
            axes.imshow(values, cmap=colours, norm=ruler)
            axes.set(xticks=[], yticks=[])
        column[0].set_title(title, fontsize=9)
    for row, label in zip(grid, ('amplitude / its median', 'phase [rad]'), strict=True):
        figure.colorbar(row[-1].images[0], ax=list(row), label=label, shrink=0.85, pad=0.01)
    if pixel_m is not None:
        _draw_scale_bar(grid[0, 0], sides[1], pixel_m)
    # Images keep their aspect: titles may lie outside the figure, or blank strips in it.
    figure.savefig(path, dpi=130, bbox_inches='tight', pad_inches=0.08)


def _draw_scale_bar(axes: Axes, width_px: int, pixel_m: float) -> None:
    """Draw a line of a round length, about a quarter of a picture of a width."""
    quarter_m = width_px * pixel_m / 4
    power = 10.0 ** math.floor(math.log10(quarter_m))
    length_m = max(factor * power for factor in (1, 2, 5) if factor * power <= quarter_m)
    text = f'{length_m * 1e6:g} µm' if length_m >= 1e-6 else f'{length_m * 1e9:g} nm'
    bar = AnchoredSizeBar(
        *(axes.transData, length_m / pixel_m, text, 'lower left'),
        size_vertical=max(1, width_px / 100),
        frameon=True,
    )
    axes.add_artist(bar)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('data', type=Path)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--minutes', type=float, help='train on the scan for this time as well')
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--only', help='the name of one scan')
    options = parser.parse_args()
    for path in sorted(options.data.glob('*.npz')):
        if options.only not in (None, path.stem):
            continue
        folder = options.output / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        scan = load_scan(path)
        backend = create_backend(options.backend)
        settings = RefinementConfig(
            iterations=MANY, max_seconds=options.seconds, probe=True, positions=True
        )
        results: dict[str, Reconstruction] = {'iterations': backend.refine(scan, settings)}
        with_beams = settings.replace(intensities=True)
        results['iterations, intensities too'] = backend.refine(scan, with_beams)
        backend.model = Model.built_in()
        results['built-in model'] = backend.reconstruct(scan, InferenceConfig(), settings)
        if options.minutes:
            config = Config()
            training = config.training.replace(max_minutes=options.minutes, probe_trainable=True)
            backend.train([scan], config.replace(training=training))
            trained = backend.reconstruct(scan, InferenceConfig(), settings)
            results[f'trained for {options.minutes:g} min'] = trained
        metrics = {
            way: {**judge(found, scan), 'seconds': sum(found.timing.values())}
            for way, found in results.items()
        }
        free = {'refine_probe': True, 'refine_positions': True}
        trial = run_ptychi(scan, 'lsqml', TRIAL_EPOCHS, **free)
        epochs = max(TRIAL_EPOCHS, round(options.seconds * trial.patterns_per_second / len(scan)))
        rival = run_ptychi(scan, 'lsqml', epochs, **free)
        results["Pty-Chi's LSQ-ML"] = rival.reconstruction
        metrics["Pty-Chi's LSQ-ML"] = {
            **judge(rival.reconstruction, scan),
            'seconds': rival.seconds,
            'epochs': epochs,
        }
        draw(results, folder / 'objects.png')
        row = {'scan': path.name, 'load': os.getloadavg()[0], **metrics}
        (folder / 'metrics.json').write_text(json.dumps(row, indent=2))
        print(json.dumps(row), flush=True)


if __name__ == '__main__':
    main()
