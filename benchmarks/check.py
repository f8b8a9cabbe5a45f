"""Whether `ptychopinn check` finds faults in simulated scans, and leaves right ones alone.

    python benchmarks/check.py --output check.json
    python benchmarks/check.py --scans default "steps of 16.5 px" --faults right swapped
    python benchmarks/check.py --scan scan.npz

A fault is found where the options that were found, or others that the check calls equally good,
undo it. A factor on the positions may be wrong by 5 %.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.checking.search import Check, check_scan
from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.data.reorientation import reorient
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.orientation import Orientation

SCANS: dict[str, dict[str, Any]] = {
    'default': {},
    '1e3 counts': {'photons': 1e3},
    '1e7 counts': {'photons': 1e7},
    'steps of 16.5 px': {'step_px': 16.5},
    'spiral, steps of 10 px': {'path_kind': 'fermat', 'step_px': 10.0, 'n_positions': 100},
    'zone plate': {'probe_kind': 'zone-plate'},
    'three modes': {'n_modes': 3},
    'other defocus': {'defocus': -250.0, 'pupil_radius': 0.13},
    'letters': {'object_kind': 'letters'},
    'Siemens star': {'object_kind': 'siemens'},
}

FAULTS: dict[str, Orientation] = {
    'right': Orientation(),
    'transposed': Orientation(transpose=True),
    'flipped vertically': Orientation(flip='vertical'),
    'flipped horizontally': Orientation(flip='horizontal'),
    'flipped both': Orientation(flip='both'),
    'quarter turn': Orientation(transpose=True, flip='vertical'),
    'swapped': Orientation(swap_positions=True),
    'inverted': Orientation(invert_positions='both'),
    'inverted y': Orientation(invert_positions='y'),
    'scale 0.8': Orientation(scale_positions=0.8),
    'scale 1.3': Orientation(scale_positions=1.3),
    'metres': Orientation(scale_positions=1e-8),
    'swapped, scale 1.3': Orientation(swap_positions=True, scale_positions=1.3),
}
"""Each case does this to a right scan."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--scan', type=Path, nargs='*', default=[], help='scans as they are')
    parser.add_argument('--scans', nargs='*', default=list(SCANS), help='which are simulated')
    parser.add_argument('--faults', nargs='*', default=list(FAULTS))
    parser.add_argument('--backend', default='pytorch')
    parser.add_argument('--output', type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def note(name: str, fault: str, scan: Scan, is_found: Callable[[Check], bool]) -> None:
        begun = time.perf_counter()
        check = check_scan(scan, create_backend(options.backend), device='cpu')
        seconds = time.perf_counter() - begun
        summary = {key: value for key, value in check.to_dict().items() if key != 'ranking'}
        row = {'scan': name, 'fault': fault, 'found': is_found(check), **summary}
        rows.append({**row, 'trials': len(check.trials), 'seconds': round(seconds, 1)})
        print(json.dumps(rows[-1]), flush=True)
        if options.output is not None:
            options.output.write_text(json.dumps(rows, indent=2))

    for path in options.scan:
        note(path.stem, '', load_scan(path), lambda check: check.orientation == Orientation())
    for name in [] if options.scan else options.scans:
        settings = {'rows': 10, 'columns': 10, 'step_px': 6.0, **SCANS[name]}
        if 'n_positions' in settings:
            settings = {k: v for k, v in settings.items() if k not in ('rows', 'columns')}
        right = simulate(SimulationConfig.from_dict(settings))
        for fault in options.faults:
            wrong = dataclasses.replace(reorient(right, FAULTS[fault], is_centred=True))
            note(name, fault, wrong, lambda check, fault=fault: is_mended(FAULTS[fault], check))


def is_mended(fault: Orientation, check: Check) -> bool:
    """Return whether what a check found, or something as good, undoes a fault."""
    return any(_undoes(one, fault) for one in (check.orientation, *check.equals))


def _undoes(found: Orientation, fault: Orientation) -> bool:
    rest = found.after(fault)
    scale = rest.scale_positions or 1.0
    unscaled = rest.replace(scale_positions=None)
    return unscaled == Orientation() and bool(np.abs(np.log(scale)) < 0.05)


if __name__ == '__main__':
    main()
