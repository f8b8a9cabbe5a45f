"""One run at a time writes to a folder."""

import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage.processes import ProcessIdentity, current_process

LOCK_FILE = '.ptychopinn.lock'
"""While a run owns a folder, this file in it names the run's host, process and start."""

_TRIES = 5

_DRAFT_S = 60.0
"""A lock that is incomplete for this number of seconds was being written when its process died."""

logger = logging.getLogger('ptychopinn_plugin')


@dataclass(frozen=True)
class _Owner:
    """Who wrote a lock; `text` is the whole file."""

    process: ProcessIdentity
    since: str
    text: str

    def __str__(self) -> str:
        return f'process {self.process.pid} on {self.process.host} since {self.since}'


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Own a folder while the block runs, so that no other run writes to it.

    The lock of a process of this machine that has ended is taken over, with a note in the log.

    Parameters
    ----------
    folder : Path
        It exists and can be written to.

    Raises
    ------
    OutputError
        If another run owns it, or one of another machine that may still run.
    """
    path = folder / LOCK_FILE
    text = json.dumps({**asdict(current_process()), 'since': time.strftime('%Y-%m-%d %H:%M:%S %z')})
    _acquire(path, text)
    _remove_drafts(folder)
    try:
        yield
    finally:
        # Someone may have removed it by hand and begun another run, whose lock this is then.
        with suppress(OSError):
            if path.read_text(encoding='utf-8') == text:
                path.unlink()


def _acquire(path: Path, text: str) -> None:
    for _ in range(_TRIES):
        if _create(path, text):
            return
        try:
            found = path.read_text(encoding='utf-8')
        except FileNotFoundError:
            # Its run has just ended.
            continue
        except (OSError, UnicodeDecodeError):
            found = ''
        owner = _owner(found)
        if owner is None:
            raise OutputError(
                f'{path.parent} holds a lock that names nobody. If no other run writes to this '
                f'folder, remove {path}; else choose another output.'
            )
        if not owner.process.is_gone():
            raise OutputError(_refusal(path, owner))
        if _remove_stale(path, owner):
            logger.warning(
                'The lock of %s was taken over: %s has ended without removing it.',
                path.parent,
                owner,
            )
    raise OutputError(f'The lock {path} changes all the time. Choose another output.')


def _refusal(path: Path, owner: _Owner) -> str:
    here = current_process()
    text = f'{path.parent} is being written to by another run: {owner}. '
    if (owner.process.host, owner.process.namespace) == (here.host, here.namespace):
        return text + 'Wait for it, or choose another output.'
    where = 'a container' if owner.process.host == here.host else 'another machine'
    return (
        f'{text}That is {where}, so whether it still runs cannot be known here. Wait for it or '
        f'choose another output; if it has ended, remove {path}.'
    )


def _create(path: Path, text: str) -> bool:
    """Write the lock where there is none; its content is complete as soon as it is there."""
    draft = path.with_name(f'{LOCK_FILE}.{secrets.token_hex(4)}')
    try:
        draft.write_text(text, encoding='utf-8')
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:
            return _create_without_links(path, text)
        return True
    except OSError as error:
        raise OutputError(
            f'Cannot write to the folder {path.parent}: {error.strerror}. Choose another folder.'
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def _create_without_links(path: Path, text: str) -> bool:
    """Do the same on file systems that give no file a second name."""
    try:
        with path.open('x', encoding='utf-8') as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _remove_stale(path: Path, owner: _Owner) -> bool:
    """Remove a lock, unless another run took it over a moment before; return whether it did."""
    aside = path.with_name(f'{LOCK_FILE}.{secrets.token_hex(4)}')
    try:
        # Of several runs that have found the same dead owner, only one can move its lock away.
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    try:
        found = aside.read_text(encoding='utf-8')
    except FileNotFoundError:
        # Its owner was gone, and another run has tidied up.
        return True
    if found == owner.text:
        aside.unlink(missing_ok=True)
        return True
    try:
        # What was moved is the lock of a run that came in between, and goes back to its place.
        os.link(aside, path)
    except FileExistsError:
        pass
    except OSError:
        # This file system has no second names.
        os.rename(aside, path)
        return False
    aside.unlink(missing_ok=True)
    return False


def _remove_drafts(folder: Path) -> None:
    """Remove what processes have left that were killed while they made or removed a lock."""
    for draft in folder.glob(f'{LOCK_FILE}.*'):
        # It may vanish at any moment, as its process goes on.
        with suppress(OSError, UnicodeDecodeError):
            owner = _owner(draft.read_text(encoding='utf-8'))
            is_old = time.time() - draft.stat().st_mtime > _DRAFT_S
            if is_old if owner is None else owner.process.is_gone():
                draft.unlink()


def _owner(text: str) -> _Owner | None:
    try:
        values: dict[str, Any] = json.loads(text)
        process = ProcessIdentity(
            str(values['host']),
            str(values['namespace']),
            int(values['pid']),
            str(values['started']),
        )
        return _Owner(process, str(values['since']), text)
    except (ValueError, KeyError, TypeError):
        return None
