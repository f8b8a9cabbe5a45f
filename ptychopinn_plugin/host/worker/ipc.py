"""How messages travel between the host and its worker: lines of JSON, and arrays in shared memory.

No message is pickled. An array stays where it is; the message names the block that holds it.
"""

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import resource_tracker, shared_memory
from typing import IO, Any, TypeVar

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import WorkerError
from ptychopinn_plugin.host.worker.arrays import ReportArrays, ScanArrays
from ptychopinn_plugin.host.worker.blocks import create_block
from ptychopinn_plugin.host.worker.codec import from_plain, to_plain
from ptychopinn_plugin.host.worker.messages import SharedArray, ToHost, ToWorker

SomeArrays = TypeVar('SomeArrays', bound=ScanArrays | ReportArrays)


class Sender:
    """Writes messages to a stream, from any thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: ToWorker | ToHost) -> None:
        """Write one message.

        Raises
        ------
        OSError, ValueError
            If the other end of the stream is closed.
        """
        line = json.dumps(to_plain(message)).encode('utf-8') + b'\n'
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


def read_message(stream: IO[bytes], expected: Any) -> Any | None:
    """Return the next message, or None at the end of the stream.

    Parameters
    ----------
    stream : binary file
    expected : type
        `messages.ToWorker` or `messages.ToHost`; the message is one of its classes.

    Raises
    ------
    WorkerError
        If the line is not such a message.
    """
    line = stream.readline()
    # A process that is killed while it writes leaves half a line.
    if not line.endswith(b'\n'):
        return None
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        # `from_plain` reports what came.
        plain = line.decode('utf-8', 'replace').strip()
    return from_plain(plain, expected)


def _reserve(n_bytes: int) -> shared_memory.SharedMemory:
    """Return a block whose memory is there.

    The system kills a process that writes to memory which was promised and cannot be had.
    """
    block = create_block(n_bytes)
    reserve = getattr(os, 'posix_fallocate', None)
    try:
        if reserve is not None:
            reserve(block._fd, 0, n_bytes)  # type: ignore[attr-defined]
    except OSError as error:
        block.close()
        block.unlink()
        raise WorkerError(
            f'Shared memory (/dev/shm) must hold {n_bytes / 2**20:.0f} MiB more: {error.strerror}. '
            'Enlarge it (in a container: --shm-size), or use fewer patterns.'
        ) from error
    return block


class SharedArrays:
    """Arrays that this process shares with another one, until that one has copied them.

    A block goes when `release` is called or, where this process is killed, with Python's own
    resource tracker, which outlives it; where that is killed too, with the next start of a host or
    worker, see `blocks.remove_orphans`.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, shared_memory.SharedMemory] = {}

    def __len__(self) -> int:
        """Return how many the other process has not copied yet."""
        return len(self._blocks)

    def share(self, array: RealArray) -> SharedArray:
        """Copy an array into shared memory and return what `copy_shared` needs.

        Raises
        ------
        WorkerError
            If shared memory is full, or the array does not hold numbers.
        """
        array = np.ascontiguousarray(array)
        described = SharedArray('', array.shape, array.dtype.str)
        block = _reserve(max(1, array.nbytes))
        view: RealArray = np.ndarray(array.shape, array.dtype, buffer=block.buf)
        view[...] = array
        self._blocks[block.name] = block
        return SharedArray(block.name, described.shape, described.dtype)

    def share_fields(self, arrays: ScanArrays | ReportArrays | None) -> dict[str, SharedArray]:
        """Share what goes beside a message, field by field; those that are None are left out."""
        if arrays is None:
            return {}
        fields = {item.name: getattr(arrays, item.name) for item in dataclasses.fields(arrays)}
        return {name: self.share(array) for name, array in fields.items() if array is not None}

    def release(self, name: str) -> None:
        """Free a block; one that is unknown was freed before."""
        block = self._blocks.pop(name, None)
        if block is not None:
            block.close()
            # Gone already where a resource tracker was faster.
            with suppress(FileNotFoundError):
                block.unlink()

    def release_all(self) -> None:
        """Free all blocks."""
        for name in tuple(self._blocks):
            self.release(name)


def copy_shared(described: SharedArray) -> RealArray:
    """Return a copy of an array that the other process shares.

    Raises
    ------
    FileNotFoundError
        If that process is gone.
    WorkerError
        If the block is smaller than the array.
    """
    block = _open(described.block)
    try:
        if block.size < described.n_bytes:
            raise WorkerError(
                f'A shared array of shape {described.shape} and type {described.dtype} needs '
                f'{described.n_bytes} bytes; its block {described.block} holds {block.size}.'
            )
        view: RealArray = np.ndarray(described.shape, np.dtype(described.dtype), buffer=block.buf)
        copy = view.copy()
        # A block cannot be closed while an array looks into it.
        del view
        return copy
    finally:
        block.close()


def copy_fields(
    kind: type[SomeArrays],
    described: Mapping[str, SharedArray],
    when_copied: Callable[[str], None],
) -> SomeArrays:
    """Copy what `SharedArrays.share_fields` shares in the other process.

    Parameters
    ----------
    kind : type
        The class of what was shared.
    described : mapping of str to SharedArray
    when_copied : callable
        Gets the name of each block as soon as it is copied, so that the owner frees one after the
        other and no scan is in memory twice for longer than that.

    Raises
    ------
    FileNotFoundError
        If the other process is gone.
    WorkerError
        If fields are missing or unknown.
    """
    fields = dataclasses.fields(kind)
    needed = [item.name for item in fields if item.default is dataclasses.MISSING]
    missing = sorted(set(needed) - set(described))
    unknown = sorted(set(described) - {item.name for item in fields})
    if missing or unknown:
        raise WorkerError(
            f'{kind.__name__} need the arrays {", ".join(needed)}; '
            + (f'{", ".join(missing)} did not come. ' if missing else '')
            + (f'{", ".join(unknown)} came, which is unknown. ' if unknown else '')
            + 'Restart Ptychodus, in case the plugin was updated meanwhile.'
        )
    copied = {}
    for name, shared in described.items():
        copied[name] = copy_shared(shared)
        when_copied(shared.block)
    return kind(**copied)


def _open(name: str) -> shared_memory.SharedMemory:
    """Open another process' block, which stays that process' to free."""
    if sys.version_info >= (3, 13):
        return shared_memory.SharedMemory(name=name, track=False)
    block = shared_memory.SharedMemory(name=name)
    if os.name == 'posix':
        # Before Python 3.13 an opened block is tracked as if it were our own.
        resource_tracker.unregister(f'/{block.name.removeprefix("/")}', 'shared_memory')
    return block
