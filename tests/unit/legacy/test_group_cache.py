"""A cache of groups that was damaged in ways that NumPy does not foresee."""

import logging
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.legacy.group_cache import cached_groups

POSITIONS, GROUPS = np.zeros((3, 2)), np.array([[0, 1], [1, 2]])


@pytest.mark.parametrize(('place', 'value'), [(8, 1), (10, 99), (10, 12), (10, 14)])
def test_damage_that_is_no_bad_zip(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int, value: int
) -> None:
    """Members that are marked as encrypted, or compressed in another way."""
    path = tmp_path / 'scan.groups_cache.npz'
    cached_groups(path, POSITIONS, {}, lambda: GROUPS)
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[damaged.index(b'PK\x01\x02') + place] = value
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(cached_groups(path, POSITIONS, {}, lambda: GROUPS), GROUPS)
    assert 'is damaged and is ignored' in caplog.text
    again = cached_groups(path, POSITIONS, {}, pytest.fail)
    assert np.array_equal(again, GROUPS)
