"""A simulated scan in the units of files, and how HDF5 and EPICS' MDA are written."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptychopinn_plugin.data import Geometry, Scan

ENERGY_EV = 8000.0
DISTANCE_M = 2.0
HC_EV_M = 1.239841984e-6

Written = Mapping[str, Any]
"""`load_scan` gets these arguments besides the reader."""


@dataclass(frozen=True)
class Truth:
    """A simulated scan in the units of files.

    Attributes
    ----------
    scan : Scan
        Of five rows of six columns.
    folder : Path
        Where to write.
    pixel_m : float
        Of the detector.
    """

    scan: Scan
    folder: Path
    pixel_m: float = 75e-6

    @property
    def object_pixel_m(self) -> float:
        return HC_EV_M / ENERGY_EV * DISTANCE_M / (self.size * self.pixel_m)

    @property
    def size(self) -> int:
        return self.scan.pattern_shape[0]

    @property
    def x_m(self) -> np.ndarray:
        return (self.scan.positions_px[:, 1] - 30) * self.object_pixel_m

    @property
    def y_m(self) -> np.ndarray:
        return (self.scan.positions_px[:, 0] - 30) * self.object_pixel_m

    def lines(self, array: np.ndarray) -> np.ndarray:
        """Return an array of patterns or positions line by line."""
        return array.reshape(5, 6, *array.shape[1:])

    def frames(self, row: int, column: int, outside: int) -> np.ndarray:
        """Return patterns in larger frames with the beam at (row, column)."""
        half = self.size // 2
        frames = np.full((len(self.scan), 60, 50), outside, dtype=self.scan.patterns.dtype)
        frames[:, row - half : row + half, column - half : column + half] = self.scan.patterns
        return frames

    def geometry(self, **known: float) -> Geometry:
        """Return what a user gives for a file that holds nothing of it."""
        return Geometry(photon_energy_eV=ENERGY_EV, detector_distance_m=DISTANCE_M, **known)

    def all_geometry(self) -> Geometry:
        return self.geometry(
            detector_pixel_height_m=self.pixel_m, detector_pixel_width_m=self.pixel_m
        )


def write_h5(path: Path, **datasets: Any) -> Path:
    """Write datasets; two underscores in a name are a slash."""
    with h5py.File(path, 'a') as file:
        for name, value in datasets.items():
            file[name.replace('__', '/')] = value
    return path


def link(path: Path, name: str, file: str, target: str) -> None:
    with h5py.File(path, 'a') as master:
        master[name] = h5py.ExternalLink(file, target)


def write_csv(truth: Truth) -> Path:
    path = truth.folder / 'positions.csv'
    np.savetxt(path, np.stack([truth.y_m, truth.x_m], 1), delimiter=',', header='y, x')
    return path


# --- EPICS MDA -------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    data = text.encode()
    size = struct.pack('>i', len(data))
    return size + (size + data + b'\0' * (-len(data) % 4) if data else b'')


def _mda_scan(readbacks: Any, detectors: Mapping[str, Any], lower: list[bytes], at: int) -> bytes:
    """Return a scan that starts at byte `at`, with those below it."""
    readbacks = np.asarray(readbacks, dtype='>f8')
    channels = np.array(list(detectors.values()), dtype='>f4')
    count = readbacks.shape[1]
    info = _text('scan') + _text('today')
    info += struct.pack('>3i', len(readbacks), len(detectors), 0)
    for number in range(len(readbacks)):
        info += struct.pack('>i', number) + _text('motor') * 7
    for number, description in enumerate(detectors):
        info += struct.pack('>i', number) + _text('name') + _text(description) + _text('mm')
    body = info + readbacks.tobytes() + channels.tobytes()
    head = struct.pack('>3i', 2 if lower else 1, count, count)
    offsets = []
    place = at + len(head) + 4 * len(lower) + len(body)
    for scan in lower:
        offsets.append(place)
        place += len(scan)
    return head + struct.pack(f'>{len(lower)}i', *offsets) + body + b''.join(lower)


def write_mda(path: Path, readbacks: Any, lines: Any = (), **detectors: Any) -> Path:
    """Write positioners and, below each point of the first, those of `lines`."""
    rank = 2 if len(lines) else 1
    shape = (len(lines), len(lines[0])) if rank == 2 else (np.shape(readbacks)[1],)
    head = struct.pack(f'>f2i{rank}i2i', 1.4, 7, rank, *shape, 1, 0)
    lower = [_mda_scan([line], {}, [], 0) for line in lines]
    named = {name.replace('_', ' '): value for name, value in detectors.items()}
    path.write_bytes(head + _mda_scan(readbacks, named, lower, len(head)))
    return path


def raster_mda(truth: Truth, unit_m: float, surplus: int = 0) -> Path:
    x, y = truth.lines(truth.x_m) / unit_m, truth.lines(truth.y_m)[:, 0] / unit_m
    # A positioner may be driven beyond what the detector records.
    lines = [np.append(line, np.full(surplus, 1e3)) for line in x]
    return write_mda(truth.folder / 'positions.mda', [y], lines)


def write_tiffs(truth: Truth) -> Path:
    import tifffile

    # Stacks and single pages, and a counter that gains a digit.
    for first, last in ((0, 6), (6, 7), (7, 30)):
        tifffile.imwrite(truth.folder / f'scan2_{9 + first}.tif', truth.scan.patterns[first:last])
    return truth.folder / 'scan2_9.tif'
