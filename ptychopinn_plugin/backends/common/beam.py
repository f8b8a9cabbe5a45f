"""How much the beam of a scan varies, where an object was made with a steady one."""

from typing import Any

import numpy as np

from ptychopinn_plugin.backends.common.diagnostics import MIN_ITERATIONS, measure_beam_variation
from ptychopinn_plugin.backends.common.engine import Engine, Forward
from ptychopinn_plugin.backends.common.phase_drift import fit_slow_errors
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.pattern_fit import PatternFit
from ptychopinn_plugin.data.scan import CHUNK_PATTERNS
from ptychopinn_plugin.storage.scratch import chunks


def measure_beam(
    engine: Engine[Any],
    scan: Scan,
    forward: Forward,
    object_: Any,
    pattern_fit: PatternFit | None,
    iterations: int,
) -> float | None:
    """Return the standard deviation of the beam's log intensity; None where it is steady.

    It is None as well where nothing is known: where counts are no photons, so that their noise is
    unknown, where patterns share nothing, and after few iterations.

    Parameters
    ----------
    engine : Engine
    scan : Scan
    forward : ForwardModel
        Of the scan, with a steady beam.
    object_ : tensor of complex64, shape `forward.canvas_shape`
    pattern_fit : PatternFit, optional
        Of that object.
    iterations : int
        How many have made the object.
    """
    if pattern_fit is None or iterations < MIN_ITERATIONS or not scan.is_countable():
        return None
    moments = engine.measure_moments(forward, object_)
    errors = fit_slow_errors(forward, moments, engine.to_numpy(forward.probe))
    blocks = chunks(scan.patterns, CHUNK_PATTERNS)
    counted = np.concatenate([b.sum(axis=(1, 2), dtype=np.float64) for _, b in blocks])
    return measure_beam_variation(pattern_fit, counted, errors)
