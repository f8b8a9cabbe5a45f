"""Simulated scans with a known object: to try, to test and to compare with."""

from ptychopinn_plugin.data.simulation.configuration import (
    ObjectKind,
    PathKind,
    ProbeKind,
    SimulationConfig,
)
from ptychopinn_plugin.data.simulation.objects import make_object
from ptychopinn_plugin.data.simulation.paths import ScanPath, make_path, thin_scan
from ptychopinn_plugin.data.simulation.probes import make_probe, wobble_amounts, wobbling_probe
from ptychopinn_plugin.data.simulation.scans import beam_intensities, simulate

__all__ = [
    'ObjectKind',
    'PathKind',
    'ProbeKind',
    'ScanPath',
    'SimulationConfig',
    'beam_intensities',
    'make_object',
    'make_path',
    'make_probe',
    'simulate',
    'thin_scan',
    'wobble_amounts',
    'wobbling_probe',
]
