"""Requests for training, reconstruction, inference and iterations, the same for each framework."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.backends.common.constraints import NOTHING_KNOWN, ObjectConstraints
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.protocol import Observer, ignore_progress
from ptychopinn_plugin.config import (
    Config,
    InferenceConfig,
    RefinementConfig,
    StitchingWeights,
    TrainingConfig,
)
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import NetworkDescription


@dataclass(frozen=True)
class TrainingRequest:
    """One call of `train`.

    Attributes
    ----------
    scans : sequence of Scan
        At least one; without dark patterns.
    config : Config
    validation : sequence of Scan
        Scans to validate on; where there are none, a part of each of `scans` is held out.
    base_model : Model, optional
        Where the weights start.
    resume : bool
        Continue the training of `base_model` exactly.
    observer : callable
        See `backends.protocol.Observer`.
    started : float
        When the run began, in seconds of the run's clock; `max_minutes` counts from there.
    """

    scans: Sequence[Scan]
    config: Config
    validation: Sequence[Scan] = ()
    base_model: Model | None = None
    resume: bool = False
    observer: Observer = ignore_progress
    started: float = 0.0


@dataclass(frozen=True)
class NetworkRequest:
    """A network to build.

    Attributes
    ----------
    description : NetworkDescription
    precision : str
        See `TrainingConfig.precision`.
    weights : mapping of str to ndarray, optional
        As a model file holds them; else random ones are drawn with `seed`.
    seed : int
    """

    description: NetworkDescription
    precision: str = 'float32'
    weights: Mapping[str, RealArray] | None = field(default=None, repr=False)
    seed: int = 0


@dataclass(frozen=True)
class ReconstructionRequest:
    """One call of `reconstruct`, `refine`, or a trial of them.

    Attributes
    ----------
    scan : Scan
    refinement : RefinementConfig
    device : str
        As in `InferenceConfig.device`.
    model : Model, optional
        What infers; iterations begin from a flat object without one.
    inference : InferenceConfig
        How the model infers.
    observer : callable
        See `backends.protocol.Observer`.
    is_trial : bool
        A trial warns of nothing, and nothing but its misfit is judged.
    """

    scan: Scan
    refinement: RefinementConfig
    device: str = 'auto'
    model: Model | None = None
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    observer: Observer = ignore_progress
    is_trial: bool = False

    def with_refinement(self, **changes: Any) -> 'ReconstructionRequest':
        """Return a copy with some settings of its refinement changed."""
        return replace(self, refinement=self.refinement.replace(**changes))

    def used_settings(self) -> dict[str, Any]:
        """Return the sections of the settings that decide the result, as a result holds them."""
        settings = Config(inference=self.inference, refinement=self.refinement).to_dict()
        sections = ('refinement',) if self.model is None else ('inference', 'refinement')
        return {name: settings[name] for name in sections}


@dataclass(frozen=True)
class InferenceRequest:
    """How a network predicts the patches of a scan, and how they are stitched to an object.

    Attributes
    ----------
    passes : int, optional
        Fewer than the network's, for sub-scans.
    batch_size : int
        Patterns in a batch.
    rotations : tuple of int
        Rotations, in units of 90 degrees, in which the network gets each pattern.
    phase_synchronization : bool
        Bring the patches of each pass into phase, and at the end correct the slow drift.
    stitching_weights : 'intensity', 'amplitude' or 'uniform'
        See `InferenceConfig`.
    """

    passes: int | None = None
    batch_size: int = 32
    rotations: tuple[int, ...] = (0,)
    phase_synchronization: bool = True
    stitching_weights: StitchingWeights = 'intensity'

    @classmethod
    def of(cls, settings: InferenceConfig, rotations: tuple[int, ...]) -> 'InferenceRequest':
        """Return the request of some settings."""
        return cls(
            batch_size=settings.batch_size,
            rotations=rotations,
            phase_synchronization=settings.phase_synchronization,
            stitching_weights=settings.stitching_weights,
        )


@dataclass(frozen=True)
class IterationRequest:
    """How the engine iterates over an object.

    Attributes
    ----------
    schedule : IterationSchedule
        How many; afterwards it holds why they ended.
    batch_size : int
        Small scans use smaller batches, and large ones larger; see `iteration_batches`.
    seed : int
        Of the order of the patterns.
    refine_probe : bool
        Correct the probe as well.
    refine_positions : bool
        Correct the positions as well; the forward model was built with their reach.
    position_scale : bool
        Correct their scale too.
    refine_intensities : bool
        Let each pattern have a beam of its own intensity.
    opr_modes : int
        Refine this number of eigenmodes of a probe that varies from pattern to pattern, and their
        weights.
    levels_object : bool
        The probe was made of the patterns, so that its direction means nothing: the object gets
        no slope of phase. Else a probe that stays near its start keeps the direction of its light.
    constraints : ObjectConstraints
        What the object is known to be.
    probe_radius_px : float, optional
        A refined probe is dark beyond it.
    """

    schedule: IterationSchedule
    batch_size: int = 64
    seed: int = 0
    refine_probe: bool = False
    refine_positions: bool = False
    position_scale: bool = False
    refine_intensities: bool = False
    opr_modes: int = 0
    levels_object: bool = False
    constraints: ObjectConstraints = NOTHING_KNOWN
    probe_radius_px: float | None = None

    @classmethod
    def of_refinement(
        cls, scan: Scan, settings: RefinementConfig, schedule: IterationSchedule
    ) -> 'IterationRequest':
        """Return what refines the object of a scan."""
        return cls(
            schedule,
            settings.batch_size,
            settings.seed,
            settings.probe,
            settings.positions,
            settings.position_scale,
            settings.intensities,
            settings.opr_modes,
            levels_object=not scan.has_probe_of_file,
            constraints=ObjectConstraints.of(settings),
            probe_radius_px=settings.probe_radius,
        )

    @classmethod
    def of_target(
        cls, scan: Scan, settings: TrainingConfig, schedule: IterationSchedule
    ) -> 'IterationRequest':
        """Return what reconstructs the target of training on a scan."""
        return cls(
            schedule,
            seed=settings.seed,
            refine_probe=settings.probe_trainable,
            refine_positions=settings.target_positions,
            refine_intensities=settings.target_intensities,
            levels_object=not scan.has_probe_of_file,
        )
