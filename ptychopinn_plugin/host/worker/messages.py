"""What the host and its worker send each other: frozen dataclasses, validated on arrival.

`ipc` writes each as one line of JSON (`codec`). Neither side acts on anything but these classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.scan import ProbeOrigin
from ptychopinn_plugin.errors import WorkerError
from ptychopinn_plugin.orientation import Orientation

NUMERIC_KINDS = 'biufc'
"""These kinds of NumPy types may cross: an array of Python objects would be a list of addresses."""


@dataclass(frozen=True)
class SharedArray:
    """Where an array lies in shared memory.

    Attributes
    ----------
    block : str
        Name of the block.
    shape : tuple of int
    dtype : str
        As `numpy.dtype.str`: bool, integers, floats or complex numbers.

    Raises
    ------
    WorkerError
        If this does not describe an array of numbers.
    """

    block: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        try:
            kind: str = np.dtype(self.dtype).kind
        except (TypeError, ValueError, SyntaxError):
            kind = ''
        if not kind or kind not in NUMERIC_KINDS or any(side < 0 for side in self.shape):
            raise WorkerError(
                'A shared array must hold numbers and have a shape; '
                f'got the type {self.dtype!r} and the shape {self.shape}.'
            )

    @property
    def n_bytes(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class TrainJob:
    """Train a network on scan files and leave the model in a file.

    Attributes
    ----------
    backend : str
    scans : tuple of Path
    config : Config
    output : Path
        The model file to write.
    validation : tuple of Path
        Scans that judge the model and are not trained on.
    photons : float, optional
        Mean photons per pattern, to which patterns of another unit are scaled.
    probe_from_patterns : bool
        Whether the probes of the files are left out, and others are made of the patterns.
    base_model : Path, optional
        The model file whose weights the training starts from.
    keep_training_state : bool
        Whether the file keeps what resuming the training needs.
    threads : int, optional
        This number of threads computes on a CPU.
    single_shot : bool
        Whether patterns share nothing, and each is reconstructed alone.
    has_pictures : bool
        Whether the network's object is wanted now and then.
    """

    backend: str
    scans: tuple[Path, ...]
    config: Config
    output: Path
    validation: tuple[Path, ...] = ()
    photons: float | None = None
    base_model: Path | None = None
    keep_training_state: bool = True
    threads: int | None = None
    single_shot: bool = False
    probe_from_patterns: bool = False
    has_pictures: bool = False


@dataclass(frozen=True)
class ReconstructJob:
    """Reconstruct a scan with a model.

    The scan travels beside it, as `arrays.ScanArrays`.

    Attributes
    ----------
    backend : str
    model_path : Path
    inference : InferenceConfig
    refinement : RefinementConfig
    geometry : Geometry
    name : str
        The scan's.
    threads : int, optional
        As in `TrainJob`.
    single_shot : bool
        As in `data.Scan.is_single_shot`.
    probe_origin : str
        As in `data.Scan`.
    """

    backend: str
    model_path: Path
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    geometry: Geometry = field(default_factory=Geometry)
    name: str = ''
    threads: int | None = None
    single_shot: bool = False
    probe_origin: ProbeOrigin = 'given'


@dataclass(frozen=True)
class CheckJob:
    """Find out whether patterns and positions of a scan go together; see `checking.search`.

    The scan travels beside it, as with a `ReconstructJob`.

    Attributes
    ----------
    backend : str
    device : str
    name : str
        The scan's.
    threads : int, optional
        As in `TrainJob`.
    probe_origin : str
        As in `data.Scan`.
    """

    backend: str
    device: str = 'auto'
    name: str = ''
    threads: int | None = None
    probe_origin: ProbeOrigin = 'given'


Job = TrainJob | ReconstructJob | CheckJob


@dataclass(frozen=True)
class StartRun:
    """The host gives the worker a job.

    Attributes
    ----------
    run : int
        Number of the run, which every message about it carries.
    job : Job
    idle_s : float
        The worker reports `Idle` after this many seconds without a job.
    arrays : mapping of str to SharedArray
        The fields of an `arrays.ScanArrays`, where the job needs one.
    """

    run: int
    job: Job
    idle_s: float
    arrays: Mapping[str, SharedArray] = field(default_factory=dict)


@dataclass(frozen=True)
class PrepareBackend:
    """The host expects a run soon: its framework is imported, and its model opened.

    Attributes
    ----------
    backend : str
    model_path : Path, optional
    idle_s : float
        As in `StartRun`.
    """

    backend: str
    model_path: Path | None
    idle_s: float


@dataclass(frozen=True)
class StopRun:
    """A run is to end soon with the best that it has."""

    run: int


@dataclass(frozen=True)
class ReleaseBlock:
    """The host has copied an array, whose block the worker may free."""

    block: str


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come; an `arrays.ObjectPicture` may go beside it.

    Attributes
    ----------
    stage, step, total, losses, patterns_per_second
        As in `backends.protocol.Progress`.
    is_epoch_end : bool
        Whether an epoch of the training ended, whose losses these are.
    is_cut : bool
        Whether that epoch ended amid its patterns.
    """

    stage: str
    step: int
    total: int
    losses: Mapping[str, float] = field(default_factory=dict)
    patterns_per_second: float | None = None
    is_epoch_end: bool = False
    is_cut: bool = False


@dataclass(frozen=True)
class TrainingDone:
    """A training has ended.

    Attributes
    ----------
    epochs : int
        0 where it was stopped before the first epoch ended; there is no new model then.
    reason : str
        Why it ended, as in `backends.protocol.TrainingResult.stopped`.
    whole_epochs : int
        How many of the epochs saw all patterns; the last one may have been cut short.
    best_loss : float, optional
        The validation loss of the model, or its training loss where nothing was held out.
    quality : str
        How well the network alone explains the counts, in words; empty where that is unknown.
    """

    epochs: int
    reason: str
    whole_epochs: int = 0
    best_loss: float | None = None
    quality: str = ''


@dataclass(frozen=True)
class ReconstructionDone:
    """A reconstruction has ended; its `arrays.ResultArrays` go beside it.

    Attributes
    ----------
    likelihoods, timing, amplitude_residual
        As in `data.Reconstruction`; times in seconds.
    patterns : int
        How many were used; those without light are left out.
    left_out : int
        How many were left out.
    fit : str
        How well the object explains the counts, in words; empty where that is unknown.
    unfit : str
        Which patterns do not fit the others, in words; empty where all do.
    sure : str
        The typical standard deviations, in words; empty where they are unknown.
    course : str
        What was planned and how it ended, in words, where that was not as planned.
    dropped : int
        How many of those left out were unlike the others.
    points_to_a_fault : bool
        Whether it misses them by more than unfinished iterations explain.
    unknown : str
        What is not determined, in words, as the probe is not known; empty where it is.
    """

    likelihoods: tuple[float, ...]
    timing: Mapping[str, float]
    amplitude_residual: float
    patterns: int = 0
    left_out: int = 0
    fit: str = ''
    unfit: str = ''
    sure: str = ''
    points_to_a_fault: bool = False
    course: str = ''
    dropped: int = 0
    unknown: str = ''


@dataclass(frozen=True)
class CheckDone:
    """A check has ended; where it was not stopped, its `arrays.CheckPictures` go beside it.

    Attributes
    ----------
    verdict : str
        As in `checking.search.Check`; empty where it was stopped.
    trials : int
        How many there were.
    orientation : Orientation
        What the scan needs.
    equals : tuple of Orientation
        Others that explain the patterns as well.
    beam_center_px : tuple of int
        (row, column) that must become the middle of the patterns; empty where it is.
    residual, given_residual, uninformed_residual : float
        What the trials leave unexplained of patterns that they were not given: the best one, that
        of the scan as it is, and none.
    is_probe_refined : bool
        Whether the best trial corrected the probe.
    much_over_noise : float, optional
        As in `checking.search.Check`.
    """

    verdict: str
    trials: int = 0
    orientation: Orientation = field(default_factory=Orientation)
    equals: tuple[Orientation, ...] = ()
    beam_center_px: tuple[int, ...] = ()
    residual: float = 0.0
    given_residual: float = 0.0
    uninformed_residual: float = 0.0
    is_probe_refined: bool = False
    much_over_noise: float | None = None


Report = RunProgress | TrainingDone | ReconstructionDone | CheckDone


@dataclass(frozen=True)
class RunReport:
    """The worker reports on a run.

    Attributes
    ----------
    run : int
    report : Report
    arrays : mapping of str to SharedArray
        The fields of what goes beside the report.
    """

    run: int
    report: Report
    arrays: Mapping[str, SharedArray] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFailed:
    """A job raised an exception.

    Attributes
    ----------
    run : int
    error_type : str
        Name of the exception's class.
    text : str
        Its message, in one line.
    trace : str
        Its traceback.
    """

    run: int
    error_type: str
    text: str
    trace: str


@dataclass(frozen=True)
class BlockRead:
    """The worker has copied an array, whose block the host may free."""

    run: int
    block: str


@dataclass(frozen=True)
class LogLine:
    """The worker has logged a line, at a level of `logging`."""

    level: int
    text: str


@dataclass(frozen=True)
class Heartbeat:
    """The worker is alive."""


@dataclass(frozen=True)
class Idle:
    """The worker has had no job for as long as its last `StartRun` allows."""


ToWorker = StartRun | PrepareBackend | StopRun | ReleaseBlock
ToHost = RunReport | RunFailed | BlockRead | LogLine | Heartbeat | Idle
