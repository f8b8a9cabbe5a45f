"""Writing files so that a failure leaves nothing half-written."""

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptychopinn_plugin.errors import OutputError

UNFINISHED = '.unfinished-'
"""Names of files and folders that are not complete begin so; eight letters and the name follow."""

TRIAL = 'trial'
"""A file of this name is made to find out whether a folder can be written to."""

# File systems that cannot sync a folder or a special file answer with these.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EROFS)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to; it takes the place of `path` at the end.

    The bytes are on the disk before the name is theirs, so that a power cut leaves the old file or
    the new one. If the block fails, the temporary file is removed and an existing file stays as it
    was. The sibling keeps the suffix of `path`, by which some writers choose the format. Write
    HDF5 to memory and then its bytes: the library can crash where a disk fills up while it closes
    a file.

    Parameters
    ----------
    path : Path
        The file to write, in a folder that exists.

    Raises
    ------
    OutputError
        If the file cannot be written: a missing or unwritable folder, a full disk.
    """
    path = Path(path)
    check_output_file(path)
    temporary = path.with_name(f'{UNFINISHED}{secrets.token_hex(4)}-{path.name}')
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f'Cannot write {path}: {_reason(error)}') from error
    finally:
        _remove(temporary)


def sync_file(path: Path) -> None:
    """Return when the bytes of a file are on its disk, where the file system can confirm that.

    Raises
    ------
    OSError
        If the disk does not take them.
    """
    # Windows syncs only what is open for writing.
    with path.open('rb' if os.name == 'posix' else 'r+b') as file:
        _sync(file.fileno())


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on its disk, where the platform can do that.

    Raises
    ------
    OSError
        If the disk does not take them.
    """
    if os.name != 'posix':
        # Windows opens no folder, and writes names through its journal.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def check_output_file(path: Path, *sources: Path | None) -> None:
    """Make sure that a file can be put in a place, before the work begins.

    Parameters
    ----------
    path : Path
    *sources : Path, optional
        Files that the work reads, where they were given; none of them is replaced.

    Raises
    ------
    OutputError
        If its folder is missing, or it is a folder or one of `sources`.
    """
    if not path.parent.is_dir():
        raise OutputError(
            f'Cannot write {path}: there is no folder {path.parent}. Create it, or choose another.'
        )
    if path.is_dir():
        raise OutputError(f'Cannot write {path}: it is a folder. Choose another name for the file.')
    read = [source for source in sources if source is not None and source.exists()]
    if path.exists() and any(path.samefile(source) for source in read):
        raise OutputError(f'Cannot write {path}: it is the file that is read. Choose another name.')


def previous_path(path: Path) -> Path:
    """Return where `keep_previous` keeps a file."""
    return path.with_suffix(f'.previous{path.suffix}')


def names_of_checkpoint(path: Path) -> tuple[str, ...]:
    """Return the names under which a checkpoint and those before it are written."""
    return path.name, predecessor_path(path).name, previous_path(path).name, TRIAL


def keep_previous(path: Path) -> None:
    """Keep a copy of a file that is about to be replaced, as ``NAME.previous.SUFFIX``.

    The predecessor of a checkpoint stays its predecessor.

    Parameters
    ----------
    path : Path
        Where it does not exist, nothing is kept.

    Raises
    ------
    OutputError
        If the copy cannot be written.
    """
    if not path.is_file():
        return
    previous = previous_path(path)
    with atomic_path(previous) as temporary:
        shutil.copy2(path, temporary)
    # One of another training must not pass for that of this one.
    predecessor_path(previous).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        os.replace(predecessor_path(path), predecessor_path(previous))


def remove_partial(folder: Path, names: Collection[str]) -> None:
    """Remove what `atomic_path` was writing when its process was killed.

    Parameters
    ----------
    folder : Path
        This process owns it, see `lock.locked_folder`.
    names : collection of str
        Of the files; others may be of a program that works there without owning the folder.
    """
    for path in folder.glob(f'{UNFINISHED}*'):
        name = path.name.removeprefix(UNFINISHED).partition('-')[2]
        if name in names and path.is_file():
            _remove(path)


def predecessor_path(path: Path) -> Path:
    """Return where the file lies that a checkpoint at `path` has replaced."""
    return path.with_suffix(f'.predecessor{path.suffix}')


def keep_predecessor(path: Path) -> None:
    """Let a file that is about to be replaced stay as ``NAME.predecessor.SUFFIX``.

    Raises
    ------
    OutputError
        If that cannot be written.
    """
    with atomic_path(predecessor_path(path)) as temporary:
        link_or_copy(path, temporary)


def link_or_copy(path: Path, other: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copy2(path, other)


def check_output_folder(path: Path) -> Path:
    """Create a folder where it is missing and make sure that files can be written to it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OutputError
        If it is a file, cannot be created or cannot be written to.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise OutputError(
            f'The output must be a folder; {path} is a file. Choose another name for the folder.'
        )
    trial = path / f'{UNFINISHED}{secrets.token_hex(4)}-{TRIAL}'
    try:
        path.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b'\0')
    except OSError as error:
        raise OutputError(f'Cannot write to the folder {path}: {_reason(error)}') from error
    finally:
        _remove(trial)
    return path


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # Where not even this works (a file as parent, a vanished mount), the cause is being raised.
        return


def _reason(error: OSError) -> str:
    # HDF5 gives the number of its system error in the text alone.
    text = ' '.join(str(error).split())
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in text:
        return 'the disk is full. Free some space, or choose another folder.'
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return 'no permission to write there. Change the permissions, or choose another folder.'
    if isinstance(error, IsADirectoryError):
        return 'it is a folder. Choose another name for the file.'
    if isinstance(error, FileExistsError | NotADirectoryError):
        return 'a part of the path is a file. Choose another folder.'
    detail = error.strerror or text or type(error).__name__
    return f'{detail.rstrip(".")}. Choose another folder.'
