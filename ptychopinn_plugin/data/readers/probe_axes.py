"""Which axes of an array are the probe's image, its modes, and its variations."""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.errors import DataError

MIN_SIDE = 8
"""No image of a probe has fewer pixels along a side; axes of modes are shorter, in general."""

MAX_PEAK = 1e12
"""Up to this amplitude, the energy of a probe is far below the end of single precision."""


def single_probe(probe: ComplexArray | RealArray) -> tuple[ComplexArray, tuple[str, ...]]:
    """Return a probe as (n_modes, height, width), whatever the order of its axes.

    The image is the last two axes, or the first two where those are the larger ones, as MATLAB
    writes it: (height, width, modes, variations). Real numbers with a last axis of two are real
    and imaginary part. Axes of one element are left out.

    Parameters
    ----------
    probe : ndarray
        (variations, modes, height, width), or what the rules above turn into it.

    Returns
    -------
    ndarray of complex, shape (n_modes, height, width)
        Of the variations with the position, the first.
    notes : tuple of str
        What was taken for what.

    Raises
    ------
    DataError
        If it is empty, more than four axes are longer than one, or fewer than two are there.
    """
    found, notes = np.asarray(probe), list[str]()
    if not found.size:
        raise DataError(
            f'The probe holds no numbers; its shape is {found.shape}. Write it again, or give '
            'another: probe_from=FILE (--probe-from FILE).'
        )
    if _is_real_and_imaginary(found):
        notes.append('The last axis of the probe was taken for its real and imaginary part.')
        found = found[..., 0] + 1j * found[..., 1]
    if found.ndim > 2 and min(found.shape[:2]) > min(found.shape[-2:]):
        notes.append(
            f'The probe was stored as {found.shape}; its first two axes were taken for height '
            'and width, those after them for the modes.'
        )
        found = np.moveaxis(found, (0, 1), (-2, -1))
        # MATLAB has the modes before the variations.
        found = np.moveaxis(found, 0, -3)
    leading = tuple(side for side in found.shape[:-2] if side > 1)
    if found.ndim < 2 or len(leading) > 2:
        raise DataError(
            'The probe must be (height, width), (modes, height, width) or (variations, modes, '
            f'height, width); got shape {np.shape(probe)}. Write it as one of these, or give '
            'another: probe_from=FILE (--probe-from FILE).'
        )
    if found.ndim == 4 and len(leading) == 1 and found.shape[1] == 1:
        # Here the axis of the variations is the longer one.
        leading = (*leading, 1)
    found = _squarable(found.reshape(*leading, *found.shape[-2:]), notes)
    if found.ndim == 2:
        return found[np.newaxis], tuple(notes)
    if found.ndim == 3:
        return found, tuple(notes)
    notes.append(f'The first of {len(found)} orthogonal variations of the probe is used.')
    return found[0], tuple(notes)


def _squarable(probe: ComplexArray | RealArray, notes: list[str]) -> ComplexArray | RealArray:
    """Return a probe whose intensity single precision can hold; its scale has no meaning."""
    peak = float(np.abs(probe.astype(np.complex128)).max())
    if not np.isfinite(peak) or peak == 0 or 1 / MAX_PEAK <= peak <= MAX_PEAK:
        return probe
    notes.append(f'The probe was divided by its largest amplitude, {peak:.3g}.')
    return probe.astype(np.complex128) / peak


def _is_real_and_imaginary(probe: ComplexArray | RealArray) -> bool:
    return (
        probe.ndim >= 3
        and probe.shape[-1] == 2
        and not np.iscomplexobj(probe)
        and min(probe.shape[-3:-1]) >= MIN_SIDE
    )
