"""EPICS PV Access: images of an area detector (NTNDArray), and structures of named arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pvaccess

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming.messages import StreamMessage, messages_of
from ptychopinn_plugin.streaming.sources import MAX_QUEUED_UPDATES, OnFault

_MAX_MESSAGES = 64
"""This number of updates is taken at a time."""

_POSITION_ATTRIBUTES = ('positions_m', 'positions_px')


class PvAccessChannel:
    """Monitors a channel; see `StreamSource` and docs/streaming.md.

    The server does not wait: where the receiver is so late that its queue is full, updates are
    lost, and counted as overrun.

    Parameters
    ----------
    name : str
        Of the channel.
    on_fault : callable
    """

    def __init__(self, name: str, on_fault: OnFault) -> None:
        self._name, self._on_fault = name, on_fault
        self._queue: Any = pvaccess.PvObjectQueue(MAX_QUEUED_UPDATES)
        self._channel: Any = pvaccess.Channel(name)

    def __enter__(self) -> Self:
        # An empty request is one for all fields.
        self._channel.qMonitor(self._queue, '')
        return self

    def __exit__(self, *exception: object) -> None:
        self._channel.stopMonitor()

    @property
    def is_done(self) -> bool:
        """Return False: more updates can always come."""
        return False

    @property
    def overrun(self) -> int:
        """The number of updates that were lost on the way."""
        counters = self._queue.getCounters()
        lost = int(counters.get('nRejected', 0))
        return lost + int(self._channel.getMonitorCounters().get('nOverruns', 0))

    def receive(self, timeout_s: float) -> Sequence[StreamMessage]:
        """Return the updates that have come; see `StreamSource`."""
        found: list[StreamMessage] = []
        for number in range(_MAX_MESSAGES):
            try:
                update = self._queue.get() if number else self._queue.get(timeout_s)
            except pvaccess.QueueEmpty:
                break
            try:
                found += messages_of(values_of(update.toDict()))
            except DataError as error:
                self._on_fault(f'An update of {self._name} was left out: {error}')
        return found


def values_of(update: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the named arrays of an update: of an image, its pattern and its index.

    Parameters
    ----------
    update : mapping
        A structure of PV Access.

    Raises
    ------
    DataError
        If an image is compressed, or not what it must be.
    """
    if 'uniqueId' not in update or 'dimension' not in update:
        return {name: value for name, value in update.items() if not _is_empty(value)}
    codec = update.get('codec') or {}
    if codec.get('name'):
        raise DataError(
            f'Images must not be compressed; they are by {codec["name"]!r}. Take the codec plugin '
            'of the area detector out of the way.'
        )
    union = update.get('value')
    parts = list(union) if isinstance(union, tuple) else [union]
    held = next((part for part in parts if isinstance(part, Mapping)), None)
    sizes = [int(dimension['size']) for dimension in update['dimension']]
    if not held or len(sizes) != 2:
        # A channel that has published no image yet is of this kind as well.
        return {}
    (pixels,) = held.values()
    pixels = np.asarray(pixels)
    if pixels.size != sizes[0] * sizes[1]:
        raise DataError(f'An image of {sizes} pixels has {pixels.size} values.')
    # The first dimension is the fastest.
    values = {'patterns': pixels.reshape(sizes[1], sizes[0]), 'indexes': [update['uniqueId']]}
    return values | _position_of(update.get('attribute') or ())


def _position_of(attributes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the position that an image carries, as attributes positions_m.y and positions_m.x."""
    numbers: dict[str, float] = {}
    for attribute in attributes:
        value = attribute.get('value')
        parts = list(value) if isinstance(value, tuple) else [value]
        held = next((part for part in parts if isinstance(part, Mapping)), None)
        number = next(iter(held.values()), None) if held else value
        if isinstance(number, int | float):
            numbers[str(attribute.get('name'))] = float(number)
    return {
        name: np.array([[numbers[f'{name}.y'], numbers[f'{name}.x']]])
        for name in _POSITION_ATTRIBUTES
        if f'{name}.y' in numbers and f'{name}.x' in numbers
    }


def _is_empty(value: Any) -> bool:
    return isinstance(value, np.ndarray | list | tuple | str) and len(value) == 0
