"""Numbers of HDF5 files in the units of their `units` attributes, as NeXus writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.data.geometry import ELECTRON_VOLT_J
from ptychopinn_plugin.data.readers.hdf5 import attribute_value, find_dataset
from ptychopinn_plugin.errors import DataError

_LENGTHS = {
    'm': 1.0,
    'cm': 1e-2,
    'mm': 1e-3,
    'um': 1e-6,
    'nm': 1e-9,
    'pm': 1e-12,
    'angstrom': 1e-10,
}
_ENERGIES = {
    'J': 1.0,
    'eV': ELECTRON_VOLT_J,
    'meV': 1e-3 * ELECTRON_VOLT_J,
    'keV': 1e3 * ELECTRON_VOLT_J,
    'MeV': 1e6 * ELECTRON_VOLT_J,
    'GeV': 1e9 * ELECTRON_VOLT_J,
}
_OTHER_NAMES = {
    'metre': 'm',
    'meter': 'm',
    'centimetre': 'cm',
    'centimeter': 'cm',
    'millimetre': 'mm',
    'millimeter': 'mm',
    'micron': 'um',
    'micrometre': 'um',
    'micrometer': 'um',
    'nanometre': 'nm',
    'nanometer': 'nm',
    'picometre': 'pm',
    'picometer': 'pm',
    'a': 'angstrom',
    'ang': 'angstrom',
    'ångström': 'angstrom',
    'å': 'angstrom',
    'joule': 'J',
    'electronvolt': 'eV',
    'electron volt': 'eV',
}


def find_quantity(file: Any, keys: Sequence[str], kind: str) -> FloatArray | None:
    """Return the first dataset of these names in metres or joules; None where there is none.

    Parameters
    ----------
    file : h5py.File
    keys : sequence of str
    kind : 'length' or 'energy'
        In metres or joules, as CXI defines, where the file has no unit.

    Raises
    ------
    DataError
        If the unit is not one of this kind.
    """
    dataset = find_dataset(file, keys)
    if dataset is None or dataset.size in (None, 0) or dataset.dtype.kind not in 'uif':
        return None
    return np.asarray(dataset[()], dtype=np.float64) * _factor(dataset, kind)


def find_one_quantity(file: Any, keys: Sequence[str], kind: str) -> float | None:
    """Return the first number of what `find_quantity` finds."""
    array = find_quantity(file, keys, kind)
    return None if array is None else float(array.ravel()[0])


def length_of_unit(text: str) -> float | None:
    """Return a unit of length in metres; None where the text is no such unit."""
    return _known_factor(text, _LENGTHS)


def _known_factor(text: str, known: Mapping[str, float]) -> float | None:
    unit = text.strip().replace('\u00b5', 'u').replace('\u03bc', 'u')
    if unit in known:
        return known[unit]
    folded = unit.casefold()
    for name in (folded, folded.removesuffix('s')):
        name = _OTHER_NAMES.get(name, name)
        # MeV and meV differ by their case alone, and are found above.
        fits = [factor for each, factor in known.items() if each.casefold() == name.casefold()]
        if len(fits) == 1:
            return fits[0]
    return None


def _factor(dataset: Any, kind: str) -> float:
    known = _LENGTHS if kind == 'length' else _ENERGIES
    stored = np.asarray(attribute_value(dataset, 'units', '')).ravel()
    value = stored[0] if stored.size else ''
    text = value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value)
    if not text.strip():
        return 1.0
    factor = _known_factor(text, known)
    if factor is not None:
        return factor
    raise DataError(
        f'The unit of {dataset.name} of {dataset.file.filename} must be one of '
        f'{", ".join(known)}; it is {text!r}. Correct its attribute "units", or leave it out '
        f'where the numbers are in {"metres" if kind == "length" else "joules"}.'
    )
