"""Which terms training minimizes, and how they are weighed."""

from collections.abc import Mapping
from typing import TypeVar

from ptychopinn_plugin.config import TrainingConfig

Value = TypeVar('Value')

TARGET_FLOOR = 0.02
"""The target has this weight outside the probe, relative to the probe's centre."""

DARK_COUNTS = 1e-3
"""Expected counts below this are taken as this, where nothing was counted."""

DARK_FRACTION = 0.1
"""A batch of dark patterns counts as this share of the usual light, which losses divide by."""

DATA_TERMS = ('poisson', 'amplitude_mae', 'teacher')
"""These terms compare with measurements or labels; total variation is smoothness alone."""


def term_weights(settings: TrainingConfig) -> dict[str, float]:
    """Return the weight of each term by its name."""
    # These are columns of losses.csv, whose names stay: 'teacher' is the term of the target.
    return {
        'poisson': settings.poisson_weight,
        'amplitude_mae': settings.amplitude_mae_weight,
        'teacher': settings.target_weight,
        'total_variation': settings.total_variation_weight,
    }


def validation_loss(terms: Mapping[str, Value], settings: TrainingConfig) -> Value:
    """Return the loss of held-out patterns from their terms.

    A validation scan has no target. Where no other term in force compares with data, the Poisson
    likelihood does: it needs no labels.
    """
    weights = term_weights(settings)
    if 'poisson' in terms and not any(weights[name] > 0 for name in DATA_TERMS if name in terms):
        return terms['poisson']
    return terms['loss']
