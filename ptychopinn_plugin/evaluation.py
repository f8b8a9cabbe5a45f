"""A reconstruction against the truth, or against another reconstruction: numbers and a picture."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin import metrics
from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data.reconstruction import Reconstruction
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.storage.atomic import atomic_path
from ptychopinn_plugin.text import count

MAX_SHIFT_PX = 8.0
"""Both objects lie in the scan's coordinates, so a larger shift that is found is chance."""

SAME_PIXEL_FRACTION = 0.01
"""Sizes of pixels may differ by this share: a pixel in a hundred, where registration ends."""

SAME_POSITION_PX = 1.0
"""Positions of the same scan may differ by this, as after a correction of positions."""

_MARGIN_PX = 16
"""This number of pixels around the compared box makes those that a shift moves into it real."""

_MIN_SIDE_PX = 16
"""SSIM and the ring correlation mean little on a smaller box."""

_WINDOW = 'hann'


@dataclass(frozen=True)
class Similarity:
    """How near one real image is to another.

    Attributes
    ----------
    ssim : float
        The mean structural similarity, at most 1.
    psnr_db : float
        The peak signal-to-noise ratio in dB; infinite for equal images.
    mae : float
        The mean absolute error; amplitudes have no unit, phases are in radians.
    """

    ssim: float
    psnr_db: float
    mae: float

    @classmethod
    def of(cls, image: FloatArray, truth: FloatArray) -> 'Similarity':
        """Measure `image` against `truth`, both ndarray of float, shape (height, width)."""
        return cls(
            metrics.ssim(image, truth), metrics.psnr(image, truth), metrics.mae(image, truth)
        )

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values; an infinite PSNR, which JSON cannot hold, is None."""
        psnr = self.psnr_db if np.isfinite(self.psnr_db) else None
        return {'ssim': self.ssim, 'psnr_db': psnr, 'mae': self.mae}


@dataclass(frozen=True)
class Evaluation:
    """What a comparison of two complex objects gives.

    Attributes
    ----------
    amplitude, phase : Similarity
    ring_correlation : RingCorrelation
        That of the complex objects, with a Hann window.
    shift_px : (y, x)
        The pixels by which the reconstruction had to be moved beyond the difference of origins.
    scale : complex
        The factor by which it was multiplied: global phase and amplitude.
    region_px : (top, bottom, left, right)
        First and one past the last pixel of the compared box, in the truth's pixels.
    image, truth : ndarray of complex128, shape (height, width)
        The compared boxes, registered and scaled.
    """

    amplitude: Similarity
    phase: Similarity
    ring_correlation: metrics.RingCorrelation
    shift_px: tuple[float, float]
    scale: complex
    region_px: tuple[int, int, int, int]
    image: ComplexArray = field(repr=False)
    truth: ComplexArray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the images."""
        curve = self.ring_correlation
        return {
            'amplitude': self.amplitude.to_dict(),
            'phase': self.phase.to_dict(),
            'frc': {
                'crossings': curve.crossings(),
                'window': _WINDOW,
                'frequencies': curve.frequencies.tolist(),
                'correlation': curve.correlation.tolist(),
                'half_bit': curve.half_bit.tolist(),
            },
            'shift_px': list(self.shift_px),
            'scale': {'amplitude': abs(self.scale), 'phase_rad': float(np.angle(self.scale))},
            'region_px': list(self.region_px),
        }


def evaluate(
    reconstruction: Reconstruction,
    truth: Scan | Reconstruction | ComplexArray,
    *,
    truth_origin_px: tuple[float, float] = (0.0, 0.0),
    remove_ramp: bool = False,
) -> Evaluation:
    """Register a reconstruction to the truth and measure how near it is.

    The box of the scan's positions is compared, where illuminations overlap well. The
    reconstruction is moved by the difference of the origins and by the residual shift
    (`metrics.find_shift`), and multiplied by one complex number (`metrics.align`). Amplitudes and
    phases are then compared by SSIM, PSNR and mean absolute error, and the complex objects by
    their Fourier ring correlation.

    Parameters
    ----------
    reconstruction : Reconstruction
    truth : Scan, Reconstruction or ndarray of complex, shape (height, width)
        A scan with its object, whose pixel [0, 0] is position (0, 0); another reconstruction; or
        an object.
    truth_origin_px : (y, x)
        The position of the pixel [0, 0] of an array.
    remove_ramp : bool
        Whether a linear phase is removed too; `metrics.align` has the reason against it.

    Returns
    -------
    Evaluation

    Raises
    ------
    DataError
        If the scan has no object, the pixels are of different sizes, or the two share too small a
        region.
    """
    _check_pixels(reconstruction, truth)
    if isinstance(truth, Scan):
        _check_places(reconstruction, truth)
    true_object, true_origin = _object_of(truth, truth_origin_px)
    offset = np.asarray(reconstruction.origin_px, dtype=np.float64) - true_origin
    # Whole pixels are cut, and the rest alone is interpolated.
    whole = np.floor(offset + 0.5).astype(int)
    box = _shared_box(reconstruction, true_object.shape, true_origin, whole)
    # Some pixels around the region, so that what moves into it is real.
    wide, inner = _widened(box, reconstruction.object_.shape, whole)
    image = reconstruction.object_[_slices(wide - np.repeat(whole, 2))]
    rest = offset - whole
    image = metrics.shift_image(image, (float(rest[0]), float(rest[1])))
    target = true_object[_slices(box)].astype(np.complex128)
    shift = metrics.find_shift(image[inner], target, largest_px=MAX_SHIFT_PX)
    image = metrics.shift_image(image, shift)[inner]
    # It is registered already, with a margin that `align` does not have.
    aligned = metrics.align(image, target, register=False, remove_ramp=remove_ramp)
    image_phase, true_phase = metrics.wrapped_phase(aligned.image, target)
    return Evaluation(
        amplitude=Similarity.of(np.abs(aligned.image), np.abs(target)),
        phase=Similarity.of(image_phase, true_phase),
        ring_correlation=metrics.frc(aligned.image, target, window=_WINDOW),
        shift_px=shift,
        scale=aligned.scale,
        region_px=(int(box[0]), int(box[1]), int(box[2]), int(box[3])),
        image=aligned.image,
        truth=target,
    )


def in_coordinates_of(
    reconstruction: Reconstruction, truth: Scan | Reconstruction
) -> Reconstruction:
    """Move a reconstruction to the coordinates of the truth.

    Files in metres have another zero than files in pixels. The shift is the median over all
    positions of the difference.

    Parameters
    ----------
    reconstruction : Reconstruction
    truth : Scan or Reconstruction

    Returns
    -------
    Reconstruction
        Moved, if the positions of the patterns that both hold are the same but for a shift; else as
        it is.
    """
    there, here = _positions_of_both(reconstruction, truth)
    if not len(here):
        return reconstruction
    # The median: some positions may have been refined, and all others moved by the same.
    shift = np.median(there - here, axis=0)
    if np.median(np.abs(there - here - shift).max(axis=1)) > SAME_POSITION_PX:
        return reconstruction
    return dataclasses.replace(
        reconstruction,
        origin_px=reconstruction.origin_px + shift,
        positions_px=reconstruction.positions_px + shift,
    )


def _positions_of_both(
    reconstruction: Reconstruction, truth: Scan | Reconstruction
) -> tuple[FloatArray, FloatArray]:
    """Return the positions in the truth and in the reconstruction of the patterns in both."""
    assert truth.pattern_indexes is not None
    assert reconstruction.pattern_indexes is not None
    _, there, here = np.intersect1d(
        truth.pattern_indexes, reconstruction.pattern_indexes, return_indices=True
    )
    return truth.positions_px[there], reconstruction.positions_px[here]


def _check_pixels(
    reconstruction: Reconstruction, truth: Scan | Reconstruction | ComplexArray
) -> None:
    if not isinstance(truth, Scan | Reconstruction):
        return
    sizes = [
        (known.pixel_height_m, known.pixel_width_m)
        for known in (reconstruction.geometry, truth.geometry)
    ]
    here, there = (np.array(size, dtype=np.float64) for size in sizes)  # None becomes NaN
    # No comparison with NaN is true, so that an unknown size is let through.
    if (np.abs(here - there) > SAME_PIXEL_FRACTION * there).any():
        raise DataError(
            f'The pixels of both must be of one size; here {here[0]:.4g} x {here[1]:.4g} m (height '
            f'x width), in the truth {there[0]:.4g} x {there[1]:.4g} m. Give the scan as the '
            'truth, which is brought to the same size.'
        )


def _check_places(reconstruction: Reconstruction, scan: Scan) -> None:
    """Raise a DataError where a table of patterns alone would be compared with an object."""
    if not reconstruction.is_single_shot or len(reconstruction.positions_px) < 2:
        return
    assert reconstruction.pattern_indexes is not None
    assert scan.pattern_indexes is not None
    _, ours, theirs = np.intersect1d(
        reconstruction.pattern_indexes, scan.pattern_indexes, return_indices=True
    )
    moves = reconstruction.positions_px[ours] - scan.positions_px[theirs]
    if len(ours) == 0 or np.ptp(moves, axis=0).max() > SAME_POSITION_PX:
        raise DataError(
            'A picture of the object is needed; the reconstruction is a table of patterns that '
            'were reconstructed one by one (--single-shot), not where they were taken. Reconstruct '
            'without --single-shot, or look at the patches one by one.'
        )


def _object_of(
    truth: Scan | Reconstruction | ComplexArray, origin_px: tuple[float, float]
) -> tuple[ComplexArray, FloatArray]:
    if isinstance(truth, Reconstruction):
        return truth.object_, np.asarray(truth.origin_px, dtype=np.float64)
    if isinstance(truth, Scan):
        if truth.object_ is None:
            raise DataError(
                f'The scan {truth.name} holds no object to compare with. Give one that has '
                'objectGuess, or another reconstruction.'
            )
        return truth.object_, np.zeros(2)
    if truth.ndim != 2:
        raise DataError(f'The truth must be an image; got shape {truth.shape}. Choose one slice.')
    return truth, np.asarray(origin_px, dtype=np.float64)


_Box = np.ndarray[Any, np.dtype[np.int64]]
"""A box holds (top, bottom, left, right): the first pixel and one past the last."""


def _shared_box(
    reconstruction: Reconstruction, shape: tuple[int, ...], origin: FloatArray, whole: FloatArray
) -> _Box:
    """Return the box within the scanned positions that both objects cover, in the truth's pixels.

    Parameters
    ----------
    reconstruction : Reconstruction
    shape : tuple of int
        Of the truth.
    origin : ndarray of float64, shape (2,)
        Position (y, x) of the truth's first pixel.
    whole : ndarray of float64, shape (2,)
        Pixel (y, x) of the truth on which the reconstruction's first pixel lies, a whole number.

    Raises
    ------
    DataError
        If the box has fewer than `_MIN_SIDE_PX` pixels along a side.
    """
    positions = reconstruction.positions_px - origin
    first = np.ceil(positions.min(axis=0)).astype(np.int64)
    last = np.floor(positions.max(axis=0)).astype(np.int64) + 1
    if (last - first < _MIN_SIDE_PX).any():
        height, width = np.ptp(positions, axis=0)
        raise DataError(
            'The box of the scan positions is compared, which must have at least '
            f'{_MIN_SIDE_PX} x {_MIN_SIDE_PX} pixels; got {count(len(positions), "position")} '
            f'within {height:.1f} x {width:.1f} (height x width). Look at the pictures, or compare '
            'a scan that covers a larger area.'
        )
    first = np.maximum(first, np.maximum(whole, 0))
    last = np.minimum(last, np.minimum(whole + reconstruction.object_.shape, shape))
    if (last - first < _MIN_SIDE_PX).any():
        height, width = np.maximum(last - first, 0)
        raise DataError(
            f'The two objects must share at least {_MIN_SIDE_PX} x {_MIN_SIDE_PX} '
            f'pixels within the scanned box; they share {height} x {width}. Check that the truth '
            'is of this scan, and the order (y, x) of its origin.'
        )
    return np.array([first[0], last[0], first[1], last[1]], dtype=np.int64)


def _widened(
    box: _Box, image_shape: tuple[int, ...], whole: FloatArray
) -> tuple[_Box, tuple[slice, slice]]:
    """Return a box with a margin around it, and where the box lies in it.

    The margin has `_MARGIN_PX` pixels, or fewer where the reconstruction has no more, so that what
    a shift moves into the box is real.

    Parameters
    ----------
    box : ndarray of int64
        In the truth's pixels.
    image_shape : tuple of int
        Of the reconstruction.
    whole : ndarray of float64, shape (2,)
        As for `_shared_box`.
    """
    first, last = box[::2], box[1::2]
    before = np.minimum(first - whole, _MARGIN_PX)
    after = np.minimum(whole + image_shape - last, _MARGIN_PX)
    wide = np.array(
        [first[0] - before[0], last[0] + after[0], first[1] - before[1], last[1] + after[1]]
    )
    inner = np.array(
        [before[0], before[0] + last[0] - first[0], before[1], before[1] + last[1] - first[1]]
    )
    return wide, _slices(inner)


def _slices(box: _Box) -> tuple[slice, slice]:
    return slice(int(box[0]), int(box[1])), slice(int(box[2]), int(box[3]))


def plot_evaluation(
    evaluation: Evaluation,
    path: Path,
    *,
    names: tuple[str, str] = ('Reconstruction', 'Truth'),
    notes: Sequence[str] = (),
) -> None:
    """Draw both objects, their difference and the ring correlation.

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        The picture to write; its suffix decides the format.
    names : (str, str)
        What the two objects are.
    notes : sequence of str
        More lines below the numbers.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    # It is imported here, where a plot is drawn; pyplot would keep global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    _draw_images(figure, axes[0], evaluation, 'amplitude', names)
    _draw_images(figure, axes[1], evaluation, 'phase', names)
    _draw_ring_correlation(axes[0, 3], evaluation)
    _write_numbers(axes[1, 3], evaluation, notes)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_images(
    figure: Any, axes: Any, evaluation: Evaluation, part: str, names: tuple[str, str]
) -> None:
    if part == 'amplitude':
        image, truth, unit = np.abs(evaluation.image), np.abs(evaluation.truth), ''
    else:
        image, truth = metrics.wrapped_phase(evaluation.image, evaluation.truth)
        unit = ' (rad)'
    limits = {'vmin': float(truth.min()), 'vmax': float(truth.max()), 'cmap': 'gray'}
    largest = float(np.percentile(np.abs(image - truth), 99)) or 1.0
    difference = {'vmin': -largest, 'vmax': largest, 'cmap': 'RdBu'}
    panels = [
        (image, limits, f'{names[0]}, {part}{unit}'),
        (truth, limits, f'{names[1]}, {part}{unit}'),
        (image - truth, difference, 'Difference'),
    ]
    for axis, (values, options, title) in zip(axes, panels, strict=False):
        shown = axis.imshow(values, interpolation='nearest', **options)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
        figure.colorbar(shown, ax=axis, shrink=0.75)


def _draw_ring_correlation(axis: Any, evaluation: Evaluation) -> None:
    curve = evaluation.ring_correlation
    axis.plot(curve.frequencies, curve.correlation, label='FRC (Hann window)')
    axis.plot(curve.frequencies, curve.half_bit, '--', label='half bit')
    axis.axhline(0.5, color='0.5', linewidth=0.8, label='0.5')
    axis.axhline(1 / 7, color='0.5', linewidth=0.8, linestyle=':', label='1/7')
    axis.set(xlim=(0, 1), ylim=(min(0.0, float(curve.correlation.min())), 1.02))
    axis.set_xlabel('frequency (share of Nyquist)')
    axis.set_title('Fourier ring correlation', fontsize=9)
    axis.legend(fontsize=7)


def _write_numbers(axis: Any, evaluation: Evaluation, notes: Sequence[str]) -> None:
    crossings = evaluation.ring_correlation.crossings()
    shift = evaluation.shift_px
    lines = [
        f'{"":10s}{"SSIM":>6s}{"PSNR":>8s}{"MAE":>8s}',
        *(
            f'{name:10s}{part.ssim:6.3f}{part.psnr_db:6.1f}dB{part.mae:8.4f}'
            for name, part in (('amplitude', evaluation.amplitude), ('phase', evaluation.phase))
        ),
        '',
        *(f'FRC-{name:9s}{value:6.3f} of Nyquist' for name, value in crossings.items()),
        '',
        f'shift (y, x) {shift[0]:.2f}, {shift[1]:.2f} px',
        *notes,
    ]
    axis.set_axis_off()
    axis.text(0, 0.95, '\n'.join(lines), family='monospace', fontsize=8, va='top')
