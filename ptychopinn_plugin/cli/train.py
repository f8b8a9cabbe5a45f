"""`ptychopinn train`: from scans to a model file."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.cli.common import duration_in_words, read_scans, report, show_notes
from ptychopinn_plugin.cli.experiment_logs import (
    ExperimentLog,
    LoggerName,
    check_logger,
    experiment_log,
)
from ptychopinn_plugin.cli.log import (
    LossLog,
    collecting_notes,
    keeping_log,
    logger,
    notes_by_scan,
    show_note,
)
from ptychopinn_plugin.cli.options import (
    READING,
    AsJson,
    BackendName,
    Given,
    Output,
    Section,
    takes_settings,
)
from ptychopinn_plugin.cli.outputs import (
    CHECKPOINT_FILE,
    MODEL_FILE,
    staged_outputs,
    write_history,
    write_text,
)
from ptychopinn_plugin.cli.progress import ProgressDisplay
from ptychopinn_plugin.cli.ranks import Devices, computing_together, leave, several_processes
from ptychopinn_plugin.cli.settings import (
    add_from_file,
    assemble_config,
    refuse_changes,
    run_to_toml,
)
from ptychopinn_plugin.cli.signals import finishing
from ptychopinn_plugin.config import Config, ModelConfig, TrainingConfig
from ptychopinn_plugin.errors import ConfigError, RankError
from ptychopinn_plugin.text import ENDS, count

if TYPE_CHECKING:
    from ptychopinn_plugin.backends.checkpoints import Checkpoints
    from ptychopinn_plugin.backends.protocol import TrainingResult
    from ptychopinn_plugin.backends.selection import Choice
    from ptychopinn_plugin.data import Scan
    from ptychopinn_plugin.model_file import Model

LOG_FILE = 'train.log'
TRAINING_FILES = (MODEL_FILE, 'losses.csv', 'training.png', 'config.toml', LOG_FILE)

_TRAINING_PANELS = {
    'Training: loss': ('poisson_weight', 'amplitude_mae_weight', 'total_variation_weight'),
    'Training: target': (
        'target',
        'target_weight',
        'target_iterations',
        'target_positions',
        'target_intensities',
    ),
    'Training: probe and intensity scale': ('probe_trainable', 'intensity_scale_trainable'),
    'Training: choice of patterns': (
        'validation_fraction',
        'n_groups',
        'neighbor_count',
        'n_subsample',
    ),
}

_MODEL_PANELS = {
    'Model: groups': ('gridsize', 'overlap_constraint'),
    'Model: only for --architecture cnn': ('amplitude_activation', 'pad_object', 'border_decoder'),
}

_Scans = Annotated[
    list[Path], typer.Argument(metavar='SCAN', help='One or several scans for one model.')
]
_Validation = Annotated[
    list[Path] | None,
    typer.Option(
        metavar='SCAN',
        help='A scan whose loss decides which epoch is best; may be given several times. '
        'Without one, a part of the training scan is held out.',
    ),
]
_ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar='FILE', help='Settings in TOML, such as the config.toml of a run, which it repeats.'
    ),
]
_Assignments = Annotated[
    list[str] | None,
    typer.Option(
        '--set',
        metavar='SECTION.NAME=VALUE',
        help='Any setting of config.toml, such as refinement.iterations=10; may be repeated.',
    ),
]
_Resume = Annotated[
    Path | None,
    typer.Option(metavar='MODEL', help='Continue the training of this model exactly.'),
]
_BaseModel = Annotated[
    Path | None,
    typer.Option(metavar='MODEL', help='Fine-tune: start from the weights of this model.'),
]
_Logger = Annotated[
    LoggerName | None,
    typer.Option(
        '--logger',
        metavar='NAME',
        help='Send losses and settings to tensorboard (files in DIR/tensorboard) or mlflow (the '
        'server of MLFLOW_TRACKING_URI) as well.',
    ),
]
_InferenceOnly = Annotated[
    bool, typer.Option('--inference-only', help='Leave out of the model what --resume needs.')
]


@dataclass(frozen=True)
class _Job:
    """Everything that the options name, read and checked."""

    scans: Sequence['Scan']
    validation: Sequence['Scan']
    config: Config
    model: 'Model | None'
    resume: bool
    choice: 'Choice'
    reading: dict[str, Any]


@takes_settings(
    Section(
        'training',
        TrainingConfig,
        'Training',
        options={
            'target_positions': 'refine-positions',
            'target_intensities': 'refine-intensities',
        },
        panels=_TRAINING_PANELS,
    ),
    Section('model', ModelConfig, 'Model', panels=_MODEL_PANELS),
    READING,
)
def train_command(
    scans: _Scans,
    output: Output,
    validation: _Validation = None,
    config: _ConfigFile = None,
    assignments: _Assignments = None,
    resume: _Resume = None,
    base_model: _BaseModel = None,
    inference_only: _InferenceOnly = False,
    logger_name: _Logger = None,
    backend: BackendName = None,
    devices: Devices = None,
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Train a network on scans, without labels.

    The results are wts.h5.zip (the model), losses.csv, training.png, config.toml (all settings that
    were in force, the backend and how the scans were read) and train.log. A named option beats
    --set, which beats --config, which beats the default. Ctrl-C ends training and keeps the best
    model so far. While it trains, the model so far lies in checkpoint.h5.zip, from which --resume
    continues where a machine failed.

    \b
    Examples:
      ptychopinn train scan.npz -o run
      ptychopinn train a.npz b.npz --validation c.npz --max-minutes 30 -o run
      ptychopinn train scan.npz --resume run/wts.h5.zip --epochs 200 -o longer
      ptychopinn train scan.npz --config run/config.toml --seed 1 -o again
    """
    start, resumes = resume or base_model, resume is not None
    with (
        several_processes(devices),
        staged_outputs(output, TRAINING_FILES, rescue=MODEL_FILE) as stage,
        keeping_log(stage / LOG_FILE),
        collecting_notes() as shown,
    ):
        if resume is not None and base_model is not None:
            raise ConfigError(
                '--resume continues a training and --base-model starts a new one; got both. '
                'Give one of them.'
            )
        saved = None
        if config is not None:
            given, saved = add_from_file(given, config)
        if logger_name is not None:
            check_logger(logger_name)
        settings = _settings(start, resumes, given, config, assignments)
        choice = _choose(settings[0], backend, saved, resumes=resumes)
        with computing_together(choice, output / CHECKPOINT_FILE) as ranks:
            job = _prepare(scans, validation or (), *settings, resumes, choice, given)
            checkpoints = _checkpoints(output / CHECKPOINT_FILE, resume)
            with _logging(logger_name if ranks.rank == 0 else None, output, job) as log:
                result = _run(job, checkpoints, log)
                leave(ranks)
                with finishing():
                    _write(stage, result, job.reading, inference_only=inference_only)
                    if log is not None:
                        log.add_files([stage / name for name in TRAINING_FILES if name != LOG_FILE])
    # Only now does the model lie in its place; until then the checkpoint was all there was.
    checkpoints.remove()
    values = _facts(job, result, output, shown)
    report(values, _summary(values), as_json=as_json)


def _settings(
    path: Path | None,
    resume: bool,
    given: Given,
    file: Path | None,
    assignments: Sequence[str] | None,
) -> tuple['Model | None', Config]:
    """Open the model to start from, where there is one, and put the settings together."""
    if path is None:
        return None, assemble_config(given, file=file, assignments=assignments or ())
    from ptychopinn_plugin.api import open_model

    model = open_model(path, with_training_state=resume)
    # What the model rules out is checked before scans are read, which may take minutes.
    option = '--resume' if resume else '--base-model'
    model.check_can_be_fine_tuned(
        f'Leave {option} out, or give a model that ptychopinn train has left, not {path}.'
    )
    known = model.config.to_dict()
    # Fine-tuning keeps the network, and takes no settings of the training before.
    base = known if resume else {'model': known['model']}
    config = assemble_config(given, file=file, assignments=assignments or (), base=base)
    if not resume:
        allowed = ('training', 'inference', 'refinement')
        advice = '--base-model keeps its network. Leave the setting out, or train anew.'
        refuse_changes(model.config, config, allowed, advice)
        return model, config
    allowed = ('training.epochs', 'training.max_minutes', 'training.device')
    advice = '--resume continues exactly. Leave the setting out, or fine-tune with --base-model.'
    refuse_changes(model.config, config, allowed, advice)
    model.check_training_state(f'ptychopinn train --base-model {path}')
    return model, config


def _choose(
    model: 'Model | None', requested: str | None, saved: str | None, *, resumes: bool
) -> 'Choice':
    from ptychopinn_plugin.backends.selection import choose

    of_model = None if model is None else model.backend
    choice = choose(requested, setting=saved, model_backend=of_model)
    if model is not None and resumes:
        model.check_continues_on(choice.name)
    return choice


def _prepare(
    paths: Sequence[Path],
    validation: Sequence[Path],
    model: 'Model | None',
    config: Config,
    resume: bool,
    choice: 'Choice',
    given: Given,
) -> _Job:
    """Read the scans, before anything takes long."""
    from ptychopinn_plugin.model import fit_for_training

    read = read_scans([*paths, *validation], given)
    config, scans, held_out = fit_for_training(
        read[: len(paths)], read[len(paths) :], config, model
    )
    show_notes([*scans, *held_out])
    return _Job(scans, held_out, config, model, resume, choice, given['reading'])


def _checkpoints(path: Path, resumed: Path | None) -> 'Checkpoints':
    """Print a note where a former training was cut off; its checkpoint is kept."""
    from ptychopinn_plugin.backends.checkpoints import Checkpoints

    continues = resumed is not None and path.exists() and path.samefile(resumed)
    if path.exists() and not continues:
        show_note(
            f'{path} is of a training that was cut off. To continue that one, use --resume '
            f'{path}; the first checkpoint of this one moves it aside.'
        )
    return Checkpoints(path, continues=continues)


@contextmanager
def _logging(name: LoggerName | None, output: Path, job: _Job) -> Iterator[ExperimentLog | None]:
    """Open the log that the user has chosen, if any."""
    if name is None:
        yield None
        return
    sections = {'reading': job.reading, **job.config.to_dict()}
    settings = {
        f'{section}.{key}': value
        for section, values in sections.items()
        for key, value in values.items()
    }
    title = ', '.join(scan.name for scan in job.scans)
    with experiment_log(name, output, title, {'backend': job.choice.name, **settings}) as log:
        yield log


def _run(job: _Job, checkpoints: 'Checkpoints', log: ExperimentLog | None) -> 'TrainingResult':
    from ptychopinn_plugin import api

    _log_start(job)
    # The log of a training that is continued goes on with the number of its next epoch.
    epochs_before = 0
    if job.resume and job.model is not None and job.model.training_state is not None:
        epochs_before = len(job.model.training_state.values.get('history', ()))
    try:
        with ProgressDisplay(LossLog(epochs_before, log)) as watch:
            result = api.train_fitted(
                job.choice,
                job.scans,
                job.config,
                validation=job.validation,
                base_model=job.model,
                resume=job.resume,
                observer=checkpoints.beside(watch),
            )
    except BaseException as error:
        # Where a rank has died, its error has this note already.
        if checkpoints.is_written and not isinstance(error, RankError):
            show_note(
                'what was learned until the last checkpoint is kept; to continue, use '
                f'--resume {checkpoints.path}'
            )
        raise
    logger.info('Stopped: %s.', result.stopped)
    for name, value in result.model.provenance.items():
        logger.info('%s: %s', name, value)
    return result


def _log_start(job: _Job) -> None:
    logger.info('ptychopinn-plugin %s', __version__)
    logger.info('Python %s on %s', platform.python_version(), platform.platform())
    logger.info('backend %s (%s)', job.choice.name, job.choice.source)
    for scan in (*job.scans, *job.validation):
        # Two scans are not compared by their patterns: the same object is meant.
        use = 'validation' if any(scan is other for other in job.validation) else 'training'
        height, width = scan.pattern_shape
        logger.info('%s scan %s: %d patterns, %d x %d px', use, scan.name, len(scan), height, width)
        for note in scan.notes:
            logger.info('%s: %s', scan.name, note)
    for section, values in {'reading': job.reading, **job.config.to_dict()}.items():
        logger.info('[%s] %s', section, ', '.join(f'{k}={v}' for k, v in values.items()))


def _write(
    stage: Path, result: 'TrainingResult', reading: dict[str, Any], *, inference_only: bool
) -> None:
    """Write the model first: it is what took long."""
    from ptychopinn_plugin.model_file import write_model
    from ptychopinn_plugin.plots import plot_training

    write_model(stage / MODEL_FILE, result.model, inference_only=inference_only)
    write_history(stage / 'losses.csv', result.history)
    write_text(stage / 'config.toml', run_to_toml(result.model, reading))
    plot_training(result.history, stage / 'training.png')


def _facts(
    job: _Job, result: 'TrainingResult', output: Path, shown: Sequence[str]
) -> dict[str, Any]:
    from ptychopinn_plugin.backends.protocol import was_validated

    last = dict(result.history[-1]) if result.history else {}
    provenance, given = result.model.provenance, sum(len(scan) for scan in job.scans)
    return {
        'output': output,
        'model': output / MODEL_FILE,
        'files': list(TRAINING_FILES),
        'backend': job.choice.name,
        'device': provenance.get('device'),
        'patterns': result.model.data_summary.get('patterns', given),
        'patterns_given': given,
        'scans': [scan.name for scan in job.scans],
        'epochs': len(result.history),
        'stopped': result.stopped,
        'best_loss': provenance.get('best_loss'),
        'validated': was_validated(result.history),
        'last': last,
        'seconds': provenance.get('seconds'),
        'notes': notes_by_scan(shown, [scan.name for scan in (*job.scans, *job.validation)]),
    }


def _summary(values: dict[str, Any]) -> list[str]:
    seconds, best, used = values['seconds'], values['best_loss'], values['patterns']
    patterns = count(values['patterns_given'], 'pattern')
    if used != values['patterns_given']:
        patterns = f'{used:,} of {patterns}'
    loss = 'validation loss' if values['validated'] else 'training loss (nothing was held out)'
    return [
        f'Trained on {patterns} of {count(len(values["scans"]), "scan")} with '
        f'{values["backend"]} on {values["device"]}: '
        f'{count(values["epochs"], "epoch")}'
        + ('' if seconds is None else f' in {duration_in_words(seconds)}')
        + f'; it ended, as {ENDS[values["stopped"]]}',
        f'best {loss}: {"unknown" if best is None else format(best, ".5g")}',
        f'model: {values["model"]}; beside it: {", ".join(TRAINING_FILES[1:])}',
        f'next: ptychopinn reconstruct {values["model"]} SCAN --output DIR',
    ]
