"""Sends a scan as a beamline would: the counterparts of the sources."""

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self

import h5py
import numpy as np

from ptychopinn_plugin.errors import DataError, OutputError
from ptychopinn_plugin.storage.atomic import UNFINISHED
from ptychopinn_plugin.streaming.sources import load_library, need_library, split_address
from ptychopinn_plugin.streaming.sources.hdf5 import UNWRITTEN

ARRIVAL_S = 30.0
"""A socket waits for a receiver for this time before it publishes."""

Values = Mapping[str, Any]


class ScanSender(Protocol):
    """Sends named arrays and values, as `messages.messages_of` reads them; used as a context."""

    def send(self, values: Values) -> None:
        """Send the opening, some patterns, some positions, or the end."""
        ...


def open_sender(address: str) -> AbstractContextManager[ScanSender]:
    """Return the sender to an address, of which `sources.open_stream` receives.

    Raises
    ------
    DataError
        If it is none of `sources.SOURCE_KINDS`.
    UnavailableError
        If its library is not installed.
    """
    kind, rest = split_address(address)
    if kind == 'hdf5':
        return FileSender(Path(rest))
    if kind == 'folder':
        return FolderSender(Path(rest))
    if kind == 'pva':
        need_library('pvaccess', 'pvapy', 'PV Access', 'pva')
        return PvAccessSender(rest)
    need_library('zmq', 'pyzmq', 'ZeroMQ', 'zmq')
    return ZeroMqSender(rest, publishes=kind == 'zmq+sub')


class FileSender:
    """Writes an HDF5 file that others read while it grows (SWMR).

    A pattern is written before its index, so that a reader takes no pattern that is not complete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: h5py.File | None = None
        self._opening: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def send(self, values: Values) -> None:
        """Add to the file; the opening comes first, and names the shape of the patterns."""
        if self._file is None:
            self._file = self._created(values)
            return
        for name, key in (
            ('patterns', 'indexes'),
            ('positions_m', 'position_indexes'),
            ('positions_px', 'position_indexes'),
        ):
            if name in values:
                indexes = values['indexes' if key not in values else key]
                self._append(name, values[name], key, indexes)

    def _created(self, opening: Values) -> h5py.File:
        try:
            # A reader must not take an old file for the new scan, and no file is replaced.
            file = h5py.File(self._path, 'x', libver='latest')
        except FileExistsError as error:
            raise _already_there(self._path) from error
        except OSError as error:
            raise OutputError(
                f'Cannot write {self._path}: {error}. Choose another file.'
            ) from error
        shape, dtype = tuple(opening['pattern_shape']), opening['pattern_dtype']
        unit = opening['unit']
        file.create_dataset(
            'patterns', (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape)
        )
        for name in ('indexes', 'position_indexes'):
            file.create_dataset(
                name, (0,), np.int64, maxshape=(None,), chunks=(1024,), fillvalue=UNWRITTEN
            )
        file.create_dataset(
            f'positions_{unit}', (0, 2), np.float64, maxshape=(None, 2), chunks=(1024, 2)
        )
        for name, value in opening.items():
            if isinstance(value, np.ndarray):
                file[name] = value
            elif name not in ('unit', 'pattern_shape', 'pattern_dtype'):
                file.attrs[name] = value
        # From here on readers may open it.
        file.swmr_mode = True
        return file

    def _append(self, name: str, rows: Any, key: str, indexes: Any) -> None:
        assert self._file is not None
        for dataset, values in ((self._file[name], rows), (self._file[key], indexes)):
            count = len(dataset)
            dataset.resize(count + len(values), axis=0)
            dataset[count:] = values
            dataset.flush()


def _already_there(path: Path) -> OutputError:
    return OutputError(f'{path} is there already. Choose another name, or remove it.')


class FolderSender:
    """Writes a file for each message under another name, and renames it."""

    def __init__(self, path: Path) -> None:
        self._path, self._number = path, 0

    def __enter__(self) -> Self:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            is_empty = not any(self._path.iterdir())
        except OSError as error:
            raise OutputError(f'Cannot write to {self._path}: {error.strerror}.') from error
        if not is_empty:
            raise _already_there(self._path)
        return self

    def __exit__(self, *exception: object) -> None:
        return

    def send(self, values: Values) -> None:
        """Write one NPZ file."""
        name = f'part-{self._number:06d}.npz'
        temporary = self._path / f'{UNFINISHED}{name}'
        with temporary.open('wb') as file:
            arrays: dict[str, Any] = {key: np.asarray(value) for key, value in values.items()}
            np.savez(file, **arrays)
        os.replace(temporary, self._path / name)
        self._number += 1


class ZeroMqSender:
    """Binds a ZeroMQ socket that pushes, or publishes, and sends to whoever connects.

    One that pushes waits while the receiver is late. One that publishes waits for a receiver
    before the first message alone, and drops what is too much.
    """

    def __init__(self, address: str, *, publishes: bool) -> None:
        self._address, self._publishes = address, publishes
        self._zmq: Any = load_library('zmq')

    def __enter__(self) -> Self:
        self._context = self._zmq.Context()
        self._socket = self._context.socket(self._zmq.XPUB if self._publishes else self._zmq.PUSH)
        try:
            self._socket.bind(self._address)
        except self._zmq.ZMQError as error:
            self.__exit__()
            raise DataError(f'ZeroMQ cannot bind {self._address!r}: {error}.') from error
        if self._publishes and not self._socket.poll(int(ARRIVAL_S * 1000)):
            self.__exit__()
            raise DataError(f'Nobody has subscribed to {self._address} in {ARRIVAL_S:g} s.')
        return self

    def __exit__(self, *exception: object) -> None:
        # What was sent is delivered, unless something has failed.
        self._socket.close(linger=0 if exception and exception[0] else 5000)
        self._context.term()

    def send(self, values: Values) -> None:
        """Send one message of several parts."""
        from ptychopinn_plugin.streaming.sources.zeromq import encode_parts

        self._socket.send_multipart(encode_parts(values))


class PvAccessSender:
    """Serves two channels: images with their indexes, and ``NAME:positions`` with all else.

    Images carry their positions as attributes where both are sent together.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pva: Any = load_library('pvaccess')

    def __enter__(self) -> Self:
        pva = self._pva
        self._kind = {
            'indexes': [pva.LONG],
            'positions_m': [pva.DOUBLE],
            'positions_px': [pva.DOUBLE],
            'n_patterns': pva.LONG,
            'end': pva.BOOLEAN,
            'name': pva.STRING,
            'pixel_height_m': pva.DOUBLE,
            'pixel_width_m': pva.DOUBLE,
            'photon_energy_eV': pva.DOUBLE,
            'detector_distance_m': pva.DOUBLE,
            'detector_pixel_height_m': pva.DOUBLE,
            'detector_pixel_width_m': pva.DOUBLE,
            'near_field': pva.BOOLEAN,
            'focus_object_distance_m': pva.DOUBLE,
        }
        self._server = pva.PvaServer()
        self._server.addRecord(self._name, pva.NtNdArray(), None)
        self._server.addRecord(f'{self._name}:positions', pva.PvObject(self._kind), None)
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Clients fetch the last updates.
        time.sleep(0.5)
        self._server.stop()

    def send(self, values: Values) -> None:
        """Publish an image for each pattern, and a structure for the rest."""
        names = [name for name in ('positions_m', 'positions_px') if name in values]
        if 'patterns' in values:
            for number, pattern in enumerate(values['patterns']):
                position = {name: values[name][number] for name in names}
                image = self._image(pattern, int(values['indexes'][number]), position)
                self._server.update(self._name, image)
            return
        known = {name: value for name, value in values.items() if name in self._kind}
        for name in ('indexes', *names):
            if name in known:
                known[name] = np.ravel(known[name]).tolist()
        self._server.update(f'{self._name}:positions', self._pva.PvObject(self._kind, known))

    def _image(self, pattern: Any, index: int, position: Mapping[str, Any]) -> Any:
        pva = self._pva
        image = pva.NtNdArray()
        height, width = pattern.shape
        image['uniqueId'] = index
        image['dimension'] = [pva.PvDimension(side, 0, side, 1, False) for side in (width, height)]
        image['compressedSize'] = image['uncompressedSize'] = pattern.nbytes
        image['value'] = {_FIELDS[pattern.dtype.name]: np.ravel(pattern)}
        image['attribute'] = [
            pva.NtAttribute(f'{name}.{axis}', pva.PvDouble(float(number)))
            for name, place in position.items()
            for axis, number in zip('yx', place, strict=True)
        ]
        return image


_FIELDS = {
    'int8': 'byteValue',
    'uint8': 'ubyteValue',
    'int16': 'shortValue',
    'uint16': 'ushortValue',
    'int32': 'intValue',
    'uint32': 'uintValue',
    'int64': 'longValue',
    'uint64': 'ulongValue',
    'float32': 'floatValue',
    'float64': 'doubleValue',
}
"""The value of an NTNDArray has one of these fields, by the type of the pixels."""
