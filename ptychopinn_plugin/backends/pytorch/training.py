"""The training loop: epochs of lessons, one optimizer, the best and the last weights."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptychopinn_plugin.backends.protocol import Observer, Progress
from ptychopinn_plugin.backends.pytorch.forward import intensity, shift_probe
from ptychopinn_plugin.backends.pytorch.lessons import (
    VALIDATION,
    Batch,
    Lesson,
    TrainingScan,
    epoch_batches,
)
from ptychopinn_plugin.backends.pytorch.losses import (
    amplitude_error,
    poisson_deviance,
    teacher_distance,
    total_variation,
    validation_loss,
    weighted_sum,
)
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.prediction import average_overlap, predict_patches
from ptychopinn_plugin.config import Config, TrainingConfig
from ptychopinn_plugin.errors import DataError

REPORT_SECONDS = 0.5
PLATEAU_EPOCHS = 5


class Illumination(nn.Module):
    """The probes and their common scale, which training may correct.

    Parameters
    ----------
    probes : sequence of Tensor of complex64, shape (n_modes, height, width)
        One for each scan, scaled to its counts.
    intensity_scale : float
        Factor on every probe.
    config : TrainingConfig
    """

    def __init__(
        self, probes: Sequence[Tensor], intensity_scale: float, config: TrainingConfig
    ) -> None:
        super().__init__()
        self.probes = nn.ParameterList(
            [nn.Parameter(torch.view_as_real(probe).clone()) for probe in probes]
        )
        self.probes.requires_grad_(config.probe_trainable)
        self.log_scale = nn.Parameter(torch.tensor(math.log(intensity_scale)))
        self.log_scale.requires_grad_(config.intensity_scale_trainable)
        self.trainable = config.probe_trainable or config.intensity_scale_trainable

    def probe(self, index: int) -> Tensor:
        """Return the probe of a scan, shape (n_modes, height, width)."""
        return torch.view_as_complex(self.probes[index]) * torch.exp(self.log_scale)

    @property
    def intensity_scale(self) -> float:
        """The factor on every probe."""
        return math.exp(float(self.log_scale.detach()))


@dataclass
class TrainerState:
    """What changes from epoch to epoch."""

    epoch: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    epochs_without_gain: int = 0
    plateau_factor: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    stopped: str = 'epochs'


@dataclass(frozen=True)
class ResumePoint:
    """All that an epoch starts from; a stop inside one goes back to it.

    Attributes
    ----------
    weights : mapping of str to Tensor
        Of network and illumination.
    optimizer, scaler : mapping
        Their state dicts.
    state : TrainerState
    """

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, float]
    state: TrainerState


class Trainer:
    """Trains a network on scans.

    Parameters
    ----------
    network : Network
    scans : sequence of TrainingScan
    illumination : Illumination
    config : Config
    held_out : callable
        Makes the validation lessons with the network as it is.
    started : float
        `time.perf_counter` when the run began; `max_minutes` counts from there.
    observer : callable
    """

    def __init__(
        self,
        network: Network,
        scans: Sequence[TrainingScan],
        illumination: Illumination,
        config: Config,
        held_out: Callable[[], list[Lesson]],
        started: float,
        observer: Observer,
    ) -> None:
        self.network = network
        self.scans = scans
        self.illumination = illumination
        self.config = config
        self.held_out = held_out
        self.started = started
        self.observer = observer
        self.state = TrainerState()
        self.first_second = time.perf_counter()
        settings = config.training
        beams = [p for p in illumination.parameters() if p.requires_grad]
        # Weights may decay; a probe must not.
        groups: list[dict[str, Any]] = [{'params': list(network.parameters())}]
        groups += [{'params': beams, 'weight_decay': 0.0}] if beams else []
        kind = torch.optim.AdamW if settings.optimizer == 'adamw' else torch.optim.Adam
        decay = settings.weight_decay if settings.optimizer == 'adamw' else 0.0
        self.optimizer = kind(groups, lr=settings.learning_rate, weight_decay=decay)
        device = next(network.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=settings.precision == 'float16')

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters, trainable or not."""
        return [*self.network.parameters(), *self.illumination.parameters()]

    def run(self) -> TrainerState:
        """Train until an end is reached."""
        settings, state = self.config.training, self.state
        if not state.best_weights:
            state.best_weights = self._snapshot()
        self._mark()
        while state.epoch < settings.epochs:
            begun = time.perf_counter()
            losses, n_patterns = self._train_epoch(
                np.random.default_rng([settings.seed, state.epoch])
            )
            if not losses:
                break
            complete = state.stopped == 'epochs'
            if complete:
                state.epoch += 1
            self._end_epoch(losses, n_patterns / (time.perf_counter() - begun))
            if complete:
                self._mark()
            if state.stopped != 'epochs':
                break
            patience = settings.early_stop_patience
            if patience is not None and state.epochs_without_gain >= patience:
                state.stopped = 'early-stop'
                break
        return state

    def _train_epoch(self, rng: np.random.Generator) -> tuple[list[dict[str, float]], int]:
        settings = self.config.training
        losses: list[dict[str, float]] = []
        n_patterns, reported, begun = 0, time.perf_counter(), time.perf_counter()
        self.optimizer.zero_grad()
        batches = epoch_batches(self.network, self.scans, self.config, rng)
        expected = self._batches_in_epoch()
        for number, batch in enumerate(batches):
            self._set_learning_rate(min(1.0, number / expected))
            terms = self.losses(batch)
            total = terms['loss']
            if not torch.isfinite(total):
                raise DataError(
                    f'The loss became {float(total.detach())} in epoch {self.state.epoch + 1}. '
                    'Lower the learning rate, or look at the patterns with: ptychopinn inspect.'
                )
            self.scaler.scale(total / settings.accumulation).backward()
            if (number + 1) % settings.accumulation == 0:
                self._step()
            losses.append({name: float(value.detach()) for name, value in terms.items()})
            n_patterns += batch.groups.numel()
            now = time.perf_counter()
            if now - reported > REPORT_SECONDS:
                reported = now
                if self._report(losses[-1]['loss'], n_patterns / (now - begun)):
                    self.state.stopped = 'request'
                    break
            if self._minutes_share() >= 1:
                self.state.stopped = 'max-minutes'
                break
        if len(losses) % settings.accumulation:
            # What is left over counts too; an epoch may hold fewer batches than share a step.
            self._step()
        return losses, n_patterns

    def _step(self) -> None:
        settings = self.config.training
        if settings.gradient_clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters(), settings.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the terms of a batch and 'loss', their weighted sum."""
        settings, lesson = self.config.training, batch.lesson
        patches = predict_patches(
            self.network,
            lesson.model,
            batch.groups,
            lesson.objects[batch.number_of_pass],
            is_flat=batch.number_of_pass == 0,
        )
        values = patches.values
        if self.config.model.overlap_constraint:
            values = average_overlap(patches, lesson.model, self.network.description.group_size)
        terms: dict[str, Tensor] = {}
        if self.config.model.model_type == 'pinn':
            expected = self._expect(batch, patches.indices, values)
            terms['poisson'] = poisson_deviance(expected, lesson.model, patches.indices)
            if settings.amplitude_mae_weight > 0:
                terms['amplitude_mae'] = amplitude_error(expected, lesson.model, patches.indices)
        if lesson.labels is not None:
            window = values.shape[-1]
            terms['teacher'] = teacher_distance(
                patches,
                lesson.model.extract(lesson.labels, patches.indices, window),
                lesson.model.extract(lesson.label_coverage, patches.indices, window),
            )
        if settings.total_variation_weight > 0:
            terms['total_variation'] = total_variation(patches)
        return {'loss': weighted_sum(terms, settings), **terms}

    def _expect(self, batch: Batch, indices: Tensor, values: Tensor) -> Tensor:
        """Put patches into their surroundings and diffract them."""
        model = batch.lesson.model
        size = values.shape[-1]
        surroundings = model.extract(batch.lesson.objects[batch.number_of_pass], indices)
        top, left = (side // 2 - size // 2 for side in model.shape)
        full = surroundings.clone()
        full[:, top : top + size, left : left + size] = values
        if not self.illumination.trainable or batch.lesson.scan_index == VALIDATION:
            return model.expect(full, indices)
        probe = self.illumination.probe(batch.lesson.scan_index) * batch.lesson.exposure**0.5
        probes = shift_probe(probe, model.rests[indices])
        return intensity(torch.fft.fft2(probes * full[:, None], norm='ortho'))

    def _end_epoch(self, losses: list[dict[str, float]], rate: float) -> None:
        state = self.state
        self.use_illumination()
        validation = self.validate()
        if validation is None:
            validation = _mean(losses)['loss']
        if validation < state.best_loss:
            state.best_loss, state.epochs_without_gain = validation, 0
            state.best_weights = self._snapshot()
        else:
            state.epochs_without_gain += 1
            waited = state.epochs_without_gain % PLATEAU_EPOCHS == 0
            if waited and self.config.training.schedule == 'plateau':
                state.plateau_factor /= 2
        state.history.append(
            {
                'epoch': float(len(state.history) + 1),
                'seconds': time.perf_counter() - self.started,
                'learning_rate': float(self.optimizer.param_groups[0]['lr']),
                **_mean(losses),
                'validation_loss': validation,
                'patterns_per_second': rate,
            }
        )
        if self._report(state.history[-1]['loss'], rate, validation):
            state.stopped = 'request'

    def use_illumination(self) -> None:
        """Let the scans' forward models use the probes as training has left them."""
        if self.illumination.trainable:
            for index, scan in enumerate(self.scans):
                scan.model.set_probe(self.illumination.probe(index))

    @torch.no_grad()
    def validate(self) -> float | None:
        """Return the mean `validation_loss` of the held-out lessons; None where there are none."""
        total, count = 0.0, 0
        for lesson in self.held_out():
            for number in range(len(lesson.objects)):
                for some in lesson.groups.split(max(1, 64 // lesson.groups.shape[1])):
                    terms = self.losses(Batch(lesson, number, some))
                    loss = float(validation_loss(terms, self.config.training))
                    total, count = total + loss * len(some), count + len(some)
        return total / count if count else None

    def _snapshot(self) -> dict[str, Tensor]:
        module = nn.ModuleDict({'network': self.network, 'illumination': self.illumination})
        return {name: value.detach().clone() for name, value in module.state_dict().items()}

    def _mark(self) -> None:
        """Take down what the next epoch starts from."""
        state = dataclasses.replace(self.state, history=list(self.state.history))
        self.resume_point = ResumePoint(
            self._snapshot(),
            copy.deepcopy(self.optimizer.state_dict()),
            self.scaler.state_dict(),
            state,
        )

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what `_snapshot` took."""
        module = nn.ModuleDict({'network': self.network, 'illumination': self.illumination})
        module.load_state_dict(dict(weights))

    def _report(self, loss: float, rate: float, validation: float | None = None) -> bool:
        losses = {'loss': loss}
        if validation is not None:
            losses['validation_loss'] = validation
        epochs = self.config.training.epochs
        step, total = self.state.epoch, epochs
        if self._minutes_share() > step / epochs:
            step, total = round(1000 * min(1.0, self._minutes_share())), 1000
        return bool(self.observer(Progress('train', step, total, losses, rate)))

    def _minutes_share(self) -> float:
        limit = self.config.training.max_minutes
        if limit is None:
            return 0.0
        return (time.perf_counter() - self.started) / (60 * limit)

    def _batches_in_epoch(self) -> float:
        positions = sum(len(scan.members) for scan in self.scans)
        return max(1.0, 2 * positions / self.config.training.batch_size)

    def _set_learning_rate(self, share_of_epoch: float) -> None:
        settings = self.config.training
        progress = (self.state.epoch + share_of_epoch) / settings.epochs
        if settings.max_minutes is not None:
            # Training starts after the teacher, and the schedule with it.
            late = self.first_second - self.started
            elapsed = time.perf_counter() - self.first_second
            progress = max(progress, elapsed / max(1e-3, 60 * settings.max_minutes - late))
        factor = schedule_factor(settings, min(1.0, progress)) * self.state.plateau_factor
        for group in self.optimizer.param_groups:
            group['lr'] = settings.learning_rate * factor


def schedule_factor(settings: TrainingConfig, progress: float) -> float:
    """Return the factor on the learning rate when `progress` (0 to 1) of training is done."""
    warm = settings.warmup_share
    if settings.schedule in ('cosine', 'one-cycle') and progress < warm:
        low = 0.04 if settings.schedule == 'one-cycle' else 0.0
        return low + (1 - low) * (progress / warm) + 1e-6
    if settings.schedule in ('cosine', 'one-cycle'):
        rest = (progress - warm) / (1 - warm)
        low = 1e-3 if settings.schedule == 'one-cycle' else 0.0
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * rest))
    if settings.schedule == 'exponential':
        return float(0.01**progress)
    return 1.0


def _mean(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in losses])) for name in losses[0]}
