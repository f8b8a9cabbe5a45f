"""Names that settings and choices had once."""

from collections.abc import Mapping
from typing import Any

RENAMED_SETTINGS: Mapping[str, Mapping[str, str]] = {
    'training': {
        'accumulation': 'gradient_accumulation_steps',
        'teacher': 'target',
        'teacher_sweeps': 'target_iterations',
        'teacher_weight': 'target_weight',
        'validation_share': 'validation_fraction',
        'warmup_share': 'warmup_fraction',
        'weight_average_decay': 'ema_decay',
    },
    'inference': {
        'orientations': 'test_time_rotations',
        'phase_agreement': 'phase_synchronization',
    },
    'refinement': {'sweeps': 'iterations'},
}
"""Settings had these former names; each is a key in its section, and today's name the value.

Model files of format 1 and settings files of Ptychodus may hold the former ones.
"""

RENAMED_CHOICES: Mapping[tuple[str, str], Mapping[str, str]] = {
    ('training', 'target'): {'sweeps': 'iterations'},
}
"""Choices had these former names; each is a key below today's section and setting."""


def with_current_names(
    values: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return nested plain values with today's names in place of former ones.

    Parameters
    ----------
    values : mapping
        By section and name, as `Config.to_dict` returned it once.
    """
    current: dict[str, dict[str, Any]] = {}
    for section, part in values.items():
        current[section] = {}
        for former, value in part.items():
            name = RENAMED_SETTINGS.get(section, {}).get(former, former)
            choices = RENAMED_CHOICES.get((section, name), {})
            current[section][name] = choices.get(value, value) if choices else value
    return current
