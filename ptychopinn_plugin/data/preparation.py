"""Fitting a scan to what a model takes: its size, and no holes in the patterns."""

import dataclasses
import math
import warnings

import numpy as np
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray, IntArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.scan import CHUNK_PATTERNS, Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics import illuminated_size, split_positions
from ptychopinn_plugin.storage.scratch import Usage, chunks, converted, new_array
from ptychopinn_plugin.text import count

DARK_PATTERN_FRACTION = 0.01
"""A pattern with less than this share of the median counts was taken without a beam."""


ALONE_ENERGY = 0.995
"""Patches of patterns that share nothing lie apart by the width that holds this share of light."""

MAX_SPARSITY = 16.0
"""Patterns that lie further apart than a table of this times its area are put into a table."""


def one_by_one(scan: Scan) -> Scan:
    """Let each pattern be reconstructed alone.

    Where illuminations touch, or lie so far apart that the object would be nearly empty, their
    positions give way to a grid on which the patches lie side by side, row by row in the order of
    the patterns; the object is then a table of patches. Else positions stay.

    Parameters
    ----------
    scan : Scan

    Returns
    -------
    Scan
        With a note of what was done.

    Raises
    ------
    DataError
        If the patterns are of the near field.
    """
    if scan.geometry.is_near_field:
        raise DataError(
            'In the near field a single pattern is one image, which cannot show amplitude and '
            'phase; overlapping ones are needed. Leave single_shot (--single-shot) out.'
        )
    pitch = illuminated_size(scan.probe, share=ALONE_ENERGY, multiple=2)
    if pitch >= min(scan.pattern_shape) // 2 * 2:
        # No square within the pattern holds that much.
        pitch = max(scan.pattern_shape)
    positions_px = scan.positions_px
    apart = (
        len(positions_px) < 2
        or cKDTree(positions_px).query(positions_px, k=2)[0][:, 1].min() > pitch
    )
    area = float(np.prod(np.ptp(positions_px, axis=0) + scan.pattern_shape))
    if apart and area <= MAX_SPARSITY * len(positions_px) * max(scan.pattern_shape) ** 2:
        note = 'Each pattern is reconstructed alone, at its own position.'
        if len(positions_px) == 1:
            note = 'The pattern is reconstructed alone.'
        return dataclasses.replace(scan, is_single_shot=True, notes=(*scan.notes, note))
    columns = math.ceil(math.sqrt(len(positions_px)))
    number = np.arange(len(positions_px))
    grid = pitch * np.stack([number // columns, number % columns], axis=1).astype(np.float64)
    note = (
        f'Each pattern is reconstructed alone; the patches lie {pitch} px apart in rows of '
        f'{columns}, and neither positions nor an object of the file are used.'
    )
    return dataclasses.replace(
        scan,
        positions_px=grid,
        nominal_positions_px=None,
        object_=None,
        is_single_shot=True,
        notes=(*scan.notes, note),
    )


def fit_to_size(scan: Scan, size: int) -> Scan:
    r"""Crop or pad the patterns to a square of `size` around zero frequency.

    An object pixel is :math:`\lambda z / (N \Delta)`: with fewer detector pixels `N` it grows. So
    positions are divided by that factor, the probe is cropped or padded in Fourier space, which is
    exact, and so is the object, which then is resampled on the new grid. Padded pixels were not
    measured: they are marked as bad, and the loss leaves them out. In the near field pixels are
    those of the object and stay as large: the probe is cropped or padded as the patterns are.

    Parameters
    ----------
    scan : Scan
    size : int
        Side of the new patterns, in pixels.

    Returns
    -------
    Scan
        The same scan where it has this size already; else with a note of what was done.

    Raises
    ------
    DataError
        If `size` is less than 2.
    """
    old = scan.pattern_shape
    if old == (size, size):
        return scan
    if size < 2:
        raise DataError(f'Patterns need at least 2 x 2 pixels; got size {size}.')
    bad = np.zeros(old, dtype=bool) if scan.bad_pixels is None else scan.bad_pixels
    is_near_field = scan.geometry.is_near_field
    # This is the number of new object pixels per old one.
    scale = np.ones(2) if is_near_field else np.array([size / old[0], size / old[1]])
    positions, nominal, object_ = scan.positions_px * scale, scan.nominal_positions_px, scan.object_
    nominal = None if nominal is None else nominal * scale
    if object_ is not None:
        if not is_near_field:
            object_ = _resample_object(object_, old, size)
        object_, shift = _covering(object_, positions, size)
        positions = positions + shift
        nominal = None if nominal is None else nominal + shift
    return dataclasses.replace(
        scan,
        patterns=converted(scan.patterns, lambda rows: _fit_middle(rows, (size, size), fill=0)),
        bad_pixels=_fit_middle(bad, (size, size), fill=True),
        probe=fit_probe(scan.probe, (size, size), is_near_field=is_near_field),
        probe_variation=fit_variation(
            scan.probe_variation, (size, size), is_near_field=is_near_field
        ),
        positions_px=positions,
        nominal_positions_px=nominal,
        object_=object_,
        geometry=_scaled_geometry(scan.geometry, scale),
        notes=(*scan.notes, _fit_note(old, size, is_near_field=is_near_field)),
    )


def check_size(scan: Scan, size: int) -> None:
    """Check that a scan was fitted to a network, which `fit_to_size` does.

    Raises
    ------
    DataError
        If its patterns are of another size.
    """
    if scan.pattern_shape != (size, size):
        height, width = scan.pattern_shape
        raise DataError(
            f'{scan.name}: the network takes patterns of {size} x {size} px; got {height} x '
            f'{width}. Fit the scan first, with Model.fitted or fit_to_size.'
        )


def with_frame_margin(scan: Scan, margin_px: int) -> Scan:
    """Pad images of the near field on all sides, for light that comes in from outside of them.

    Frames are periodic in the model: what lights the sample beyond their edges would come in on the
    other side. The padded pixels were not measured, and the probe there is for the iterations to
    find.

    Parameters
    ----------
    scan : Scan
    margin_px : int

    Raises
    ------
    DataError
        If the patterns are of the far field, or the margin is not positive.
    """
    if not scan.geometry.is_near_field or margin_px < 1:
        kind = 'near' if scan.geometry.is_near_field else 'far'
        raise DataError(
            'frame_margin_px (--frame-margin) pads images of the near field by a number of pixels; '
            f'got {margin_px} for patterns of the {kind} field. Leave it out.'
        )
    shape = (scan.pattern_shape[0] + 2 * margin_px, scan.pattern_shape[1] + 2 * margin_px)
    assert scan.bad_pixels is not None
    positions, nominal, object_ = scan.positions_px, scan.nominal_positions_px, scan.object_
    if object_ is not None:
        object_ = np.pad(object_, margin_px, mode='edge')
        positions = positions + margin_px
        nominal = None if nominal is None else nominal + margin_px
    origin = scan.probe_origin
    return dataclasses.replace(
        scan,
        patterns=converted(scan.patterns, lambda rows: _fit_middle(rows, shape, fill=0)),
        bad_pixels=_fit_middle(scan.bad_pixels, shape, fill=True),
        probe=fit_probe(scan.probe, shape, is_near_field=True),
        probe_variation=fit_variation(scan.probe_variation, shape, is_near_field=True),
        positions_px=positions,
        nominal_positions_px=nominal,
        object_=object_,
        probe_origin='extended' if origin == 'given' else origin,
        notes=(
            *scan.notes,
            f'Frames were padded by {margin_px} px on each side, for light from outside of them; '
            'the iterations correct the probe.',
        ),
    )


def _fit_note(old: tuple[int, int], size: int, *, is_near_field: bool) -> str:
    sides = []
    for side, name in zip(old, ('height', 'width'), strict=True):
        if side != size:
            sides.append(f'{name} {"cropped" if side > size else "padded"}')
    if is_near_field:
        return (
            f'Patterns of {old[0]} x {old[1]} pixels were fitted to {size} x {size} around their '
            f'middle ({", ".join(sides)}), and the probe with them.'
        )
    factors = f'{old[0] / size:.4g} x {old[1] / size:.4g}'
    return (
        f'Patterns of {old[0]} x {old[1]} pixels were fitted to {size} x {size} around zero '
        f'frequency ({", ".join(sides)}); an object pixel is now {factors} old ones (height x '
        'width), and positions, probe and object were resampled to it.'
    )


def _scaled_geometry(geometry: Geometry, scale: FloatArray) -> Geometry:
    height, width = geometry.pixel_height_m, geometry.pixel_width_m
    return dataclasses.replace(
        geometry,
        pixel_height_m=None if height is None else float(height / scale[0]),
        pixel_width_m=None if width is None else float(width / scale[1]),
    )


def scale_to_photons(scan: Scan, photons: float) -> Scan:
    """Scale patterns of another unit to counts, as the Poisson likelihood needs them.

    Parameters
    ----------
    scan : Scan
    photons : float
        Mean number of photons in a pattern.

    Returns
    -------
    Scan
        Patterns in float32, with a note of the factor.

    Raises
    ------
    DataError
        If `photons` is not a positive number.
    """
    if not 0 < photons < math.inf:
        raise DataError(f'The photons of a pattern must be a positive number; got {photons}.')
    factor = photons / scan.mean_counts()
    # It goes block by block, as float64 copies of a million patterns would not fit.
    patterns = new_array(scan.patterns.shape, np.float32, like=scan.patterns)
    usage = Usage(patterns)
    for part, counts in chunks(scan.patterns, CHUNK_PATTERNS):
        patterns[part] = counts * factor
        usage.add(patterns[part].nbytes)
    note = f'Patterns were scaled by {factor:.4g} to {photons:.4g} photons each on average.'
    return dataclasses.replace(scan, patterns=patterns, notes=(*scan.notes, note))


def without_dark_patterns(scan: Scan) -> Scan:
    """Leave out patterns that were taken while no beam was there.

    Light that is missing for another reason than the object would be blamed on it.

    Parameters
    ----------
    scan : Scan

    Returns
    -------
    Scan
        The same where every pattern has at least `DARK_PATTERN_FRACTION` of the usual counts; else
        with a warning of how many are left out.
    """
    light = scan.counts()
    # The median is of patterns with counts: a reader empties those that are invalid, and many of
    # them would pull it down.
    dark = light < DARK_PATTERN_FRACTION * np.median(light[light > 0])
    if not dark.any():
        return scan
    first = int(np.flatnonzero(dark)[0])
    warnings.warn(
        f'{scan.name}: left out {int(dark.sum())} of {count(len(scan), "pattern")}, with less than '
        f'{DARK_PATTERN_FRACTION:.0%} of the usual counts (the first is number {first}).',
        stacklevel=2,
    )
    return scan.subset(np.flatnonzero(~dark))


def _fit_middle(images: RealArray, shape: tuple[int, int], *, fill: complex) -> RealArray:
    """Crop or pad the last two axes so that index ``side // 2`` becomes ``size // 2``."""
    fitted = np.full((*images.shape[:-2], *shape), fill, dtype=images.dtype)
    source, target = [], []
    for side, size in zip(images.shape[-2:], shape, strict=True):
        shift = side // 2 - size // 2
        source.append(slice(max(shift, 0), min(shift + size, side)))
        target.append(slice(max(-shift, 0), min(side - shift, size)))
    fitted[..., target[0], target[1]] = images[..., source[0], source[1]]
    return fitted


def fit_probe(probe: ComplexArray, shape: tuple[int, int], *, is_near_field: bool) -> ComplexArray:
    """Sample a probe so that its diffraction pattern has another number of the same pixels.

    Parameters
    ----------
    probe : ndarray of complex64, shape (n_modes, height, width)
    shape : tuple of int
        Height and width of the pattern to come, which is cropped or padded with zeros.
    is_near_field : bool
        The pixels of patterns are those of the probe.

    Returns
    -------
    ndarray of complex64, shape (n_modes, *shape)
    """
    if is_near_field:
        return _fit_middle(probe, shape, fill=0).astype(np.complex64)
    # Transforms shifted on both sides keep the middle of the probe for odd sides, too.
    axes = (-2, -1)
    waves = np.fft.ifftshift(probe.astype(np.complex128), axes)
    spectrum = np.fft.fftshift(np.fft.fft2(waves, norm='ortho'), axes)
    fitted = np.fft.ifftshift(_fit_middle(spectrum, shape, fill=0), axes)
    return np.fft.fftshift(np.fft.ifft2(fitted, norm='ortho'), axes).astype(np.complex64)


def fit_variation(
    variation: ProbeVariation | None, shape: tuple[int, int], *, is_near_field: bool
) -> ProbeVariation | None:
    """Sample the eigenmodes of a probe as `fit_probe` samples the probe."""
    if variation is None:
        return None
    eigenmodes = fit_probe(variation.eigenmodes, shape, is_near_field=is_near_field)
    return dataclasses.replace(variation, eigenmodes=eigenmodes)


def _resample_object(object_: ComplexArray, old: tuple[int, int], size: int) -> ComplexArray:
    """Sample an object at ``index * old / size``; it may grow by part of a pixel at its end."""
    # This import takes half a second, and only scans of another size need it.
    from scipy import signal

    result = object_
    for axis, side in enumerate(old):
        common = math.gcd(side, size)
        # Only a multiple of this many pixels becomes a whole number of new ones.
        multiple = side // common
        length = -(-result.shape[axis] // multiple) * multiple
        extra = [(0, 0), (0, 0)]
        extra[axis] = (0, length - result.shape[axis])
        padded = np.pad(result, extra, mode='edge')
        result = signal.resample(padded, length * size // side, axis=axis)
    return np.asarray(result, dtype=np.complex64)


def _covering(
    object_: ComplexArray, positions_px: FloatArray, size: int
) -> tuple[ComplexArray, IntArray]:
    """Grow an object where rounding on the new grid makes a patch reach a pixel beyond it."""
    patch_origins = split_positions(positions_px)[0] - size // 2
    before = np.maximum(-patch_origins.min(axis=0), 0)
    after = np.maximum(patch_origins.max(axis=0) + size - np.array(object_.shape), 0)
    grown = np.pad(object_, list(zip(before, after, strict=True)), mode='edge')
    return grown, before


def inpaint(patterns: RealArray, bad_pixels: BoolArray) -> FloatArray:
    """Fill bad pixels with the mean of their good neighbours, ring by ring inwards.

    Parameters
    ----------
    patterns : ndarray, shape (n_positions, height, width)
    bad_pixels : ndarray of bool, shape (height, width)

    Returns
    -------
    ndarray of float32, shape (n_positions, height, width)
        A copy; good pixels keep their values.

    Raises
    ------
    DataError
        If no pixel is good.
    """
    filled = patterns.astype(np.float32)
    if bad_pixels.shape != patterns.shape[-2:]:
        raise DataError(
            f'bad_pixels must have shape {patterns.shape[-2:]} as a pattern has; '
            f'got {bad_pixels.shape}.'
        )
    if bad_pixels.all():
        raise DataError('bad_pixels marks every pixel; at least one good one is needed.')
    flat = filled.reshape(len(filled), -1)
    known = ~bad_pixels
    while not known.all():
        ring = ~known & ndimage.binary_dilation(known, np.ones((3, 3), dtype=bool))
        average, sources = _neighbour_average(known, ring)
        targets = np.flatnonzero(ring)
        for start in range(0, len(flat), CHUNK_PATTERNS):
            chunk = flat[start : start + CHUNK_PATTERNS]
            chunk[:, targets] = (average @ chunk[:, sources].T).T
        known |= ring
    return filled


def _neighbour_average(known: BoolArray, ring: BoolArray) -> tuple[sparse.csr_matrix, RealArray]:
    """Return the matrix from known pixels to the means in a ring, and which pixels it takes."""
    height, width = known.shape
    y, x = np.nonzero(ring)
    rows, columns = [], []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            v, u = y + down, x + right
            inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
            use = np.flatnonzero(inside)
            use = use[known[v[use], u[use]]]
            rows.append(use)
            columns.append(v[use] * width + u[use])
    row, column = np.concatenate(rows), np.concatenate(columns)
    # The mean over a ring is a sparse matrix: made once, it is applied to every pattern.
    weights = (1.0 / np.bincount(row, minlength=len(y)))[row].astype(np.float32)
    sources, compact = np.unique(column, return_inverse=True)
    return sparse.csr_matrix((weights, (row, compact)), shape=(len(y), len(sources))), sources


def find_hot_pixels(patterns: RealArray, bad_pixels: BoolArray | None = None) -> BoolArray:
    """Find pixels that are bright in most patterns and far above their neighbours.

    A pixel is hot where its median over the positions is more than ten times the median of its
    eight neighbours, by more than ten counts. Two pixels around zero frequency, where an
    undiffracted beam may lie, are never called hot.

    Parameters
    ----------
    patterns : ndarray, shape (n_positions, height, width)
        Counts.
    bad_pixels : ndarray of bool, shape (height, width), optional
        Known bad pixels, which are not looked at.

    Returns
    -------
    ndarray of bool, shape (height, width)
    """
    # What is typical shows in some hundred patterns, however long the scan is.
    sample = patterns[:: max(1, len(patterns) // 256)]
    # Dead pixels, which hold zeros, would make their neighbours look hot.
    if bad_pixels is not None and bad_pixels.any():
        sample = inpaint(sample, bad_pixels)
    typical = np.median(sample, axis=0)
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    # With a mean, two hot pixels side by side would hide each other.
    around = ndimage.median_filter(typical, footprint=ring, mode='nearest')
    hot = (typical > 10 * around) & (typical - around > 10)
    y, x = typical.shape[0] // 2, typical.shape[1] // 2
    hot[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = False
    return np.asarray(hot if bad_pixels is None else hot & ~bad_pixels)
