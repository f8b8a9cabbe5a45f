"""A write that fails leaves nothing behind, and what was there before."""

import errno
import os
from pathlib import Path

import pytest

from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage.atomic import atomic_path, check_output_folder


def test_the_file_appears_at_the_end_and_alone(tmp_path: Path) -> None:
    path = tmp_path / 'result.txt'
    with atomic_path(path) as temporary:
        assert temporary.suffix == '.txt'
        temporary.write_text('new')
        assert not path.exists()
    assert [each.name for each in tmp_path.iterdir()] == ['result.txt']
    assert path.read_text() == 'new'


def test_an_existing_file_survives_an_error(tmp_path: Path) -> None:
    path = tmp_path / 'result.txt'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text('half')
        _ = 1 / 0
    assert path.read_text() == 'old'
    assert len(list(tmp_path.iterdir())) == 1


def _fail(path: Path, error: OSError) -> None:
    path.write_text('half')
    raise error


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(f'Unable to flush file (errno = 28, error message = {os.strerror(errno.ENOSPC)})'),
    ],
    ids=['system', 'hdf5'],
)
def test_a_full_disk_is_said_in_one_line(tmp_path: Path, error: OSError) -> None:
    path = tmp_path / 'result.txt'
    path.write_text('old')
    with pytest.raises(OutputError, match='disk is full') as caught, atomic_path(path) as temporary:
        _fail(temporary, error)
    assert '\n' not in str(caught.value)
    assert path.read_text() == 'old'
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='there is no /dev/full')
def test_a_device_that_is_really_full(tmp_path: Path) -> None:
    path = tmp_path / 'result.txt'
    with pytest.raises(OutputError, match='disk is full'), atomic_path(path) as temporary:  # noqa: PT012
        temporary.symlink_to('/dev/full')
        temporary.write_text('much' * 10000)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(os, 'replace', refuse)
    path = tmp_path / 'result.txt'
    with pytest.raises(OutputError, match='no permission'), atomic_path(path) as temporary:
        temporary.write_text('x')
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match='no folder'), atomic_path(tmp_path / 'no' / 'a.txt'):
        pytest.fail('nothing must be written')


def test_a_folder_in_place_of_the_file_is_said(tmp_path: Path) -> None:
    (tmp_path / 'a').mkdir()
    with pytest.raises(OutputError, match='it is a folder'), atomic_path(tmp_path / 'a') as path:
        path.write_text('x')


def test_an_output_folder_is_created_and_left_empty(tmp_path: Path) -> None:
    folder = check_output_folder(tmp_path / 'a' / 'b')
    assert folder.is_dir()
    assert not list(folder.iterdir())


@pytest.mark.parametrize('name', ['file', 'file/inside'])
def test_a_file_is_no_output_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / 'file').write_text('x')
    with pytest.raises(OutputError, match='is a file'):
        check_output_folder(tmp_path / name)


def test_an_output_folder_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(Path, 'write_bytes', refuse)
    with pytest.raises(OutputError, match='no permission'):
        check_output_folder(tmp_path)


def test_the_bytes_are_on_the_disk_before_the_name_is_theirs(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    path = tmp_path / 'result.txt'
    with atomic_path(path) as temporary:
        temporary.write_text('new')
    assert synced == [
        ('sync', path.stat().st_ino),
        ('name', path.stat().st_ino),
        ('sync', tmp_path.stat().st_ino),
    ]


def test_a_disk_that_fails_to_sync_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / 'result.txt'
    path.write_text('old')
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OutputError, match='Input/output error'), atomic_path(path) as temporary:
        temporary.write_text('new')
    assert path.read_text() == 'old'
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_system_without_sync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, 'fsync', fail)
    with atomic_path(tmp_path / 'result.txt') as temporary:
        temporary.write_text('new')
    assert (tmp_path / 'result.txt').read_text() == 'new'
