"""What a backend must do, and what it returns."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.config import Config, InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.model_file import Model


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes
    ----------
    stage : str
        'load', 'probe', 'start', 'target', 'train', 'predict', 'pass' of a learned prior, or
        'refine'.
    step, total : int
        Steps done of `total`: epochs when training, else batches or iterations.
    losses : mapping of str to float
        The newest value of each loss, under the names of the columns of `losses.csv`.
    patterns_per_second : float, optional
    object_ : ndarray of complex64, optional
        A preview, where there is a new one.
    origin_px : ndarray of float64, shape (2,), optional
        (y, x): where its pixel [0, 0] lies in the coordinates of the scan's positions.
    is_cut : bool
        At the end of an epoch: whether it ended amid its patterns, as the time was up.
    make_model : callable, optional
        At the end of an epoch, and now and then inside a long one: returns the model that training
        would return if it ended here, with a training state that continues from here.
    """

    stage: str
    step: int
    total: int
    losses: Mapping[str, float] = field(default_factory=dict)
    patterns_per_second: float | None = None
    object_: ComplexArray | None = None
    origin_px: FloatArray | None = None
    is_cut: bool = False
    make_model: Callable[[], Model] | None = None


Observer = Callable[[Progress], bool | None]
"""It is called after each step; with True the run stops and keeps the best it has."""


def ignore_progress(progress: Progress) -> None:
    """Observe nothing."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and how it got there.

    Attributes
    ----------
    model : Model
        The best by validation loss.
    history : sequence of mappings
        One row an epoch: 'epoch', 'seconds', 'learning_rate', 'loss', its parts, 'validation_loss'.
    stopped : str
        Why it ended: 'epochs', 'max-minutes', 'early-stop', 'request' or 'diverged'.
    """

    model: Model
    history: Sequence[Mapping[str, float]]
    stopped: str


def was_validated(history: Sequence[Mapping[str, float]]) -> bool:
    """Return whether patterns were held out; else the training loss stands in, to the last bit."""
    return any(
        math.isfinite(row['validation_loss']) and row['validation_loss'] != row.get('loss')
        for row in history
        if 'validation_loss' in row
    )


class Backend(Protocol):
    """One framework's implementation; holds the model that was trained or opened last."""

    name: str
    model: Model | None

    def train(
        self,
        scans: Sequence[Scan],
        config: Config,
        *,
        validation: Sequence[Scan] = (),
        base_model: Model | None = None,
        resume: bool = False,
        observer: Observer = ignore_progress,
    ) -> TrainingResult:
        """Train on scans; `base_model` is where the weights start, `resume` continues exactly.

        Scans and model were checked where they were read, and the scans fitted to the network, with
        `model.fit_for_training`.
        """
        ...

    def reconstruct(
        self,
        scan: Scan,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        *,
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Predict with the held model, stitch, and refine.

        The scan was checked where it was read, and fitted to the model with `Model.fitted`.
        """
        ...

    def refine(
        self,
        scan: Scan,
        refinement: RefinementConfig,
        *,
        device: str = 'auto',
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Iterate from a flat object, without a model: the baseline."""
        ...

    def open_model(self, path: Path) -> Model:
        """Read a model file and hold it."""
        ...

    def save_model(self, path: Path, *, inference_only: bool = False) -> None:
        """Write the held model."""
        ...


@runtime_checkable
class Previews(Protocol):
    """A backend that reconstructs parts of a scan quickly, for pictures; not every one does."""

    def preview(
        self,
        scan: Scan,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        *,
        observer: Observer = ignore_progress,
    ) -> Reconstruction:
        """Reconstruct as `Backend.reconstruct` does; the result is not judged, nothing warned of.

        Neither its misfit nor its patterns' fit is known.
        """
        ...
