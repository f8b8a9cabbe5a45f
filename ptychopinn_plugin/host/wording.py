"""Sentences about runs and models, for the panel and the log."""

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptychopinn_plugin.backends.common.training_run import TARGET_TIME_FRACTION
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.training_data import find_training_files
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.text import ENDS, count

BUILT_IN_NAME = 'built-in model'
"""A model that comes with the package and lies in no file of the user has this name."""

TARGET_FRACTION = 0.1
"""The target of a training takes this share of the progress bar where there is no time limit."""

MAX_NAMES = 5
"""A line of the panel names at most this number of files or scans."""


def span(seconds: float) -> str:
    """Return a time in words, as '48 s', '3 min 20 s' or '1 h 5 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f'{whole} s'
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f'{minutes} min {rest} s' if rest else f'{minutes} min'
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes} min' if minutes else f'{hours} h'


def status_line(activity: Activity, now: float) -> str:
    """Return what a run does, how long it has done so and how long it will, or how it ended.

    Parameters
    ----------
    activity : Activity
    now : float
        By `time.monotonic`.
    """
    if not activity.kind:
        return _first_line(activity)
    if not activity.is_running:
        return f'{activity.kind.capitalize()} {activity.outcome}.'
    text = stage_line(activity, now)
    waiting = activity.runs_waiting()
    if waiting:
        text += f'. {count(waiting, "run")} {"waits" if waiting == 1 else "wait"}; Stop ends all'
    return f'{text}.'


def _first_line(activity: Activity) -> str:
    """Return what a click would do in a window that has had no run."""
    chosen = activity.chosen_product()
    if chosen is None:
        return 'Choose a product with patterns above: Infer reconstructs it, without a training.'
    return f'Infer reconstructs {chosen.name}; nothing needs to be trained.'


def stage_line(activity: Activity, now: float) -> str:
    """Return the stage of the run under way with its own time, and the time that is left."""
    stage, step, total = activity.progress
    elapsed = now - activity.stage_started_s
    if stage == 'train':
        return _training_line(activity, now)
    if stage == 'load':
        return f'Starting, {span(elapsed)}; the time left is shown once it computes'
    if stage == 'check':
        trials = f'Check of the scan, {count(step, "trial")}, {span(elapsed)}'
        return f'{trials}; most checks take about a minute'
    text = {
        'probe': f'Search for the probe, iteration {step} of {total}',
        'start': f'Trials of starts, iteration {step} of {total}',
        'target': 'Target reconstruction',
        'predict': f'Prediction, pass {min(step + 1, total)} of {total}',
        # It is over when it is reported, and iterations go on.
        'pass': f'Pass {step} of {total} of the learned prior',
        'refine': f'Refinement, iteration {step} of {total}',
    }.get(stage, stage.capitalize())
    return f'{text}, {_time_of_stage(activity, now)}'


def _time_of_stage(activity: Activity, now: float) -> str:
    """Return how long a stage has taken, how long it will and what is left, where that is known."""
    stage, step, total = activity.progress
    elapsed = now - activity.stage_started_s
    done = step - activity.stage_first_step
    if done <= 0:
        return span(elapsed)
    each = (activity.reported_s - activity.stage_started_s) / done
    left = each * (total - step) - (now - activity.reported_s)
    if stage == 'target' and activity.limit_s is not None:
        limit = TARGET_TIME_FRACTION * activity.limit_s
        left = min(left, limit - (now - activity.computing_s))
    left = max(0.0, left)
    return f'{span(elapsed)} of about {span(elapsed + left)}, {span(left)} left'


def _training_line(activity: Activity, now: float) -> str:
    done, total = len(activity.epochs), activity.total_epochs
    elapsed = now - activity.computing_s
    limit_s = activity.limit_s
    reason = ''
    if total and done >= total:
        reason = ending('epochs', total, limit_s)
    elif limit_s is not None and elapsed >= limit_s:
        reason = ending('max-minutes', done, limit_s)
    if reason:
        # How long this takes depends on the scan.
        return f'{reason.capitalize()}; the network is judged and written, {span(elapsed)}'
    if limit_s is not None:
        spent = f'training {span(elapsed)} of {span(limit_s)}'
        return f'Epoch {done + 1}; {spent}, at most {span(limit_s - elapsed)} left'
    text = f'Epoch {done + 1} of {total}; training {span(elapsed)}'
    if not done:
        return text
    each = (activity.epoch_ended_s - activity.stage_started_s) / done
    return f'{text}, about {span(each * (total - done) - (now - activity.epoch_ended_s))} left'


def share_done(activity: Activity, now: float) -> float:
    """Return how much of a training is done, from 0 to 1, its target included."""
    stage, step, total = activity.progress
    by_time = 0.0
    if activity.limit_s is not None and stage != 'load':
        by_time = min(1.0, (now - activity.computing_s) / activity.limit_s)
    if stage == 'target':
        return max(by_time, TARGET_FRACTION * step / max(1, total))
    if stage == 'train':
        by_epochs = len(activity.epochs) / max(1, activity.total_epochs)
        return max(by_time, TARGET_FRACTION + (1 - TARGET_FRACTION) * by_epochs)
    return by_time


def epochs_in_words(whole: int, *, is_last_cut: bool) -> str:
    """Return how many epochs a training had; one that ended amid its patterns is not counted.

    Parameters
    ----------
    whole : int
        How many saw all patterns.
    is_last_cut : bool
        Whether another one followed that did not.
    """
    if not is_last_cut:
        return count(whole, 'epoch')
    return f'{count(whole, "epoch")} and a part of the next' if whole else 'a part of one epoch'


def ending(reason: str, epochs: int, limit_s: float | None) -> str:
    """Return why a training ended, as the end of a sentence.

    Parameters
    ----------
    reason : str
        As in `backends.protocol.TrainingResult.stopped`.
    epochs : int
    limit_s : float, optional
    """
    if reason == 'epochs':
        return f'all {count(epochs, "epoch")} are done' if epochs > 1 else 'the epoch is done'
    if reason == 'max-minutes' and limit_s is not None:
        return f'the time limit of {span(limit_s)} was reached'
    return ENDS[reason]


def model_line(model: Model, name: str, backend: str = '') -> str:
    """Return what a model is: name, architecture, backend, sizes, scans, epochs, loss and date.

    Parameters
    ----------
    model : Model
    name : str
        That of its file, or `BUILT_IN_NAME`.
    backend : str
        The one that would run it; empty where none can.
    """
    if model.is_prior:
        runs = f' It runs on {backend}.' if backend else ''
        return (
            f'Model: {name}, a learned prior for any probe and pattern size, which needs no '
            f'training.{runs} Train makes one for your own scans.'
        )
    provenance, data = model.provenance, model.data_summary
    side = model.pattern_size
    made_by = model.backend
    if backend not in ('', made_by):
        made_by += f', which {backend} runs'
    parts = [model.network.architecture, made_by, f'patterns of {side} x {side} px']
    if model.config.model.gridsize > 1:
        parts.append(f'gridsize {model.config.model.gridsize}')
    parts += _numbers(provenance, data)
    # Files of earlier versions do not state which loss it is.
    of = provenance.get('best_loss_of')
    kind = f'{of} ' if of in ('validation', 'training') else ''
    if (loss := _number(provenance, 'best_loss')) is not None:
        parts.append(f'best {kind}loss {loss:.4g}')
    if isinstance(source := provenance.get('imported_from'), str):
        parts.append(source)
    if (date := _date(provenance.get('created'))) is not None:
        parts.append(date)
    return f'Model: {name}, {", ".join(parts)}.'


def _numbers(provenance: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Return the numbers of epochs and patterns in a model file, and the names of its scans."""
    parts = []
    if (epochs := _number(provenance, 'epochs')) is not None:
        # Where the number is 0, the model is that of a first epoch which was cut.
        parts.append(epochs_in_words(int(epochs), is_last_cut=epochs == 0))
    if (patterns := _number(data, 'patterns')) is not None:
        scans = data.get('scans')
        of = f' of {_scans(scans)}' if isinstance(scans, list | tuple) else ''
        parts.append(f'{count(int(patterns), "pattern")}{of}')
    return parts


def _scans(scans: Sequence[object]) -> str:
    names = _listed([str(name) for name in scans])
    return f'{count(len(scans), "scan")}{f" ({names})" if names else ""}'


def _number(values: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a model file, which strangers may have written."""
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _date(created: object) -> str | None:
    try:
        when = datetime.datetime.fromisoformat(str(created)).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
    return f'{when:%Y-%m-%d %H:%M}'


def training_line(activity: Activity, limit_s: float | None, base: str) -> str:
    """Return what *Train* and *Train on product* would learn from, and for how long.

    *Train* learns from every scan in the folder, which may be others than the chosen product.

    Parameters
    ----------
    activity : Activity
        Holds the product that is chosen.
    limit_s : float, optional
    base : str
        Name of the model that is fine-tuned; empty where training starts from scratch.
    """
    limit = 'no time limit' if limit_s is None else f'at most {span(limit_s)}'
    start = f'fine-tuning {base}' if base else 'from scratch, with the rows of the box Model'
    chosen = activity.chosen_product()
    train = 'Train takes a folder, and learns from the scans in it'
    if chosen is None:
        return f'{train}; {limit}; {start}.'
    if chosen.product_folder:
        train = f'Train opens {chosen.product_folder}{_scans_in(Path(chosen.product_folder))}'
    on_product = f'Train on product: {chosen.name}, {count(chosen.patterns, "pattern")}'
    return f'{train}. {on_product}. Either way: {limit}; {start}.'


def _scans_in(folder: Path) -> str:
    """Return which scans a training on a folder learns from, as the end of a sentence."""
    try:
        files = find_training_files(folder)
    except (DataError, OSError):
        # The files of a product may be gone since it was loaded.
        return ', where there is nothing to learn from'
    if files.scans == (folder,):
        text = ': 1 scan: diffraction.h5 with its product'
    else:
        names = _listed([path.name for path in files.scans])
        text = f': {count(len(files.scans), "scan")}: {names}'
    if files.validation:
        text += f'; validated on {_listed([path.name for path in files.validation])}'
    return text


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = list(names[:MAX_NAMES])
    if len(names) > MAX_NAMES:
        shown.append(f'{len(names) - MAX_NAMES:,} more')
    return ', '.join(shown)
