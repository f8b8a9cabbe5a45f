"""The counts of a scan are checked and added up once for the same patterns."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.data import Scan, load_scan, write_scan
from ptychopinn_plugin.errors import DataError

MakeScan = Callable[..., Scan]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of patterns of the passes over the counts, one for each pass."""
    made: list[int] = []
    add_up = Scan._add_up_counts

    def counted(scan: Scan) -> np.ndarray:
        made.append(len(scan))
        return add_up(scan)

    monkeypatch.setattr(Scan, '_add_up_counts', counted)
    return made


def test_loading_goes_through_the_counts_once(
    make_scan: MakeScan, passes: list[int], tmp_path: Path
) -> None:
    """Notes, added modes and the search for hot pixels, where there are none, need no pass."""
    path = tmp_path / 'scan.npz'
    write_scan(path, make_scan())
    passes.clear()
    scan = load_scan(path, probe_modes=2, mask_hot=True)
    assert passes == [11]
    assert len(scan.notes) > 1
    np.testing.assert_allclose(scan.counts(), make_scan().counts(), rtol=1e-6)


def test_part_of_a_scan_needs_no_pass(make_scan: MakeScan, passes: list[int]) -> None:
    scan = make_scan()
    passes.clear()
    part = scan.subset(np.array([7, 2, 4]))
    assert passes == []
    np.testing.assert_array_equal(part.counts(), part.patterns.sum(axis=(1, 2), dtype=np.float64))


def test_other_patterns_are_checked(make_scan: MakeScan) -> None:
    scan = make_scan()
    with pytest.raises(DataError, match='must not be negative; pattern 0'):
        dataclasses.replace(scan, patterns=-scan.patterns)
    doubled = dataclasses.replace(scan, patterns=2 * scan.patterns)
    np.testing.assert_allclose(doubled.counts(), 2 * scan.counts())


def test_other_bad_pixels_change_the_counts(make_scan: MakeScan) -> None:
    scan = make_scan()
    bad_pixels = np.zeros(scan.pattern_shape, dtype=bool)
    bad_pixels[8:] = True
    upper = dataclasses.replace(scan, bad_pixels=bad_pixels)
    np.testing.assert_allclose(upper.counts(), scan.patterns[:, :8].sum(axis=(1, 2)))


def test_part_without_light_is_refused(make_scan: MakeScan) -> None:
    scan = make_scan()
    patterns = scan.patterns.copy()
    patterns[3] = 0
    with pytest.raises(DataError, match='Every pattern is empty'):
        dataclasses.replace(scan, patterns=patterns).subset(np.array([3]))
