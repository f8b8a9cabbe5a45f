"""Rounds of training on simulated scans, with PyTorch."""

from collections import deque
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.physics.prior_features import FLOOR
from ptychopinn_plugin.pretraining.architecture import describe_prior
from ptychopinn_plugin.pretraining.corpus import draw_task
from ptychopinn_plugin.pretraining.estimates import Estimate, make_estimates, stack
from ptychopinn_plugin.pretraining.recipe import LOSSES, Recipe
from ptychopinn_plugin.pretraining.state import read_state, to_model, write_state

MIN_CONTRAST = 0.03
"""Errors are judged against those of the estimate, and at least this share of the contrast."""


class Learner:
    """The network, its optimizer, the average of its weights and the buffer of estimates.

    Parameters
    ----------
    recipe : Recipe
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.network = Network(describe_prior())
        self.ema_network = Network(describe_prior())
        self.ema_network.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.buffer: deque[Estimate] = deque(maxlen=recipe.buffer)
        self.round, self.step = 0, 0
        self.seconds = 0.0

    def train_round(self) -> dict[str, float]:
        """Train on the next scans; return the means of the losses, and of what estimates had."""
        # Each round has random numbers of its own, so that `load` can draw the last ones again.
        rng = np.random.default_rng([self.recipe.seed, 3, self.round])
        self._draw(self.round, rng)
        losses = [self._step(rng) for _ in range(self.recipe.steps_in(self.round))]
        self.round += 1
        return {name: float(np.mean([loss[name] for loss in losses])) for name in LOSSES}

    def save(self, path: Path) -> None:
        """Write the state: weights and optimizer, and not the buffer, which `load` makes again."""
        slots = self.optimizer.state_dict()['state']
        moments = {
            f'{number}/{slot}': value.numpy().copy()
            for number, values in slots.items()
            for slot, value in values.items()
            if slot != 'step'
        }
        values = {'recipe': asdict(self.recipe), 'round': self.round, 'step': self.step}
        values['seconds'] = self.seconds
        description = self.network.description
        write_state(
            path, description, self.weights(), self.network.numpy_weights(), moments, values
        )

    def load(self, path: Path) -> None:
        """Go on from a state; of its recipe only the seed must be the same.

        The scans of the last rounds are drawn again, and their estimates made with the weights of
        the state: a resumed run is another one than the uninterrupted, and always the same.

        Raises
        ------
        ConfigError
            If the state is of another seed.
        """
        model, newest, moments = read_state(path)
        assert model.training_state is not None
        values = model.training_state.values
        if values['recipe']['seed'] != self.recipe.seed:
            raise ConfigError(
                f'{path} is of seed {values["recipe"]["seed"]}; the recipe has {self.recipe.seed}. '
                'Give that seed, or another state.'
            )
        self.network.load_weights(newest)
        self.ema_network.load_weights(model.weights)
        self.round, self.step = values['round'], values['step']
        self.seconds = values['seconds']
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in moments.items():
            number, slot = name.split('/')
            slots.setdefault(int(number), {})[slot] = torch.from_numpy(value)
            slots[int(number)]['step'] = torch.tensor(float(self.step))
        groups = self.optimizer.state_dict()['param_groups']
        self.optimizer.load_state_dict({'state': slots, 'param_groups': groups})
        self.buffer.clear()
        rounds = -(-self.recipe.buffer // self.recipe.scans)
        for round_ in range(max(0, self.round - rounds), self.round):
            self._draw(round_, np.random.default_rng([self.recipe.seed, 3, round_]))

    def weights(self) -> dict[str, RealArray]:
        """Return copies of the averaged weights."""
        return self.ema_network.numpy_weights()

    def model(self) -> Model:
        """Return the average of the weights as a model for scans of any size."""
        provenance = {
            'made by': 'python -m ptychopinn_plugin.pretraining',
            'recipe': asdict(self.recipe),
            'rounds': self.round,
            'steps': self.step,
            'simulated scans': self.round * self.recipe.scans,
        }
        return to_model(self.network.description, self.weights(), provenance)

    def _draw(self, round_: int, rng: np.random.Generator) -> None:
        """Draw the scans of a round, and keep their estimates."""
        first, is_bare = round_ * self.recipe.scans, round_ <= self.recipe.bare_until
        for number in range(first, first + self.recipe.scans):
            task = draw_task(self.recipe.seed, number)
            # The average is what will be used, and so what must be corrected after its own passes.
            self.buffer.extend(make_estimates(self.ema_network, task, rng, is_bare=is_bare))

    def _step(self, rng: np.random.Generator) -> dict[str, float]:
        """Take one step of the optimizer on random crops of the buffer; return the losses."""
        rate = self.recipe.learning_rate_at(self.round, self.step)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        chosen = rng.integers(len(self.buffer), size=self.recipe.crops)
        crops = [self.buffer[index].crop(self.recipe.crop_px, rng) for index in chosen]
        terms = self._losses(stack(crops))
        self.optimizer.zero_grad()
        terms['loss'].backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self.step += 1
        # The first averages decay faster, so that they do not hold on to random weights.
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            pairs = zip(self.ema_network.parameters(), self.network.parameters(), strict=True)
            for average, newest in pairs:
                average.lerp_(newest, 1 - decay)
        return {name: float(value.detach()) for name, value in terms.items()}

    def _losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        r"""Compute :math:`\log(1 + d / (d_0 + 0.03 c))` and its parts for crops.

        :math:`d` is the weighted squared distance of the corrected object to the truth,
        :math:`d_0` that of the estimate, and :math:`c` the truth's variance.
        """
        (found,) = self.network(batch['images'])
        scale, weight, wanted = batch['scale'], batch['weight'], batch['wanted']

        def total(values: Tensor) -> Tensor:
            return (values * weight).sum(dim=(1, 2, 3))

        distance = total(((found - wanted) * scale) ** 2)
        before = total((wanted * scale) ** 2)
        # Relative to the estimate: bad estimates would else be all that is learned from. The
        # contrast keeps nearly perfect ones from counting without limit.
        unit = before + MIN_CONTRAST * total(batch['contrast']) + FLOOR
        return {
            # The logarithm keeps single crops that go wrong from deciding over a step.
            'loss': torch.log1p(distance / unit).mean(),
            'distance': (distance / unit).mean(),
            'before': (before / unit).mean(),
        }


def use_threads(count: int) -> None:
    """Compute on this number of cores."""
    torch.set_num_threads(count)
