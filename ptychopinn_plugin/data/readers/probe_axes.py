"""Which axes of an array are the probe's image, its modes, and its variations."""

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.data.probe_variation import ProbeVariation
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


def varying_probe(
    stored: ComplexArray | RealArray, opr_weights: RealArray | None, n_positions: int
) -> tuple[ComplexArray, ProbeVariation | None, tuple[str, ...]]:
    """Return a probe as Ptychodus keeps it, with how it varies from pattern to pattern.

    Parameters
    ----------
    stored : ndarray
        (variations, modes, height, width), or fewer axes as in `single_probe`.
    opr_weights : ndarray of float, shape (n_positions, n_variations), optional
        Of the first mode of each variation; without them the first variation is used at each
        pattern, as by Ptychodus.
    n_positions : int

    Returns
    -------
    probe : ndarray of complex, shape (n_modes, height, width)
    variation : ProbeVariation or None
        None where the probe does not vary.
    notes : tuple of str
        What was taken for what.

    Raises
    ------
    DataError
        As in `single_probe`; or if there is not one weight of each variation for each position.
    """
    if opr_weights is None:
        probe, notes = single_probe(stored)
        return probe, None, notes
    stored, scaling = np.asarray(stored), list[str]()
    if stored.size:
        stored = _squarable(stored, scaling)
    found = stored.reshape((1,) * (4 - stored.ndim) + stored.shape)
    weights = np.asarray(opr_weights)
    if found.ndim != 4 or weights.shape != (n_positions, len(found)):
        raise DataError(
            f'opr_weights must have shape ({n_positions}, {len(found)}), for each position one '
            f'weight of each variation of the probe, whose shape is {stored.shape}; got '
            f'{weights.shape}. Write the product again, or leave opr_weights out.'
        )
    probe, notes = single_probe(found[0])
    variation = ProbeVariation(found[1:, 0], weights)
    variation.check(n_positions, (probe.shape[1], probe.shape[2]))
    if (variation.weights == variation.weights[0]).all():
        return variation.subset(np.array([0])).probes(probe)[0], None, (*scaling, *notes)
    count = variation.n_eigenmodes
    note = (
        f'The probe varies from pattern to pattern, by {count} eigenmodes (OPR).'
        if count
        else 'The probe is brighter at some patterns than at others, by weights in the file.'
    )
    return probe, variation, (*scaling, *notes, note)


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
