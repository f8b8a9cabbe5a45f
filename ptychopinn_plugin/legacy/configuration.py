"""From PtychoPINN's settings to ours and back, field by field."""

import dataclasses
import logging
import typing
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.legacy.fields import FIELDS, RUN_TIME, SPECIAL, Field, Owner, fields_of
from ptychopinn_plugin.legacy.plain_settings import owner_of, plain_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LegacySettings:
    """PtychoPINN's settings in our terms.

    Attributes
    ----------
    config : Config
    train_data, test_data, model_path, output : Path, optional
        Files and folders, which are fields there and arguments here.
    backend : str, optional
    n_subsample, subsample_seed : int, optional
        The number of patterns to reconstruct from, and the seed that draws them.
    notes : tuple of str
        Fields that are not honoured, a sentence each, as they were logged.
    owner : str
        Which of their classes it came from.
    given : mapping of str to value, optional
        The values given there, under their names, those without a counterpart here included. On
        the way back they stand, as long as the setting here has the same value.
    """

    config: Config = dataclasses.field(default_factory=Config)
    train_data: Path | None = None
    test_data: Path | None = None
    model_path: Path | None = None
    output: Path | None = None
    backend: str | None = None
    n_subsample: int | None = None
    subsample_seed: int | None = None
    notes: tuple[str, ...] = ()
    owner: Owner = 'TrainingConfig'
    given: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)


def from_legacy(
    settings: object, *, base: Config | None = None, owner: Owner | None = None
) -> LegacySettings:
    """Translate PtychoPINN's settings.

    Parameters
    ----------
    settings : object, mapping or path
        A `ModelConfig`, `TrainingConfig` or `InferenceConfig` of PtychoPINN (known by its fields,
        imported from nowhere), a mapping of their fields (`model` nested or not) or of the flat
        dotted names, or the path of a YAML file of one.
    base : Config, optional
        Where the settings come from that theirs do not name; else PtychoPINN's own defaults, and
        ours for what it has no name for.
    owner : str, optional
        Whose fields these are; where not given, the names of the fields decide.

    Returns
    -------
    LegacySettings

    Raises
    ------
    ConfigError
        If a field requires what is not done here and would change the result, or has a value that
        it cannot have. What can be left out is logged as a warning that names the field.
    """
    values = plain_settings(settings)
    owner = owner or owner_of(settings, values)
    translated = _translated(_by_name(values, owner), owner, base)
    for note in translated.notes:
        logger.warning('%s', note)
    return translated


def translate_known(values: Mapping[str, Any]) -> Config:
    """Translate those settings of a trained network that have a counterpart here.

    How a network was trained does not keep it from being read: a setting of training with a value
    that is not possible here keeps its default.

    Parameters
    ----------
    values : mapping of str to value
        Under the names of fields or their flat names.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        If a setting of the network itself has a value that it cannot have.
    """
    sections = _their_defaults().to_dict()
    for name, item in _known('TrainingConfig').items():
        value = values.get(name, values.get(item.flat_name))
        is_setting = item.ours and not item.ours.startswith('run.')
        if not is_setting or not isinstance(value, str | int | float):
            continue
        try:
            _put(sections, {}, item, value)
        except ConfigError:
            # How a training went that is over keeps no network from being read.
            if item.owner == 'ModelConfig':
                raise
    return Config.from_dict(sections)


def _translated(given: dict[str, Any], owner: Owner, base: Config | None) -> LegacySettings:
    known = _known(owner)
    sections = (base or _their_defaults()).to_dict()
    run: dict[str, Any] = {}
    notes: list[str] = []
    # The order is that of the table: of two names of one setting the more special one wins.
    for name, item in known.items():
        value = given.get(name)
        if item.ours and value is not None:
            _put(sections, run, item, value)
        elif not item.ours and item.policy != 'taken' and not item.is_neutral(value):
            notes.append(_dishonoured(item, value))
    unknown = [name for name in given if name not in known]
    if unknown:
        notes.append(f'Fields that are not known here have no effect: {", ".join(unknown)}.')
    return LegacySettings(
        Config.from_dict(sections), notes=tuple(notes), owner=owner, given=given, **run
    )


def to_legacy(
    config: Config | LegacySettings, owner: Owner | None = None, **run: Any
) -> dict[str, Any]:
    """Return the fields of one of PtychoPINN's classes, `model` nested.

    Parameters
    ----------
    config : Config or LegacySettings
    owner : str, optional
        'ModelConfig', 'TrainingConfig' or 'InferenceConfig'; where not given, the class that
        `LegacySettings` came from, and else 'TrainingConfig'.
    **run
        Attributes of `LegacySettings` that are no settings here (`train_data`, `output` ...), and
        fields of theirs (`nphotons` ...). They win.

    Raises
    ------
    ConfigError
        If a keyword is neither.
    """
    settings = config if isinstance(config, LegacySettings) else LegacySettings(config)
    owner = owner or settings.owner
    values = {**_fields_back(settings, owner), **_keywords(owner, run)}
    if owner == 'ModelConfig':
        return values
    of_model = {name: values.pop(name) for name in fields_of('ModelConfig')}
    return {'model': of_model, **values}


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
        Fields that `config` does not hold have PtychoPINN's defaults. Run-time choices (learning
        rate, optimizer ...) are left out, as PtychoPINN leaves them.

    Raises
    ------
    ConfigError
        If a keyword is neither a field of PtychoPINN nor an attribute of `LegacySettings`.
    """
    chosen, rest = _flat_dicts(config, run)
    return {**rest, **chosen}


def update_legacy_dict(target: MutableMapping[str, Any], config: object, **run: Any) -> None:
    """Fill PtychoPINN's `params.cfg`, before any of its modules reads it.

    Parameters
    ----------
    target : mutable mapping
        Changed in place. What `config` does not hold, such as a field without a counterpart here,
        stays as it was; where it is missing, it gets PtychoPINN's default.
    config, **run
        As in `to_legacy_dict`.
    """
    chosen, rest = _flat_dicts(config, run)
    for name, value in rest.items():
        target.setdefault(name, value)
    target.update(chosen)


def _flat_dicts(config: object, run: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return settings under flat names, and PtychoPINN's defaults for the rest."""
    settings = LegacySettings(config) if isinstance(config, Config) else config
    if isinstance(settings, LegacySettings):
        owner = settings.owner
        values = _fields_back(settings, owner)
        ours = {name for name, item in _known(owner).items() if item.ours}
        names = ours | set(settings.given or {})
    else:
        found = plain_settings(settings)
        owner = owner_of(settings, found)
        given = _by_name(found, owner)
        values, names = {**_defaults(owner), **given}, set(given)
    more = _keywords(owner, run)
    chosen: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    known = _known(owner)
    for name, value in {**values, **more}.items():
        if value is None or name in RUN_TIME:
            continue
        item = known.get(name)
        part = chosen if name in names or name in more else rest
        plain = str(value) if isinstance(value, PurePath) else value
        part[item.flat_name if item else name] = plain
    return chosen, rest


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


def _known(owner: Owner) -> dict[str, Field]:
    return {**fields_of('ModelConfig'), **fields_of(owner)}


def _defaults(owner: Owner) -> dict[str, Any]:
    return {name: item.default for name, item in _known(owner).items()}


def _by_name(values: Mapping[str, Any], owner: Owner) -> dict[str, Any]:
    """Return values under the names of fields, where they have a flat name."""
    names = {item.flat_name: name for name, item in _known(owner).items()}
    return {names.get(name, name): value for name, value in values.items()}


_LIMITS = {'run.n_subsample': 'training.n_subsample', 'run.subsample_seed': 'training.seed'}
"""These arguments can have the values that a setting can have."""


def _put(sections: dict[str, dict[str, Any]], run: dict[str, Any], item: Field, value: Any) -> None:
    section, _, name = item.ours.partition('.')
    taken = item.take(value)
    if item.kind is Path:
        if not isinstance(value, str | PurePath):
            raise ConfigError(f'{item.name} must be a path; got {value!r}.')
        taken = Path(value)
    elif item.ours != 'run.backend':
        _check(item, value, taken)
    (run if section == 'run' else sections[section])[name] = taken


def _check(item: Field, value: Any, taken: Any) -> None:
    """Raise an error under their name, and with their choices, for a value that cannot be."""
    section, _, name = _LIMITS.get(item.ours, item.ours).partition('.')
    kind = type(getattr(Config(), section))
    try:
        kind.from_dict({name: taken})
    except ConfigError as error:
        reason = str(error).removeprefix(f'{kind.__name__}.{name} ')
        choices = typing.get_args(typing.get_type_hints(kind)[name])
        if choices and isinstance(choices[0], str):
            theirs = dict.fromkeys(str(item.give(choice)) for choice in choices)
            reason = f'must be one of {", ".join(theirs)}; got {value!r}.'
        raise ConfigError(f'{item.name} ({item.ours} here) {reason}') from None


def _dishonoured(item: Field, value: Any) -> str:
    text = f'{item.owner}.{item.name} = {value!r} is not honoured: {item.effect}.'
    if item.policy == 'raise':
        neutral = item.default if item.neutral is ... else item.neutral
        raise ConfigError(f'{text} Set it to {neutral!r}, or stay with PtychoPINN for this run.')
    return text


def _fields_back(settings: LegacySettings, owner: Owner) -> dict[str, Any]:
    """Return their fields in one level: as they were given, where ours still agree."""
    given = settings.given or {}
    if owner != settings.owner:
        given = {name: given[name] for name in fields_of('ModelConfig') if name in given}
    values = {**_defaults(owner), **given}
    # A field stands as it was written while our setting still means the same: theirs may have
    # several spellings of one value.
    before = _translated(values, owner, None)
    for name, item in _known(owner).items():
        if not item.ours:
            continue
        as_given = settings.given is not None and _ours(settings, item) == _ours(before, item)
        # Our network has no counterpart there, so the name that was given does not stand.
        if as_given and name != 'architecture':
            continue
        # Of two names of one setting, this is the plain one.
        values[name] = None if name in SPECIAL else _their_value(settings, item)
    return values


def _ours(settings: LegacySettings, item: Field) -> Any:
    section, _, name = item.ours.partition('.')
    return getattr(settings if section == 'run' else getattr(settings.config, section), name)


def _their_value(settings: LegacySettings, item: Field) -> Any:
    value = _ours(settings, item)
    if item.name == 'architecture' and value != 'cnn':
        logger.warning(
            'The architecture %s is not one of PtychoPINN; its settings get cnn instead.', value
        )
        return 'cnn'
    return None if value is None else item.give(value)


def _keywords(owner: Owner, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments under the names of their fields."""
    known = _known(owner)
    names = {name: name for name in known}
    for name, item in known.items():
        section, _, ours = item.ours.partition('.')
        if section == 'run':
            names[ours] = name
    for name in run:
        if name not in names:
            raise ConfigError(
                f'{name!r} is no field of {owner}, nor an argument here that stands for one. '
                f'Known: {", ".join(sorted(names))}.'
            )
    return {names[name]: value for name, value in run.items()}
