"""How much memory this machine has left, as far as the system reports it."""

import os
from pathlib import Path

_CGROUP = Path('/sys/fs/cgroup')


def available_bytes() -> int | None:
    """Return how much memory can be had; None where it cannot be found out.

    A container's limit counts as well.
    """
    found = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    try:
        for line in Path('/proc/meminfo').read_text(encoding='ascii').splitlines():
            if line.startswith('MemAvailable:'):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        # What is installed stands in where no source states what is free.
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):
        return None


def _of_container() -> int | None:
    try:
        limit = int((_CGROUP / 'memory.max').read_text(encoding='ascii'))
        used = int((_CGROUP / 'memory.current').read_text(encoding='ascii'))
    except (OSError, ValueError):
        # There is no such file, or its limit is 'max'.
        return None
    return max(0, limit - used)
