"""ZeroMQ: messages of several parts, the first of which describes the others."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import zmq

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming.messages import StreamMessage, messages_of
from ptychopinn_plugin.streaming.sources import MAX_QUEUED_UPDATES, OnFault

_MAX_MESSAGES = 64
"""This number of messages is taken at a time."""


class ZeroMqSocket:
    """Receives from a socket that pushes, or publishes; see `StreamSource` and docs/streaming.md.

    One that pushes waits while the receiver is late; one that publishes drops messages.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT`` or ``ipc://PATH`` of the sender, which binds.
    on_fault : callable
    subscribes : bool
        Whether the sender publishes.
    """

    def __init__(self, address: str, on_fault: OnFault, *, subscribes: bool) -> None:
        self._address, self._on_fault, self._subscribes = address, on_fault, subscribes
        self.overrun = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB if self._subscribes else zmq.PULL)
        self._socket.set_hwm(MAX_QUEUED_UPDATES)
        if self._subscribes:
            self._socket.setsockopt(zmq.SUBSCRIBE, b'')
        try:
            self._socket.connect(self._address)
        except zmq.ZMQError as error:
            self.__exit__()
            raise DataError(
                f'ZeroMQ cannot connect to {self._address!r}: {error}. Write it as '
                'zmq:tcp://HOST:PORT.'
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
        if self._context is not None:
            self._context.term()

    @property
    def is_done(self) -> bool:
        """Return False: more messages can always come."""
        return False

    def receive(self, timeout_s: float) -> Sequence[StreamMessage]:
        """Return the messages that have come; see `StreamSource`."""
        assert self._socket is not None
        if not self._socket.poll(int(timeout_s * 1000)):
            return []
        found: list[StreamMessage] = []
        for _ in range(_MAX_MESSAGES):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                found += messages_of(decode_parts(parts))
            except DataError as error:
                self._on_fault(f'A message of {self._address} was left out: {error}')
        return found


def encode_parts(values: Mapping[str, Any]) -> list[bytes]:
    """Return named arrays and values as the parts of a message.

    The first part is JSON: ``{"arrays": [{"name", "dtype", "shape"}, ...], "values": {...}}``; the
    arrays follow, each in the order of C.
    """
    arrays = {
        name: np.ascontiguousarray(value)
        for name, value in values.items()
        if isinstance(value, np.ndarray)
    }
    header = {
        'arrays': [
            {'name': name, 'dtype': array.dtype.str, 'shape': list(array.shape)}
            for name, array in arrays.items()
        ],
        'values': {name: value for name, value in values.items() if name not in arrays},
    }
    return [json.dumps(header).encode(), *(array.tobytes() for array in arrays.values())]


def decode_parts(parts: Sequence[bytes]) -> dict[str, Any]:
    """Return the named arrays and values of a message; see `encode_parts`.

    Raises
    ------
    DataError
        If the parts are not what the first one promises.
    """
    try:
        header = json.loads(parts[0])
        described = [(str(a['name']), str(a['dtype']), tuple(a['shape'])) for a in header['arrays']]
        values = dict(header['values'])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            'The first part of a message must be JSON with "arrays" and "values"; see '
            'docs/streaming.md.'
        ) from error
    if len(described) != len(parts) - 1:
        raise DataError(f'{len(described)} arrays are promised; {len(parts) - 1} have come.')
    for (name, kind, shape), data in zip(described, parts[1:], strict=True):
        try:
            dtype = np.dtype(kind)
            # Nothing else is made of bytes of strangers.
            if dtype.kind not in 'biufc':
                raise TypeError(kind)
            values[name] = np.frombuffer(data, dtype).reshape(shape)
        except (TypeError, ValueError) as error:
            raise DataError(
                f'{name} is promised as {kind} of shape {shape}; {len(data)} bytes have come.'
            ) from error
    return values
