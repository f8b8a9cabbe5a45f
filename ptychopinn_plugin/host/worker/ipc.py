"""How the host and its worker talk: lines of JSON, and arrays in shared memory.

No message is pickled. An array stays where it is; the message names the block that holds it.
"""

import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import resource_tracker, shared_memory
from typing import IO, Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.errors import WorkerError

Message = dict[str, Any]


class Sender:
    """Writes messages to a stream, from any thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one message; OSError or ValueError where nobody listens any more."""
        line = json.dumps(message).encode('utf-8') + b'\n'
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


def read_message(stream: IO[bytes]) -> Message | None:
    """Return the next message, or None at the end of the stream."""
    line = stream.readline()
    if not line.endswith(b'\n'):
        return None
    message: Message = json.loads(line)
    return message


def _reserve(n_bytes: int) -> shared_memory.SharedMemory:
    """Return a block whose memory is there; written to without, the process would be killed."""
    block = shared_memory.SharedMemory(create=True, size=n_bytes)
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
    """Arrays that this process lends to another one, until it has read them.

    The block goes when `release` is called or, should this process be killed, with Python's own
    resource tracker, which outlives it.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, shared_memory.SharedMemory] = {}

    def share(self, array: RealArray) -> Message:
        """Copy an array into shared memory and return what `borrow` needs."""
        array = np.ascontiguousarray(array)
        block = _reserve(max(1, array.nbytes))
        view: RealArray = np.ndarray(array.shape, array.dtype, buffer=block.buf)
        view[...] = array
        self._blocks[block.name] = block
        return {'block': block.name, 'shape': list(array.shape), 'dtype': array.dtype.str}

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


def copy_shared(described: Message) -> RealArray:
    """Return a copy of an array that the other process lends.

    Raises
    ------
    FileNotFoundError
        If the lender is gone.
    """
    block = _open(described['block'])
    try:
        view: RealArray = np.ndarray(
            tuple(described['shape']), np.dtype(described['dtype']), buffer=block.buf
        )
        return view.copy()
    finally:
        del view
        block.close()


def _open(name: str) -> shared_memory.SharedMemory:
    """Open another process' block, which stays that process' to free."""
    if sys.version_info >= (3, 13):
        return shared_memory.SharedMemory(name=name, track=False)
    block = shared_memory.SharedMemory(name=name)
    if os.name == 'posix':
        # Before Python 3.13 an opened block is tracked as if it were our own.
        resource_tracker.unregister(f'/{block.name.removeprefix("/")}', 'shared_memory')
    return block
