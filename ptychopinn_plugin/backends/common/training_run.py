"""One training run: scans on the device, a target, a trainer, and the model that comes out."""

import dataclasses
import hashlib
import math
import platform
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import numpy as np

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.array_types import ComplexArray, FloatArray, IntArray
from ptychopinn_plugin.backends.common.diagnostics import suggest_probe
from ptychopinn_plugin.backends.common.losses import term_weights
from ptychopinn_plugin.backends.common.prediction import (
    WINDOW_ENERGY,
    choose_photons,
    fitted_model,
)
from ptychopinn_plugin.backends.common.sampling import (
    VALIDATION,
    MakeSubScan,
    SubScan,
    TrainingScan,
)
from ptychopinn_plugin.backends.common.training_loop import LoopState, TrainingLoop
from ptychopinn_plugin.backends.common.training_state import load_state, save_state
from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan, fit_to_size
from ptychopinn_plugin.data.grouping import covering_groups
from ptychopinn_plugin.errors import ConfigError, DataError
from ptychopinn_plugin.model import CorrectedProbe
from ptychopinn_plugin.model_file import Model
from ptychopinn_plugin.network import NetworkDescription, describe_network
from ptychopinn_plugin.physics import illuminated_size, normalise_probe

TARGET_PATTERNS = 500_000
"""The target takes fewer iterations of a large scan: about this number of patterns in all."""

TARGET_TIME_FRACTION = 0.2
"""Of `max_minutes`."""

MAX_VALIDATION = 512
"""Patterns of a scan that are held out, or looked at where the whole scan is for validation."""

Device = TypeVar('Device')
IterationObserver = Callable[[int, float, Any], bool | None]


class TrainingRun(ABC, Generic[Device]):
    """One call of `train`: scans on the device, a target, a trainer.

    A framework builds forward models, iterates over them, and makes the trainer.
    """

    backend: str

    def __init__(
        self,
        scans: Sequence[Scan],
        config: Config,
        validation: Sequence[Scan],
        base_model: Model | None,
        resume: bool,
        device: Device,
        started: float,
        observer: Observer,
    ) -> None:
        self.device, self.started, self.observer = device, started, observer
        if base_model is not None:
            base_model = fitted_model(base_model, scans[0])
        self.base_model, self.resume = base_model, resume
        size = config.model.pattern_size or min(scans[0].pattern_shape)
        if base_model is not None:
            # The network is what it is; the settings say so.
            self.config = dataclasses.replace(config, model=base_model.config.model)
            size = base_model.config.model.pattern_size or size
        else:
            self.config = config.replace(model=config.model.replace(pattern_size=size))
        rng = np.random.default_rng(self.config.training.seed)
        fitted = [_subsampled(fit_to_size(scan, size), self.config, rng) for scan in scans]
        self.photons = base_model.photons if base_model else fitted[0].mean_photons()
        self.summary = _summarise(fitted)
        self.description = self._describe(fitted[0])
        # A sigmoid's amplitudes reach from 0 to 1, and 1/1.5 is a good middle.
        self.scale = 1.5 if self.description.architecture == 'cnn' else 1.0
        if base_model is not None and not resume:
            self.scale = base_model.intensity_scale
        elif base_model is not None and base_model.training_state is not None:
            # As when the run began, which may have been a fine-tuning.
            self.scale = float(base_model.training_state.values.get('first_scale', self.scale))
        self.first_probes = [scan.probe for scan in fitted]
        fitted_validation = [fit_to_size(scan, size) for scan in validation]
        labelled = self.config.model.model_type == 'supervised'
        self.fingerprints = {
            'scans': [_fingerprint(scan, labelled) for scan in fitted],
            'validation': [_fingerprint(scan, labelled) for scan in fitted_validation],
        }
        if resume:
            self._check_same_scans('scans', fitted)
            self._check_same_scans('validation', fitted_validation)
        self.models = [self._forward(scan) for scan in fitted]
        self.trainer = self._prepare(fitted, fitted_validation, rng)

    def _check_same_scans(self, use: str, scans: Sequence[Scan]) -> None:
        assert self.base_model is not None
        assert self.base_model.training_state is not None
        before = self.base_model.training_state.values.get(use, self.fingerprints[use])
        if list(before) != self.fingerprints[use]:
            names = ', '.join(scan.name for scan in scans) or 'none'
            what = 'validation scans' if use == 'validation' else 'scans'
            raise ConfigError(
                f'To continue exactly, training needs the same {what} as before, {len(before)} in '
                f'number, with the same probe; got {names}. With others, fine-tune: '
                'ptychopinn train --base-model MODEL.'
            )

    def _check_terms(self, labelled: bool) -> None:
        weights = term_weights(self.config.training)
        supervised = self.config.model.model_type == 'supervised'
        names = [] if supervised else ['poisson', 'amplitude_mae']
        names += ['teacher'] if labelled else []
        if not any(weights[name] > 0 for name in names):
            raise ConfigError(
                'Nothing in the loss compares with the data: the weights of '
                f'{", ".join(names)} are 0. Set one above 0, as training.{names[-1]}_weight.'
            )

    @abstractmethod
    def _build_forward(self, scan: Scan, probe: ComplexArray) -> Any:
        """Return the framework's forward model."""

    @abstractmethod
    def _iterate(
        self, model: Any, iterations: int, observer: IterationObserver
    ) -> tuple[Any, Sequence[float]]:
        """Return the object and the losses of iterations from a flat start."""

    @abstractmethod
    def _scaled_to_counts(self, object_: ComplexArray, model: Any) -> Any:
        """Scale an object so that the model's probe, which fits the counts, explains them."""

    @abstractmethod
    def _build_trainer(
        self, scans: Sequence[TrainingScan], held_out: Callable[[MakeSubScan], list[SubScan]]
    ) -> TrainingLoop:
        """Return the trainer, which starts from the base model's weights where there is one."""

    @abstractmethod
    def _framework(self) -> str:
        """Return the framework's name and version."""

    def _describe(self, scan: Scan) -> NetworkDescription:
        if self.base_model is not None:
            return self.base_model.network
        window = illuminated_size(scan.probe, share=WINDOW_ENERGY)
        return describe_network(self.config.model, window)

    def _forward(self, scan: Scan) -> Any:
        photons = choose_photons(scan, self.photons, 'auto')
        probe = normalise_probe(scan.probe, photons * self.scale**2)
        model = self._build_forward(scan, probe)
        model.photons = photons
        return model

    def _prepare(
        self, scans: Sequence[Scan], validation: Sequence[Scan], rng: np.random.Generator
    ) -> TrainingLoop:
        settings = self.config.training
        subscans: list[TrainingScan] = []
        held: list[tuple[TrainingScan, IntArray]] = []
        for index, (scan, model) in enumerate(zip(scans, self.models, strict=True)):
            everyone = np.arange(len(scan))
            out: IntArray = np.empty(0, dtype=np.int64)
            if not validation:
                wanted = round(settings.validation_fraction * len(scan))
                wanted = min(wanted, MAX_VALIDATION)
                out = _nearest_to_random_position(scan.positions_px, wanted, rng)
                if len(out) < self.description.group_size:
                    # Too few for a group: they would be missed in training, and used nowhere.
                    out = out[:0]
            members = _left_to_train(scan, everyone, out)
            labels = self._labels(scan, model)
            self._check_terms(labels is not None)
            part = self._part(index, scan, model, members, labels)
            subscans.append(part)
            if len(out) > 0:
                held.append((part, out))
        for scan in validation:
            if len(scan) < self.description.group_size:
                raise DataError(
                    f'The validation scan {scan.name} must hold at least '
                    f'{self.description.group_size} patterns, a group; it holds {len(scan)}.'
                )
            model = self._forward(scan)
            # Supervised training has no other term; a target's likelihood needs no labels.
            supervised = self.config.model.model_type == 'supervised'
            labels = self._labels(scan, model) if supervised else None
            everyone = np.arange(len(scan))
            part = self._part(VALIDATION, scan, model, everyone, labels)
            held.append((part, _nearest_to_random_position(scan.positions_px, MAX_VALIDATION, rng)))

        def held_out(make: MakeSubScan) -> list[SubScan]:
            fixed = np.random.default_rng(0)
            result = []
            for part, members in held:
                groups = covering_groups(
                    part.patch_origins_px[members], self.description.group_size
                )
                result.append(make(part, members, groups, 1.0, fixed))
            return result

        return self._build_trainer(subscans, held_out)

    def _part(
        self, index: int, scan: Scan, model: Any, members: IntArray, labels: Any
    ) -> TrainingScan:
        return TrainingScan(
            index=index,
            forward=model,
            patch_origins_px=model.patch_origins_px,
            members=members,
            labels=labels,
            countable=scan.is_countable(),
        )

    def _labels(self, scan: Scan, model: Any) -> Any:
        """Return the object to learn from, on the model's canvas."""
        if self.config.model.model_type == 'supervised':
            if scan.object_ is None:
                raise DataError(
                    f'{scan.name} holds no object (objectGuess), which supervised training learns '
                    'from. Add one, or train without labels (model type pinn).'
                )
            return self._scaled_to_counts(_on_canvas(scan.object_, model, scan.name), model)
        settings = self.config.training
        if settings.target == 'none' or settings.target_weight == 0:
            return None
        iterations = max(10, min(settings.target_iterations, TARGET_PATTERNS // len(scan)))

        def watch(done: int, loss: float, _: Any) -> bool | None:
            asked = self.observer(Progress('target', done, iterations, {'poisson': loss}))
            limit = settings.max_minutes
            used = time.perf_counter() - self.started
            return asked or (limit is not None and used > TARGET_TIME_FRACTION * 60 * limit)

        labels, losses = self._iterate(model, iterations, watch)
        if not settings.probe_trainable:
            option = '--probe-trainable (training.probe_trainable)'
            suggest_probe(scan, len(losses) - 1, lambda: model.misfit(labels), option)
        return labels

    def train(self) -> LoopState:
        """Train, or continue from the base model's training state."""
        if self.resume:
            assert self.base_model is not None
            assert self.base_model.training_state is not None
            load_state(self.trainer, self.base_model.training_state)
            self._warn_if_nothing_is_left()
        # Whether new or resumed, the probe is the one that training holds, to the last bit.
        self.trainer.use_probes()
        return self.trainer.run(lambda: self.to_model(self.trainer.state))

    def _warn_if_nothing_is_left(self) -> None:
        settings, done = self.config.training, self.trainer.state.epoch
        if done >= settings.epochs:
            spent, unit = f'has {done} epochs of the {settings.epochs}', 'epochs'
        elif self.trainer.is_time_up():
            spent, unit = f'has used the {settings.max_minutes:g} minutes', 'minutes'
        else:
            return
        warnings.warn(
            f'This model {spent} that are asked for; nothing is left to train. Give a larger '
            f'number of {unit}.',
            stacklevel=3,
        )

    def _corrected(self, probes: Sequence[ComplexArray]) -> tuple[CorrectedProbe, ...]:
        if not self.config.training.probe_trainable:
            return ()
        pairs = zip(self.first_probes, probes, strict=True)
        return tuple(CorrectedProbe(before, after) for before, after in pairs)

    def to_model(self, state: LoopState) -> Model:
        """Return the best weights as a model, with the newest ones in its training state.

        The trainer is left as it was, so that training can go on.
        """
        training_state = save_state(self.trainer, self.scale, self.fingerprints)
        newest = self.trainer.state_dict()
        self.trainer.load_state_dict(state.best_weights)
        try:
            weights = self.trainer.network_weights()
            probes, intensity_scale = self.trainer.probes()
        finally:
            self.trainer.load_state_dict(newest)
        return Model(
            backend=self.backend,
            network=self.description,
            config=self.config,
            photons=self.photons,
            weights=weights,
            probe=probes[0],
            corrected_probes=self._corrected(probes),
            intensity_scale=intensity_scale,
            data_summary=self.summary,
            provenance={
                'created': datetime.now(UTC).isoformat(timespec='seconds'),
                'package': f'ptychopinn-plugin {__version__}',
                'framework': self._framework(),
                'python': platform.python_version(),
                'device': str(self.device),
                'seconds': round(time.perf_counter() - self.started, 1),
                'epochs': state.epoch,
                'stopped': state.stopped,
                'best_loss': state.best_loss if math.isfinite(state.best_loss) else None,
            },
            training_state=training_state,
        )


def _subsampled(scan: Scan, config: Config, rng: np.random.Generator) -> Scan:
    wanted = config.training.n_subsample
    if wanted is None or wanted >= len(scan):
        return scan
    return scan.subset(np.sort(rng.permutation(len(scan))[:wanted]))


def _fingerprint(scan: Scan, labelled: bool) -> str:
    """Return a hash of positions, each pattern's light, the probe, and the labels if any."""
    digest = hashlib.sha256(scan.positions_px.astype(np.float64).tobytes())
    digest.update(scan.counts().tobytes())
    digest.update(scan.probe.tobytes())
    if labelled and scan.object_ is not None:
        digest.update(scan.object_.tobytes())
    return digest.hexdigest()


def _nearest_to_random_position(
    positions_px: FloatArray, count: int, rng: np.random.Generator
) -> IntArray:
    """Return positions that lie together, so that they are whole groups."""
    centre = positions_px[rng.integers(len(positions_px))]
    distance = ((positions_px - centre) ** 2).sum(axis=1)
    return np.sort(np.argsort(distance, kind='stable')[:count])


def _left_to_train(scan: Scan, everyone: IntArray, held_out: IntArray) -> IntArray:
    members = np.setdiff1d(everyone, held_out)
    if len(members) == 0:
        raise DataError(
            f'{scan.name}: all of its {len(everyone)} patterns are held out; at least one must be '
            'left to train on. Lower the validation share.'
        )
    return members


def _on_canvas(object_: ComplexArray, model: Any, name: str) -> ComplexArray:
    canvas = np.ones(model.canvas_shape, dtype=np.complex64)
    top, left = model.origin_px.tolist()
    height, width = object_.shape
    rows = slice(max(0, -top), min(canvas.shape[0], height - top))
    columns = slice(max(0, -left), min(canvas.shape[1], width - left))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise DataError(
            f'{name}: the object (objectGuess), of {height} x {width} px with its first pixel at '
            f'position (0, 0), must lie where the scan is: rows {top} to {top + canvas.shape[0]}, '
            f'columns {left} to {left + canvas.shape[1]}; they do not touch. '
            'Shift the positions or pad the object, or train without labels (model type pinn).'
        )
    canvas[rows, columns] = object_[
        rows.start + top : rows.stop + top, columns.start + left : columns.stop + left
    ]
    return canvas


def _summarise(scans: Sequence[Scan]) -> dict[str, Any]:
    return {
        'scans': [scan.name for scan in scans],
        'patterns': int(sum(len(scan) for scan in scans)),
        'pattern_shape': list(scans[0].pattern_shape),
        'mean_counts': [scan.mean_counts() for scan in scans],
        'probe_modes': len(scans[0].probe),
    }
