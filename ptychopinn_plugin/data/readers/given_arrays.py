"""Reading a scan from arrays in memory."""

from collections.abc import Iterator, Mapping

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.data.readers.domain import Domain, check_domain
from ptychopinn_plugin.data.readers.finishing import without_useless_object
from ptychopinn_plugin.data.readers.npz import scan_of
from ptychopinn_plugin.data.readers.request import ReadingRequest
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError


def scan_from_arrays(
    arrays: Mapping[str, RealArray], *, name: str = 'scan', domain: Domain | None = None
) -> Scan:
    """Make a scan of arrays under the names that an NPZ file has, and of the same layouts.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        `diff3d` (or `diffraction`), `xcoords`, `ycoords`, `probeGuess` and what else a file may
        hold. None of them is changed.
    name : str
        For messages and plots.
    domain : 'counts' or 'amplitudes', optional
        As in `load_scan`.

    Raises
    ------
    DataError
        If an array is missing or is not what it must be.
    """
    check_domain(domain)
    return without_useless_object(scan_of(GivenArrays(arrays, name), ReadingRequest(name, domain)))


class GivenArrays(Mapping[str, RealArray]):
    """Arrays in memory, read-only, so that reading cannot change what belongs to others."""

    def __init__(self, arrays: Mapping[str, RealArray], name: str) -> None:
        self._arrays, self._name = arrays, name

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, key: str) -> RealArray:
        if key not in self._arrays:
            raise DataError(
                f'{self._name} must hold {key!r}; it holds {", ".join(self) or "nothing"}.'
            )
        array = np.asarray(self._arrays[key]).view()
        array.flags.writeable = False
        return array
