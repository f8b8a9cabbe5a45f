"""Gradients and steps: one network, one optimizer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.backends.common.losses import validation_loss
from ptychopinn_plugin.backends.common.ranks import current_ranks
from ptychopinn_plugin.backends.common.sampling import VALIDATION, Batch, TrainingScan
from ptychopinn_plugin.backends.common.training_step import PROBE_RMS, Arrays, NetworkStep
from ptychopinn_plugin.backends.pytorch.device import keep_triton_out
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.losses import (
    amplitude_error,
    poisson_deviance,
    target_distance,
    total_variation,
    weighted_sum,
)
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.operators import predict_intensity, shift_probe
from ptychopinn_plugin.backends.pytorch.prediction import average_overlap, predict_patches
from ptychopinn_plugin.config import Config, TrainingConfig


class TrainableProbes(nn.Module):
    """The probes and their common scale, which training may correct.

    Parameters
    ----------
    probes : sequence of Tensor of complex64, shape (n_modes, height, width)
        One for each scan, scaled to its counts; training keeps its energy.
    intensity_scale : float
        Factor on every probe.
    config : TrainingConfig
    """

    def __init__(
        self, probes: Sequence[Tensor], intensity_scale: float, config: TrainingConfig
    ) -> None:
        super().__init__()
        self.norms = [float(torch.view_as_real(probe).norm()) for probe in probes]
        # A step of the optimizer is as large a share of the probe at any number of photons.
        self.probes = nn.ParameterList(
            [
                nn.Parameter(torch.view_as_real(probe) * (PROBE_RMS * probe.numel() ** 0.5 / norm))
                for probe, norm in zip(probes, self.norms, strict=True)
            ]
        )
        self.probes.requires_grad_(config.probe_trainable)
        # A logarithm, which keeps the factor positive and makes steps shares of it.
        self.log_scale = nn.Parameter(torch.tensor(math.log(intensity_scale)))
        self.log_scale.requires_grad_(config.intensity_scale_trainable)
        self.trainable = config.probe_trainable or config.intensity_scale_trainable

    def probe(self, index: int) -> Tensor:
        """Return the probe of a scan, shape (n_modes, height, width)."""
        parts = self.probes[index]
        # The energy stays: patterns hold the product of probe and object alone, and a probe that
        # grew would be undone by a dimmer object.
        factor = torch.exp(self.log_scale) * self.norms[index] / parts.norm()
        probe: Tensor = torch.view_as_complex(parts) * factor
        return probe

    @property
    def intensity_scale(self) -> float:
        """The factor on every probe."""
        return math.exp(float(self.log_scale.detach()))


class PyTorchStep(NetworkStep[Network, TrainableProbes]):
    """Computes gradients and takes steps with PyTorch; see `TrainingStep` and `NetworkStep`."""

    def __init__(
        self,
        network: Network,
        scans: Sequence[TrainingScan],
        trainable_probes: TrainableProbes,
        config: Config,
        validation: Sequence[TrainingScan] = (),
    ) -> None:
        super().__init__(network, scans, trainable_probes, config, validation)
        settings = config.training
        beams = [p for p in trainable_probes.parameters() if p.requires_grad]
        # Weights may decay; a probe must not.
        groups: list[dict[str, Any]] = [{'params': list(network.parameters())}]
        groups += [{'params': beams, 'weight_decay': 0.0}] if beams else []
        keep_triton_out()
        kind = torch.optim.AdamW if settings.optimizer == 'adamw' else torch.optim.Adam
        decay = settings.weight_decay if settings.optimizer == 'adamw' else 0.0
        self.optimizer = kind(groups, lr=settings.learning_rate, weight_decay=decay)
        self.device = next(network.parameters()).device
        self.ranks = current_ranks()
        half = settings.precision == 'float16'
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters, trainable or not."""
        return [*self.network.parameters(), *self.trainable_probes.parameters()]

    def zero_grad(self) -> None:
        """Drop the gradients gathered so far."""
        self.optimizer.zero_grad()

    def accumulate_gradients(self, batch: Batch) -> dict[str, float]:
        """Add a batch's gradients, as a share of a step; return its terms and 'loss'.

        Of several ranks each computes a part of the batch, and has the gradients of all.
        """
        if self.ranks.rank > 0:
            # Those of the batches before are the same in all: rank 0 brings them into the sum.
            self.optimizer.zero_grad()
        terms = self.losses(batch)
        self.scaler.scale(
            terms['loss'] / self.config.training.gradient_accumulation_steps
        ).backward()
        # One look at the device's results for all terms.
        self._sum_gradients()
        values = self.ranks.sum(torch.stack([value.detach() for value in terms.values()])).tolist()
        return dict(zip(terms, values, strict=True))

    def _sum_gradients(self) -> None:
        """Give each rank the sum of the gradients of all."""
        if self.ranks.size == 1:
            return
        parameters = self._optimized()
        # One vector for all, as each exchange takes its time; at its end is what has a gradient.
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        known = [float(p.grad is not None) for p in parameters]
        vector = torch.cat([*(part.flatten() for part in parts), parts[0].new_tensor(known)])
        *sums, known_sums = self.ranks.sum(vector).split([*map(torch.numel, parts), len(known)])
        for parameter, gradient, count in zip(parameters, sums, known_sums.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).clone() if count > 0 else None

    def step(self, learning_rate: float) -> None:
        """Let the optimizer use the gradients, and clear them."""
        settings = self.config.training
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate
        if settings.gradient_clip > 0:
            # Unscaled before clipping: the norm to clip at is that of true gradients.
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters(), settings.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the terms of this rank's part of a batch and 'loss', their weighted sum."""
        settings, subscan = self.config.training, batch.subscan
        ranks = subscan.forward.ranks
        groups = batch.groups[ranks.share(len(batch.groups))]
        n_patterns = batch.groups.size if ranks.size > 1 else None
        patches = predict_patches(
            self.network,
            subscan.forward,
            torch.from_numpy(groups).to(self.device),
            batch.object_,
            is_flat=batch.is_flat,
            rotations=(batch.rotations,),
            host_groups=groups,
        )
        values = patches.values
        if self.config.model.overlap_constraint:
            values = average_overlap(patches, subscan.forward, self.network.description.group_size)
        terms: dict[str, Tensor] = {}
        if self.config.model.model_type == 'pinn':
            expected = self._predict_intensity(batch, patches.indices, values)
            seen = expected, subscan.forward, patches.indices, n_patterns
            terms['poisson'] = poisson_deviance(*seen)
            if settings.amplitude_mae_weight > 0:
                terms['amplitude_mae'] = amplitude_error(*seen)
        if subscan.labels is not None:
            window = values.shape[-1]
            terms['teacher'] = target_distance(
                patches,
                subscan.forward.extract_patches(subscan.labels, patches.indices, window),
                subscan.forward.extract_patches(subscan.label_coverage, patches.indices, window),
                n_patterns,
            )
        if settings.total_variation_weight > 0:
            terms['total_variation'] = total_variation(patches, ranks)
        return {'loss': weighted_sum(terms, settings), **terms}

    def _predict_intensity(self, batch: Batch, indices: Tensor, values: Tensor) -> Tensor:
        """Put patches into their surroundings and diffract them."""
        forward: ForwardModel = batch.subscan.forward
        size = values.shape[-1]
        surroundings = forward.extract_patches(batch.object_, indices)
        top, left = (side // 2 - size // 2 for side in forward.shape)
        # A copy, as the gradient must reach the window alone and the estimate stays as it is.
        full = surroundings.clone()
        full[:, top : top + size, left : left + size] = values
        if not self.trainable_probes.trainable or batch.subscan.training_scan_index == VALIDATION:
            return forward.predict_intensity(full, indices)
        probe = (
            self.trainable_probes.probe(batch.subscan.training_scan_index)
            * batch.subscan.exposure**0.5
        )
        if forward.varies:
            # Eigenmodes have the scale of the forward model's probe.
            change = probe.norm() / forward.probe.norm()
            probe = forward.vary(probe / change, indices) * change
        probes = forward.in_own_beam(shift_probe(probe, forward.subpixel_shifts[indices]), indices)
        return predict_intensity(probes, full, forward.transfer_at(indices))

    @torch.no_grad()
    def scaled_probe(self, probe: Tensor, factor: float, energy_of: Tensor | None = None) -> Tensor:
        """Return a probe times a factor, after it got the energy of another one that is given."""
        if energy_of is None:
            return probe * factor
        scaled: Tensor = probe * (factor * energy_of.norm() / probe.norm())
        return scaled

    @torch.no_grad()
    def validation_loss(self, batch: Batch) -> float:
        """Return the mean loss of a batch of held-out groups."""
        return float(self.ranks.sum(validation_loss(self.losses(batch), self.config.training)))

    def state_dict(self) -> dict[str, RealArray]:
        """Return copies of all weights, of network and probes, under PyTorch's names."""
        return {name: _copied(value) for name, value in self._module().state_dict().items()}

    def load_state_dict(self, weights: Arrays) -> None:
        """Put back what `state_dict` took."""
        self._module().load_state_dict(
            {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
        )

    def optimizer_state(self) -> dict[str, RealArray]:
        """Return copies of the optimizer's state, as `TrainingStep.optimizer_state`."""
        state = {
            f'{number}/{slot}': _copied(value)
            for number, slots in self.optimizer.state_dict()['state'].items()
            for slot, value in slots.items()
        }
        gradients = {
            f'{number}/gradient': _copied(parameter.grad)
            for number, parameter in enumerate(self._optimized())
            if parameter.grad is not None
        }
        return state | gradients

    def optimized_shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of each parameter that the optimizer moves."""
        return [tuple(parameter.shape) for parameter in self._optimized()]

    def _optimized(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group['params']]

    def load_optimizer_state(self, arrays: Arrays) -> None:
        """Put back what `optimizer_state` took."""
        slots: dict[int, dict[str, Tensor]] = {}
        parameters = self._optimized()
        for name, value in arrays.items():
            number, slot = name.split('/')
            if slot == 'gradient':
                gradient = torch.from_numpy(np.array(value)).to(self.device)
                parameters[int(number)].grad = gradient
                continue
            # The count of steps stays on the CPU: read from a GPU, each step would wait for it.
            device = 'cpu' if slot == 'step' else self.device
            slots.setdefault(int(number), {})[slot] = torch.from_numpy(np.array(value)).to(device)
        groups = self.optimizer.state_dict()['param_groups']
        self.optimizer.load_state_dict({'state': slots, 'param_groups': groups})

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler, as plain values."""
        return self.scaler.state_dict()

    def load_scaler_state(self, values: Mapping[str, Any]) -> None:
        """Put back what `scaler_state` took."""
        self.scaler.load_state_dict(dict(values))

    @torch.no_grad()
    def probes(self) -> tuple[list[ComplexArray], float]:
        """Return the probe of each scan, without the intensity scale, and that scale."""
        scale = self.trainable_probes.intensity_scale
        numbers = range(len(self.scans))
        return [(self.trainable_probes.probe(i) / scale).cpu().numpy() for i in numbers], scale

    def _module(self) -> nn.ModuleDict:
        return nn.ModuleDict({'network': self.network, 'illumination': self.trainable_probes})


def _copied(value: Tensor) -> RealArray:
    return value.detach().cpu().numpy().copy()
