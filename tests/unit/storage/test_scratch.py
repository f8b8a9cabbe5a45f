"""Arrays in a file: what is in them stays, their memory comes back, and the file has no name."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage import scratch
from ptychopinn_plugin.storage.scratch import (
    Usage,
    chunks,
    converted,
    is_stored,
    new_array,
    release_pages,
    scratch_folder,
    taken,
)


@pytest.fixture
def stored() -> np.ndarray:
    array = new_array((1000, 4, 3), np.float32, memory_bytes=0)
    array[...] = np.arange(12000).reshape(array.shape)
    return array


def resident_mib() -> float:
    """Return the memory of this process, pages of files included."""
    text = Path('/proc/self/status').read_text(encoding='ascii')
    line = next(line for line in text.splitlines() if line.startswith('VmRSS:'))
    return int(line.split()[1]) / 1024


def test_the_limit_decides_where_an_array_lies() -> None:
    assert not is_stored(new_array((10, 10), np.uint8, memory_bytes=100))
    assert is_stored(new_array((10, 10), np.uint8, memory_bytes=99))
    assert not is_stored(new_array((0, 10), np.uint8, memory_bytes=0))


def test_free_memory_decides_where_no_limit_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, 'SMALL_BYTES', 10)
    monkeypatch.setattr(scratch, 'available_bytes', lambda: 200)
    assert not is_stored(new_array((100,), np.uint8))
    assert is_stored(new_array((101,), np.uint8))
    monkeypatch.setattr(scratch, 'available_bytes', lambda: None)
    assert not is_stored(new_array((101,), np.uint8))


def test_views_and_what_is_made_of_them_are_known(stored: np.ndarray) -> None:
    for view in (stored[::2], stored.T, np.ascontiguousarray(stored[1:]), stored.reshape(-1)):
        assert is_stored(view)
    assert not is_stored(stored + 1)
    assert is_stored(new_array((2, 2), np.float64, like=stored[3:]))


def test_nothing_is_lost_by_giving_memory_back(stored: np.ndarray) -> None:
    release_pages(stored)
    np.testing.assert_array_equal(stored.ravel(), np.arange(12000))
    stored[7] = -1
    release_pages(stored)
    assert (stored[7] == -1).all()


def test_rows_are_taken_and_converted_as_in_memory(stored: np.ndarray) -> None:
    indices = np.array([5, 999, 5, 0])
    rows = taken(stored, indices, length=3)
    assert is_stored(rows)
    np.testing.assert_array_equal(rows, np.array(stored)[indices])
    flipped = converted(stored, lambda part: np.flip(part, -1).astype(np.float64), length=7)
    assert is_stored(flipped)
    np.testing.assert_array_equal(flipped, np.flip(np.array(stored), -1))
    inside = np.ones((3, 2))
    assert not is_stored(taken(inside, np.array([0])))
    assert not is_stored(converted(inside, np.copy))


def test_parts_cover_an_array_once(stored: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [part for part, _ in chunks(stored, 300)]
    assert parts == [slice(0, 300), slice(300, 600), slice(600, 900), slice(900, 1000)]
    monkeypatch.setattr(scratch, 'MAX_RESIDENT_BYTES', 100 * stored[:1].nbytes)
    assert [part.stop for part, _ in chunks(stored, 300)] == list(range(100, 1001, 100))
    assert [part.stop for part, _ in chunks(np.array(stored), 300)] == [300, 600, 900, 1000]


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='Linux lists resident memory.')
def test_what_was_used_comes_back() -> None:
    array = new_array((4096, 128, 128), np.float32, memory_bytes=0)
    before = resident_mib()
    for _, rows in chunks(array, 256):
        rows[...] = 1
    assert resident_mib() - before < 100, 'of 256 MiB'
    usage = Usage(array)
    for start in range(0, 4096, 64):
        assert array[start : start + 64].sum() == 64 * 128 * 128
        usage.add(array[:64].nbytes)
    assert resident_mib() - before < 100
    assert array.sum(dtype=np.float64) == array.size
    assert resident_mib() - before > 200, 'without that it stays'


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', None)
    assert scratch_folder() == tmp_path
    array = new_array((1000,), np.float64, memory_bytes=0)
    array[:] = 3
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(OutputError, match=r'(?s)GiB in a temporary file.*No space.*TMPDIR'):
        new_array((1000,), np.float64, memory_bytes=0)
