"""Distinct places of a scan, and what lies near them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.overlap import measure_overlap
from ptychopinn_plugin.data.grouping import covering_groups, training_groups
from ptychopinn_plugin.data.places import Places, find_places, median_step
from ptychopinn_plugin.physics import cover


def test_positions_of_one_pixel_are_one_place() -> None:
    positions = np.array([[5.0, 0.0], [0.0, 7.0], [5.2, -0.3], [0.0, 8.0], [5.0, 0.0]])
    first, place_of = find_places(positions)
    assert first.tolist() == [0, 1, 3]
    assert place_of.tolist() == [0, 1, 0, 2, 0]
    places = Places(positions)
    assert places.exposures.tolist() == [3, 1, 1]
    assert places.ranks().tolist() == [0, 0, 1, 0, 2]
    assert places.exposure(np.array([0, 0, 1]), np.array([1, 5, 5])).tolist() == [2, 4, 1]


def test_nearest_places_are_those_of_a_sort() -> None:
    raster = np.stack(np.mgrid[:15, :15], axis=-1).reshape(-1, 2) * 2.0
    places = Places(raster)
    for centre in (raster[0], raster[112], np.array([3.3, 27.9])):
        distance = ((raster - centre) ** 2).sum(axis=1)
        for count in (1, 7, 60, 225, 999):
            expected = np.argsort(distance, kind='stable')[:count]
            assert places.nearest(centre, count).tolist() == expected.tolist()


def test_a_step_is_that_between_places() -> None:
    raster = np.stack(np.mgrid[:5, :7], axis=-1).reshape(-1, 2) * 4.0
    assert median_step(np.tile(raster, (9, 1))) == 4
    assert median_step(np.zeros((9, 2))) == 0


@pytest.mark.parametrize('size', [4, 9])
def test_groups_hold_places_that_differ(size: int) -> None:
    """More exposures than a group holds must not fill it with one place."""
    raster = np.stack(np.mgrid[:6, :6], axis=-1).reshape(-1, 2) * 5.0
    positions = np.tile(raster, (12, 1))
    drawn = training_groups(positions, size, 12, np.random.default_rng(0))
    covering = covering_groups(positions, size)
    assert set(covering.ravel().tolist()) == set(range(len(positions)))
    assert len(covering) <= 1 + 2.5 * len(positions) / size
    for group in [*drawn, *covering]:
        assert len({tuple(place) for place in positions[group]}) == size


def test_more_exposures_are_no_more_overlap() -> None:
    """It decides how many passes and rotations a reconstruction takes: more data, never fewer."""
    probe = np.zeros((1, 16, 16), dtype=np.complex64)
    probe[:, 4:12, 4:12] = 3.0
    raster = np.stack(np.mgrid[:6, :6], axis=-1).reshape(-1, 2) * 8.0
    backend: Any = SimpleNamespace(to_numpy=np.asarray)
    found = []
    for exposures in (1, 26):
        origins = np.tile(raster, (exposures, 1))
        coverage = exposures * cover(probe, raster, (56, 56))
        forward: Any = SimpleNamespace(coverage=coverage, probe=probe, patch_origins_px=origins)
        found.append(measure_overlap(backend, forward))
    assert found == pytest.approx([1, 1], rel=0.01)
