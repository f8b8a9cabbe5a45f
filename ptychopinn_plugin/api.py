"""The Python API: load scans, train, reconstruct, open and save models.

Everything here works on files or on objects in memory, and imports a framework when it is used.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ptychopinn_plugin.backends.checkpoints import Checkpoints
from ptychopinn_plugin.backends.protocol import (
    Observer,
    Progress,
    TrainingResult,
    ignore_progress,
)
from ptychopinn_plugin.backends.selection import Choice, choose, create_backend
from ptychopinn_plugin.checking.search import Check, check_scan
from ptychopinn_plugin.checking.trials import Trial
from ptychopinn_plugin.config import (
    Config,
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
)
from ptychopinn_plugin.data import (
    Reconstruction,
    Scan,
    load_scan,
    read_reconstruction,
    write_product,
    write_reconstruction,
    write_scan,
)
from ptychopinn_plugin.data.grouping import check_before_run, check_positions
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.data.single_shots import alone_where_apart
from ptychopinn_plugin.errors import ConfigError, DataError, PtychoPinnError
from ptychopinn_plugin.evaluation import Evaluation, evaluate
from ptychopinn_plugin.half_scans import HalfScans, compare_halves
from ptychopinn_plugin.model import fit_for_training
from ptychopinn_plugin.model_file import Model, write_model
from ptychopinn_plugin.opening import (
    BUILT_IN_KEYWORD,
    AnyModel,
    AnyScan,
    as_model,
    as_scan,
    as_scans,
    open_model,
)
from ptychopinn_plugin.orientation import Orientation

__all__ = [
    'Check',
    'Config',
    'Evaluation',
    'HalfScans',
    'InferenceConfig',
    'Model',
    'ModelConfig',
    'Orientation',
    'Progress',
    'PtychoPinnError',
    'Reconstruction',
    'RefinementConfig',
    'Scan',
    'SimulationConfig',
    'TrainingConfig',
    'TrainingResult',
    'check',
    'compare_half_scans',
    'evaluate',
    'load_scan',
    'open_model',
    'read_reconstruction',
    'reconstruct',
    'refine',
    'save_model',
    'simulate',
    'train',
    'write_product',
    'write_reconstruction',
    'write_scan',
]

BackendChoice = str | Choice | None
"""A backend may be named, or chosen already by `backends.selection.choose`."""


def train(
    scans: AnyScan | Iterable[AnyScan],
    config: Config | None = None,
    *,
    validation: AnyScan | Iterable[AnyScan] = (),
    base_model: AnyModel | None = None,
    resume: AnyModel | None = None,
    backend: BackendChoice = None,
    observer: Observer = ignore_progress,
    checkpoint: Path | str | None = None,
) -> TrainingResult:
    """Train a network on one or several scans.

    Parameters
    ----------
    scans : Scan or path, or several
    config : Config, optional
        The defaults where not given; with `resume`, the model's own settings.
    validation : Scan or path, or several
        Scans whose loss decides which epoch is best; without them a part of `scans` is held out.
    base_model : Model or path, optional
        Fine-tune: start from these weights.
    resume : Model or path, optional
        Continue this model's training exactly. Of `config` only the epochs, minutes and device
        are taken; the rest stays as it was.
    backend : str or Choice, optional
        See `backends.selection.choose`; a model that is given runs on its own backend.
    observer : callable, optional
        Called with a `Progress` after each step; where it returns True, training ends with the
        best model so far.
    checkpoint : path, optional
        A model file for the best and the newest weights so far, written at the end of an epoch
        about once a minute: give it to `resume` where a training was cut off.

    Returns
    -------
    TrainingResult

    Raises
    ------
    DataError, ConfigError, BackendUnavailableError
        The message holds what to do.
    """
    start = _starting_model(base_model, resume)
    chosen = _chosen(backend, start)
    if resume is not None and start is not None:
        config = _resumed_config(start, config, chosen)
    if checkpoint is not None:
        # A checkpoint that is continued may be replaced; any other one is moved aside.
        continues = isinstance(resume, Path | str) and Path(resume) == Path(checkpoint)
        observer = Checkpoints(Path(checkpoint), continues=continues).beside(observer)
    config, training, held_out = fit_for_training(
        as_scans(scans), as_scans(validation), config or Config(), start
    )
    return train_fitted(
        chosen,
        training,
        config,
        validation=held_out,
        base_model=start,
        resume=resume is not None,
        observer=observer,
    )


def train_fitted(
    choice: Choice,
    scans: Sequence[Scan],
    config: Config,
    *,
    validation: Sequence[Scan] = (),
    base_model: Model | None = None,
    resume: bool = False,
    observer: Observer = ignore_progress,
) -> TrainingResult:
    """Train on what `model.fit_for_training` returns, from a model that was checked; see `train`.

    Raises
    ------
    DataError
        If positions or the number of patterns rule a training out.
    """
    gridsize = config.model.gridsize
    for scan in scans:
        check_before_run(scan, gridsize, n_used=config.training.n_subsample)
    for scan in validation:
        check_before_run(scan, gridsize)
    return create_backend(choice.name).train(
        *(scans, config),
        validation=validation,
        base_model=base_model,
        resume=resume,
        observer=observer,
    )


def reconstruct(
    model: AnyModel | None,
    scan: AnyScan,
    *,
    inference: InferenceConfig | None = None,
    refinement: RefinementConfig | None = None,
    backend: BackendChoice = None,
    observer: Observer = ignore_progress,
) -> Reconstruction:
    """Infer the object of a scan with a trained network, and refine it.

    Inference predicts patches and stitches them, pass by pass; the built-in model corrects the
    object between iterations instead.

    Parameters
    ----------
    model : Model or path, optional
        None is the model that comes with the package.
    scan : Scan or path
        Where no two illuminations touch, each pattern is reconstructed alone, with a warning
        (`data.single_shots.alone_where_apart`).
    inference, refinement : optional
        The settings that the model carries where not given. ``RefinementConfig(iterations=0)`` is
        the network alone.
    backend : str or Choice, optional
        See `backends.selection.choose`; where nothing names one, the model's own.
    observer : callable, optional
        Called with a `Progress` after each step.

    Returns
    -------
    Reconstruction

    Raises
    ------
    DataError, ArchiveError, BackendUnavailableError
        The message holds what to do.
    """
    opened = as_model(BUILT_IN_KEYWORD if model is None else model, with_training_state=False)
    chosen, read = _chosen(backend, opened), alone_where_apart(as_scan(scan))
    fitted = opened.fitted(read)
    return reconstruct_fitted(chosen, opened, fitted, inference, refinement, observer)


def reconstruct_fitted(
    choice: Choice,
    model: Model,
    scan: Scan,
    inference: InferenceConfig | None = None,
    refinement: RefinementConfig | None = None,
    observer: Observer = ignore_progress,
) -> Reconstruction:
    """Reconstruct a scan that `Model.fitted` has returned; see `reconstruct`.

    Raises
    ------
    DataError
        If positions or the number of patterns rule it out.
    """
    check_before_run(scan, model.config.model.gridsize)
    runner = create_backend(choice.name)
    runner.model = model
    return runner.reconstruct(
        scan,
        inference or model.config.inference,
        refinement or model.config.refinement,
        observer=observer,
    )


def refine(
    scan: AnyScan,
    refinement: RefinementConfig | None = None,
    *,
    backend: BackendChoice = None,
    device: str = 'auto',
    observer: Observer = ignore_progress,
) -> Reconstruction:
    """Reconstruct a scan without a model, by iterations from a flat object: the honest baseline.

    The iterations are those that refine a prediction: projections onto the measured amplitudes,
    batch by batch (`physics.forward`).

    Parameters
    ----------
    scan : Scan or path
        As in `reconstruct`.
    refinement : RefinementConfig, optional
    backend : str or Choice, optional
        See `backends.selection.choose`.
    device : str
        'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.
    observer : callable, optional
        Called with a `Progress` after each iteration; where it returns True, the iterations end.

    Returns
    -------
    Reconstruction

    Raises
    ------
    DataError, BackendUnavailableError
        The message holds what to do.
    """
    read = alone_where_apart(as_scan(scan))
    check_positions(read)
    runner = create_backend(_chosen(backend, None).name)
    return runner.refine(read, refinement or RefinementConfig(), device=device, observer=observer)


def check(
    scan: AnyScan,
    *,
    backend: BackendChoice = None,
    device: str = 'auto',
    on_trial: Callable[[int, Trial], None] = lambda number, trial: None,
) -> Check:
    """Find out whether patterns and positions of a scan go together; see `checking.search`.

    Parameters
    ----------
    scan : Scan or path
    backend : str or Choice, optional
        See `backends.selection.choose`.
    device : str
        'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.
    on_trial : callable, optional
        Called with the number of trial reconstructions so far and the last of them.

    Returns
    -------
    Check
        `orientation` is what mends the scan: give it to `load_scan`.

    Raises
    ------
    DataError, BackendUnavailableError
        The message holds what to do.
    """
    runner = create_backend(_chosen(backend, None).name)
    return check_scan(as_scan(scan), runner, device=device, on_trial=on_trial)


def compare_half_scans(
    scan: AnyScan,
    *,
    model: AnyModel | None = None,
    iterations: int | None = None,
    backend: BackendChoice = None,
    device: str = 'auto',
    remove_ramp: bool = False,
    observer: Observer = ignore_progress,
) -> HalfScans:
    """Cut a scan into two halves, reconstruct both in the same way, and compare them.

    Parameters
    ----------
    scan : Scan or path
    model : Model or path, optional
        None is the model that comes with the package.
    iterations : int, optional
        Where it is given, each half is reconstructed by this number of iterations from a flat
        object, without a model.
    backend : str or Choice, optional
        See `backends.selection.choose`.
    device : str
        'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.
    remove_ramp : bool
        Whether a linear phase between both is removed as well.
    observer : callable, optional
        Called with a `Progress` after each step; where it returns True, nothing is compared.

    Returns
    -------
    HalfScans

    Raises
    ------
    DataError, ConfigError, BackendUnavailableError
        The message holds what to do.
    """
    whole, opened = as_scan(scan), None
    if iterations is None:
        opened = as_model(BUILT_IN_KEYWORD if model is None else model, with_training_state=False)
        whole = opened.fitted(whole)
    elif model is not None:
        raise ConfigError('Iterations start without a model; got both. Give one of them.')
    return compare_fitted_halves(
        _chosen(backend, opened),
        opened,
        whole,
        iterations=iterations,
        device=device,
        remove_ramp=remove_ramp,
        observer=observer,
    )


def compare_fitted_halves(
    choice: Choice,
    model: Model | None,
    scan: Scan,
    *,
    iterations: int | None,
    device: str,
    remove_ramp: bool,
    observer: Observer,
) -> HalfScans:
    """Compare halves of a scan that `Model.fitted` has returned; see `compare_half_scans`.

    Without a model, each is reconstructed by iterations.
    """

    def watch(progress: Progress) -> None:
        if observer(progress):
            raise DataError('Stopped before both halves were reconstructed; nothing is compared.')

    def reconstruct_half(half: Scan) -> Reconstruction:
        # Halves that are smoothed alike would agree more than their patterns do.
        if model is None:
            settings = RefinementConfig(iterations=iterations, total_variation=0.0)
            # Not `refine`: patterns of a half that share nothing would be taken one by one.
            check_positions(half)
            return create_backend(choice.name).refine(half, settings, device=device, observer=watch)
        inference = model.config.inference.replace(device=device)
        refinement = model.config.refinement.replace(total_variation=0.0)
        return reconstruct_fitted(choice, model, half, inference, refinement, observer=watch)

    return compare_halves(scan, reconstruct_half, remove_ramp=remove_ramp)


def save_model(path: Path | str, model: Model, *, inference_only: bool = False) -> None:
    """Write a model file, in one go or not at all.

    Parameters
    ----------
    path : Path
    model : Model
    inference_only : bool
        Whether what only `train(resume=...)` needs is left out.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_model(Path(path), model, inference_only=inference_only)


def _chosen(backend: BackendChoice, model: Model | None) -> Choice:
    """Choose the backend, where the caller has not done so before reading any scan."""
    if isinstance(backend, Choice):
        return backend
    return choose(backend, model_backend=None if model is None else model.backend)


def _starting_model(base_model: AnyModel | None, resume: AnyModel | None) -> Model | None:
    if base_model is not None and resume is not None:
        raise ConfigError(
            'Training starts from base_model (fine-tune) or continues resume; got both. '
            'Give one of them.'
        )
    given = base_model if resume is None else resume
    if given is None:
        return None
    model = as_model(given, with_training_state=resume is not None)
    if resume is None:
        model.check_can_be_fine_tuned('Train without a model to start from.')
    return model


def _resumed_config(model: Model, config: Config | None, chosen: Choice) -> Config:
    """Return the settings a model was trained with, and the new ones for how long and where."""
    model.check_training_state('train(scans, base_model=model)')
    model.check_continues_on(chosen.name)
    if config is None:
        return model.config
    new = config.training
    training = model.config.training.replace(
        epochs=new.epochs, max_minutes=new.max_minutes, device=new.device
    )
    return model.config.replace(training=training)
