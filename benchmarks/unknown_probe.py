"""A probe from nothing beside the probe of the file: the same scan, the same iterations.

    python benchmarks/unknown_probe.py SCAN... --iterations 60 --output FILE.json

Each scan is refined twice with a corrected probe: from the probe of its file, and from the patterns
alone (`data.starting_probe`, `backends.common.probe_search`). Where the file holds the true object,
both are compared with it.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

from ptychopinn_plugin import api
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.data.starting_probe import root_mean_square_radius, starting_probe
from ptychopinn_plugin.evaluation import evaluate


def measure(scan: Scan, iterations: int, backend: str) -> dict[str, Any]:
    """Refine a scan and return what came of it."""
    started = time.perf_counter()
    found = api.refine(scan, RefinementConfig(iterations=iterations, probe=True), backend=backend)
    seconds = time.perf_counter() - started
    compared = None if scan.object_ is None else evaluate(found, scan)
    return {
        'seconds': seconds,
        'ssim': compared and {'amplitude': compared.amplitude.ssim, 'phase': compared.phase.ssim},
        'amplitude_residual': found.amplitude_residual,
        'misfit': None if found.misfit is None else found.misfit.to_dict(),
        'probe_radius_px': root_mean_square_radius(found.probe),
    }


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('scans', type=Path, nargs='+')
    parser.add_argument('--iterations', type=int, default=60)
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--output', type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for path in options.scans:
        scan = load_scan(path)
        probe = starting_probe(scan.patterns, scan.bad_pixels)
        unknown = dataclasses.replace(scan, probe=probe, probe_origin='patterns')
        row = {
            'scan': scan.name,
            'load': os.getloadavg()[0],
            'given': measure(scan, options.iterations, options.backend),
            'from_nothing': measure(unknown, options.iterations, options.backend),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        options.output.write_text(json.dumps(rows, indent=2), encoding='utf-8')


if __name__ == '__main__':
    main()
