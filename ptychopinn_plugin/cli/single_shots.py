"""The first part of the demo: patterns that share nothing, each reconstructed alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ptychopinn_plugin.cli.progress import ProgressDisplay
from ptychopinn_plugin.text import count

if TYPE_CHECKING:
    from ptychopinn_plugin.api import BackendChoice

SCAN_FILE, PICTURE_FILE = 'single-shots.npz', 'single-shots.png'

CURVATURE = 0.6
"""The beam's wavefront has this curvature, see `pretraining.probes.curved_probe`."""

PHOTONS = 1e6
"""A pattern has this number of counts on average."""

PLANNED_ROW, BUILT_IN_ROW, FLAT_ROW = 'planned', 'built_in', 'iterations_from_flat'

FLAT_ITERATIONS = 100
"""From a flat object there is this number, as many as the plan of iterations has at most."""


def show_single_shots(
    stage: Path, backend: 'BackendChoice', seed: int, n_patterns: int
) -> dict[str, Any]:
    """Reconstruct patterns one by one, with the built-in model and without it.

    Parameters
    ----------
    stage : Path
        Gets the scan and the picture.
    backend : str or Choice
    seed : int
        Of the objects, which the built-in model has never seen.
    n_patterns : int
        A square number.

    Returns
    -------
    dict of dict
        By way: 'title', 'amplitude_ssim', 'amplitude_residual', 'seconds', and 'iterations'.
    """
    from ptychopinn_plugin import api
    from ptychopinn_plugin.config import RefinementConfig
    from ptychopinn_plugin.data import write_scan
    from ptychopinn_plugin.plots import plot_amplitudes
    from ptychopinn_plugin.pretraining.evaluation import lines_alone, middles, mosaic_ssim

    typer.echo(
        f'Reconstructing {count(n_patterns, "pattern")} that share nothing, each alone', err=True
    )
    scan = lines_alone(CURVATURE, PHOTONS, n_patterns, seed)
    write_scan(stage / SCAN_FILE, scan)
    from_flat = RefinementConfig(object_type='complex')
    with ProgressDisplay() as observer:
        found = {
            PLANNED_ROW: api.reconstruct(None, scan, backend=backend, observer=observer),
            BUILT_IN_ROW: api.reconstruct(
                None, scan, refinement=from_flat, backend=backend, observer=observer
            ),
            FLAT_ROW: api.refine(
                scan,
                from_flat.replace(iterations=FLAT_ITERATIONS),
                backend=backend,
                observer=observer,
            ),
        }
    iterations = {name: max(0, len(each.likelihoods) - 1) for name, each in found.items()}
    titles = {
        PLANNED_ROW: 'as planned, best of three starts',
        BUILT_IN_ROW: 'built-in model, flat start',
        FLAT_ROW: f'flat start + {count(iterations[FLAT_ROW], "iteration")}',
    }
    rows: dict[str, Any] = {}
    for name, each in found.items():
        rows[name] = {
            'title': titles[name],
            'amplitude_ssim': mosaic_ssim(each, scan),
            'amplitude_residual': each.amplitude_residual,
            'seconds': sum(each.timing.values()),
            'iterations': iterations[name],
        }
    images = {
        f'{row["title"]}, {row["seconds"]:.1f} s\nSSIM {row["amplitude_ssim"]:.2f}': middles(
            found[name], scan
        )
        for name, row in rows.items()
    }
    plot_amplitudes({'truth': middles(scan), **images}, stage / PICTURE_FILE)
    return rows


def introduce(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the picture of the patterns shows, whichever way is ahead."""
    planned, built_in, flat = (
        rows[name]['amplitude_ssim'] for name in (PLANNED_ROW, BUILT_IN_ROW, FLAT_ROW)
    )
    return (
        'First, patterns of lines under a curved beam that do not overlap: '
        'each is reconstructed alone, so that no overlap helps the iterations. The middles of the '
        f'patches stand side by side. Amplitude SSIM: {planned:.2f} as planned, where trials '
        'choose the start among a flat object, one that changes no phase and one that absorbs '
        'nothing; '
        f'from a flat object {built_in:.2f} with the built-in model, which was trained on other '
        f'simulated scans, and {flat:.2f} by iterations alone.'
    )
