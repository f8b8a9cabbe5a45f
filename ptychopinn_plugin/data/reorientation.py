"""Patterns and positions that were stored in different orientations, brought into one."""

import dataclasses
import math
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.preparation import fit_probe, fit_variation
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.orientation import AxisChange, Orientation
from ptychopinn_plugin.physics.propagation import light_on_detector
from ptychopinn_plugin.storage.scratch import converted

SQUARE_PIXEL_FRACTION = 1e-3
"""Sizes of pixels that differ by less are those of square ones."""

MIN_MIRROR_GAIN = 1.002
"""The light must fit that of the probe better by this factor to show that frames were mirrored:
it does by 1.003 and more on simulated scans, where the probe is a guess, and by 1.016 where not."""


def reorient(scan: Scan, orientation: Orientation, *, is_centred: bool = False) -> Scan:
    r"""Turn the patterns and the positions of a scan.

    Patterns and their bad pixels are transposed first and flipped then. A flip is about zero
    frequency, :math:`I'(q_y, q_x) = I(-q_y, q_x)`: where a side is even, pixel `i` becomes
    ``(n - i) % n``. Where the light shows that whole frames were mirrored, so that zero frequency
    is at ``n // 2 - 1``, it becomes ``n - 1 - i``.

    Positions :math:`(y, x)` are swapped, get another sign, are rotated by :math:`\theta` around
    their mean,

    .. math:: x' = x \cos\theta + y \sin\theta, \qquad y' = y \cos\theta - x \sin\theta,

    which is counter-clockwise in a picture whose y points downwards, and are scaled. Where a pixel
    of the object is not as high as wide, they are swapped and rotated in metres.

    The probe and the object stay as they are, in the coordinates of the object.

    Parameters
    ----------
    scan : Scan
    orientation : Orientation
    is_centred : bool
        Whether zero frequency is known to be in pixel ``[height // 2, width // 2]``.

    Returns
    -------
    Scan
        The same where nothing is to be turned; else with a note.

    Raises
    ------
    DataError
        If patterns with pixels that are not square are to be transposed.
    """
    if orientation == Orientation():
        return scan
    scan = _with_changed_axes(scan, orientation.of_patterns, is_centred)
    nominal = scan.nominal_positions_px
    pixel = _pixel(scan.geometry)
    note = f'Patterns and positions were turned: {" ".join(orientation.to_words())}.'
    return dataclasses.replace(
        scan,
        positions_px=orient_positions(scan.positions_px, orientation, pixel),
        nominal_positions_px=None
        if nominal is None
        else orient_positions(nominal, orientation, pixel),
        notes=(*scan.notes, note),
    )


def orient_positions(
    positions_px: FloatArray, orientation: Orientation, pixel: tuple[float, float] = (1.0, 1.0)
) -> FloatArray:
    """Return positions after all that an orientation does to them; see `reorient`.

    Parameters
    ----------
    positions_px : ndarray of float64, shape (n_positions, 2)
        (y, x) in object pixels.
    orientation : Orientation
    pixel : (float, float)
        Height and width of an object pixel, in any unit.
    """
    change = orientation.of_positions
    # Square pixels leave every number as it is, to the last bit.
    size = np.array([1.0, 1.0] if pixel[0] == pixel[1] else pixel)
    lengths = positions_px * size
    if change.swap:
        lengths = lengths[:, ::-1]
    lengths = lengths * [-1.0 if change.reverse_y else 1.0, -1.0 if change.reverse_x else 1.0]
    if orientation.rotate_scan_deg is not None:
        angle = math.radians(orientation.rotate_scan_deg)
        # A row (y, x) is multiplied from the left.
        matrix = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        middle = lengths.mean(axis=0)
        lengths = (lengths - middle) @ matrix + middle
    scale = orientation.scale_positions or 1.0
    return np.asarray(lengths * scale / size, dtype=np.float64)


def change_axes(
    images: RealArray, change: AxisChange, mirrored_frame: tuple[bool, bool] = (False, False)
) -> RealArray:
    """Return images turned about zero frequency; see `reorient`.

    Parameters
    ----------
    images : ndarray, shape (..., height, width)
    change : AxisChange
    mirrored_frame : (bool, bool)
        Whether, in y and in x, whole frames were mirrored, for sides that are even.
    """
    if change.swap:
        images = np.swapaxes(images, -1, -2)
    for axis, reverse, mirrored in zip(
        (-2, -1), (change.reverse_y, change.reverse_x), mirrored_frame, strict=True
    ):
        if reverse:
            images = np.flip(images, axis)
            if not mirrored and images.shape[axis] % 2 == 0:
                images = np.roll(images, 1, axis)
    return np.ascontiguousarray(images)


def _with_changed_axes(scan: Scan, change: AxisChange, is_centred: bool) -> Scan:
    if change == AxisChange():
        return scan
    assert scan.bad_pixels is not None
    sides: dict[str, Any] = _with_swapped_sides(scan) if change.swap else {}
    mirrored = (False, False)
    if not is_centred:
        some = scan.patterns[:: max(1, len(scan) // 128)]
        mean = np.where(scan.bad_pixels, 0.0, some.mean(axis=0, dtype=np.float64))
        # It is not flipped yet, as `is_frame_mirrored` tries both ways of doing that.
        swapped = change_axes(mean, AxisChange(swap=change.swap))
        probe = sides.get('probe', scan.probe)
        transfer = scan.geometry.transfer_function((swapped.shape[0], swapped.shape[1]))
        mirrored = is_frame_mirrored(swapped, light_on_detector(probe, transfer))
    return dataclasses.replace(
        scan,
        patterns=converted(scan.patterns, lambda rows: change_axes(rows, change, mirrored)),
        bad_pixels=change_axes(scan.bad_pixels, change, mirrored),
        **sides,
    )


def is_frame_mirrored(mean: FloatArray, light: RealArray) -> tuple[bool, bool]:
    """Return, for y and for x, whether whole frames were mirrored, zero frequency with them.

    In an even number of pixels, zero frequency is then one pixel before the middle,
    ``n // 2 - 1``. The light of the probe alone shows it, as it equals the mean pattern but for
    what the object scatters.

    Parameters
    ----------
    mean : ndarray of float, shape (height, width)
        The mean pattern, zero at bad pixels.
    light : ndarray of float, shape (height, width)
        Of the probe alone, as `physics.propagation.light_on_detector`.
    """
    # Roots let the edge of the light count, and not its brightest speckles alone.
    measured, own = np.sqrt(np.maximum(mean, 0)), np.sqrt(light)

    def mirrored(axis: int) -> bool:
        plain = np.flip(measured, axis)
        about_zero_frequency = np.roll(plain, 1, axis)
        return bool((plain * own).sum() > MIN_MIRROR_GAIN * (about_zero_frequency * own).sum())

    return mirrored(0), mirrored(1)


def _with_swapped_sides(scan: Scan) -> dict[str, Any]:
    """Return what transposed patterns change in a scan, where they are not square."""
    height, width = scan.pattern_shape
    geometry = scan.geometry
    sizes = (geometry.detector_pixel_height_m, geometry.detector_pixel_width_m)
    if sizes[0] and sizes[1] and not math.isclose(*sizes, rel_tol=SQUARE_PIXEL_FRACTION):  # type: ignore[arg-type]
        raise DataError(
            'Patterns can be transposed where the pixels of the detector are square; they are '
            f'{sizes[0]:.4g} x {sizes[1]:.4g} m. Leave --transpose out, and use --swap-positions.'
        )
    if height == width:
        return {}
    is_near_field = geometry.is_near_field
    # In the far field the field of view, wavelength times distance over detector pixel, stays; its
    # pixels change.
    scale = np.ones(2) if is_near_field else np.array([width / height, height / width])
    nominal, pixel = scan.nominal_positions_px, (geometry.pixel_height_m, geometry.pixel_width_m)
    return {
        'probe': fit_probe(scan.probe, (width, height), is_near_field=is_near_field),
        'probe_variation': fit_variation(
            scan.probe_variation, (width, height), is_near_field=is_near_field
        ),
        'positions_px': scan.positions_px * scale,
        'nominal_positions_px': None if nominal is None else nominal * scale,
        # An object of the file is on the old pixels.
        'object_': None,
        'geometry': dataclasses.replace(
            geometry,
            pixel_height_m=None if pixel[0] is None else float(pixel[0] / scale[0]),
            pixel_width_m=None if pixel[1] is None else float(pixel[1] / scale[1]),
        ),
    }


def _pixel(geometry: Geometry) -> tuple[float, float]:
    height, width = geometry.pixel_height_m, geometry.pixel_width_m
    return (height, width) if height and width else (1.0, 1.0)
