"""From PtychoPINN's settings to ours and back, field by field."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.legacy.fields import FIELDS, OWNERS, RUN_TIME, Field, Owner, fields_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LegacySettings:
    """What PtychoPINN's settings say, in our terms.

    Attributes
    ----------
    config : Config
    train_data, test_data, model, output : Path, optional
        What are fields there and arguments here.
    backend : str, optional
    n_subsample, subsample_seed : int, optional
        Reconstruct from so many patterns.
    notes : tuple of str
        What is not honoured, a sentence each, as it was logged.
    """

    config: Config = dataclasses.field(default_factory=Config)
    train_data: Path | None = None
    test_data: Path | None = None
    model: Path | None = None
    output: Path | None = None
    backend: str | None = None
    n_subsample: int | None = None
    subsample_seed: int | None = None
    notes: tuple[str, ...] = ()


def from_legacy(
    settings: object, *, base: Config | None = None, owner: Owner | None = None
) -> LegacySettings:
    """Translate PtychoPINN's settings.

    Parameters
    ----------
    settings : object, mapping or path
        A `ModelConfig`, `TrainingConfig` or `InferenceConfig` of PtychoPINN (told by its fields,
        imported from nowhere), a mapping of their fields (`model` nested or not) or of the flat
        dotted names, or the path of a YAML file of one.
    base : Config, optional
        Where the settings come from that theirs do not name; else PtychoPINN's own defaults, and
        ours for what it has no name for.
    owner : str, optional
        Whose fields these are; else told by what is there.

    Returns
    -------
    LegacySettings

    Raises
    ------
    ConfigError
        If a field asks for what is not done here and would change the result, or has a value that
        it cannot have. What can be left out is logged as a warning that names the field.
    """
    values = _plain(settings)
    owner = owner or _owner_of(settings, values)
    known = {**fields_of('ModelConfig'), **fields_of(owner)}
    by_flat = {item.flat_name: item for item in known.values()}
    sections = (base or _their_defaults()).to_dict()
    run: dict[str, Any] = {}
    notes: list[str] = []
    ranks = {item: rank for rank, item in enumerate(FIELDS)}
    taken = [(known.get(name) or by_flat.get(name), value) for name, value in values.items()]
    unknown = [name for name, (item, _) in zip(values, taken, strict=True) if item is None]
    # In the order of the table, so that of two names of one setting the more special one wins.
    pairs = [(item, value) for item, value in taken if item is not None]
    for item, value in sorted(pairs, key=lambda pair: ranks[pair[0]]):
        if item.ours and value is not None:
            _put(sections, run, item, value)
        elif not item.ours and not item.is_neutral(value):
            notes.append(_dishonoured(item, value))
    if values.get('n_images') is not None:
        notes.append('n_images is the old name of n_groups; write n_groups.')
    if unknown:
        notes.append(f'Fields that are not known here have no effect: {", ".join(unknown)}.')
    for note in notes:
        logger.warning('%s', note)
    return LegacySettings(Config.from_dict(sections), notes=tuple(notes), **run)


def to_legacy(config: Config, owner: Owner, **run: Any) -> dict[str, Any]:
    """Return the fields of one of PtychoPINN's classes, `model` nested.

    Parameters
    ----------
    config : Config
    owner : str
        'ModelConfig', 'TrainingConfig' or 'InferenceConfig'.
    **run
        Attributes of `LegacySettings` that are no settings here (`train_data`, `output` ...), and
        fields of theirs that have no counterpart here (`nphotons` ...).
    """
    values = {item.name: _their_value(item, config, run) for item in fields_of(owner).values()}
    # Their older names of what stands under a newer one.
    for name in ('n_images', 'neighbor_pool_size'):
        if name in values:
            values[name] = None
    if owner == 'ModelConfig':
        return values
    return {'model': to_legacy(config, 'ModelConfig'), **values}


def to_legacy_dict(config: object, **run: Any) -> dict[str, Any]:
    """Return PtychoPINN's flat dictionary: dotted names, paths as text, no None.

    Parameters
    ----------
    config : Config, LegacySettings, or settings of PtychoPINN as in `from_legacy`
    **run
        As in `to_legacy`.

    Returns
    -------
    dict
        Run-time choices (learning rate, optimizer ...) are left out, as PtychoPINN leaves them.
    """
    if isinstance(config, LegacySettings):
        names = ('train_data', 'test_data', 'model', 'output', 'backend')
        run = {**{name: getattr(config, name) for name in names}, **run}
        config = config.config
    if isinstance(config, Config):
        owner: Owner = 'TrainingConfig'
        values = _flattened(to_legacy(config, owner, **run))
    else:
        values = _plain(config)
        owner = _owner_of(config, values)
    flat: dict[str, Any] = {}
    known = {**fields_of('ModelConfig'), **fields_of(owner)}
    for name, value in values.items():
        if value is None or name in RUN_TIME:
            continue
        item = known.get(name)
        plain = str(value) if isinstance(value, PurePath) else value
        flat[item.flat_name if item else name] = plain
    return flat


def update_legacy_dict(target: MutableMapping[str, Any], config: object, **run: Any) -> None:
    """Fill PtychoPINN's `params.cfg`, before any of its modules reads it.

    Parameters
    ----------
    target : mutable mapping
        Changed in place; what `config` does not say stays as it was.
    config, **run
        As in `to_legacy_dict`.
    """
    target.update(to_legacy_dict(config, **run))


def field_table() -> str:
    """Return the table of all fields in Markdown, for `docs/migrating.md`."""
    lines = ['| theirs | flat name | default | here | what it does |', '|---|---|---|---|---|']
    for item in FIELDS:
        default = 'none' if item.default is None else f'{item.default}'
        ours = f'`{item.ours}`' if item.ours else _POLICIES[item.policy]
        lines.append(
            f'| `{item.owner}.{item.name}` | `{item.flat_name}` | {default} | {ours} | '
            f'{item.effect} |'
        )
    return '\n'.join(lines)


def _their_defaults() -> Config:
    """Return our settings with the defaults that PtychoPINN gives what both have."""
    sections = Config().to_dict()
    for item in FIELDS:
        if item.default is not None and item.ours and not item.ours.startswith('run.'):
            _put(sections, {}, item, item.default)
    return Config.from_dict(sections)


_POLICIES = {'taken': 'none', 'warn': 'none; warns', 'raise': 'none; an error'}


def _put(sections: dict[str, dict[str, Any]], run: dict[str, Any], item: Field, value: Any) -> None:
    section, _, name = item.ours.partition('.')
    taken = item.take(value)
    if section != 'run':
        sections[section][name] = taken
    elif name in ('train_data', 'test_data', 'model', 'output'):
        run[name] = Path(taken)
    else:
        run[name] = taken


def _dishonoured(item: Field, value: Any) -> str:
    text = f'{item.owner}.{item.name} = {value!r} is not honoured: {item.effect}.'
    if item.policy == 'raise':
        neutral = item.default if item.neutral is ... else item.neutral
        raise ConfigError(f'{text} Set it to {neutral!r}, or stay with PtychoPINN for this run.')
    return text


def _their_value(item: Field, config: Config, run: Mapping[str, Any]) -> Any:
    section, _, name = item.ours.partition('.')
    if item.name in run:
        return run[item.name]
    if not item.ours:
        return item.default
    if section == 'run':
        return run.get(name)
    value = getattr(getattr(config, section), name)
    if item.name == 'architecture' and value != 'cnn':
        logger.warning(
            'The architecture %s is not one of PtychoPINN; its settings get cnn instead.', value
        )
        return 'cnn'
    return None if value is None else item.give(value)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the fields of a YAML file in one level, as they are there."""
    return _flattened(_read_yaml(path))


def _plain(settings: object) -> dict[str, Any]:
    """Return the fields of settings in one level, without importing what they came from."""
    if isinstance(settings, str | PurePath):
        return _flattened(_read_yaml(Path(settings)))
    if isinstance(settings, Mapping):
        return _flattened(settings)
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        names = [item.name for item in dataclasses.fields(settings)]
        return _flattened({name: getattr(settings, name) for name in names})
    known = {item.name for item in FIELDS} | {'model'}
    found = {name: getattr(settings, name) for name in sorted(known) if hasattr(settings, name)}
    if not found:
        raise ConfigError(
            f'Settings of PtychoPINN are expected: {", ".join(OWNERS)}, a mapping of their fields '
            f'or the path of a YAML file; got a {type(settings).__name__}.'
        )
    return _flattened(found)


def _flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name == 'model' and value is not None:
            flat.update(_plain(value))
        else:
            flat[str(name)] = value
    return flat


def _owner_of(settings: object, values: Mapping[str, Any]) -> Owner:
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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{path} is not a readable YAML file: {error}.') from error
    if not isinstance(values, dict):
        raise ConfigError(f'{path} must hold names and values; it holds {values!r}.')
    return values
