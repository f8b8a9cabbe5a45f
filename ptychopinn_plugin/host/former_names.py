"""Settings files of Ptychodus in which settings stand under the names that they had before."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptychodus.api.parameters import Parameter, ParameterGroup
from ptychodus.api.settings import SettingsRegistry

from ptychopinn_plugin.former_settings import RENAMED_CHOICES, RENAMED_SETTINGS

logger = logging.getLogger('ptychopinn_plugin')


def key_of(section: str, field: str) -> str:
    """Return the name of a setting in Ptychodus' settings file, as 'TrainingBatchSize'."""
    return ''.join(word.capitalize() for word in f'{section}_{field}'.split('_'))


def read_former_names(registry: SettingsRegistry, group: ParameterGroup, group_name: str) -> None:
    """Make a registry read the former names of a group's settings as well.

    What it saves holds today's names alone. Where a file holds both names, today's wins.

    Parameters
    ----------
    registry : SettingsRegistry
        Its `open_settings`, which window and batch mode both call, is extended.
    group : ParameterGroup
        Holds the parameters under today's keys.
    group_name : str
        Section of the settings file, for the log.
    """
    open_settings, parameters = registry.open_settings, group.parameters

    def open_former_settings(file_path: Path) -> None:
        # They are there only while a file is read, so that none of them is saved.
        group.parameters = _with_former_names(parameters(), group_name)  # type: ignore[method-assign]
        try:
            open_settings(file_path)
        finally:
            group.parameters = parameters  # type: ignore[method-assign]

    registry.open_settings = open_former_settings  # type: ignore[method-assign]


@dataclass
class _Current:
    """A parameter under today's key, and whether the file held it."""

    parameter: Parameter[Any]
    was_read: bool = False

    def set_value_from_string(self, text: str) -> None:
        self.was_read = True
        self.parameter.set_value_from_string(text)


@dataclass
class _Former:
    """What takes the place of a parameter under a former key."""

    key: str
    current_key: str
    current: _Current
    choices: Mapping[str, str]
    group_name: str

    def set_value_from_string(self, text: str) -> None:
        head = f'Settings file: {self.group_name}.{self.key} is named {self.current_key} today'
        if self.current.was_read:
            logger.info('%s. The file holds both lines, and the new one counts.', head)
            return
        logger.info('%s. Its value was read; saving writes the new name.', head)
        text = text.strip()
        self.current.parameter.set_value_from_string(self.choices.get(text, text))


def _with_former_names(
    parameters: Mapping[str, Parameter[Any]], group_name: str
) -> Callable[[], Mapping[str, Any]]:
    """Return what lists parameters under both names: the host reads them in this order."""
    current: dict[str, Any] = dict(parameters)
    former = {}
    for section, names in RENAMED_SETTINGS.items():
        for old_name, name in names.items():
            key, current_key = key_of(section, old_name), key_of(section, name)
            if current_key in parameters:
                current[current_key] = _Current(parameters[current_key])
                choices = RENAMED_CHOICES.get((section, name), {})
                former[key] = _Former(key, current_key, current[current_key], choices, group_name)
    listed = {**current, **former}
    return lambda: listed
