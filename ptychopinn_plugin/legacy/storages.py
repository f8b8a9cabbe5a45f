"""Torch's tensors without torch: raw numbers, and the view of them that a pickle describes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.arrays import RealArray

STORAGE_CODES = {
    'FloatStorage': 'f4',
    'DoubleStorage': 'f8',
    'HalfStorage': 'f2',
    'BFloat16Storage': 'bfloat16',
    'LongStorage': 'i8',
    'IntStorage': 'i4',
    'ShortStorage': 'i2',
    'CharStorage': 'i1',
    'ByteStorage': 'u1',
    'BoolStorage': 'b1',
    'ComplexFloatStorage': 'c8',
    'ComplexDoubleStorage': 'c16',
}


@dataclass(frozen=True)
class StorageType:
    """The type of the numbers of a storage."""

    code: str


@dataclass(frozen=True)
class Storage:
    """Numbers in a member of the file, read when a tensor needs them.

    Attributes
    ----------
    kind : StorageType
    count : int
        Of numbers, as the pickle says.
    load : callable
        Returns the bytes.
    byte_order : str
        '<' or '>'.
    """

    kind: StorageType
    count: int
    load: Callable[[], bytes]
    byte_order: str = '<'

    def numbers(self) -> RealArray:
        """Return all numbers, in one row."""
        is_bfloat16 = self.kind.code == 'bfloat16'
        kind = np.dtype(self.byte_order + ('u2' if is_bfloat16 else self.kind.code))
        data = self.load()
        if len(data) < self.count * kind.itemsize:
            raise ValueError(f'{self.count} numbers of {kind} in {len(data)} bytes')
        values = np.frombuffer(data, dtype=kind, count=self.count)
        if is_bfloat16:
            # The upper half of a float32.
            return (values.astype(np.uint32) << 16).view(np.float32)
        return np.array(values.astype(kind.newbyteorder('='), copy=False))


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose numbers are read when they are asked for."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> RealArray:
        """Return the tensor's numbers."""
        numbers = self.storage.numbers()
        strides = tuple(stride * numbers.itemsize for stride in self.strides)
        view = np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, strides, writeable=False
        )
        return np.array(view, order='C')


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> LazyTensor:
    """Return the tensor of a storage, offset, shape and strides that lie inside the storage.

    Raises
    ------
    ValueError
        If they do not, or if elements are repeated: a few bytes could claim any amount of memory.
    """
    if not isinstance(storage, Storage):
        raise ValueError('a tensor without a storage')
    sides, steps = checked_shape(shape), checked_shape(strides)
    if type(offset) is not int or offset < 0 or len(sides) != len(steps):
        raise ValueError(f'a tensor of shape {sides} and strides {steps} from {offset}')
    count = math.prod(sides)
    last = offset + sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
    if count > storage.count or (count > 0 and last >= storage.count):
        raise ValueError(f'a tensor of shape {sides} in a storage of {storage.count} numbers')
    return LazyTensor(storage, min(offset, storage.count), sides, steps)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape whose sides are whole and not negative."""
    if not isinstance(shape, tuple) or len(shape) > 32:
        raise ValueError('a shape that is none')
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f'a shape {shape}')
    return shape
