"""What a model file holds: the parts of a trained network, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.network import NetworkDescription


@dataclass(frozen=True)
class TrainingState:
    """What `train --resume` needs to continue exactly: as at the end of the last whole epoch.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        The optimizer's state, the newest and the best weights, by name.
    values : mapping of str to plain values
        The epoch, the best loss, the history and so on.
    """

    arrays: Mapping[str, RealArray]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class CorrectedProbe:
    """The probe of a training scan, before and after training corrected it.

    Attributes
    ----------
    before, after : ndarray of complex64, shape (n_modes, height, width)
        `before` as the scan has it, at the size of the model's patterns.
    """

    before: ComplexArray
    after: ComplexArray


@dataclass(frozen=True)
class ModelContents:
    """A trained network, independent of any framework and of any file.

    Attributes
    ----------
    backend : str
        The backend that trained it; 'auto' where PtychoPINN did, and any backend can run it.
    network : NetworkDescription
    config : Config
        All settings that were in force.
    photons : float
        The mean counts of a training pattern, the one normalization. The probe's energy is this
        number times `intensity_scale` squared.
    weights : mapping of str to ndarray of float32
        By layer name (`NetworkDescription.weight_shapes`).
    intensity_scale : float
        The factor on the probe's amplitude. It starts at 1, for 'cnn' at 1.5, or at the base
        model's, and stays there unless it was trained.
    probe : ndarray of complex64, shape (n_modes, height, width)
        The probe of the (first) training scan, as training left it; its energy is in counts.
    corrected_probes : tuple of CorrectedProbe
        One for each training scan where training corrected probes; empty where it did not.
    data_summary, provenance : mapping
        Plain values for people.
    training_state : TrainingState, optional
    """

    backend: str
    network: NetworkDescription
    config: Config
    photons: float
    weights: Mapping[str, RealArray]
    probe: ComplexArray
    intensity_scale: float = 1.0
    corrected_probes: tuple[CorrectedProbe, ...] = ()
    data_summary: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    training_state: TrainingState | None = None
