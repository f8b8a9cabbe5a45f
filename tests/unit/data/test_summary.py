"""The summary of a scan."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from ptychopinn_plugin.data import Scan, describe_scan

MakeScan = Callable[..., Scan]


def test_the_facts_are_plain_and_right(make_scan: MakeScan) -> None:
    scan = make_scan(shape=(16, 20), modes=2, count=12)
    y, x = np.meshgrid(np.arange(4) * 3.0, np.arange(3) * 2.0, indexing='ij')
    positions = np.stack([y.ravel() + 8, x.ravel() + 10], axis=1)
    patterns = np.ones((12, 16, 20), np.uint16)
    patterns[4] = 2
    patterns[:, 3, 7] = 50000
    bad = np.zeros((16, 20), bool)
    bad[3, 7] = True
    facts = describe_scan(
        dataclasses.replace(scan, positions_px=positions, patterns=patterns, bad_pixels=bad)
    )
    assert json.loads(json.dumps(facts)) == facts
    assert facts['shape_px'] == [16, 20]
    assert facts['patterns'] == 12
    assert facts['dtype'] == 'uint16'
    assert facts['counts_per_pattern'] == {'mean': 319 * 13 / 12, 'min': 319, 'max': 638}
    assert facts['brightest_pixel'] == 2
    assert facts['positions_px'] == {'y': [8, 17], 'x': [10, 14]}
    assert facts['step_px'] == 2
    assert facts['probe_modes'] == 2
    assert facts['bad_pixels'] == 1
    assert facts['object_shape_px'] == [29, 41]
    assert facts['exposures'] == 1
    assert facts['geometry']['pixel_height_m'] == 2e-9


def test_overlap_is_the_share_of_the_diameter_in_common(make_scan: MakeScan) -> None:
    scan = make_scan(shape=(64, 64))
    y, x = np.ogrid[-32:32, -32:32]
    disc = (y**2 + x**2 < 20**2).astype(np.complex64)
    positions = np.stack([np.full(11, 40.0), 35 + np.arange(11) * 10.0], axis=1)
    facts = describe_scan(dataclasses.replace(scan, probe=disc, positions_px=positions))
    # A disc of 40 px, of which 90 % count.
    assert facts['probe_diameter_px'] == pytest.approx(40 * 0.9**0.5, rel=0.01)
    assert facts['overlap'] == pytest.approx(1 - 10 / facts['probe_diameter_px'])


def test_one_position_has_no_step(make_scan: MakeScan) -> None:
    facts = describe_scan(make_scan().subset(np.array([3])))
    assert facts['step_px'] is None
    assert facts['overlap'] is None


def test_positions_far_apart_do_not_overlap(make_scan: MakeScan) -> None:
    scan = make_scan()
    facts = describe_scan(dataclasses.replace(scan, positions_px=scan.positions_px * 100))
    assert facts['overlap'] == 0
