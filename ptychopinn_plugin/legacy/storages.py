"""Torch's tensors without torch: raw numbers, and the view of them that a pickle describes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import RealArray

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


MAX_SIDE = 1 << 48
"""No memory holds a longer side; products of larger numbers would be slow to compute."""


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
        How many numbers, as the pickle claims.
    load : callable
        Returns the bytes.
    byte_order : str
        '<' or '>'.
    """

    kind: StorageType
    count: int
    load: Callable[[], bytes]
    byte_order: str = '<'

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type as stored; bfloat16 is the upper half of a float32."""
        return np.dtype(self.byte_order + ('u2' if self.is_bfloat16 else self.kind.code))

    @property
    def is_bfloat16(self) -> bool:
        """Whether NumPy lacks the type."""
        return self.kind.code == 'bfloat16'

    def numbers(self) -> RealArray:
        """Return all numbers as stored, in one row, without a copy.

        Raises
        ------
        ValueError
            If the file holds fewer bytes than these numbers take.
        """
        data = self.load()
        if len(data) < self.count * self.dtype.itemsize:
            raise ValueError(f'{self.count} numbers of {self.dtype} in {len(data)} bytes')
        return np.frombuffer(data, dtype=self.dtype, count=self.count)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose numbers are read when they are needed."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes `read` returns."""
        itemsize = 4 if self.storage.is_bfloat16 else self.storage.dtype.itemsize
        return math.prod(self.shape) * itemsize

    def read(self) -> RealArray:
        """Return the tensor's numbers."""
        numbers = self.storage.numbers()
        strides = tuple(stride * numbers.itemsize for stride in self.strides)
        view = np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, strides, writeable=False
        )
        if self.storage.is_bfloat16:
            # With NumPy 1 a single number shifted by an int would become one of 64 bits.
            bits = np.left_shift(view.astype(np.uint32, order='C'), np.uint32(16))
            return np.asarray(bits).view(np.float32)
        return np.array(view, dtype=numbers.dtype.newbyteorder('='), order='C')


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
    if type(offset) is not int or not 0 <= offset < MAX_SIDE or len(sides) != len(steps):
        raise ValueError(f'a tensor of shape {sides} and strides {steps}')
    count = math.prod(sides)
    last = offset + sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
    if count > storage.count or (count > 0 and last >= storage.count):
        raise ValueError(f'a tensor of shape {sides} in a storage of {storage.count} numbers')
    return LazyTensor(storage, min(offset, storage.count), sides, steps)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape whose sides are whole, not negative and of a length that memory may have.

    Raises
    ------
    ValueError
        If it is no such shape.
    """
    if not isinstance(shape, tuple) or len(shape) > 32:
        raise ValueError('a shape that is no short tuple')
    if any(type(side) is not int or not 0 <= side < MAX_SIDE for side in shape):
        # The shape itself stays out of the message: writing it out could take forever.
        raise ValueError('a shape of other than whole numbers')
    return shape
