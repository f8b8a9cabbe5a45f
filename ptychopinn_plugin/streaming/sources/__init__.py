"""Where a running scan comes from: a growing HDF5 file, a folder, ZeroMQ or PV Access."""

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ptychopinn_plugin.errors import DataError, PtychoPinnError
from ptychopinn_plugin.packages import is_importable
from ptychopinn_plugin.streaming.messages import StreamMessage

SOURCE_KINDS = {
    'hdf5': 'hdf5:FILE, an HDF5 file that grows (SWMR)',
    'folder': 'folder:DIR, a folder in which files appear',
    'zmq': 'zmq:tcp://HOST:PORT, a ZeroMQ socket that pushes (zmq+sub: one that publishes)',
    'pva': 'pva:CHANNEL, a channel of EPICS PV Access',
}

MAX_QUEUED_UPDATES = 1024
"""ZeroMQ and PV Access hold this number of messages for a receiver that is late."""


class StreamSource(Protocol):
    """Delivers the messages of a scan; used by one thread, as a context."""

    @property
    def overrun(self) -> int:
        """Messages that were lost on the way as the receiver was late, where that is counted."""
        ...

    def receive(self, timeout_s: float) -> Sequence[StreamMessage]:
        """Return what has come, waiting no longer than this; the rest comes with later calls."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether nothing more can come."""
        ...


OnFault = Callable[[str], None]
"""It gets what was wrong with a message that was left out."""


class UnavailableError(PtychoPinnError):
    """The library of a source is not installed."""


def open_stream(address: str, on_fault: OnFault) -> AbstractContextManager[StreamSource]:
    """Return the source of an address.

    Parameters
    ----------
    address : str
        One of `SOURCE_KINDS`; a path of a folder or of a file alone is one of the first two, and an
        address that begins with ``tcp://`` or ``ipc://`` is one of ZeroMQ.
    on_fault : callable

    Raises
    ------
    DataError
        If it is none of them.
    UnavailableError
        If its library is not installed.
    """
    kind, rest = split_address(address)
    # Each library is imported by who uses it.
    if kind == 'hdf5':
        from ptychopinn_plugin.streaming.sources.hdf5 import GrowingFile

        return GrowingFile(Path(rest), on_fault)
    if kind == 'folder':
        from ptychopinn_plugin.streaming.sources.folder import WatchedFolder

        return WatchedFolder(Path(rest), on_fault)
    if kind == 'pva':
        need_library('pvaccess', 'pvapy', 'PV Access', 'pva')
        from ptychopinn_plugin.streaming.sources.pv_access import PvAccessChannel

        return PvAccessChannel(rest, on_fault)
    need_library('zmq', 'pyzmq', 'ZeroMQ', 'zmq')
    from ptychopinn_plugin.streaming.sources.zeromq import ZeroMqSocket

    return ZeroMqSocket(rest, on_fault, subscribes=kind == 'zmq+sub')


def split_address(address: str) -> tuple[str, str]:
    """Return the kind of an address, and what it names.

    Raises
    ------
    DataError
        If it is none of `SOURCE_KINDS`.
    """
    if address.startswith(('tcp://', 'ipc://', 'inproc://')):
        return 'zmq', address
    kind, colon, rest = address.partition(':')
    if colon and kind in (*SOURCE_KINDS, 'zmq+sub') and rest:
        return kind, rest
    path = Path(address)
    # Path('') is the current folder.
    if address and path.is_dir():
        return 'folder', address
    if path.is_file() or path.suffix.lower() in ('.h5', '.hdf5', '.hdf', '.nxs'):
        return 'hdf5', address
    raise DataError(f'A source is one of {"; ".join(SOURCE_KINDS.values())}; got {address!r}.')


def need_library(module: str, package: str, what: str, extra: str) -> None:
    """Raise UnavailableError where a library is not installed; the message holds what to do."""
    if not is_importable(module):
        raise UnavailableError(
            f'{what} needs the package {package}, which is not installed. Run: pip install '
            f"'ptychopinn-plugin[{extra}]'."
        )


def load_library(name: str) -> object:
    """Import a library by its name: it is no dependency."""
    return importlib.import_module(name)
