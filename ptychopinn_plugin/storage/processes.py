"""Which process owns something that outlives it: a lock, a block of shared memory."""

import functools
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

# The system calls of Windows that show whether a process runs.
_QUERY_LIMITED_INFORMATION, _STILL_ACTIVE = 0x1000, 259


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, distinct from another one that got its number later.

    Attributes
    ----------
    host : str
        Name of the machine.
    namespace : str
        Containers on one machine count processes apart; empty where it is unknown.
    pid : int
    started : str
        When it began, in units of the system; empty where it is unknown.
    """

    host: str
    namespace: str
    pid: int
    started: str

    def is_gone(self) -> bool:
        """Return whether the process has ended; False where this cannot be known from here."""
        here = current_process()
        if (self.host, self.namespace) != (here.host, here.namespace):
            return False
        if not _is_running(self.pid):
            return True
        started = _start_of(self.pid)
        return bool(self.started and started and started != self.started)


@functools.lru_cache(maxsize=1)
def _identity(pid: int) -> ProcessIdentity:
    return ProcessIdentity(socket.gethostname(), _namespace(), pid, _start_of(pid))


def current_process() -> ProcessIdentity:
    """Return who runs this."""
    # A forked process is another one.
    return _identity(os.getpid())


def _namespace() -> str:
    try:
        return os.readlink('/proc/self/ns/pid')
    except OSError:
        return ''


def _start_of(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; only Linux reports it."""
    try:
        # The name, in parentheses, can hold spaces and parentheses.
        fields = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()
        return fields[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return ''


def _is_running(pid: int) -> bool:
    if sys.platform == 'win32':
        return _is_running_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        # A zombie holds nothing but its number, until its parent has looked at it.
        stat = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8')
        return stat.rpartition(')')[2].split()[0] not in ('Z', 'X')
    except (OSError, IndexError, UnicodeDecodeError):
        return True


def _is_running_on_windows(pid: int) -> bool:
    import ctypes

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    handle = kernel.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid)
    if not handle:
        return False
    code = ctypes.c_ulong()
    kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return code.value == _STILL_ACTIVE
