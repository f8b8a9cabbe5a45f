"""How a network for any probe is trained: every choice that is a number."""

from dataclasses import dataclass

PASSES = 3

LOSSES = ('loss', 'distance', 'before', 'first', 'poisson')
"""Of a round, as means over its batches: what is minimised; the distance to the truth, and that of
the estimates, in the unit of the loss; the distance of passes from flat; the likelihood."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a pretraining run.

    A *round* draws `scans` new scans, lets the network of that moment and the engine make the
    estimates that its passes will meet, and takes gradient steps on them in random order.

    Attributes
    ----------
    seed : int
        Of weights, corpus and order.
    rounds : int
        When to end.
    cooldown : int
        Over this number of last rounds the learning rate falls to zero.
    scans : int
        Drawn for a round.
    batch_size : int
        Patterns of one scan in a batch.
    gradient_accumulation_steps : int
        Batches, of different scans, that share one step.
    learning_rate : float
        Between warm-up and cool-down.
    warmup_steps : int
    weight_decay : float
    gradient_clip : float
        Largest norm of a gradient.
    ema_decay : float
        What stays from step to step in the average of the weights, which is what is used.
    poisson_weight : float
        Of the likelihood, beside 1 for the distance to the truth.
    bare_until : int
        Up to this round no estimate is iterated: the first sub-scans are cheap.
    save_every : int
        Rounds from one state on disk to the next.
    """

    seed: int = 16
    rounds: int = 1000
    cooldown: int = 0
    scans: int = 8
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    gradient_clip: float = 0.5
    ema_decay: float = 0.999
    poisson_weight: float = 0.25
    bare_until: int = 12
    save_every: int = 5

    def learning_rate_at(self, round_: int, step: int) -> float:
        """Return the learning rate of a step, which is the same whenever the run was resumed."""
        rate = self.learning_rate * min(1.0, (step + 1) / self.warmup_steps)
        left = self.rounds - round_
        return rate * min(1.0, left / self.cooldown) if self.cooldown > 0 else rate
