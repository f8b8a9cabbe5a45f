"""Messages as values that JSON can hold, and back.

A class, a field or a type that was not expected is a `WorkerError`; nothing is unpickled.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ptychopinn_plugin.config import Validated
from ptychopinn_plugin.errors import PtychoPinnError, WorkerError
from ptychopinn_plugin.host.worker.messages import ToHost, ToWorker


def to_plain(message: ToWorker | ToHost) -> dict[str, Any]:
    """Return a message as values that JSON can write."""
    plain: dict[str, Any] = _to_plain(message)
    return plain


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Its own `from_dict` builds and checks it on the other side, without a kind.
        if isinstance(value, Validated):
            return dataclasses.asdict(value)
        parts = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return {'kind': type(value).__name__} | {n: _to_plain(v) for n, v in parts.items()}
    if isinstance(value, Mapping):
        return {name: _to_plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_to_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(plain: object, expected: Any) -> Any:
    """Build a message from what `to_plain` returned on the other side.

    Parameters
    ----------
    plain : object
        Anything that JSON can hold.
    expected : type
        `ToWorker` or `ToHost`.

    Raises
    ------
    WorkerError
        If it is none of the expected messages. The text names what is wrong with it.
    """
    try:
        return _from_plain(plain, expected, 'message')
    except PtychoPinnError as error:
        raise WorkerError(
            f'A message between the window and its worker was not understood: {error} '
            'Restart Ptychodus, in case the plugin was updated meanwhile.'
        ) from error


def _from_plain(value: Any, hint: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _one_of(value, arguments, name)
    if origin is tuple:
        parts = _checked(value, list, name)
        return tuple(_from_plain(part, arguments[0], name) for part in parts)
    if origin is Mapping:
        parts = _checked(value, dict, name)
        return {
            key: _from_plain(part, arguments[1], f'{name}.{key}') for key, part in parts.items()
        }
    if origin is Literal:
        if type(value) is not str or value not in arguments:
            words = ', '.join(map(str, arguments))
            raise WorkerError(f'{name} must be one of {words}; got {str(value)[:80]!r}.')
        return value
    if issubclass(hint, Validated):
        return hint.from_dict(_checked(value, dict, name))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass_from_plain(_checked(value, dict, name), hint, name)
    if hint is Path:
        return Path(_checked(value, str, name))
    if hint is float and type(value) is int:
        return float(value)
    return _checked(value, hint, name)


def _one_of(value: Any, hints: tuple[Any, ...], name: str) -> Any:
    """Build one of several classes, which 'kind' names, or what may be None."""
    if type(None) in hints:
        (hint,) = (part for part in hints if part is not type(None))
        return None if value is None else _from_plain(value, hint, name)
    known = {hint.__name__: hint for hint in hints}
    kind = _checked(value, dict, name).get('kind')
    if not isinstance(kind, str) or kind not in known:
        raise WorkerError(f'{name} must be one of {", ".join(known)}; got {kind!r}.')
    return _dataclass_from_plain(value, known[kind], name)


def _dataclass_from_plain(value: dict[str, Any], owner: Any, name: str) -> Any:
    hints = typing.get_type_hints(owner)
    names = ['kind', *(item.name for item in dataclasses.fields(owner))]
    if sorted(value) != sorted(names):
        raise WorkerError(
            f'{owner.__name__} has the fields {", ".join(names)}; got {", ".join(sorted(value))}.'
        )
    return owner(**{n: _from_plain(value[n], hints[n], f'{name}.{n}') for n in names[1:]})


def _checked(value: Any, kind: type, name: str) -> Any:
    # isinstance would take True for a whole number.
    if type(value) is not kind:
        raise WorkerError(f'{name} must be of type {kind.__name__}; got {str(value)[:80]!r}.')
    return value
