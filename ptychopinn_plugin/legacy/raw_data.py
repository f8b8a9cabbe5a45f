"""PtychoPINN's `RawData` in memory, recognized by its attributes and imported from nowhere."""

from typing import Protocol, runtime_checkable

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data import Domain, Scan, scan_from_arrays
from ptychopinn_plugin.data.readers.npz import arrays_of


@runtime_checkable
class RawDataLike(Protocol):
    """What an object needs to be taken for a `RawData`; what else a scan has is read as well.

    Attributes
    ----------
    diff3d : ndarray, shape (n_positions, height, width)
        Amplitudes, zero frequency in the middle.
    xcoords, ycoords : ndarray, shape (n_positions,)
        Column and row of the patches' middles, in object pixels.
    probeGuess : ndarray of complex, shape (height, width)
    """

    diff3d: RealArray
    xcoords: RealArray
    ycoords: RealArray
    probeGuess: RealArray


def scan_from_raw_data(raw: RawDataLike, *, domain: Domain | None = None) -> Scan:
    """Make a scan of a `RawData`; its arrays stay as they are.

    Parameters
    ----------
    raw : object
        With the attributes of `RawDataLike`.
    domain : 'counts' or 'amplitudes', optional
        What the patterns hold; where not given, inferred as for a file.

    Raises
    ------
    DataError
        If an array is not what it must be.
    """
    return scan_from_arrays(arrays_of(raw), name=type(raw).__name__, domain=domain)
