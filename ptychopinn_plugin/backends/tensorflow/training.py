"""Gradients and steps: one network, one optimizer."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.backends.common.losses import term_weights, validation_loss
from ptychopinn_plugin.backends.common.sampling import VALIDATION, Batch, TrainingScan
from ptychopinn_plugin.backends.common.training_step import PROBE_RMS, Arrays, NetworkStep
from ptychopinn_plugin.backends.tensorflow import losses
from ptychopinn_plugin.backends.tensorflow.framework import Tensor, compiled, tf
from ptychopinn_plugin.backends.tensorflow.network import (
    Network,
    Weights,
    from_stored,
    to_stored,
)
from ptychopinn_plugin.backends.tensorflow.operators import (
    predict_intensity,
    scaled,
    shift_probe,
    vary_probe,
)
from ptychopinn_plugin.backends.tensorflow.optimizer import (
    AdamW,
    GradientScale,
    Tensors,
    all_finite,
    clipped,
)
from ptychopinn_plugin.backends.tensorflow.prediction import (
    Inputs,
    average,
    collect_inputs,
    group_patch_origins,
    predict,
)
from ptychopinn_plugin.config import Config, TrainingConfig
from ptychopinn_plugin.network import NetworkDescription


class TrainableProbes:
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
        parts = [tf.stack([tf.math.real(probe), tf.math.imag(probe)], axis=-1) for probe in probes]
        self.norms = [tf.norm(part) for part in parts]
        # A step of the optimizer is as large a share of the probe at any number of photons.
        self.probes = [
            part * (PROBE_RMS * (int(tf.size(part)) / 2) ** 0.5 / norm)
            for part, norm in zip(parts, self.norms, strict=True)
        ]
        # A logarithm, which keeps the factor positive and makes steps shares of it.
        self.log_scale = tf.constant(math.log(intensity_scale), tf.float32)
        self.trainable = config.probe_trainable or config.intensity_scale_trainable

    def probe(self, index: int) -> Tensor:
        """Return the probe of a scan, shape (n_modes, height, width)."""
        return _probe_of(self.beam(index))

    def beam(self, index: int) -> Tensors:
        """Return what makes the probe of a scan."""
        return {
            'probe': self.probes[index],
            'norm': self.norms[index],
            'log_scale': self.log_scale,
        }

    @property
    def intensity_scale(self) -> float:
        """The factor on every probe."""
        return math.exp(float(self.log_scale))


def _probe_of(beam: Tensors) -> Tensor:
    parts = beam['probe']
    # The energy stays: patterns hold the product of probe and object alone, and a probe that grew
    # would be undone by a dimmer object.
    factor = tf.exp(beam['log_scale']) * beam['norm'] / tf.norm(parts)
    return scaled(tf.complex(parts[..., 0], parts[..., 1]), factor)


@dataclass(frozen=True)
class Objective:
    """All that a graph of the losses depends on, besides the numbers that it is given.

    Attributes
    ----------
    description : NetworkDescription
        The number of passes is left out: each batch is of one.
    precision : str
    supervised, overlap_constraint : bool
    in_force : tuple of str
        Terms whose weight is not 0.
    moving : tuple of str
        Which of 'probe' and 'log_scale' training corrects.
    """

    description: NetworkDescription
    precision: str
    supervised: bool
    overlap_constraint: bool
    in_force: tuple[str, ...]
    moving: tuple[str, ...]

    @classmethod
    def of(cls, network: Network, config: Config) -> 'Objective':
        """Return the objective of a configuration."""
        training = config.training
        moving = ['probe'] if training.probe_trainable else []
        moving += ['log_scale'] if training.intensity_scale_trainable else []
        return cls(
            description=dataclasses.replace(network.description, passes=1),
            precision=network.precision,
            supervised=config.model.model_type == 'supervised',
            overlap_constraint=config.model.overlap_constraint,
            in_force=tuple(name for name, weight in term_weights(training).items() if weight > 0),
            moving=tuple(moving),
        )

    def terms(self, weights: Weights, beam: Tensors, inputs: Inputs) -> Tensors:
        """Return the terms of a batch and 'loss', their weighted sum."""
        values, light, reference = predict(self.description, self.precision, weights, inputs)
        agreed = values
        if self.overlap_constraint and self.description.group_size > 1:
            agreed = average(values, light, inputs['patch_origins'])
        terms: Tensors = {}
        measured, valid_mask, photons = (
            inputs['measured'],
            inputs.get('valid_mask'),
            inputs['photons'],
        )
        if not self.supervised:
            expected = _predict_intensity(beam, inputs, agreed)
            terms['poisson'] = losses.poisson_deviance(expected, measured, valid_mask, photons)
            if 'amplitude_mae' in self.in_force:
                terms['amplitude_mae'] = losses.amplitude_error(
                    expected, measured, valid_mask, photons
                )
        if 'labels' in inputs:
            terms['teacher'] = losses.target_distance(
                values, light, reference, inputs['labels'], inputs['label_coverage']
            )
        if 'total_variation' in self.in_force:
            terms['total_variation'] = losses.total_variation(values, light)
        total = tf.add_n([inputs[f'weight of {name}'] * value for name, value in terms.items()])
        return {'loss': total, **terms}


def _predict_intensity(beam: Tensors, inputs: Inputs, values: Tensor) -> Tensor:
    """Put patches into their surroundings and diffract them."""
    surroundings, size = inputs['patches'], values.shape[-1]
    sides = tf.shape(surroundings)[1:]
    first = sides // 2 - size // 2
    room = tf.concat([[[0, 0]], tf.stack([first, sides - size - first], axis=1)], axis=0)
    # A tensor takes no slice assignment, so that the window is masked out and added.
    outside = 1 - tf.pad(tf.ones_like(values[:1], tf.float32), room)
    full = scaled(surroundings, outside) + tf.pad(values, room)
    if not beam:
        return predict_intensity(inputs['probes'], full, inputs.get('transfer'))
    probe = scaled(_probe_of(beam), tf.sqrt(inputs['exposure']))
    if 'opr_weights' in inputs:
        # Eigenmodes have the scale of the forward model's probe.
        change = tf.norm(tf.abs(probe)) / inputs['probe_norm']
        varied = vary_probe(scaled(probe, 1 / change), inputs['eigenmodes'], inputs['opr_weights'])
        probe = scaled(varied, change)
    probes = scaled(shift_probe(probe, inputs['subpixel_shifts']), inputs['beam_roots'])
    return predict_intensity(probes, full, inputs.get('transfer'))


@lru_cache(maxsize=16)
def _compiled_terms(objective: Objective) -> Callable[[Weights, Tensors, Inputs], Tensors]:
    return compiled(objective.terms, fixed=(0, 1))


@lru_cache(maxsize=16)
def _compiled_gradients(
    objective: Objective,
) -> Callable[[Weights, Tensors, Inputs, Tensor], tuple[Tensors, Tensors, Tensors]]:
    def gradients(
        weights: Weights, beam: Tensors, inputs: Inputs, factor: Tensor
    ) -> tuple[Tensors, Tensors, Tensors]:
        moving = {name: beam[name] for name in objective.moving if name in beam}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            # These are plain tensors and no variables, which a tape does not watch by itself
            # (decision 9).
            tape.watch([*weights.values(), *moving.values()])
            terms = objective.terms(weights, beam, inputs)
            total = terms['loss'] * factor
        of_weights, of_beam = tape.gradient(total, (dict(weights), moving))
        return terms, of_weights, of_beam

    return compiled(gradients, fixed=(0, 1))


class TensorFlowStep(NetworkStep[Network, TrainableProbes]):
    """Computes gradients and takes steps with TensorFlow; see `TrainingStep` and `NetworkStep`."""

    def __init__(
        self,
        network: Network,
        scans: Sequence[TrainingScan],
        trainable_probes: TrainableProbes,
        config: Config,
        validation: Sequence[TrainingScan] = (),
    ) -> None:
        super().__init__(network, scans, trainable_probes, config, validation)
        self.objective = Objective.of(network, config)
        settings = config.training
        decay = settings.weight_decay if settings.optimizer == 'adamw' else 0.0
        beams = ['log_scale'] if settings.intensity_scale_trainable else []
        if settings.probe_trainable:
            beams += [_probe_name(index) for index in range(len(trainable_probes.probes))]
        # Weights may decay; a probe must not.
        self.optimizer = AdamW([*network.weights, *beams], dict.fromkeys(network.weights, decay))
        self.scale = GradientScale(settings.precision == 'float16')
        self._gradients: Tensors = {}

    def zero_grad(self) -> None:
        """Drop the gradients gathered so far."""
        self._gradients = {}

    def accumulate_gradients(self, batch: Batch) -> dict[str, float]:
        """Add a batch's gradients, as a share of a step; return its terms and 'loss'."""
        factor = self.scale.scale / self.config.training.gradient_accumulation_steps
        compute = _compiled_gradients(self.objective)
        terms, found, of_beam = compute(
            self.network.weights,
            self._beam(batch),
            self.inputs(batch),
            tf.constant(factor, tf.float32),
        )
        for name, gradient in of_beam.items():
            found[_probe_name(batch.subscan.training_scan_index) if name == 'probe' else name] = (
                gradient
            )
        for name, gradient in found.items():
            if gradient is not None:
                before = self._gradients.get(name)
                self._gradients[name] = gradient if before is None else before + gradient
        return {name: float(value) for name, value in terms.items()}

    def step(self, learning_rate: float) -> None:
        """Let the optimizer use the gradients, and clear them."""
        gradients, self._gradients = self._gradients, {}
        finite = True
        if self.scale.enabled:
            # Unscaled before clipping: the norm to clip at is that of true gradients.
            gradients = {name: value / self.scale.scale for name, value in gradients.items()}
            finite = bool(all_finite(gradients))
        if finite and gradients:
            largest = self.config.training.gradient_clip
            if largest > 0:
                gradients = clipped(gradients, tf.constant(largest, tf.float32))
            self._put(self.optimizer.step(self._parameters(), gradients, learning_rate))
        self.scale.update(finite)

    def losses(self, batch: Batch) -> Tensors:
        """Compute the terms of a batch and 'loss', their weighted sum."""
        compute = _compiled_terms(self.objective)
        return compute(self.network.weights, self._beam(batch), self.inputs(batch))

    def inputs(self, batch: Batch) -> Inputs:
        """Gather what the losses need of a batch."""
        subscan, description = batch.subscan, self.network.description
        forward, groups, indices = subscan.forward, batch.groups, batch.groups.reshape(-1)
        inputs = collect_inputs(
            description,
            forward,
            groups,
            batch.object_,
            is_flat=batch.is_flat,
            rotations=(batch.rotations,),
        )
        if description.group_size > 1:
            inputs['patch_origins'] = tf.constant(group_patch_origins(forward, groups))
        inputs['photons'] = tf.constant(forward.photons, tf.float32)
        if subscan.labels is not None:
            window = description.window_px
            inputs['labels'] = forward.extract_patches(subscan.labels, indices, window)
            inputs['label_coverage'] = forward.extract_patches(
                subscan.label_coverage, indices, window
            )
        for name, weight in term_weights(self.config.training).items():
            # As a tensor a weight can change without another compilation.
            inputs[f'weight of {name}'] = tf.constant(weight, tf.float32)
        if self.trainable_probes.trainable:
            inputs['subpixel_shifts'] = tf.gather(forward.subpixel_shifts, indices)
            inputs['exposure'] = tf.constant(subscan.exposure, tf.float32)
            inputs |= forward.variation_inputs(indices)
            inputs['probe_norm'] = tf.norm(tf.abs(forward.probe))
            roots = np.sqrt(forward.intensities[indices]).astype(np.float32)
            inputs['beam_roots'] = tf.constant(roots[:, None, None, None])
        return inputs

    def _beam(self, batch: Batch) -> Tensors:
        """Return what training may correct; nothing where the scan's own probe is used."""
        index = batch.subscan.training_scan_index
        if not self.trainable_probes.trainable or index == VALIDATION:
            return {}
        return self.trainable_probes.beam(index)

    def validation_loss(self, batch: Batch) -> float:
        """Return the mean loss of a batch of held-out groups."""
        return float(validation_loss(self.losses(batch), self.config.training))

    def scaled_probe(self, probe: Tensor, factor: float, energy_of: Tensor | None = None) -> Tensor:
        """Return a probe times a factor, after it got the energy of another one that is given."""
        if energy_of is None:
            return scaled(probe, factor)
        energies = [tf.reduce_sum(tf.abs(each) ** 2) for each in (energy_of, probe)]
        return scaled(probe, factor * tf.sqrt(energies[0] / energies[1]))

    def _parameters(self) -> Tensors:
        probes = {_probe_name(i): probe for i, probe in enumerate(self.trainable_probes.probes)}
        return {**self.network.weights, 'log_scale': self.trainable_probes.log_scale, **probes}

    def _put(self, parameters: Mapping[str, Tensor]) -> None:
        for name, value in parameters.items():
            if name in self.network.weights:
                self.network.weights[name] = value
            elif name == 'log_scale':
                self.trainable_probes.log_scale = value
            else:
                self.trainable_probes.probes[int(name.rpartition('.')[2])] = value

    def state_dict(self) -> dict[str, RealArray]:
        """Return copies of all weights, of network and probes, under PyTorch's names."""
        return {
            _stored_name(name): to_stored(value.numpy())
            if name in self.network.weights
            else np.array(value.numpy())
            for name, value in self._parameters().items()
        }

    def load_state_dict(self, weights: Arrays) -> None:
        """Put back what `state_dict` took."""
        for name in self._parameters():
            stored = np.array(weights[_stored_name(name)])
            transposed = from_stored(stored) if name in self.network.weights else stored
            self._put({name: tf.constant(transposed)})

    def optimizer_state(self) -> dict[str, RealArray]:
        """Return copies of the optimizer's state, as `TrainingStep.optimizer_state`."""
        gradients = {
            f'{number}/gradient': to_stored(self._gradients[name].numpy())
            if name in self.network.weights
            else np.array(self._gradients[name].numpy())
            for number, name in enumerate(self.optimizer.names)
            if name in self._gradients
        }
        return {**self.optimizer.arrays(self.network.weights), **gradients}

    def optimized_shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of each parameter that the optimizer moves."""
        arrays = self.state_dict()
        return [arrays[_stored_name(name)].shape for name in self.optimizer.names]

    def load_optimizer_state(self, arrays: Arrays) -> None:
        """Put back what `optimizer_state` took."""
        self.optimizer.load_state_dict(arrays, self.network.weights)
        for number, name in enumerate(self.optimizer.names):
            if f'{number}/gradient' in arrays:
                stored = np.array(arrays[f'{number}/gradient'])
                transposed = from_stored(stored) if name in self.network.weights else stored
                self._gradients[name] = tf.constant(transposed)

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler, as plain values."""
        return self.scale.state()

    def load_scaler_state(self, values: Mapping[str, Any]) -> None:
        """Put back what `scaler_state` took."""
        self.scale.load_state_dict(values)

    def probes(self) -> tuple[list[ComplexArray], float]:
        """Return the probe of each scan, without the intensity scale, and that scale."""
        scale = self.trainable_probes.intensity_scale
        probes = [self.trainable_probes.probe(i).numpy() for i in range(len(self.scans))]
        return [np.asarray(probe / scale, dtype=np.complex64) for probe in probes], scale


def _probe_name(index: int) -> str:
    return f'probes.{index}'


def _stored_name(name: str) -> str:
    """Return PyTorch's name of a parameter, which every training state uses."""
    layer, _, part = name.rpartition('/')
    return f'network.convolutions.{layer}.{part}' if layer else f'illumination.{name}'
