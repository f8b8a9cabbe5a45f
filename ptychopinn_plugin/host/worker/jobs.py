"""What a worker can do: train and reconstruct. Runs in the worker's process."""

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.checkpoints import Checkpoints
from ptychopinn_plugin.backends.common.backend import NetworkBackend
from ptychopinn_plugin.backends.common.diagnostics import (
    fit_in_words,
    points_to_a_fault,
    unknown_probe_in_words,
)
from ptychopinn_plugin.backends.common.iteration_plan import Course
from ptychopinn_plugin.backends.protocol import Backend, Progress
from ptychopinn_plugin.backends.selection import create_backend
from ptychopinn_plugin.checking.trials import without_notes
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Reconstruction, Scan, load_scan
from ptychopinn_plugin.data.grouping import check_before_run, spatial_blocks
from ptychopinn_plugin.data.pattern_fit import outliers_in_words
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.errors import PtychoPinnError, WorkerError
from ptychopinn_plugin.host.worker.arrays import (
    ObjectPicture,
    ResultArrays,
    ScanArrays,
    variation_fields,
)
from ptychopinn_plugin.host.worker.check_job import Connection, check_in_worker
from ptychopinn_plugin.host.worker.ipc import copy_fields
from ptychopinn_plugin.host.worker.messages import (
    CheckJob,
    Job,
    ReconstructionDone,
    ReconstructJob,
    RunProgress,
    SharedArray,
    TrainingDone,
    TrainJob,
)
from ptychopinn_plugin.model import fit_for_training
from ptychopinn_plugin.model_file import read_model
from ptychopinn_plugin.physics import uncertainty_in_words
from ptychopinn_plugin.storage.atomic import (
    check_output_folder,
    keep_previous,
    names_of_checkpoint,
    remove_partial,
)
from ptychopinn_plugin.storage.lock import locked_folder
from ptychopinn_plugin.text import count

PREVIEW_S = 2.0
"""At least this number of seconds lies between two pictures, but for those of a network's passes.

The host redraws everything for each, which freezes its window.
"""

TRAINING_PICTURE_S = 5.0
"""At least this number of seconds lies between two pictures of a network that learns."""

MAX_JUDGED_PATTERNS = 256
"""A trained network is judged by at most this number of patterns, which takes a moment."""

REPORT_S = 0.2
"""At least this number of seconds lies between two reports of progress."""

logger = logging.getLogger('ptychopinn_plugin')


class JobConnection(Connection, Protocol):
    """What `Jobs` needs of `server.HostConnection`."""

    def confirm_read(self, block: str) -> None:
        """Send that an array of the job is copied."""
        ...


class _NothingToKeep(Exception):
    """Training was stopped before its first epoch ended.

    What a first epoch leaves behind is no better than the model that was there before, so it need
    not be finished.
    """


class Reporter:
    """Passes progress on to the host, no faster than the host can take it.

    Parameters
    ----------
    connection : JobConnection
    """

    def __init__(self, connection: JobConnection) -> None:
        self._epochs = 0
        self._connection = connection
        self._last_report = self._last_picture = float('-inf')

    def __call__(self, progress: Progress) -> bool:
        """Report a step; return whether the run is to end."""
        now = time.monotonic()
        is_epoch_end = 'validation_loss' in progress.losses
        is_of_network = progress.stage in ('predict', 'pass')
        # What the network finds comes seldom, and the panel shows it beside what becomes of it.
        is_due = now - self._last_picture >= PREVIEW_S or is_of_network
        is_picture = progress.object_ is not None and is_due
        # A window that is frozen takes none, and its pictures would fill the memory.
        # Those of the network are few.
        is_behind = self._connection.is_host_behind and not is_of_network
        is_picture = is_picture and not is_behind
        if is_epoch_end or is_picture or now - self._last_report >= REPORT_S:
            self._last_report = now
            if is_picture:
                self._last_picture = now
            self._connection.send(
                _report(progress, is_epoch_end), _picture(progress) if is_picture else None
            )
        is_stopping = self._connection.is_stopping
        self._epochs += is_epoch_end and not is_stopping
        if is_stopping and progress.stage in ('target', 'train') and self._epochs == 0:
            raise _NothingToKeep
        return is_stopping


class Jobs:
    """Does the host's jobs and keeps the backend and its model between them.

    Parameters
    ----------
    connection : JobConnection
    """

    def __init__(self, connection: JobConnection) -> None:
        self._connection = connection
        self._backend: Backend | None = None
        self._held: tuple[str, int, int] | None = None

    def do(self, job: Job, arrays: Mapping[str, SharedArray]) -> None:
        """Do one job and send what came of it.

        Raises
        ------
        PtychoPinnError
            If the job cannot be done.
        """
        if isinstance(job, TrainJob):
            self._connection.send(self._train(job))
        elif isinstance(job, CheckJob):
            backend = self._use(job)
            check_in_worker(self._scan(job, arrays), backend, job.device, self._connection)
        else:
            self._reconstruct(job, arrays)

    def prepare(self, backend: str, model_path: Path | None) -> None:
        """Do what every run of a backend begins with, before there is one."""
        if self._backend is None:
            self._backend = create_backend(backend)
        if model_path is not None and self._backend.name == backend:
            self._open(self._backend, model_path)

    def release_memory(self) -> None:
        """Give back what a run that failed holds; the next one builds it again."""
        # Backends of others need not have it.
        release = getattr(self._backend, 'release_memory', None)
        if release is not None:
            release()

    def _train(self, job: TrainJob) -> TrainingDone:
        folder = check_output_folder(job.output.parent)
        with locked_folder(folder):
            remove_partial(folder, _files_of_training(job.output))
            return self._train_into(job)

    def _train_into(self, job: TrainJob) -> TrainingDone:
        read, held_out = _load(job.scans, job), _load(job.validation, job)
        base = None
        if job.base_model is not None:
            # Fine-tuning starts from the weights alone.
            base = read_model(job.base_model, with_training_state=False)
        config, scans, validation = fit_for_training(read, held_out, job.config, base)
        _check_for_training(scans, validation, config)
        backend = self._use(job)
        checkpoints = Checkpoints(checkpoint_path(job.output))
        # From here on the backend holds no model of a file, also where the training fails.
        self._held = None
        try:
            result = backend.train(
                scans,
                config,
                validation=validation,
                base_model=base,
                observer=checkpoints.beside(Reporter(self._connection)),
            )
        except _NothingToKeep:
            return TrainingDone(0, 'request')
        keep_previous(job.output)
        backend.save_model(job.output, inference_only=not job.keep_training_state)
        checkpoints.remove()
        self._held = file_identity(job.output)
        provenance = result.model.provenance
        best, whole = provenance.get('best_loss'), provenance.get('epochs')
        return TrainingDone(
            len(result.history),
            result.stopped,
            len(result.history) if whole is None else int(whole),
            None if best is None else float(best),
            # Who presses Stop waits for no more than the model.
            '' if result.stopped == 'request' else _quality(backend, scans[0], config),
        )

    def _scan(
        self, job: ReconstructJob | CheckJob, shared: Mapping[str, SharedArray], **more: Any
    ) -> Scan:
        arrays = copy_fields(ScanArrays, shared, self._connection.confirm_read)
        return arrays.to_scan(name=job.name, probe_origin=job.probe_origin, **more)

    def _reconstruct(self, job: ReconstructJob, shared: Mapping[str, SharedArray]) -> None:
        backend = self._use(job)
        self._open(backend, job.model_path)
        scan = self._scan(job, shared, geometry=job.geometry, is_single_shot=job.single_shot)
        found = backend.reconstruct(
            scan, job.inference, job.refinement, observer=Reporter(self._connection)
        )
        iterations = len(found.likelihoods) - 1
        outliers = () if found.pattern_fit is None else found.pattern_fit.outliers
        course = Course.of_result(found.provenance)
        # The plan was logged at the beginning.
        is_as_planned = course is None or course.ended == 'planned'
        ended_in_words = '' if course is None or is_as_planned else course.in_words()
        is_faulty = points_to_a_fault(found.misfit, iterations)
        done = ReconstructionDone(
            tuple(float(value) for value in found.likelihoods),
            {name: float(seconds) for name, seconds in found.timing.items()},
            float(found.amplitude_residual),
            len(found.positions_px),
            len(scan) - len(found.positions_px),
            fit_in_words(
                found.misfit,
                iterations,
                is_single_shot=found.is_single_shot,
                is_near_field=scan.geometry.is_near_field,
                beam_variation=found.beam_variation,
            ),
            outliers_in_words(outliers, found.dropped),
            uncertainty_in_words(found.typical_std(), points_to_a_fault=is_faulty),
            is_faulty,
            course=ended_in_words,
            unknown=unknown_probe_in_words(
                is_known=found.is_probe_known, is_single_shot=found.is_single_shot
            ),
            dropped=len(found.dropped),
        )
        self._connection.send(done, _results(scan, found))

    def _use(self, job: Job) -> Backend:
        name = job.backend
        if self._backend is None:
            self._backend = create_backend(name)
        if self._backend.name != name:
            raise WorkerError(
                f'This worker runs {self._backend.name!r}; {name!r} needs one of its own.'
            )
        # Backends of others have neither.
        if isinstance(self._backend, NetworkBackend):
            self._backend.threads = job.threads
            wants_pictures = isinstance(job, TrainJob) and job.has_pictures
            self._backend.picture_s = TRAINING_PICTURE_S if wants_pictures else None
        return self._backend

    def _open(self, backend: Backend, path: Path) -> None:
        """Open a model file, unless the backend holds just this one."""
        identity = file_identity(path)
        if backend.model is None or identity is None or identity != self._held:
            # What only a resumed training needs is most of the file.
            backend.model = read_model(path, with_training_state=False)
            self._held = identity


def _results(scan: Scan, found: Reconstruction) -> ResultArrays:
    """Return the arrays of a reconstruction, for all positions of the scan that was sent."""
    moves = intensities = variation = None
    if found.nominal_positions_px is not None:
        moved = found.positions_px - found.nominal_positions_px
        moves = _at_all_positions(scan, found, moved, 0.0)
    if found.intensities is not None:
        intensities = _at_all_positions(scan, found, found.intensities, 1.0)
    if found.probe_variation is not None:
        steady = np.eye(1, found.probe_variation.n_eigenmodes + 1)[0]
        weights = _at_all_positions(scan, found, found.probe_variation.weights, steady)
        variation = ProbeVariation(found.probe_variation.eigenmodes, weights)
    return ResultArrays(
        object_=found.object_,
        origin_px=found.origin_px,
        probe=found.probe,
        moves_px=moves,
        intensities=intensities,
        **variation_fields(variation),
    )


def _at_all_positions(
    scan: Scan, found: Reconstruction, values: FloatArray, left_out: float | FloatArray
) -> FloatArray:
    """Return what a reconstruction has for its positions for all of the scan, (n_positions, ...).

    Positions whose patterns were left out get the value `left_out`.
    """
    assert scan.pattern_indexes is not None
    assert found.pattern_indexes is not None
    everywhere = np.full((len(scan), *values.shape[1:]), left_out, dtype=np.float64)
    everywhere[np.isin(scan.pattern_indexes, found.pattern_indexes)] = values
    return everywhere


def _report(progress: Progress, is_epoch_end: bool) -> RunProgress:
    speed = progress.patterns_per_second
    return RunProgress(
        progress.stage,
        int(progress.step),
        int(progress.total),
        {name: float(value) for name, value in progress.losses.items()},
        None if speed is None else float(speed),
        is_epoch_end,
        is_epoch_end and progress.is_cut,
    )


def _picture(progress: Progress) -> ObjectPicture:
    assert progress.object_ is not None
    assert progress.origin_px is not None
    return ObjectPicture(progress.object_, progress.origin_px)


def _files_of_training(output: Path) -> tuple[str, ...]:
    checkpoint = checkpoint_path(output)
    return output.name, *names_of_checkpoint(checkpoint)


def checkpoint_path(output: Path) -> Path:
    """Return where the model so far lies while training goes on, beside the model to come."""
    return output.with_suffix(f'.checkpoint{output.suffix}')


def _quality(backend: Backend, scan: Scan, config: Config) -> str:
    """Return how well the network that was trained explains a part of a scan, in words."""
    piece = scan.subset(spatial_blocks(scan.positions_px, MAX_JUDGED_PATTERNS)[0])
    settings = config.refinement.replace(iterations=0, drop_outliers=False, max_seconds=None)
    try:
        # What there is to note of the scan, the training has logged.
        with without_notes(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            found = backend.reconstruct(piece, config.inference, settings)
    except PtychoPinnError as error:
        # The model is written, and what is unknown of it is no reason to call it a failure.
        logger.warning('How well the network explains the patterns is unknown: %s', error)
        return ''
    patterns = count(len(piece), 'pattern')
    subject = f"Without iterations the network's object of {patterns} of {scan.name}"
    return fit_in_words(found.misfit, 0, subject=subject)


def _load(paths: Sequence[Path], job: TrainJob) -> list[Scan]:
    return [
        load_scan(
            path,
            photons=job.photons,
            single_shot=job.single_shot,
            probe_from_patterns=job.probe_from_patterns,
        )
        for path in paths
    ]


def _check_for_training(scans: Sequence[Scan], validation: Sequence[Scan], config: Config) -> None:
    """Log what was noted of scans, and check what the host could not see in their outlines."""
    for scan in (*scans, *validation):
        for note in scan.notes:
            logger.info('%s: %s', scan.name, note)
    gridsize = config.model.gridsize
    for scan in scans:
        check_before_run(scan, gridsize, n_used=config.training.n_subsample)
    for scan in validation:
        check_before_run(scan, gridsize)


def file_identity(path: Path) -> tuple[str, int, int] | None:
    """Return the path, time of change and size of a file, which change when it is replaced.

    None where there is no such file.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_mtime_ns, status.st_size
