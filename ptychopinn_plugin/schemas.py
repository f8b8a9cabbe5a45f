"""What settings and model files may hold, as JSON Schema made from the dataclasses themselves.

`python -m ptychopinn_plugin.schemas config` prints the schema of a `config.toml`, ``model``
that of the `manifest.json` in a model file. The limits of settings are written once, in `config`.
"""

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ArchiveError, PtychoPinnError
from ptychopinn_plugin.network import Layer, NetworkDescription

Schema = dict[str, Any]

DIALECT = 'https://json-schema.org/draft/2020-12/schema'

_TYPES = {bool: 'boolean', int: 'integer', float: 'number', str: 'string', Path: 'string'}

_LAYER_LIMITS = {
    'in_channels': (0, 65536),
    'out_channels': (0, 65536),
    'size': (1, 64),
    'start': (0, 65536),
    'stop': (0, 65536),
    'hidden_channels': (0, 65536),
}
_NETWORK_LIMITS = {
    'window_px': (1, 4096),
    'passes': (1, 100),
    'group_size': (1, 25),
    'iterations_before': (0, 10_000),
    'iterations_between': (0, 10_000),
}
_MAX_LAYERS = 10_000
_PLAIN: Schema = {'type': 'object'}


def config_schema() -> Schema:
    """Return the schema of a `config.toml`; every section and setting may be left out."""
    sections = _settings_of(Config)
    sections['properties'] |= {'backend': {'type': 'string'}, 'reading': _PLAIN}
    return {'$schema': DIALECT, 'title': 'Settings of ptychopinn-plugin (config.toml)', **sections}


def network_schema() -> Schema:
    """Return the schema of a network's description."""
    layer = _dataclass(Layer, _LAYER_LIMITS)
    network = _dataclass(NetworkDescription, _NETWORK_LIMITS)
    layers = {'type': 'array', 'items': layer, 'minItems': 2, 'maxItems': _MAX_LAYERS}
    network['properties'] |= {
        'architecture': {'enum': ['sweepnet', 'cnn', 'prior']},
        'layers': layers,
    }
    network['properties']['outputs']['minItems'] = 1
    return network


def manifest_schema() -> Schema:
    """Return the schema of the `manifest.json` in a model file of the newest format."""
    scale = {'type': 'number', 'exclusiveMinimum': 0, 'maximum': 1e6}
    photons = {'type': 'number', 'minimum': 0, 'maximum': 1e15}
    hashes = {'type': 'object', 'additionalProperties': {'type': 'string'}}
    return {
        '$schema': DIALECT,
        'title': 'manifest.json of a model file of ptychopinn-plugin',
        'type': 'object',
        'properties': {
            'format': {'enum': ['ptychopinn-plugin model']},
            'format_version': {'type': 'integer', 'minimum': 1, 'maximum': 2},
            'package_version': {'type': 'string'},
            'backend': {'type': 'string'},
            'network': network_schema(),
            'config': _settings_of(Config),
            'normalisation': _object(photons=photons, intensity_scale=scale),
            'data_summary': _PLAIN,
            'provenance': _PLAIN,
            'sha256': hashes,
        },
        'required': [
            'format',
            'format_version',
            'backend',
            'network',
            'config',
            'normalisation',
            'data_summary',
            'provenance',
            'sha256',
        ],
    }


def state_schema() -> Schema:
    """Return the schema of the plain values from which a training continues."""
    count = {'type': 'integer', 'minimum': 0, 'maximum': 2**31 - 1}
    number = {'type': 'number'}
    row = {'type': 'object', 'additionalProperties': number}
    return {
        'type': 'object',
        'properties': {
            'epoch': count,
            'best_loss': {'type': ['number', 'null']},
            'epochs_without_gain': count,
            'plateau_factor': {'type': 'number', 'minimum': 0, 'maximum': 1},
            'history': {'type': 'array', 'items': row, 'maxItems': 1_000_000},
            'first_scale': number,
            'seconds_before_epochs': number,
            'epoch_parts': {'type': 'integer', 'minimum': 1, 'maximum': 2**31 - 1},
            'seconds': number,
            'scaler': _PLAIN,
        },
        'required': ['epoch', 'history'],
    }


def provenance_schema() -> Schema:
    """Return the schema of what a `metrics.json` holds of its run, as far as it is repeated."""
    text, maybe = {'type': 'string'}, {'type': ['string', 'null']}
    file = _object(name=text, path=maybe, sha256=maybe)
    file['properties']['dataset'] = maybe
    settings = {'type': 'object', 'additionalProperties': _PLAIN}
    inputs = {'type': 'object', 'additionalProperties': file}
    return _object(
        backend=text,
        settings=settings,
        reading=_PLAIN,
        inputs=inputs,
        model={**file, 'type': ['object', 'null']},
    )


def validate(
    value: Any, schema: Schema, name: str, error: type[PtychoPinnError] = ArchiveError
) -> None:
    """Raise `error` where a plain value is not what a schema of this module allows.

    Parameters
    ----------
    value : plain value
        As `json.loads` and `tomllib.loads` return it.
    schema : dict
    name : str
        Of the value, for the message.
    error : type

    Raises
    ------
    PtychoPinnError
        What was expected, and what came.
    """
    if 'enum' in schema and value not in schema['enum']:
        raise error(f'{name} must be one of {", ".join(schema["enum"])}; got {_short(value)}.')
    expected = schema.get('type')
    if expected is not None and not any(_is(value, kind) for kind in _as_list(expected)):
        raise error(f'{name} must be {_words(schema)}; got {_short(value)}.')
    if isinstance(value, Mapping):
        _check_object(value, schema, name, error)
    elif isinstance(value, list):
        _check_list(value, schema, name, error)
    elif _is(value, 'number') and not _is_within(value, schema):
        raise error(f'{name} must be {_words(schema)}; got {_short(value)}.')


def _check_object(
    value: Mapping[str, Any], schema: Schema, name: str, error: type[PtychoPinnError]
) -> None:
    known, others = schema.get('properties', {}), schema.get('additionalProperties', True)
    for key in schema.get('required', ()):
        if key not in value:
            raise error(f'{name} must hold {key!r}; it holds {", ".join(value) or "nothing"}.')
    for key, item in value.items():
        if key in known:
            validate(item, known[key], f'{name}.{key}', error)
        elif others is False:
            raise error(f'{name} has no field {_short(key)}. Fields: {", ".join(sorted(known))}.')
        elif isinstance(others, dict):
            validate(item, others, f'{name}.{key}', error)


def _check_list(value: list[Any], schema: Schema, name: str, error: type[PtychoPinnError]) -> None:
    low, high = schema.get('minItems', 0), schema.get('maxItems', math.inf)
    if not low <= len(value) <= high:
        raise error(f'{name} must hold {low} to {high} values; it holds {len(value)}.')
    for number, item in enumerate(value):
        validate(item, schema.get('items', {}), f'{name}[{number}]', error)


def _is(value: Any, kind: str) -> bool:
    # For Python True is a whole number.
    if isinstance(value, bool):
        return kind == 'boolean'
    match kind:
        case 'integer':
            return isinstance(value, int)
        case 'number':
            # Python reads NaN and Infinity where JSON has neither.
            # The comparison is false for NaN too, and Python's whole numbers may be any size.
            return isinstance(value, int | float) and abs(value) <= sys.float_info.max
        case 'string':
            return isinstance(value, str)
        case 'array':
            return isinstance(value, list)
        case 'object':
            return isinstance(value, Mapping)
        case 'null':
            return value is None
    return False


def _is_within(value: float, schema: Schema) -> bool:
    low, high = schema.get('minimum', -math.inf), schema.get('maximum', math.inf)
    return bool(low <= value <= high and value > schema.get('exclusiveMinimum', -math.inf))


def _words(schema: Schema) -> str:
    names = {
        'integer': 'a whole number',
        'number': 'a finite number',
        'string': 'a text',
        'boolean': 'true or false',
        'array': 'a list',
        'object': 'an object with fields',
        'null': 'nothing',
    }
    text = ' or '.join(names[kind] for kind in _as_list(schema['type']))
    limits = (
        ('minimum', 'at least'),
        ('exclusiveMinimum', 'above'),
        ('maximum', 'at most'),
    )
    described = [f'{word} {schema[key]}' for key, word in limits if key in schema]
    return f'{text} {" and ".join(described)}'.strip()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _object(**properties: Schema) -> Schema:
    return {'type': 'object', 'properties': properties, 'required': list(properties)}


def _settings_of(settings: type) -> Schema:
    """Return the schema of a settings class, its sections and all."""
    hints = typing.get_type_hints(settings)
    properties = {}
    for item in dataclasses.fields(settings):
        if dataclasses.is_dataclass(hints[item.name]):
            properties[item.name] = _settings_of(hints[item.name])
            continue
        part = _of_hint(hints[item.name])
        for key in ('minimum', 'maximum'):
            if item.metadata.get(key) is not None:
                part[key] = item.metadata[key]
        part['description'] = item.metadata['help']
        # JSON has null for a setting that is not given; TOML has none and leaves it out.
        properties[item.name] = part
    return {'type': 'object', 'properties': properties, 'additionalProperties': False}


def _dataclass(kind: type, limits: Mapping[str, tuple[int, int]]) -> Schema:
    """Return the schema of a plain dataclass; fields without a default are required."""
    hints, properties, required = typing.get_type_hints(kind), {}, []
    for item in dataclasses.fields(kind):
        part = _of_hint(hints[item.name])
        if item.name in limits:
            part['minimum'], part['maximum'] = limits[item.name]
        properties[item.name] = part
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            required.append(item.name)
    return {
        'type': 'object',
        'properties': properties,
        'required': required,
        'additionalProperties': False,
    }


def _of_hint(hint: Any) -> Schema:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (_of_hint(part) for part in arguments if part is not type(None))
        return {**inner, 'type': [inner['type'], 'null']}
    if origin is Literal:
        return {'enum': list(arguments)}
    if origin is tuple:
        # What it holds is a dataclass, or plain.
        plain = arguments[0] in _TYPES
        items = {'type': _TYPES[arguments[0]]} if plain else _dataclass(arguments[0], {})
        return {'type': 'array', 'items': items}
    return {'type': _TYPES[hint]}


SCHEMAS = {'config': config_schema, 'model': manifest_schema}


def to_text(name: str) -> str:
    """Return a published schema as the text of its file."""
    return json.dumps(SCHEMAS[name](), indent=2) + '\n'


def main() -> int:
    """Print the schema that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in SCHEMAS:
        sys.stderr.write(f'usage: python -m ptychopinn_plugin.schemas {"|".join(SCHEMAS)}\n')
        return 2
    sys.stdout.write(to_text(sys.argv[1]))
    return 0


if __name__ == '__main__':
    sys.exit(main())
