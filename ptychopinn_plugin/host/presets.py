"""Presets: a few rows of the panel set together, from a first look to the best that there is."""

from collections.abc import Mapping
from typing import Any

from ptychodus.api.observer import Observable, Observer
from ptychodus.api.parameters import Parameter

NORMAL_MINUTES = 10.0
"""A training has this time limit where none was chosen: 1024 patterns of 64 px are learned well in
seven minutes on two cores (docs/benchmarks.md)."""

BY_THE_OVERLAP = -1
"""This number of iterations stands for the one that is planned for a scan."""

NO_LIMIT = 0.0
"""This number of seconds stands for any."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    'Quick look': {
        'training.max_minutes': 1.0,
        'training.epochs': 20,
        'training.target_iterations': 30,
        'model.passes': 2,
        'inference.test_time_rotations': 'one',
        'refinement.iterations': 10,
        'refinement.max_seconds': 5.0,
    },
    'Normal': {
        'training.max_minutes': NORMAL_MINUTES,
        'training.epochs': 100,
        'training.target_iterations': 100,
        'model.passes': 3,
        'inference.test_time_rotations': 'auto',
        'refinement.iterations': BY_THE_OVERLAP,
        'refinement.max_seconds': NO_LIMIT,
    },
    'Best': {
        'training.max_minutes': 60.0,
        'training.epochs': 300,
        'training.target_iterations': 200,
        'model.passes': 3,
        'inference.test_time_rotations': 'four',
        'refinement.iterations': 100,
        'refinement.max_seconds': NO_LIMIT,
    },
}
"""Each preset gives these values to settings, by their names."""

CUSTOM = 'Custom'
"""This stands in the place of a preset once a row differs from all of them."""


class Presets(Observer):
    """Keeps the setting *Preset* and the rows that it sets in agreement.

    Parameters
    ----------
    parameters : mapping of str to Parameter
        By 'section.field', with 'preset' among them.
    """

    def __init__(self, parameters: Mapping[str, Parameter[Any]]) -> None:
        super().__init__()
        self._preset = parameters['preset']
        self._rows = {name: parameters[name] for name in PRESETS['Normal']}
        self._is_setting = False
        self._preset.add_observer(self)
        for parameter in self._rows.values():
            parameter.add_observer(self)

    def _update(self, observable: Observable) -> None:
        # Rows that a preset sets are changed one by one, and fit no preset on the way.
        if self._is_setting:
            return
        self._is_setting = True
        try:
            values = PRESETS.get(self._preset.get_value())
            if observable is self._preset and values is not None:
                for name, parameter in self._rows.items():
                    parameter.set_value(values[name])
            else:
                self._preset.set_value(self._name_of_rows())
        finally:
            self._is_setting = False

    def _name_of_rows(self) -> str:
        """Return the preset that gives the rows their values."""
        now = {name: parameter.get_value() for name, parameter in self._rows.items()}
        return next((name for name, values in PRESETS.items() if values == now), CUSTOM)
