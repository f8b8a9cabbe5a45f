"""Blocks of shared memory, which carry the name of the process that owns them.

A block outlives a process that is killed together with Python's resource tracker. The next start of
a host or worker removes it, as its name shows that its owner is gone.
"""

import itertools
import logging
import re
import zlib
from contextlib import suppress
from dataclasses import replace
from multiprocessing import shared_memory
from pathlib import Path

from ptychopinn_plugin.storage.processes import current_process

FOLDER = Path('/dev/shm')
"""Linux shows the blocks here; on other systems nobody can list them."""

_PREFIX = 'ppnn'
_NAME = re.compile(rf'{_PREFIX}-([0-9a-f]{{4}})-([0-9a-f]+)-([0-9a-f]*)-[0-9a-f]+')
_numbers = itertools.count()

logger = logging.getLogger('ptychopinn_plugin')


def create_block(n_bytes: int) -> shared_memory.SharedMemory:
    """Return a new block of shared memory that carries the name of this process.

    Parameters
    ----------
    n_bytes : int
        At least 1.
    """
    me = current_process()
    started = f'{int(me.started):x}' if me.started else ''
    # macOS allows 30 letters.
    stem = f'{_PREFIX}-{_mark(me.namespace)}-{me.pid:x}-{started}'
    while True:
        with suppress(FileExistsError):
            return shared_memory.SharedMemory(f'{stem}-{next(_numbers):x}', True, n_bytes)


def remove_orphans(folder: Path = FOLDER) -> int:
    """Remove the blocks whose owner is gone; return how many there were.

    Those of a container that shares the memory, but counts processes apart, are left alone.
    """
    me, removed = current_process(), 0
    for path in folder.glob(f'{_PREFIX}-*') if folder.is_dir() else ():
        parts = _NAME.fullmatch(path.name)
        if parts is None or parts[1] != _mark(me.namespace):
            continue
        started = str(int(parts[3], 16)) if parts[3] else ''
        if replace(me, pid=int(parts[2], 16), started=started).is_gone():
            # It may be another user's.
            with suppress(OSError):
                path.unlink()
                removed += 1
    if removed:
        logger.info('Removed %d blocks of shared memory whose processes are gone.', removed)
    return removed


def _mark(namespace: str) -> str:
    return f'{zlib.crc32(namespace.encode()) & 0xFFFF:04x}'
