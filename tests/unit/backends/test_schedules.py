"""The learning rate over a run, by hand."""

import math

import pytest

from ptychopinn_plugin.backends.common.schedules import schedule_factor
from ptychopinn_plugin.config import Schedule, TrainingConfig

EXPECTED: dict[Schedule, tuple[float, float, float, float]] = {
    'constant': (1.0, 1.0, 1.0, 1.0),
    'plateau': (1.0, 1.0, 1.0, 1.0),
    'exponential': (1.0, 0.01**0.1, 0.01**0.6, 0.01),
    'cosine': (0.0, 0.5, 0.5, 0.0),
    'one-cycle': (0.04, 0.52, 0.5005, 0.001),
}
"""The factors are those at the start, half-way up and half-way down, and at the end."""


@pytest.mark.parametrize('schedule', EXPECTED)
def test_the_factor_rises_and_falls(schedule: Schedule) -> None:
    settings = TrainingConfig(schedule=schedule, warmup_fraction=0.2)
    found = [schedule_factor(settings, progress) for progress in (0.0, 0.1, 0.6, 1.0)]
    assert found == pytest.approx(EXPECTED[schedule], abs=2e-6)
    assert schedule_factor(settings, 0.2) == pytest.approx(
        0.01**0.2 if schedule == 'exponential' else 1
    )


def test_without_a_warm_up_the_rate_begins_at_its_peak() -> None:
    settings = TrainingConfig(schedule='cosine', warmup_fraction=0.0)
    assert schedule_factor(settings, 0.0) == 1.0
    assert schedule_factor(settings, 0.25) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
