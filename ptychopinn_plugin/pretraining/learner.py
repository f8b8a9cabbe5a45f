"""Rounds of training on simulated scans, with PyTorch."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ptychopinn_plugin.array_types import IntArray, RealArray
from ptychopinn_plugin.backends.common.prediction import fitted_model
from ptychopinn_plugin.backends.pytorch.adapter import PyTorchBackend
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.losses import poisson_deviance, target_distance
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.prediction import Patches, predict_patches
from ptychopinn_plugin.backends.pytorch.refinement import iterate_object
from ptychopinn_plugin.backends.pytorch.stitching import predict_object
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction, Scan
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import NetworkDescription
from ptychopinn_plugin.physics import normalise_probe
from ptychopinn_plugin.pretraining.architecture import describe_general_network
from ptychopinn_plugin.pretraining.corpus import Task, draw_task
from ptychopinn_plugin.pretraining.evaluation import Reconstruct
from ptychopinn_plugin.pretraining.recipe import LOSSES, PASSES, Recipe
from ptychopinn_plugin.pretraining.state import read_state, to_model, write_state

LEAST_CONTRAST = 0.03
"""Errors are judged against those of the estimate, and at least this share of the contrast."""

REPEATS = 3
"""How often each pattern is met in each estimate: scans cost as much as steps. The first time, the
likelihood counts as well."""

LIT = 0.05
"""Share of the brightest coverage from which on the truth counts outside a patch's own probe."""

FIRST_ITERATIONS = (2, 5, 5, 10, 10, 30)
"""Iterations of the engine before the first pass, where a network comes in late."""


@dataclass
class SubScan:
    """One simulated scan with the estimates that passes meet on it.

    Attributes
    ----------
    task : Task
    forward : ForwardModel
    truth, lit : Tensor, shape ``forward.canvas_shape``
    estimates : list of (Tensor, bool)
        Objects, and whether each is the flat start.
    description : NetworkDescription
    """

    task: Task
    forward: ForwardModel
    truth: Tensor
    lit: Tensor
    description: NetworkDescription
    estimates: list[tuple[Tensor, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """Patterns of one scan, for one pass, seen in one of four orientations."""

    subscan: SubScan
    number: int
    indices: IntArray
    rotations: int
    with_likelihood: bool


class Learner:
    """The network, its optimizer and the average of its weights.

    Parameters
    ----------
    recipe : Recipe
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.network = Network(describe_general_network(40, PASSES))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.average = {name: value.copy() for name, value in self.weights().items()}
        self.round, self.step = 0, 0
        self.seconds = 0.0

    def weights(self) -> dict[str, RealArray]:
        """Return copies of the newest weights."""
        return self.network.numpy_weights()

    def train_round(self) -> dict[str, float]:
        """Train on the next scans; return the means of the losses, and of what estimates had."""
        rng = np.random.default_rng([self.recipe.seed, 1, self.round])
        first = self.round * self.recipe.scans
        subscans = [
            self.make_subscan(draw_task(self.recipe.seed, first + index), rng)
            for index in range(self.recipe.scans)
        ]
        batches = [batch for subscan in subscans for batch in self._batches(subscan, rng)]
        losses: list[dict[str, float]] = []
        order = [batches[index] for index in rng.permutation(len(batches))]
        size = self.recipe.gradient_accumulation_steps
        for start in range(0, len(order), size):
            losses += self._step(order[start : start + size])
        self.round += 1
        return {
            name: float(np.mean([loss[name] for loss in losses if name in loss] or [np.nan]))
            for name in LOSSES
        }

    def save(self, path: Path) -> None:
        """Write the state, and go on from what the file says: rounding changes no resumed run."""
        slots = self.optimizer.state_dict()['state']
        moments = {
            f'{number}/{slot}': value.numpy().copy()
            for number, values in slots.items()
            for slot, value in values.items()
            if slot != 'step'
        }
        values = {'recipe': asdict(self.recipe), 'round': self.round, 'step': self.step}
        values['seconds'] = self.seconds
        write_state(path, self.network.description, self.average, self.weights(), moments, values)
        self.load(path)

    def load(self, path: Path) -> None:
        """Go on from a state; of its recipe only the seed must be the same."""
        model, newest, moments = read_state(path)
        assert model.training_state is not None
        values = model.training_state.values
        if values['recipe']['seed'] != self.recipe.seed:
            raise ConfigError(
                f'{path} is of seed {values["recipe"]["seed"]}; the recipe has {self.recipe.seed}. '
                'Give that seed, or another state.'
            )
        self.network.load_weights(newest)
        self.average = {name: np.array(value) for name, value in model.weights.items()}
        self.round, self.step = values['round'], values['step']
        self.seconds = values['seconds']
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in moments.items():
            number, slot = name.split('/')
            slots.setdefault(int(number), {})[slot] = torch.from_numpy(value)
            slots[int(number)]['step'] = torch.tensor(float(self.step))
        groups = self.optimizer.state_dict()['param_groups']
        self.optimizer.load_state_dict({'state': slots, 'param_groups': groups})

    def model(self) -> Model:
        """Return the average of the weights as a model for scans of any size."""
        provenance = {
            'made by': 'python -m ptychopinn_plugin.pretraining',
            'recipe': asdict(self.recipe),
            'rounds': self.round,
            'steps': self.step,
            'simulated scans': self.round * self.recipe.scans,
        }
        return to_model(describe_general_network(40, PASSES), self.average, provenance)

    def make_subscan(self, task: Task, rng: np.random.Generator) -> SubScan:
        """Prepare a scan, with estimates as the network and the engine make them in use."""
        forward = ForwardModel(task.scan, torch.from_numpy(task.scan.probe), torch.device('cpu'))
        subscan = SubScan(
            task,
            forward,
            truth=_on_canvas(torch.from_numpy(task.truth), forward),
            lit=(forward.coverage > LIT * forward.coverage.max()).float(),
            description=describe_general_network(task.window_px, PASSES),
        )
        self._look_at(subscan)
        kind = rng.choice(['usual', 'bare', 'late'], p=[0.55, 0.15, 0.3])
        if self.round < self.recipe.bare_until:
            kind = 'bare'
        if kind == 'late':
            count = int(rng.choice(FIRST_ITERATIONS))
            start, _ = iterate_object(forward, forward.flat_object(), count)
            objects = predict_object(self.network, forward, passes=1, start=start)
            subscan.estimates = [(object_, False) for object_ in objects]
            return subscan
        if kind == 'bare':
            self._look_at(subscan, iterations_between=0)
        objects = predict_object(self.network, forward, passes=PASSES - 1)
        subscan.estimates = [(object_, index == 0) for index, object_ in enumerate(objects)]
        return subscan

    def _look_at(self, subscan: SubScan, iterations_between: int | None = None) -> None:
        """Let the network have the sub-scan's window."""
        description = subscan.description
        if iterations_between is not None:
            description = replace(description, iterations_between=iterations_between)
        self.network.description = description

    def _batches(self, subscan: SubScan, rng: np.random.Generator) -> Iterator[Batch]:
        for visit, number in itertools.product(range(REPEATS), range(len(subscan.estimates))):
            order = rng.permutation(len(subscan.forward))
            n_batches = max(1, round(len(order) / self.recipe.batch_size))
            for indices in np.array_split(order, n_batches):
                yield Batch(subscan, number, indices, int(rng.integers(4)), visit == 0)

    def _step(self, batches: list[Batch]) -> list[dict[str, float]]:
        rate = self.recipe.learning_rate_at(self.round, self.step)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        self.optimizer.zero_grad()
        found = []
        for batch in batches:
            terms = self.losses(batch)
            (terms['loss'] / len(batches)).backward()
            found.append({name: float(value.detach()) for name, value in terms.items()})
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self.step += 1
        # The first averages forget faster, so that they do not hold on to random weights.
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        for name, newest in self.weights().items():
            self.average[name] += (1 - decay) * (newest - self.average[name])
        return found

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute 'distance' and 'poisson', each relative to what the estimate had, and 'loss'."""
        subscan = batch.subscan
        self._look_at(subscan)
        forward, window = subscan.forward, subscan.task.window_px
        indices = torch.from_numpy(batch.indices)
        object_, is_flat = subscan.estimates[batch.number]
        rotations = (batch.rotations,)
        patches = predict_patches(
            self.network, forward, indices[:, None], object_, is_flat=is_flat, rotations=rotations
        )
        truth = forward.extract_patches(subscan.truth, indices, window)
        lit = forward.extract_patches(subscan.lit, indices, window)
        distance = target_distance(patches, truth, lit)
        with torch.no_grad():
            scale, before = _scale_of_errors(patches, truth, lit)
        found = {'distance': distance / scale, 'before': before / scale}
        # Logarithms: a few hopeless scans (weak objects, few counts) must not drown the others.
        loss = torch.log1p(found['distance'])
        if batch.with_likelihood:
            found['poisson'] = self._misfit(subscan, object_, indices, patches.values, scale)
            loss = loss + self.recipe.poisson_weight * torch.log1p(found['poisson'])
        if is_flat:
            found['first'] = found['distance'].detach()
        return {'loss': loss, **found}

    def _misfit(
        self, subscan: SubScan, object_: Tensor, indices: Tensor, values: Tensor, scale: Tensor
    ) -> Tensor:
        """Return the deviance of patches in their surroundings, relative to errors and noise."""
        forward, window = subscan.forward, subscan.task.window_px
        full = forward.extract_patches(object_, indices).clone()
        top, left = (side // 2 - window // 2 for side in forward.shape)
        full[:, top : top + window, left : left + window] = values
        deviance = poisson_deviance(forward.predict_intensity(full, indices), forward, indices)
        noise = min(1.0, forward.shape[0] * forward.shape[1] / forward.photons)
        return deviance / (scale + noise)


def reconstruct_with(model: Model) -> Reconstruct:
    """Return what reconstructs a scan with a model alone, as a user's call does."""
    backend = PyTorchBackend()
    backend.model = model

    def reconstruct(scan: Scan, is_single_shot: bool) -> Reconstruction:
        if is_single_shot:
            return reconstruct_alone(model, scan)
        inference = InferenceConfig(device='cpu')
        return backend.reconstruct(scan, inference, RefinementConfig(iterations=0))

    return reconstruct


def reconstruct_alone(model: Model | None, scan: Scan, iterations: int = 0) -> Reconstruction:
    """Reconstruct patterns that share nothing, each from itself.

    Parameters
    ----------
    model : Model, optional
        Else the iterations start from a flat object.
    scan : Scan
        With positions so far apart that no patch touches another.
    iterations : int
        Of the engine, after the network.
    """
    started = time.perf_counter()
    forward = ForwardModel(
        scan,
        torch.from_numpy(normalise_probe(scan.probe, scan.mean_photons())),
        torch.device('cpu'),
    )
    object_ = forward.flat_object()
    if model is not None:
        fitted = fitted_model(model, scan)
        network = Network(fitted.network)
        network.load_weights(fitted.weights)
        object_ = predict_object(network, forward, rotations=(0, 1, 2, 3))[-1]
    losses = [forward.evaluate_fit(object_)[0]]
    if iterations:
        object_, losses = iterate_object(forward, object_, iterations)
    coverage = forward.coverage.numpy()
    return Reconstruction(
        object_=object_.numpy(),
        origin_px=np.asarray(forward.origin_px, dtype=np.float64),
        coverage=coverage / coverage.max(),
        probe=forward.probe.numpy(),
        positions_px=scan.positions_px,
        backend='pytorch',
        likelihoods=losses,
        timing={'all': time.perf_counter() - started},
        amplitude_residual=forward.evaluate_fit(object_)[1],
        name=scan.name,
    )


def use_threads(count: int) -> None:
    """Compute on this number of cores."""
    torch.set_num_threads(count)


def _scale_of_errors(patches: Patches, truth: Tensor, lit: Tensor) -> tuple[Tensor, Tensor]:
    """Return what distances are divided by, and the distance of the estimate."""
    assert patches.reference is not None
    before = Patches(patches.indices, patches.reference, patches.weights, patches.reference)
    distance = target_distance(before, truth, lit)
    weights = patches.weights / patches.weights.sum(dim=(-2, -1), keepdim=True)
    mean = (truth * weights).sum(dim=(-2, -1), keepdim=True)
    contrast = ((truth - mean).abs() ** 2 * weights).sum(dim=(-2, -1)).mean()
    return distance + LEAST_CONTRAST * contrast + 1e-5, distance


def _on_canvas(object_: Tensor, forward: ForwardModel) -> Tensor:
    """Cut the canvas out of an object; 1 where the object ends."""
    top, left = (int(value) for value in forward.origin_px)
    height, width = forward.canvas_shape
    canvas = forward.flat_object()
    rows = slice(max(0, top), min(object_.shape[0], top + height))
    columns = slice(max(0, left), min(object_.shape[1], left + width))
    canvas[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
        object_[rows, columns]
    )
    return canvas
