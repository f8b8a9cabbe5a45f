"""Pictures of a training and of reconstructions; never pyplot, which keeps global state."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from numpy.typing import NDArray

from ptychopinn_plugin import metrics
from ptychopinn_plugin.array_types import BoolArray, ComplexArray, FloatArray
from ptychopinn_plugin.backends.protocol import was_validated
from ptychopinn_plugin.data import Reconstruction
from ptychopinn_plugin.outlier_marks import draw_outliers
from ptychopinn_plugin.position_arrows import draw_moves
from ptychopinn_plugin.storage.atomic import atomic_path
from ptychopinn_plugin.text import count

COVERED = 0.05
"""Pixels with a smaller share of the brightest illumination hold no object worth showing."""

DPI = 160
"""The pictures have this resolution: one pixel or more for a pixel of the usual object."""

_UNCOVERED = '#dddddd'
_LABELS = {'poisson': 'Poisson likelihood', 'teacher': 'distance to the target'}
_NOT_LOSSES = ('epoch', 'seconds', 'learning_rate', 'patterns_per_second')
_WRAPPING_RANGE_RAD = 1.6 * math.pi
"""Phases over a wider range are drawn with cyclic colours, as they come near to wrapping."""
_Masked = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.floating]]


def plot_training(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the losses and the learning rate over the epochs.

    Parameters
    ----------
    history : sequence of mappings
        One row for each epoch, as in `TrainingResult.history`.
    path : Path
        The picture to write; its suffix decides the format.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    figure = Figure(figsize=(7, 5), layout='constrained')
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    columns = dict.fromkeys(name for row in history for name in row if name not in _NOT_LOSSES)
    if not was_validated(history):
        columns.pop('validation_loss', None)
    drawn = [_draw_loss(losses, history, name) for name in columns]
    _mark_best(losses, history)
    lowest = [low for low in drawn if low is not None]
    if lowest:
        # It lies above the curves, which may run anywhere, in rows that are no wider than they.
        losses.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)
    else:
        losses.text(0.5, 0.5, 'no epoch was finished', ha='center', transform=losses.transAxes)
    if lowest and min(lowest) > 0:
        losses.set_yscale('log')
    losses.set(ylabel='loss')
    epochs, rates = _column(history, 'learning_rate')
    rate.plot(epochs, rates, color='0.35', marker='.')
    rate.set(xlabel='epoch', ylabel='learning rate', ylim=(0, None))
    rate.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    rate.xaxis.get_major_locator().set_params(integer=True)
    for axes in (losses, rate):
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    _save(figure, path)


def plot_reconstruction(
    reconstruction: Reconstruction, path: Path, *, truth: ComplexArray | None = None
) -> None:
    """Draw amplitude, phase and coverage, and the truth below them where it is known.

    The covered box is shown, what lies outside the illumination in grey. The global phase, which
    no measurement gives, is set for the picture alone: to that of the truth, else to a mean of 0.

    Parameters
    ----------
    reconstruction : Reconstruction
    path : Path
        The picture to write; its suffix decides the format.
    truth : ndarray of complex, shape (height, width), optional
        The true object, whose pixel [0, 0] lies at position (0, 0).

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    box = reconstruction.covered_box(COVERED)
    covered = reconstruction.coverage[box] >= COVERED
    true_image = None if truth is None else _cut_truth(truth, reconstruction, box)
    image = _turn_phase(reconstruction.object_[box], true_image, covered)
    columns = _columns(reconstruction, is_alone=true_image is None)
    n_rows = 1 if true_image is None else 2
    pixel_m = _pixel_sizes(reconstruction)
    figure, grid = _make_exact_grid(image.shape, n_rows, len(columns), _aspect(pixel_m))
    reference = image if true_image is None else true_image
    shown = covered & np.isfinite(reference)
    centre = 0.0 if true_image is None else _mean_phase(true_image[shown])
    colours, phase_limits = _phase_colours(_robust_limits(_phase(reference[shown], centre)), centre)
    rows = [(image, '')] if true_image is None else [(image, ''), (true_image, 'true ')]
    for axes, (values, name) in zip(grid, rows, strict=True):
        known = covered & np.isfinite(values)
        # It has limits of its own, as the probe's unknown scale leaves that of the amplitude free.
        limits = _robust_limits(np.abs(values[known]))
        amplitude = np.ma.array(np.abs(values), mask=~known)
        phase = np.ma.array(_phase(values, centre), mask=~known)
        _draw(axes[0], amplitude, f'{name}amplitude', limits, 'gray', pixel_m)
        _draw(axes[1], phase, f'{name}phase (rad)', phase_limits, colours, pixel_m)
    coverage = np.ma.masked_less(reconstruction.coverage[box], COVERED)
    _draw_stds(grid, columns, reconstruction, box, pixel_m)
    _draw(grid[0, -1], coverage, 'coverage', (0.0, 1.0), 'cividis', pixel_m)
    draw_moves(grid[0, -1], reconstruction, box)
    draw_outliers(grid[0, -1], reconstruction, box)
    if true_image is not None:
        error = np.ma.array(np.angle(image * true_image.conj()), mask=~shown)
        # The limits are symmetric, so that white is no error.
        largest = max(map(abs, _robust_limits(error.compressed())))
        _draw(grid[1, -1], error, 'phase error (rad)', (-largest, largest), 'RdBu', pixel_m)
    _scale_bar(grid[0, 0], image.shape, pixel_m)
    figure.suptitle(_title(reconstruction), fontsize=10, y=1 - 0.1 / figure.get_figheight())
    _save(figure, path)


def _columns(reconstruction: Reconstruction, *, is_alone: bool) -> tuple[str, ...]:
    """Return what the columns of a picture show; without a truth there is one row for them."""
    if reconstruction.typical_std() is None:
        return ('amplitude', 'phase', 'coverage')
    stds = ('amplitude_std', 'phase_std') if is_alone else ('stds',)
    return ('amplitude', 'phase', *stds, 'coverage')


def _draw_stds(
    grid: NDArray[np.object_],
    columns: Sequence[str],
    reconstruction: Reconstruction,
    box: tuple[slice, slice],
    pixel_m: tuple[float, float] | None,
) -> None:
    """Draw the standard deviations, side by side or one below the other."""
    if reconstruction.amplitude_std is None or reconstruction.phase_std is None:
        return
    cells = (grid[0, 2], grid[0, 3] if 'phase_std' in columns else grid[1, 2])
    covered = reconstruction.coverage[box] >= COVERED
    for axes, values, title in zip(
        cells,
        (reconstruction.amplitude_std, reconstruction.phase_std),
        ('std of amplitude', 'std of phase (rad)'),
        strict=True,
    ):
        shown = np.ma.array(values[box], mask=~covered)
        limits = (0.0, _robust_limits(shown.compressed())[1])
        _draw(axes, shown, title, limits, 'magma', pixel_m)


def plot_comparison(
    truth: ComplexArray,
    images: Mapping[str, ComplexArray],
    path: Path,
    *,
    pixel_m: tuple[float, float] | None = None,
) -> None:
    """Draw the truth and several objects beside it, amplitude above phase, with the same limits.

    Parameters
    ----------
    truth : ndarray of complex, shape (height, width)
    images : mapping of str to ndarray of complex, shape (height, width)
        By title, registered to the truth, with its global phase and scale.
    path : Path
        The picture to write; its suffix decides the format.
    pixel_m : (height, width), optional
        The size of a pixel; without it the scale bar is in pixels.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    everyone = {'truth': truth, **images}
    figure, grid = _make_grid(truth.shape, 2, len(everyone), side=2.9)
    centre = _mean_phase(truth)
    amplitude_limits = _robust_limits(np.abs(truth), 0.5)
    colours, phase_limits = _phase_colours(_robust_limits(_phase(truth, centre), 0.5), centre)
    for column, (title, image) in zip(grid.T, everyone.items(), strict=True):
        amplitude = np.ma.masked_invalid(np.abs(image))
        phase = np.ma.masked_invalid(_phase(image, centre))
        _show(column[0], amplitude, amplitude_limits, 'gray', pixel_m)
        _show(column[1], phase, phase_limits, colours, pixel_m)
        column[0].set_title(title, fontsize=9)
    for row, label in zip(grid, ('amplitude', 'phase (rad)'), strict=True):
        bar = figure.colorbar(row[0].images[0], ax=list(row), shrink=0.8, aspect=25, pad=0.01)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    _scale_bar(grid[0, 0], truth.shape, pixel_m)
    _save(figure, path)


def plot_amplitudes(images: Mapping[str, FloatArray], path: Path) -> None:
    """Draw amplitudes side by side, with the limits of the first.

    Parameters
    ----------
    images : mapping of str to ndarray of float, shape (height, width)
        By title.
    path : Path
        The picture to write; its suffix decides the format.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    first = next(iter(images.values()))
    figure, grid = _make_grid(first.shape, 1, len(images), side=2.9)
    limits = _robust_limits(first, 0.5)
    for axes, (title, image) in zip(grid.ravel(), images.items(), strict=True):
        _show(axes, np.ma.masked_invalid(image), limits, 'gray', None)
        axes.set_title(title, fontsize=9)
    bar = figure.colorbar(grid.ravel()[0].images[0], ax=list(grid.ravel()), shrink=0.8, pad=0.01)
    bar.set_label('amplitude', fontsize=9)
    bar.ax.tick_params(labelsize=8)
    _save(figure, path)


def plot_ring_correlations(curves: Mapping[str, metrics.RingCorrelation], path: Path) -> None:
    """Draw Fourier ring correlations against the truth into one picture.

    Parameters
    ----------
    curves : mapping of str to RingCorrelation
        By legend, at least one.
    path : Path
        The picture to write; its suffix decides the format.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        # They get thinner, so that a curve shows below another that it equals.
        width = max(1.0, 2.4 - 0.7 * number)
        axes.plot(curve.frequencies, curve.correlation, label=name, linewidth=width)
    half_bit = next(iter(curves.values()))
    axes.plot(half_bit.frequencies, half_bit.half_bit, '--', color='0.4', label='half bit')
    axes.axhline(0.5, color='0.6', linewidth=0.8)
    axes.axhline(1 / 7, color='0.6', linewidth=0.8, linestyle=':')
    lowest = min(float(curve.correlation.min()) for curve in curves.values())
    axes.set(xlim=(0, 1), ylim=(min(0.0, lowest), 1.02))
    axes.set(xlabel='spatial frequency (share of Nyquist)', ylabel='Fourier ring correlation')
    axes.text(0.01, 0.51, '0.5', fontsize=8, color='0.4')
    axes.text(0.01, 1 / 7 + 0.01, '1/7', fontsize=8, color='0.4')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)
    _save(figure, path)


def _draw_loss(axes: Axes, history: Sequence[Mapping[str, float]], name: str) -> float | None:
    """Draw one column; return its smallest value."""
    epochs, values = _column(history, name)
    if not values:
        return None
    main = name in ('loss', 'validation_loss')
    style = {'marker': '.'} if main else {'linestyle': '--', 'linewidth': 1.0, 'alpha': 0.8}
    axes.plot(epochs, values, label=_LABELS.get(name, name.replace('_', ' ')), **style)
    return min(values)


def _column(history: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Return epochs and values where the column has a number."""
    rows = [
        (row.get('epoch', number), row[name])
        for number, row in enumerate(history, start=1)
        if name in row and math.isfinite(row[name])
    ]
    return [epoch for epoch, _ in rows], [value for _, value in rows]


def _mark_best(axes: Axes, history: Sequence[Mapping[str, float]]) -> None:
    epochs, values = _column(history, 'validation_loss')
    if values:
        best = int(np.argmin(values))
        label = f'best: epoch {epochs[best]:.0f}'
        axes.axvline(epochs[best], color='0.5', linewidth=1.0, linestyle=':', label=label)


def _cut_truth(
    truth: ComplexArray, reconstruction: Reconstruction, box: tuple[slice, slice]
) -> ComplexArray:
    """Return the truth in the box of the reconstruction; NaN where it has no pixel."""
    origin = np.floor(np.asarray(reconstruction.origin_px) + 0.5).astype(int)
    rows, columns = (
        np.arange(part.start, part.stop) + start for part, start in zip(box, origin, strict=True)
    )
    result = np.full((len(rows), len(columns)), np.nan + 0j, dtype=np.complex64)
    known = [
        (indices >= 0) & (indices < size)
        for indices, size in zip((rows, columns), truth.shape, strict=True)
    ]
    result[np.ix_(*known)] = truth[np.ix_(rows[known[0]], columns[known[1]])]
    return result


def _turn_phase(
    image: ComplexArray, truth: ComplexArray | None, covered: BoolArray
) -> ComplexArray:
    """Return the image with its free global phase set to what suits a picture."""
    if truth is None:
        overlap = image[covered].sum()
    else:
        known = covered & np.isfinite(truth)
        overlap = (image[known] * truth[known].conj()).sum()
    return image * complex(np.exp(-1j * np.angle(overlap)))


def _mean_phase(image: ComplexArray) -> float:
    return float(np.angle(image[np.isfinite(image)].sum()))


def _phase(image: ComplexArray, centre: float) -> FloatArray:
    """Return the phase, cut where it is farthest from `centre`, so that it seldom jumps."""
    phase: FloatArray = np.angle(image * np.exp(-1j * centre)) + centre
    return phase


def _robust_limits(values: FloatArray, percent: float = 1.0) -> tuple[float, float]:
    """Return limits that a few outliers do not move."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, [percent, 100 - percent]))
    # An image of one value needs a range as well.
    margin = max(0.02 * (high - low), 1e-3)
    return low - margin, high + margin


def _phase_colours(limits: tuple[float, float], centre: float) -> tuple[str, tuple[float, float]]:
    """Return a map that closes on itself where the phase goes all the way round."""
    if limits[1] - limits[0] > _WRAPPING_RANGE_RAD:
        return 'twilight', (centre - math.pi, centre + math.pi)
    return 'viridis', limits


def _draw(
    axes: Axes,
    values: _Masked,
    title: str,
    limits: tuple[float, float],
    colours: str,
    pixel_m: tuple[float, float] | None,
) -> None:
    _show(axes, values, limits, colours, pixel_m)
    axes.set_title(title, fontsize=9)
    figure = axes.get_figure(root=True)
    assert figure is not None
    # In shares of the axes: a bar beside the image, with room for its numbers before the next one.
    bar_axes = axes.inset_axes((1.02, 0.1, 0.035, 0.8))
    bar = figure.colorbar(axes.images[0], cax=bar_axes)
    bar.ax.tick_params(labelsize=8)


def _show(
    axes: Axes,
    values: _Masked,
    limits: tuple[float, float],
    colours: str,
    pixel_m: tuple[float, float] | None,
) -> None:
    axes.imshow(
        values,
        cmap=_with_grey(colours),
        vmin=limits[0],
        vmax=limits[1],
        aspect=_aspect(pixel_m),
        interpolation='nearest',
    )
    axes.set_axis_off()


def _aspect(pixel_m: tuple[float, float] | None) -> float:
    return 1.0 if pixel_m is None else pixel_m[0] / pixel_m[1]


def _with_grey(name: str) -> Colormap:
    return matplotlib.colormaps[name].with_extremes(bad=_UNCOVERED)


def _pixel_sizes(reconstruction: Reconstruction) -> tuple[float, float] | None:
    geometry = reconstruction.geometry
    if not geometry.pixel_height_m or not geometry.pixel_width_m:
        return None
    return geometry.pixel_height_m, geometry.pixel_width_m


def _scale_bar(axes: Axes, shape: tuple[int, ...], pixel_m: tuple[float, float] | None) -> None:
    height, width = shape[0], shape[1]
    length_px, label = scale_bar_length(width, None if pixel_m is None else pixel_m[1])
    left, bottom = 0.05 * width, 0.93 * height
    # White with a black outline is seen on every image.
    outline: list[AbstractPathEffect] = [withStroke(linewidth=2.5, foreground='black')]
    bar = Rectangle((left, bottom), length_px, max(1.0, 0.012 * height), color='white')
    bar.set_path_effects(outline)
    axes.add_patch(bar)
    axes.text(
        left + length_px / 2,
        bottom - 0.02 * height,
        label,
        color='white',
        fontsize=8,
        ha='center',
        va='bottom',
        path_effects=outline,
    )


def scale_bar_length(width_px: int, pixel_m: float | None) -> tuple[float, str]:
    """Return the length of a round scale bar in pixels, and its label.

    Parameters
    ----------
    width_px : int
        Width of the image; the bar takes up to a quarter of it.
    pixel_m : float, optional
        Width of a pixel; the label is in pixels without it.
    """
    largest = width_px / 4 * (1.0 if pixel_m is None else pixel_m)
    power = 10.0 ** math.floor(math.log10(largest))
    # Rounding must not pass over a length that fits exactly.
    length = next(power * factor for factor in (5, 2, 1) if power * factor <= largest * 1.0001)
    if pixel_m is None:
        return length, f'{length:g} px'
    for unit, size in (('m', 1.0), ('mm', 1e-3), ('µm', 1e-6), ('nm', 1e-9), ('pm', 1e-12)):
        if length >= 0.9999 * size:
            return length / pixel_m, f'{length / size:.3g} {unit}'
    return length / pixel_m, f'{length:.3g} m'


def _make_grid(
    shape: tuple[int, ...], rows: int, columns: int, *, side: float
) -> tuple[Figure, NDArray[np.object_]]:
    """Return a figure of images that are `side` inches wide; very long scans are bounded."""
    ratio = min(2.5, max(0.3, shape[0] / shape[1]))
    size = (side * columns + 0.4, side * ratio * 0.85 * rows + 0.6)
    figure = Figure(figsize=size, layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False)


def _make_exact_grid(
    shape: tuple[int, ...], rows: int, columns: int, aspect: float
) -> tuple[Figure, NDArray[np.object_]]:
    """Return a figure whose images have given places, with room for titles and colour bars.

    Matplotlib would measure all texts to find these places, which takes as long as the drawing.
    """
    ratio = min(2.5, max(0.3, shape[0] / shape[1] * aspect))
    # In inches: an image, the bar and its numbers right of it, the title above it, and of all.
    width, beside, above, title = 2.7, 0.75, 0.3, 0.35
    height = width * ratio
    size = (columns * (width + beside) + 0.1, rows * (height + above) + title + 0.1)
    figure = Figure(figsize=size)
    grid = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        left = 0.1 + column * (width + beside)
        bottom = 0.1 + (rows - 1 - row) * (height + above)
        place = (left / size[0], bottom / size[1], width / size[0], height / size[1])
        grid[row, column] = figure.add_axes(place)
    return figure, grid


def _title(reconstruction: Reconstruction) -> str:
    iterations = max(0, len(reconstruction.likelihoods) - 1)
    words = f'{count(len(reconstruction.positions_px), "pattern")}, {reconstruction.backend}'
    return f'{reconstruction.name}: {words}, {count(iterations, "iteration")}'


def _save(figure: Figure, path: Path) -> None:
    # pyplot would keep every figure, and may look for a screen.
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        if figure.get_layout_engine() is None:
            figure.savefig(temporary, dpi=DPI)
        else:
            # Images keep their aspect: titles may lie outside the figure, or blank strips in it.
            figure.savefig(temporary, dpi=DPI, bbox_inches='tight', pad_inches=0.08)
