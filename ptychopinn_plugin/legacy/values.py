"""The names that `pickles` accepts, and the functions of this package that stand for them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray
from ptychopinn_plugin.legacy.storages import (
    STORAGE_CODES,
    StorageType,
    checked_shape,
    rebuild_tensor,
)

MAX_ARRAY_BYTES = 1 << 30
"""A probe, the largest array among the settings, takes far less."""

MAX_PATH = 4096
"""Linux allows no longer path."""

MAX_DEVICE = 64
"""The name of a device, such as cuda:0, is short."""

MAX_CODE = 8
"""The code of a data type has at most this number of characters."""

MAX_KEYS = 50_000
"""A dictionary or set may have this number of keys."""

MAX_INTEGER_KEY = (1 << 61) - 2
"""The hash of a larger number equals that of a smaller one, so any number of keys could collide."""

MAX_TUPLE_KEY = 16
"""A key that is a tuple may have this number of parts, which are hashed anew each time."""

CONFIGURATION_CLASSES = (
    'DataConfig',
    'DatagenConfig',
    'ExecutionConfig',
    'InferenceConfig',
    'ModelConfig',
    'PyTorchExecutionConfig',
    'TrainingConfig',
)
"""Instances of these are read as `Record`, from any module of the packages below."""

CONFIGURATION_PACKAGES = ('ptycho', 'ptycho_torch')

_TORCH_TYPES = [
    'float32',
    'float64',
    'float16',
    'bfloat16',
    'int64',
    'int32',
    'int16',
    'int8',
    'uint8',
    'bool',
    'complex64',
    'complex128',
]


@dataclass(frozen=True)
class Global:
    """A known name that can be called; `make` stands for it."""

    name: str
    make: Callable[..., Any]


class Record(dict[str, Any]):
    """The fields of an instance of a configuration class."""

    type_name: str = ''

    def build(self, state: Any) -> None:
        """Take the fields, as a dictionary or as (dictionary, slots).

        Raises
        ------
        ValueError
            If the state is neither.
        """
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if part is None:
                continue
            if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
                raise ValueError(f'fields of a {self.type_name} that are no dictionary')
            self.update(part)


@dataclass
class Unbuilt(ABC):
    """A value that a later instruction completes; `memo_keys` is where it is remembered."""

    memo_keys: list[int] = field(default_factory=list)

    @abstractmethod
    def build(self, state: Any) -> Any:
        """Return the complete value."""


@dataclass
class DataType(Unbuilt):
    """A NumPy type of numbers, texts excepted: 'f8', 'c8' ..."""

    code: str = ''
    order: str = '<'

    def build(self, state: Any) -> 'DataType':
        """Take the byte order; fields, subarrays and metadata are refused.

        Raises
        ------
        ValueError
            If NumPy writes no such state for a plain type.
        """
        if not isinstance(state, tuple) or len(state) < 8:
            raise ValueError('the state of a data type')
        if not isinstance(state[1], str) or state[1] not in ('<', '>', '|', '='):
            raise ValueError('an unknown byte order')
        if any(part is not None for part in state[2:5]):
            raise ValueError('a data type with fields')
        self.order = state[1]
        return self

    def numpy(self) -> np.dtype[Any]:
        """Return the type; only booleans, whole, real and complex numbers are allowed.

        Raises
        ------
        ValueError
            If it is another type.
        """
        kind = np.dtype(self.order.replace('|', '=') + self.code)
        if kind.kind not in 'biufc' or kind.hasobject:
            raise ValueError(f'an array of {kind}')
        return kind


@dataclass
class Array(Unbuilt):
    """An array whose numbers come with its state."""

    def build(self, state: Any) -> RealArray:
        """Return the array of (version, shape, type, is Fortran's order, bytes).

        Raises
        ------
        ValueError
            If NumPy writes no such state, or the elements are objects.
        """
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError('the state of an array')
        _, shape, kind, is_fortran, data = state
        if not isinstance(kind, DataType) or not isinstance(data, bytes):
            raise ValueError('an array of objects')
        return _array_of(shape, kind.numpy(), bool(is_fortran), data)


def _array_of(shape: Any, kind: np.dtype[Any], is_fortran: bool, data: bytes) -> RealArray:
    sides = checked_shape(shape)
    count = math.prod(sides)
    if count * kind.itemsize != len(data) or len(data) > MAX_ARRAY_BYTES:
        raise ValueError(f'an array of shape {sides} and type {kind} in {len(data)} bytes')
    order: Any = 'F' if is_fortran else 'C'
    values = np.frombuffer(data, dtype=kind).reshape(sides, order=order)
    # What `frombuffer` returns is read-only and keeps the bytes of the whole pickle.
    return np.array(values.astype(kind.newbyteorder('='), copy=False))


def _new_array(*_: Any) -> Array:
    return Array()


def _dill_array(function: Any, _: Any, state: Any, attributes: Any = None) -> RealArray:
    # dill wraps an array's instructions in a function of its own: (rebuild, arguments, state).
    if not isinstance(function, Global) or function.make is not _new_array or attributes:
        raise ValueError('an array that dill wraps in an unknown way')
    return Array().build(state)


def _data_type(code: Any, *_: Any) -> DataType:
    if not isinstance(code, str) or len(code) > MAX_CODE:
        raise ValueError('a data type without a code')
    kind = DataType(code=code)
    # A type that is not allowed is refused where it is named, and not where it is used.
    kind.numpy()
    return kind


def _scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, DataType) or not isinstance(data, bytes):
        raise ValueError('a number of unknown type')
    return _array_of((), kind.numpy(), False, data).item()


def _first(value: Any, *_: Any) -> Any:
    return value


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    # Protocol 2 writes bytes like this.
    if not isinstance(text, str) or encoding != 'latin1':
        raise ValueError('bytes in an unknown encoding')
    return text.encode('latin1')


def _mapping(*items: Any) -> dict[Any, Any]:
    if items:
        raise ValueError('a dictionary made from arguments')
    return {}


def _members(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple):
            raise ValueError(f'a {kind.__name__} of something else')
        if kind in (set, frozenset):
            check_keys(items)
        return kind(items)

    return make


def _path(*parts: Any) -> str:
    texts = [part for part in parts if isinstance(part, str)]
    if sum(map(len, texts)) > MAX_PATH:
        raise ValueError(f'a path of more than {MAX_PATH} characters')
    return '/'.join(texts).replace('//', '/')


def _device(*parts: Any) -> str:
    text = ':'.join(str(part) for part in parts if isinstance(part, str | int))
    if len(text) > MAX_DEVICE:
        raise ValueError(f'a device of more than {MAX_DEVICE} characters')
    return text


def _complex(real: Any, imaginary: Any = 0.0) -> complex:
    if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
        raise ValueError('a complex number made from something else')
    return complex(float(real), float(imaginary))


def _reconstructed(kind: Any, *_: Any) -> Any:
    # Protocols 0 and 1 make an instance like this: (class, object, None).
    if not isinstance(kind, Global):
        raise ValueError('an instance of an unknown class')
    return kind.make()


def check_keys(keys: Sequence[Any], before: int = 0) -> None:
    """Refuse keys of a dictionary or set whose hashing or comparing can take forever.

    Parameters
    ----------
    keys : sequence
    before : int
        How many keys there are already.

    Raises
    ------
    ValueError
        If there are too many, or others than texts, small numbers and short tuples of texts: whose
        hashes can be made to collide, or whose parts are many.
    """
    if len(keys) + before > MAX_KEYS:
        raise ValueError(f'more than {MAX_KEYS} keys in a dictionary or set')
    for key in keys:
        if isinstance(key, tuple):
            is_good = len(key) <= MAX_TUPLE_KEY and all(map(_is_text, key))
        elif isinstance(key, int):
            is_good = -MAX_INTEGER_KEY <= key <= MAX_INTEGER_KEY
        else:
            is_good = _is_text(key) or isinstance(key, float)
        if not is_good:
            raise ValueError(
                f'a key of type {type(key).__name__}; texts and numbers below 2**61 are needed'
            )


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes)


def record_class(module: str, name: str) -> Global | None:
    """Return what makes records of a configuration class; None for any other name."""
    if module.split('.')[0] not in CONFIGURATION_PACKAGES or name not in CONFIGURATION_CLASSES:
        return None

    def make(*arguments: Any) -> Record:
        if arguments:
            raise ValueError(f'a {name} made from arguments')
        record = Record()
        record.type_name = name
        return record

    return Global(f'{module}.{name}', make)


def _table() -> dict[tuple[str, str], Any]:
    made: dict[str, Callable[..., Any]] = {
        'collections OrderedDict': _mapping,
        '_codecs encode': _encode,
        'builtins object': lambda: None,
        'torch Size': _members(tuple),
        'torch device': _device,
        'torch._utils _rebuild_parameter': _first,
        'torch._utils _rebuild_tensor_v2': rebuild_tensor,
        'tensorflow.python.framework.ops convert_to_tensor': _first,
        'tensorflow.python.framework.tensor_conversion_registry convert_to_tensor': _first,
        'dill._dill _create_array': _dill_array,
        'numpy ndarray': _refuse,
        'numpy dtype': _data_type,
    }
    for package in ('numpy.core.multiarray', 'numpy._core.multiarray', 'numpy'):
        made[f'{package} _reconstruct'] = _new_array
        made[f'{package} scalar'] = _scalar
    for package in ('builtins', '__builtin__'):
        for kind in (set, frozenset, list, tuple):
            made[f'{package} {kind.__name__}'] = _members(kind)
        made[f'{package} dict'] = _mapping
        made[f'{package} bytes'] = _no_bytes
        made[f'{package} complex'] = _complex
    for package in ('pathlib', 'pathlib._local'):
        for name in ('PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath', 'Path'):
            made[f'{package} {name}'] = _path
    for package in (
        'lightning.fabric.utilities.data',
        'lightning_fabric.utilities.data',
        'lightning.pytorch.utilities.parsing',
        'pytorch_lightning.utilities.parsing',
    ):
        made[f'{package} AttributeDict'] = _mapping
    for package in ('copyreg', 'copy_reg'):
        made[f'{package} _reconstructor'] = _reconstructed
    known: dict[tuple[str, str], Any] = {}
    for words, make in made.items():
        module, name = words.split()
        known[module, name] = Global(f'{module}.{name}', make)
    known |= {('torch', name): StorageType(code) for name, code in STORAGE_CODES.items()}
    known |= {('torch', name): f'torch.{name}' for name in _TORCH_TYPES}
    return known


def _no_bytes() -> bytes:
    # Protocol 2 writes bytes of length 0 like this.
    return b''


def _refuse(*_: Any) -> Any:
    raise ValueError('an array made from arguments')


GLOBALS = _table()
