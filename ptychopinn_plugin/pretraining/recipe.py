"""How the learned prior is trained: every choice that is a number."""

from dataclasses import dataclass

LOSSES = ('loss', 'distance', 'before')
"""A round has these means over its steps: what is minimized; the distance to the truth, and that
of the estimates, in the unit of the loss."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a pretraining run.

    A *round* draws `scans` new scans, makes the estimates that passes meet on them, adds these to
    a buffer, and takes `steps` gradient steps on crops of what the buffer holds.

    Attributes
    ----------
    seed : int
        Of weights, corpus and order.
    rounds : int
        When to end.
    cooldown : float
        Over this share of the rounds, the last ones, the learning rate falls to nearly zero.
    scans : int
        Drawn for a round.
    steps : int
        Gradient steps of a round.
    first_rounds : int
        The first rounds, with few estimates in the buffer, take a fifth of the steps.
    crops : int
        Parts of estimates in a batch, each of another scan and estimate.
    crop_px : int
        Side of a crop.
    buffer : int
        The last estimates that are kept.
    learning_rate : float
        Between warm-up and cool-down.
    warmup_steps : int
    weight_decay : float
    gradient_clip : float
        Largest norm of a gradient.
    ema_decay : float
        What stays from step to step in the average of the weights, which is what is used.
    bare_until : int
        Up to this round no estimate has passes behind it.
    save_every : int
        Rounds from one state on disk to the next.
    """

    seed: int = 16
    rounds: int = 280
    cooldown: float = 0.3
    scans: int = 4
    steps: int = 40
    first_rounds: int = 5
    crops: int = 6
    crop_px: int = 96
    buffer: int = 120
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    gradient_clip: float = 0.5
    ema_decay: float = 0.998
    bare_until: int = 20
    save_every: int = 5

    def learning_rate_at(self, round_: int, step: int) -> float:
        """Return the learning rate of a step, which is the same whenever the run was resumed."""
        left = (1 - round_ / self.rounds) / self.cooldown
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * min(1.0, left + 0.02)

    def steps_in(self, round_: int) -> int:
        """Return the number of gradient steps of a round."""
        return self.steps if round_ >= self.first_rounds else max(1, self.steps // 5)
