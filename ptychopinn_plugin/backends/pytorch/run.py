"""One training run: scans on the device, a teacher, a trainer, and the model that comes out."""

import dataclasses
import math
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.archive import Model, TrainingState
from ptychopinn_plugin.backends.hints import suggest_probe
from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.backends.pytorch.choices import choose_photons
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.lessons import (
    VALIDATION,
    Lesson,
    TrainingScan,
    make_lesson,
)
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.refinement import sweep_object
from ptychopinn_plugin.backends.pytorch.training import Illumination, Trainer, TrainerState
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan, fit_to_size
from ptychopinn_plugin.data.grouping import covering_groups
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.network import NetworkDescription, describe_network
from ptychopinn_plugin.physics import illuminated_size, normalise_probe

TEACHER_VISITS = 500_000
"""The teacher sweeps a large scan fewer times, so that it sees about so many patterns in all."""

TEACHER_TIME_SHARE = 0.2
"""Of `max_minutes`."""

LARGEST_VALIDATION = 512


class TrainingRun:
    """One call of `train`: scans on the device, a teacher, a trainer."""

    def __init__(
        self,
        scans: Sequence[Scan],
        config: Config,
        validation: Sequence[Scan],
        base_model: Model | None,
        resume: bool,
        device: torch.device,
        started: float,
        observer: Observer,
    ) -> None:
        self.device, self.started, self.observer = device, started, observer
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
        self.photons = base_model.photons if base_model else fitted[0].mean_counts()
        self.summary = _summarise(fitted)
        self.description = self._describe(fitted[0])
        # A sigmoid's amplitudes reach from 0 to 1, and 1/1.5 is a good middle.
        self.scale = 1.5 if self.description.architecture == 'cnn' else 1.0
        if base_model is not None and not resume:
            self.scale = base_model.intensity_scale
        elif base_model is not None and base_model.training_state is not None:
            # As when the run began, which may have been a fine-tuning.
            self.scale = float(base_model.training_state.values.get('first_scale', self.scale))
        self.models = [self._forward(scan) for scan in fitted]
        self.trainer = self._prepare(fitted, [fit_to_size(scan, size) for scan in validation], rng)

    def _describe(self, scan: Scan) -> NetworkDescription:
        if self.base_model is not None:
            return self.base_model.network
        window = illuminated_size(scan.probe, share=0.98)
        return describe_network(self.config.model, window)

    def _forward(self, scan: Scan) -> ForwardModel:
        photons = choose_photons(scan, self.photons, 'auto')
        probe = normalise_probe(scan.probe, photons * self.scale**2)
        model = ForwardModel(scan, torch.from_numpy(probe), self.device)
        model.photons = photons
        return model

    def _prepare(
        self, scans: Sequence[Scan], validation: Sequence[Scan], rng: np.random.Generator
    ) -> Trainer:
        settings = self.config.training
        network = Network(self.description, settings.precision)
        if self.base_model is not None:
            network.load_weights(self.base_model.weights)
        network.to(self.device)
        lessons: list[TrainingScan] = []
        held: list[tuple[TrainingScan, Any]] = []
        for index, (scan, model) in enumerate(zip(scans, self.models, strict=True)):
            everyone = np.arange(len(scan))
            out = np.empty(0, dtype=np.int64)
            if not validation:
                out = _held_out(scan.positions_px, settings.validation_share, rng)
                if len(out) < self.description.group_size:
                    # Too few for a group: they would be missed in training, and used nowhere.
                    out = out[:0]
            part = TrainingScan(
                index=index,
                model=model,
                positions_px=(model.corners + model.rests).cpu().numpy(),
                members=_left_to_train(scan, everyone, out),
                labels=self._labels(scan, model),
                countable=scan.is_countable(),
            )
            lessons.append(part)
            if len(out) > 0:
                held.append((part, out))
        for scan in validation:
            model = self._forward(scan)
            places = (model.corners + model.rests).cpu().numpy()
            # Supervised training has no other term; a teacher's likelihood needs no labels.
            supervised = self.config.model.model_type == 'supervised'
            labels = self._labels(scan, model) if supervised else None
            everyone = np.arange(len(scan))
            part = TrainingScan(VALIDATION, model, places, everyone, labels, scan.is_countable())
            held.append((part, np.arange(len(scan))[:LARGEST_VALIDATION]))
        illumination = Illumination(
            [model.probe / self.scale for model in self.models], self.scale, settings
        ).to(self.device)

        def held_out() -> list[Lesson]:
            fixed = np.random.default_rng(0)
            result = []
            for part, members in held:
                groups = covering_groups(part.positions_px[members], self.description.group_size)
                result.append(make_lesson(network, part, members, groups, 1.0, fixed))
            return result

        return Trainer(
            network, lessons, illumination, self.config, held_out, self.started, self.observer
        )

    def _labels(self, scan: Scan, model: ForwardModel) -> Tensor | None:
        """Return the object to learn from, on the model's canvas."""
        if self.config.model.model_type == 'supervised':
            if scan.object_ is None:
                raise DataError(
                    f'{scan.name} holds no object (objectGuess), which supervised training learns '
                    'from. Add one, or use --model-type pinn.'
                )
            return _scaled_to_counts(_on_canvas(scan.object_, model, scan.name), model)
        settings = self.config.training
        if settings.teacher == 'none' or settings.teacher_weight == 0:
            return None
        sweeps = max(10, min(settings.teacher_sweeps, TEACHER_VISITS // len(scan)))

        def watch(done: int, loss: float, _: Tensor) -> bool | None:
            asked = self.observer(Progress('teach', done, sweeps, {'poisson': loss}))
            limit = settings.max_minutes
            used = time.perf_counter() - self.started
            return asked or (limit is not None and used > TEACHER_TIME_SHARE * 60 * limit)

        labels, losses = sweep_object(
            model,
            model.flat_object(),
            sweeps,
            seed=settings.seed,
            refine_probe=settings.probe_trainable,
            observer=watch,
        )
        if not settings.probe_trainable:
            option = '--probe-trainable (training.probe_trainable)'
            suggest_probe(scan, len(losses) - 1, lambda: model.misfit(labels), option)
        return labels

    def train(self) -> TrainerState:
        """Train, or continue from the base model's training state."""
        if self.resume:
            assert self.base_model is not None
            assert self.base_model.training_state is not None
            _load_state(self.trainer, self.base_model.training_state)
            self.trainer.use_illumination()
        return self.trainer.run()

    def to_model(self, state: TrainerState) -> Model:
        """Return the best weights as a model, with the newest ones in its training state."""
        training_state = _save_state(self.trainer, self.scale)
        self.trainer.restore(state.best_weights)
        illumination = self.trainer.illumination
        with torch.no_grad():
            probe = illumination.probe(0) / illumination.intensity_scale
        return Model(
            backend='pytorch',
            network=self.description,
            config=self.config,
            photons=self.photons,
            weights=self.trainer.network.numpy_weights(),
            probe=probe.cpu().numpy(),
            intensity_scale=illumination.intensity_scale,
            data_summary=self.summary,
            provenance={
                'created': datetime.now(UTC).isoformat(timespec='seconds'),
                'package': f'ptychopinn-plugin {__version__}',
                'framework': f'torch {torch.__version__}',
                'python': platform.python_version(),
                'device': str(self.device),
                'seconds': round(time.perf_counter() - self.started, 1),
                'epochs': state.epoch,
                'stopped': state.stopped,
                'best_loss': state.best_loss,
            },
            training_state=training_state,
        )


def _subsampled(scan: Scan, config: Config, rng: np.random.Generator) -> Scan:
    wanted = config.training.n_subsample
    if wanted is None or wanted >= len(scan):
        return scan
    return scan.subset(np.sort(rng.permutation(len(scan))[:wanted]))


def _held_out(positions_px: Any, share: float, rng: np.random.Generator) -> Any:
    """Return the positions around a random one: whole groups that training never meets."""
    count = round(share * len(positions_px))
    centre = positions_px[rng.integers(len(positions_px))]
    distance = ((positions_px - centre) ** 2).sum(axis=1)
    return np.sort(np.argsort(distance, kind='stable')[: min(count, LARGEST_VALIDATION)])


def _left_to_train(scan: Scan, everyone: Any, held_out: Any) -> Any:
    members = np.setdiff1d(everyone, held_out)
    if len(members) == 0:
        raise DataError(
            f'{scan.name}: all of its {len(everyone)} patterns are held out; at least one must be '
            'left to train on. '
            'Lower --validation-share.'
        )
    return members


def _on_canvas(object_: Any, model: ForwardModel, name: str) -> Tensor:
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
            'Shift the positions or pad the object, or use --model-type pinn.'
        )
    canvas[rows, columns] = object_[
        rows.start + top : rows.stop + top, columns.start + left : columns.stop + left
    ]
    return torch.from_numpy(canvas).to(model.device)


def _scaled_to_counts(object_: Tensor, model: ForwardModel) -> Tensor:
    """Scale an object so that the model's probe, which is scaled to the counts, explains them."""
    good = 1.0 if model.good is None else model.good
    expected = measured = 0.0
    for indices in torch.arange(len(model), device=model.device).split(128):
        expected += float((good * model.expect(model.extract(object_, indices), indices)).sum())
        measured += float((good * model.measured(indices) ** 2).sum())
    scale: float = (measured / expected) ** 0.5
    return object_ * scale


def _summarise(scans: Sequence[Scan]) -> dict[str, Any]:
    return {
        'scans': [scan.name for scan in scans],
        'patterns': int(sum(len(scan) for scan in scans)),
        'pattern_shape': list(scans[0].pattern_shape),
        'mean_counts': [scan.mean_counts() for scan in scans],
        'probe_modes': len(scans[0].probe),
    }


def _save_state(trainer: Trainer, first_scale: float) -> TrainingState:
    """Return what the next epoch starts from; of one that was stopped inside nothing is kept."""
    point = trainer.resume_point
    state = point.state
    arrays: dict[str, Any] = {}
    for name, value in point.weights.items():
        arrays[f'last/{name}'] = value.cpu().numpy()
    for name, value in state.best_weights.items():
        arrays[f'best/{name}'] = value.cpu().numpy()
    for number, slots in point.optimizer['state'].items():
        for slot, value in slots.items():
            arrays[f'optimizer/{number}/{slot}'] = value.cpu().numpy()
    values = {
        'epoch': state.epoch,
        # JSON has no infinity, which it is before the first epoch.
        'best_loss': state.best_loss if math.isfinite(state.best_loss) else None,
        'epochs_without_gain': state.epochs_without_gain,
        'plateau_factor': state.plateau_factor,
        'history': state.history,
        'first_scale': first_scale,
        'scaler': dict(point.scaler),
    }
    return TrainingState(arrays, values)


def _load_state(trainer: Trainer, saved: TrainingState) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): torch.from_numpy(np.array(array)).to(
                next(trainer.network.parameters()).device
            )
            for name, array in saved.arrays.items()
            if name.startswith(prefix)
        }

    trainer.restore(part('last/'))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in part('optimizer/').items():
        number, slot = name.split('/')
        slots.setdefault(int(number), {})[slot] = value
    groups = trainer.optimizer.state_dict()['param_groups']
    trainer.optimizer.load_state_dict({'state': slots, 'param_groups': groups})
    values: Mapping[str, Any] = saved.values
    if values.get('scaler'):
        trainer.scaler.load_state_dict(values['scaler'])
    best = values['best_loss']
    trainer.state = TrainerState(
        epoch=int(values['epoch']),
        best_loss=math.inf if best is None else float(best),
        best_weights=part('best/'),
        epochs_without_gain=int(values['epochs_without_gain']),
        plateau_factor=float(values['plateau_factor']),
        history=[dict(row) for row in values['history']],
    )
