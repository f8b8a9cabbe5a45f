"""What a scan holds, as plain facts."""

import dataclasses
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data.places import median_step
from ptychopinn_plugin.data.scan import CHUNK_PATTERNS, Scan
from ptychopinn_plugin.storage.scratch import chunks


def describe_scan(scan: Scan) -> dict[str, Any]:
    """Return what a scan holds, in values that JSON can hold.

    Parameters
    ----------
    scan : Scan

    Returns
    -------
    dict
        'name', 'patterns' (number), 'shape_px' (height, width), 'dtype', 'counts_per_pattern'
        (mean, min, max; bad pixels left out), 'brightest_pixel', 'positions_px' (y and x range),
        'step_px' (median distance to the nearest neighbour), 'probe_diameter_px', 'overlap' (share
        of the diameter that neighbours have in common), 'probe_modes', 'bad_pixels' (number),
        'object_shape_px', 'exposures', 'geometry' (metres and electron volts), 'notes'.
    """
    totals, brightest = _counts(scan)
    # One place has no step.
    step = median_step(scan.positions_px) or None
    diameter = _diameter(scan.probe)
    bad = scan.bad_pixels
    low, high = scan.positions_px.min(axis=0), scan.positions_px.max(axis=0)
    return {
        'name': scan.name,
        'patterns': len(scan),
        'shape_px': list(scan.pattern_shape),
        'dtype': str(scan.patterns.dtype),
        'counts_per_pattern': {
            'mean': float(totals.mean()),
            'min': float(totals.min()),
            'max': float(totals.max()),
        },
        'brightest_pixel': brightest,
        'positions_px': {
            'y': [float(low[0]), float(high[0])],
            'x': [float(low[1]), float(high[1])],
        },
        'step_px': step,
        'probe_diameter_px': diameter,
        'overlap': None if step is None else max(0.0, 1 - step / diameter),
        'probe_modes': len(scan.probe),
        'bad_pixels': 0 if bad is None else int(bad.sum()),
        'object_shape_px': None if scan.object_ is None else list(scan.object_.shape),
        'exposures': 1 if scan.scan_index is None else len(np.unique(scan.scan_index)),
        'geometry': {
            name: value for name, value in dataclasses.asdict(scan.geometry).items() if value
        },
        'notes': list(scan.notes),
    }


def _counts(scan: Scan) -> tuple[FloatArray, float]:
    bad = scan.bad_pixels
    valid_mask = np.ones(scan.pattern_shape, dtype=bool) if bad is None else ~bad
    totals, brightest = [], 0.0
    for _, block in chunks(scan.patterns, CHUNK_PATTERNS):
        counts = block[:, valid_mask]
        totals.append(counts.sum(axis=1, dtype=np.float64))
        brightest = max(brightest, float(counts.max()))
    return np.concatenate(totals), brightest


def _diameter(probe: ComplexArray, share: float = 0.9) -> float:
    """Return the diameter of a disc as large as the brightest pixels that hold `share`."""
    intensity = np.sort((np.abs(probe) ** 2).sum(axis=0, dtype=np.float64).ravel())[::-1]
    area = 1 + np.searchsorted(np.cumsum(intensity), share * intensity.sum())
    return float(2 * np.sqrt(area / np.pi))
