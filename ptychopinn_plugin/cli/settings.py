"""From defaults, a file and options to the settings that are in force."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomli_w

from ptychopinn_plugin.cli.options import Given, ScanReading
from ptychopinn_plugin.config import COMMAND_LINE, Config, read_toml
from ptychopinn_plugin.errors import ConfigError

if TYPE_CHECKING:
    from ptychopinn_plugin.model_file import Model

_TRUE, _FALSE = ('true', 'on', 'yes', '1'), ('false', 'off', 'no', '0')


def assemble_config(
    given: Given,
    *,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    base: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """Put settings together; what comes later wins.

    Defaults, `base`, `file` (``--config``), `assignments` (``--set``), `given` (named options).

    Parameters
    ----------
    given : dict of dict
        What the user gave, by section; sections that `Config` does not have are left alone.
    file : Path, optional
        A TOML file with some or all settings.
    assignments : sequence of str
        ``section.name=value``.
    base : mapping of mapping, optional
        The settings of a model.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        If a setting is unknown or has a value that it cannot have.
    """
    values: dict[str, dict[str, Any]] = {
        section: dict(part) for section, part in (base or {}).items()
    }
    if file is not None:
        _merge(values, _read_file(file))
    for text in assignments:
        section, name, value = parse_assignment(text)
        _merge(values, {section: {name: value}})
    sections = typing.get_type_hints(Config)
    _merge(values, {name: part for name, part in given.items() if name in sections})
    return Config.from_dict(values)


def add_from_file(given: Given, file: Path) -> tuple[Given, str | None]:
    """Complete what the user gave by how a `config.toml` reads scans; return its backend as well.

    Raises
    ------
    ConfigError
        If the file is no TOML, or its section [reading] or its backend is not what it must be.
    """
    Config.from_toml(file)
    values = read_toml(file)
    reading, named = values.get('reading', {}), values.get('backend')
    if not isinstance(reading, dict):
        raise ConfigError(f'{file}: [reading] must be a section of settings; got {reading!r}.')
    if not isinstance(named, str | None):
        raise ConfigError(f'{file}: backend must be the name of one; got {named!r}.')
    ScanReading.from_dict(reading)
    return {**given, 'reading': {**reading, **given['reading']}}, named


def run_to_toml(model: 'Model', reading: Mapping[str, Any]) -> str:
    """Return the `config.toml` of a training, which `--config` repeats from any folder."""
    read = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(ScanReading.from_dict(dict(reading))).items()
        if name in reading
    }
    return tomli_w.dumps({'backend': model.backend, **model.config.to_dict(), 'reading': read})


def parse_assignment(text: str) -> tuple[str, str, Any]:
    """Return section, name and value of a ``section.name=value``.

    Raises
    ------
    ConfigError
        If it is not one, or names no setting.
    """
    path, equals, raw = text.partition('=')
    section, dot, name = path.strip().partition('.')
    if not equals or not dot:
        raise ConfigError(
            f'--set expects section.name=value, such as training.epochs=20; got {text!r}.'
        )
    name = name.replace('-', '_')
    # An unknown section or name is refused here, with the known ones in the message.
    Config.from_dict({section: {}})
    settings = typing.get_type_hints(Config)[section]
    hints = typing.get_type_hints(settings)
    if name not in hints:
        settings.from_dict({name: None})
    return section, name, _parse_value(raw.strip(), hints[name], f'--set {section}.{name}')


def refuse_changes(old: Config, new: Config, allowed: Iterable[str], advice: str) -> None:
    """Raise where a setting differs that must stay as it was.

    Parameters
    ----------
    old, new : Config
    allowed : iterable of str
        ``section.name`` or ``section`` of what may differ.
    advice : str
        What is being done and what to do instead.

    Raises
    ------
    ConfigError
        Naming the first setting that differs.
    """
    free = set(allowed)
    before, after = old.to_dict(), new.to_dict()
    for section in before:
        for name in sorted({*before[section], *after[section]}):
            was, now = before[section].get(name), after[section].get(name)
            if was != now and not free & {section, f'{section}.{name}'}:
                raise ConfigError(
                    f'{section}.{name} was {was!r} when the model was trained; got {now!r}. '
                    f'{advice}'
                )


def _read_file(path: Path) -> dict[str, dict[str, Any]]:
    Config.from_toml(path)
    # These are only the settings that the file holds: the others keep a model's values.
    values = read_toml(path)
    return {section: part for section, part in values.items() if section not in COMMAND_LINE}


def _merge(
    values: dict[str, dict[str, Any]], more: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    for section, part in more.items():
        values.setdefault(section, {}).update(part)
    return values


def _parse_value(raw: str, hint: Any, name: str) -> Any:
    """Read a value as what the setting is: 'none' is a word for one setting, nothing for others."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if raw.lower() in ('', 'none'):
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is str or typing.get_origin(hint) is Literal:
        return raw.strip('\'"')
    if hint is bool:
        if raw.lower() not in (*_TRUE, *_FALSE):
            raise ConfigError(f'{name} must be true or false; got {raw!r}.')
        return raw.lower() in _TRUE
    try:
        return hint(raw)
    except ValueError:
        kind = 'a whole number' if hint is int else 'a number'
        raise ConfigError(f'{name} must be {kind}; got {raw!r}.') from None
