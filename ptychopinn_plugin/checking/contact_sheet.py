"""The objects of the trials in one picture."""

import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ptychopinn_plugin.checking.search import Check
from ptychopinn_plugin.checking.trials import Trial
from ptychopinn_plugin.storage.atomic import atomic_path

MAX_TRIALS_SHOWN = 24
"""More trials than this are left out, the worst first."""

_COLUMNS, _DPI, _COVERED = 6, 120, 0.1


def plot_check(check: Check, path: Path) -> None:
    """Draw the phase of each trial's object, the best first, with what it leaves unexplained.

    Parameters
    ----------
    check : Check
    path : Path
        The picture to write; its suffix decides the format.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    trials = [trial for trial in check.trials if trial.reconstruction is not None]
    trials = trials[:MAX_TRIALS_SHOWN]
    rows = max(1, math.ceil(len(trials) / _COLUMNS))
    figure = Figure(figsize=(2.2 * _COLUMNS, 2.6 * rows + 0.6), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(
        'Phases of the trial objects, the best first. Number: residual of the patterns that the '
        f'trial was not given (without an object: {check.uninformed_residual:.4g})',
        fontsize=9,
    )
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, trial in zip(panels, trials, strict=False):
        _draw(axes, trial, is_given=trial is check.given, is_best=trial is check.best)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def _draw(axes: Axes, trial: Trial, *, is_given: bool, is_best: bool) -> None:
    found = trial.reconstruction
    assert found is not None
    box = found.covered_box(_COVERED)
    phases = np.angle(found.object_[box])
    lit = found.coverage[box] >= _COVERED
    # The global phase is free: the mean is put where phases do not wrap.
    mean = np.angle(np.mean(found.object_[box][lit]))
    phases = np.angle(np.exp(1j * (phases - mean)))
    low, high = np.percentile(phases[lit], [1, 99])
    colours = matplotlib.colormaps['gray'].with_extremes(bad='#dddddd')
    axes.imshow(
        np.ma.masked_where(~lit, phases),
        cmap=colours,
        vmin=float(low),
        vmax=max(float(high), float(low) + 1e-6),
        interpolation='nearest',
    )
    words = ' '.join(trial.orientation.to_words()).replace(' --', '\n--') or 'as given'
    if trial.refines_probe:
        words += '\nprobe corrected'
    colour = '#1a7f37' if is_best else '#b35900' if is_given else 'black'
    axes.set_title(
        f'{words}\n{trial.residual:.4g}',
        fontsize=7,
        color=colour,
        fontweight='bold' if is_best or is_given else 'normal',
    )
