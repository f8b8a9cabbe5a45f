"""Every reader of an installed Ptychodus, on a simulated scan in the files that it reads."""

import functools
from pathlib import Path

import numpy as np
import pytest
from unit.data.layouts.files import Truth
from unit.data.layouts.table import LAYOUTS, Layout

from ptychopinn_plugin.data import Scan, load_scan, reader_names
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

pytest.importorskip('ptychodus')

# Ptychodus' own plugins import what Python has deprecated.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

_ELSEWHERE = {'Ptychodus_Training_Data'}
"""Tested with files that Ptychodus itself writes."""


@functools.cache
def _simulated(raster: bool) -> Scan:
    kind = 'raster' if raster else 'jittered'
    return simulate(
        SimulationConfig(size=32, rows=5, columns=6, step_px=4.3, jitter_px=1.7, path_kind=kind)
    )


def _load(layout: Layout, folder: Path) -> tuple[Scan, Truth]:
    truth = Truth(_simulated(layout.raster), folder, layout.pixel_m)
    probe = folder / 'probe.npy'
    np.save(probe, truth.scan.probe)
    asked = {'probe_from': probe, **layout.write(truth)}
    return load_scan(reader=layout.reader, **asked), truth


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_scan_is_read_as_it_was(layout: Layout, tmp_path: Path) -> None:
    loaded, truth = _load(layout, tmp_path)
    scan = truth.scan.subset(np.delete(np.arange(30), layout.lost))
    bad = np.zeros(scan.pattern_shape, dtype=bool)
    if layout.bad is not None:
        bad[layout.bad] = True
    np.testing.assert_array_equal(loaded.bad_pixels, bad)
    expected = np.where(bad, 0, scan.patterns)
    np.testing.assert_allclose(loaded.patterns, expected, rtol=1e-6)
    positions = scan.positions_px
    np.testing.assert_allclose(
        loaded.positions_px - loaded.positions_px[0], positions - positions[0], atol=0.01
    )
    assert loaded.geometry.pixel_height_m == pytest.approx(truth.object_pixel_m, rel=1e-5)
    assert loaded.geometry.pixel_width_m == pytest.approx(truth.object_pixel_m, rel=1e-5)
    np.testing.assert_array_equal(loaded.probe, scan.probe)


def test_no_reader_is_left_out() -> None:
    assert {layout.reader for layout in LAYOUTS.values()} | _ELSEWHERE >= set(reader_names())
