"""What a training run will do, decided before anything is computed: no framework is needed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray, IntArray
from ptychopinn_plugin.backends.common.losses import term_weights
from ptychopinn_plugin.backends.common.prediction import WINDOW_ENERGY, check_same_field
from ptychopinn_plugin.backends.common.requests import TrainingRequest
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.preparation import check_size
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_contents import TrainingState
from ptychopinn_plugin.network import NetworkDescription, describe_network
from ptychopinn_plugin.physics import illuminated_size

MAX_VALIDATION = 512
"""At most this number of a scan's patterns is held out or validated on."""


@dataclass(frozen=True)
class PlannedScan:
    """A scan at the size of the network's patterns, and which positions serve what.

    Attributes
    ----------
    scan : Scan
    members : ndarray of int64
        Positions to learn from; all of them where the scan is for validation alone.
    held_out : ndarray of int64
        Positions to validate on; may be empty.
    """

    scan: Scan
    members: IntArray
    held_out: IntArray


@dataclass(frozen=True)
class TrainingPlan:
    """All that a training run has settled before its target is reconstructed.

    Attributes
    ----------
    config : Config
        With the model's settings as they are: the base model's where there is one.
    description : NetworkDescription
    photons : float
        Energy of the probe in training, in photons per pattern.
    intensity_scale : float
        Factor on every probe to begin with.
    training, validation : tuple of PlannedScan
    fingerprints : mapping of str to list of str
        Hashes of the scans under 'scans' and 'validation'.
    """

    config: Config
    description: NetworkDescription
    photons: float
    intensity_scale: float
    training: tuple[PlannedScan, ...]
    validation: tuple[PlannedScan, ...]
    fingerprints: Mapping[str, list[str]]

    @property
    def is_supervised(self) -> bool:
        """Whether the network learns from known objects."""
        return self.config.model.model_type == 'supervised'

    @property
    def has_target(self) -> bool:
        """Whether the network learns from an object that iterations reconstruct beforehand."""
        settings = self.config.training
        wanted = settings.target != 'none' and settings.target_weight != 0
        return wanted and not self.is_supervised

    def summary(self) -> dict[str, Any]:
        """Return what a model file holds about the scans."""
        scans = [planned.scan for planned in self.training]
        return {
            'scans': [scan.name for scan in scans],
            'patterns': int(sum(len(scan) for scan in scans)),
            'pattern_shape': list(scans[0].pattern_shape),
            'mean_counts': [scan.mean_counts() for scan in scans],
            'probe_modes': len(scans[0].probe),
            'near_field': scans[0].geometry.is_near_field,
        }


def _check_refines_target(config: Config, supervised: bool) -> None:
    """Raise a ConfigError where a target is to be refined and there is none."""
    settings = config.training
    if not supervised and settings.target != 'none' and settings.target_weight > 0:
        return
    refined = {'positions': settings.target_positions, 'intensities': settings.target_intensities}
    for what in (what for what, is_set in refined.items() if is_set):
        raise ConfigError(
            f'training.target_{what} (--refine-{what}) refines {what} while the target is '
            'reconstructed, and this training has none. Leave it out, or use training.target = '
            'iterations with a weight above 0.'
        )


def _check_field(
    description: NetworkDescription, base: Model | None, scans: Sequence[Scan]
) -> None:
    """Check that all scans are of one kind of field, which the network and its weights know."""
    if base is not None:
        check_same_field(base, scans)
    near = [scan.name for scan in scans if scan.geometry.is_near_field]
    if near and len(near) < len(scans):
        raise DataError(
            'A network is trained on scans of the far field or of the near field; got both, the '
            f'near field in {", ".join(near)}. Train two networks.'
        )
    if near and description.architecture == 'cnn':
        raise ConfigError(
            "The architecture 'cnn' is made for the diffraction patterns of the far field, and "
            f"{near[0]} is of the near field. Use model.architecture = 'sweepnet' "
            '(--architecture sweepnet).'
        )


def plan_training(request: TrainingRequest) -> TrainingPlan:
    """Decide what a training run does.

    Parameters
    ----------
    request : TrainingRequest

    Raises
    ------
    ConfigError
        If training cannot continue exactly, or nothing in the loss compares with data.
    DataError
        If scans hold too few patterns, or not the objects that supervised training needs.
    """
    base = request.base_model
    state = None
    if request.resume:
        # Whoever opened the model has checked that there is one, with an advice of its own.
        assert base is not None
        state = base.training_state
        assert state is not None
    config = _settled_config(request)
    # One generator draws the patterns and then what is held out, always in this order: what was
    # held out must not be learned from after resuming.
    rng = np.random.default_rng(config.training.seed)
    scans = [_subsampled(scan, config, rng) for scan in request.scans]
    validation = list(request.validation)
    description = (
        describe_network(config.model, illuminated_size(scans[0].probe, share=WINDOW_ENERGY))
        if base is None
        else base.network
    )
    _check_field(description, base, [*scans, *validation])
    supervised = config.model.model_type == 'supervised'
    _check_refines_target(config, supervised)
    fingerprints = {
        'scans': [_fingerprint(scan, supervised) for scan in scans],
        'validation': [_fingerprint(scan, supervised) for scan in validation],
    }
    if state is not None:
        _check_same_scans('scans', state, fingerprints, scans)
        _check_same_scans('validation', state, fingerprints, validation)
    if supervised:
        _check_objects([*scans, *validation])
    group_size = description.group_size
    plan = TrainingPlan(
        config=config,
        description=description,
        # One number for all scans, so that their amplitudes compare (decision 4).
        photons=scans[0].mean_photons() if base is None else base.photons,
        intensity_scale=_first_scale(description, base, state),
        training=tuple(_split(s, config, group_size, not validation, rng) for s in scans),
        validation=tuple(_validated_whole(s, group_size, rng) for s in validation),
        fingerprints=fingerprints,
    )
    _check_terms(plan)
    return plan


def _settled_config(request: TrainingRequest) -> Config:
    """Return the settings with those of the network, which the scans were fitted to."""
    config, base = request.config, request.base_model
    settings = config.model if base is None else base.config.model
    sized = settings.sized_for(request.scans[0].pattern_shape)
    assert sized.pattern_size is not None
    for scan in (*request.scans, *request.validation):
        check_size(scan, sized.pattern_size)
    return config.replace(model=sized)


def _first_scale(
    description: NetworkDescription, base: Model | None, state: TrainingState | None
) -> float:
    # A sigmoid's amplitudes reach from 0 to 1, and 1/1.5 is a good middle.
    scale = 1.5 if description.architecture == 'cnn' else 1.0
    if state is not None:
        # It is that with which the run began, which may have been a fine-tuning.
        return float(state.values.get('first_scale', scale))
    return scale if base is None else base.intensity_scale


def _check_same_scans(
    use: str, state: TrainingState, fingerprints: Mapping[str, list[str]], scans: Sequence[Scan]
) -> None:
    before = state.values.get(use, fingerprints[use])
    if list(before) != fingerprints[use]:
        names = ', '.join(scan.name for scan in scans) or 'none'
        what = 'validation scans' if use == 'validation' else 'scans'
        raise ConfigError(
            f'To continue exactly, training needs the same {what} as before, {len(before)} in '
            f'number, with the same probe; got {names}. With others, fine-tune: '
            'ptychopinn train --base-model MODEL.'
        )


def _check_objects(scans: Sequence[Scan]) -> None:
    for scan in scans:
        if scan.object_ is None:
            raise DataError(
                f'{scan.name} holds no object (objectGuess), which supervised training learns '
                'from. Add one, or train without labels (model type pinn).'
            )


def _check_terms(plan: TrainingPlan) -> None:
    weights = term_weights(plan.config.training)
    settings = {'poisson': 'poisson', 'amplitude_mae': 'amplitude_mae', 'teacher': 'target'}
    names = [] if plan.is_supervised else ['poisson', 'amplitude_mae']
    names += ['teacher'] if plan.is_supervised or plan.has_target else []
    if not any(weights[name] > 0 for name in names):
        raise ConfigError(
            'Nothing in the loss compares with the data: the weights of '
            f'{", ".join(names)} are 0. Set one above 0, as training.{settings[names[-1]]}_weight.'
        )


def _split(
    scan: Scan, config: Config, group_size: int, holds_out: bool, rng: np.random.Generator
) -> PlannedScan:
    """Hold out a part of a scan that lies together, where there are no scans to validate on."""
    held_out: IntArray = np.empty(0, dtype=np.int64)
    if holds_out:
        wanted = min(round(config.training.validation_fraction * len(scan)), MAX_VALIDATION)
        held_out = _nearest_to_random_position(scan.positions_px, wanted, rng)
        if len(held_out) < group_size:
            # They are too few for a group: training would miss them, and nothing would use them.
            held_out = held_out[:0]
    members = np.setdiff1d(np.arange(len(scan)), held_out)
    if len(members) == 0:
        raise DataError(
            f'{scan.name}: all of its {len(scan)} patterns are held out; at least one must be '
            'left to train on. Lower training.validation_fraction (--validation-fraction).'
        )
    return PlannedScan(scan, members, held_out)


def _validated_whole(scan: Scan, group_size: int, rng: np.random.Generator) -> PlannedScan:
    if len(scan) < group_size:
        raise DataError(
            f'The validation scan {scan.name} must hold at least '
            f'{group_size} patterns, a group; it holds {len(scan)}.'
        )
    held_out = _nearest_to_random_position(scan.positions_px, MAX_VALIDATION, rng)
    return PlannedScan(scan, np.arange(len(scan)), held_out)


def _nearest_to_random_position(
    positions_px: FloatArray, count: int, rng: np.random.Generator
) -> IntArray:
    """Return positions that lie together, so that they are whole groups."""
    centre = positions_px[rng.integers(len(positions_px))]
    distance = ((positions_px - centre) ** 2).sum(axis=1)
    return np.sort(np.argsort(distance, kind='stable')[:count])


def _subsampled(scan: Scan, config: Config, rng: np.random.Generator) -> Scan:
    wanted = config.training.n_subsample
    if wanted is None or wanted >= len(scan):
        return scan
    return scan.subset(np.sort(rng.permutation(len(scan))[:wanted]))


def _fingerprint(scan: Scan, labelled: bool) -> str:
    """Return a hash of positions, each pattern's light, the probe, and the labels if any."""
    digest = hashlib.sha256(scan.positions_px.astype(np.float64).tobytes())
    # The light of each pattern in place of the patterns, which may be gigabytes.
    digest.update(scan.counts().tobytes())
    if scan.probe_origin != 'found':
        # A probe that was searched for has other bits with other threads.
        digest.update(scan.probe.tobytes())
    if labelled and scan.object_ is not None:
        digest.update(scan.object_.tobytes())
    return digest.hexdigest()
