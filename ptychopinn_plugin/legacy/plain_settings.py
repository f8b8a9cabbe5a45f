"""PtychoPINN's settings as names and values in one level, from objects, mappings and YAML files."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.legacy.fields import (
    FIELDS,
    GROUPS,
    NEWEST_NAMES,
    OLDER_NAMES,
    OWNERS,
    Owner,
    fields_of,
)

logger = logging.getLogger(__name__)


def newer_names(
    values: Mapping[str, Any], older: Mapping[str, str] = OLDER_NAMES
) -> dict[str, Any]:
    """Return settings under their newer names; where both are given, the newer one wins.

    Parameters
    ----------
    values : mapping of str to value
    older : mapping of str to str
        Deprecated names, and those that took their place.
    """
    found = {name: value for name, value in values.items() if name not in older}
    for name, newer in older.items():
        if values.get(name) is None:
            continue
        if found.get(newer) is None:
            logger.warning('%s is deprecated; it is taken as %s.', name, newer)
            found[newer] = values[name]
        else:
            logger.warning(
                '%s is deprecated; %s, which is given too, wins: %r.', name, newer, found[newer]
            )
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """Return the fields of a YAML file in one level, numbers as numbers, under newer names."""
    kinds = {name: item.kind for item in FIELDS for name in (item.name, item.flat_name)}
    kinds |= {old: kinds[new] for old, new in OLDER_NAMES.items()}
    values = _flattened(_read_yaml(path))
    return newer_names({name: _number(value, kinds.get(name)) for name, value in values.items()})


def _number(value: Any, kind: type | None) -> Any:
    """Return the number that is text for YAML 1.1, such as 1e9, which it expects as 1.0e+9."""
    if not isinstance(value, str) or kind not in (int, float):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if kind is int and number.is_integer() else number


def plain_settings(settings: object) -> dict[str, Any]:
    """Return the fields of settings in one level, without importing what they came from.

    Raises
    ------
    ConfigError
        If PtychoPINN has no such settings.
    """
    if isinstance(settings, str | PurePath):
        return read_settings(Path(settings))
    if isinstance(settings, Mapping):
        return newer_names(_flattened(settings))
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        names = [item.name for item in dataclasses.fields(settings)]
        return _of_object({name: getattr(settings, name) for name in names})
    known = {item.name for item in FIELDS} | set(GROUPS) | set(NEWEST_NAMES)
    found = {name: getattr(settings, name) for name in sorted(known) if hasattr(settings, name)}
    if not found:
        raise ConfigError(
            f'Settings of PtychoPINN are expected: {", ".join(OWNERS)}, a mapping of their fields '
            f'or the path of a YAML file; got a {type(settings).__name__}.'
        )
    return _of_object(found)


def _of_object(values: Mapping[str, Any]) -> dict[str, Any]:
    flat, default = _flattened(values), fields_of('TrainingConfig')['n_groups'].default
    # An object has all its fields, so nobody need have chosen what is at its default.
    if flat.get('n_images') is not None and flat.get('n_groups') == default:
        del flat['n_groups']
    return newer_names(flat)


def _flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name == 'model' and value is not None:
            if isinstance(value, str | PurePath | int | float | list):
                raise ConfigError(
                    f'model must be a ModelConfig or a mapping of its fields; got {value!r}. '
                    'The path of a model is model_path.'
                )
            flat.update(plain_settings(value))
        elif name in GROUPS and _is_group(value):
            inner = value if isinstance(value, Mapping) else vars(value)
            names = GROUPS[name]
            flat.update({names.get(key, key): part for key, part in _flattened(inner).items()})
        else:
            flat[NEWEST_NAMES.get(str(name), str(name))] = value
    return flat


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def owner_of(settings: object, values: Mapping[str, Any]) -> Owner:
    """Find whose fields these are, by the name of the class or the names that are there."""
    name = type(settings).__name__
    for owner in OWNERS:
        if owner == name:
            return owner
    names = set(values)
    training = set(_names('TrainingConfig')) - set(_names('InferenceConfig'))
    inference = set(_names('InferenceConfig')) - set(_names('TrainingConfig'))
    if names & inference and not names & training:
        return 'InferenceConfig'
    return 'TrainingConfig'


def _names(owner: Owner) -> Iterator[str]:
    return iter(fields_of(owner))


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            f'Reading {path} needs PyYAML. Run: pip install "ptychopinn-plugin[legacy]".'
        ) from None
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    # The last three are of dates with 40 days, numbers of too many digits and lists in lists.
    except (OSError, yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # Its messages have several lines.
        reason = ' '.join(str(error).split())
        raise ConfigError(f'{path} is not a readable YAML file: {reason}.') from error
    if not isinstance(values, dict):
        raise ConfigError(f'{path} must hold names and values; it holds {values!r}.')
    return values
