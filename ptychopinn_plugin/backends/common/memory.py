"""Memory that runs out: errors of each framework become one that explains what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ptychopinn_plugin.errors import DeviceMemoryError

_RAN_OUT = re.compile(
    r'[Oo]ut of memory|OUT_OF_MEMORY|\bOOM\b|[Ff]ailed to allocate|allocate memory'
    r'|not enough memory|ALLOC_FAILED|Dst tensor is not initialized'
)
"""The allocators of PyTorch, TensorFlow and CUDA report this; the last is a copy to a full GPU."""


@contextmanager
def explaining_full_memory(device: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise DeviceMemoryError where the block ends in one of `errors` for want of memory."""
    try:
        yield
    except errors as error:
        if not _RAN_OUT.search(str(error)):
            raise
        raise DeviceMemoryError(
            f'The memory of {device} is too small for this. Use a smaller batch size '
            '(--batch-size) or another device (--device).'
        ) from error
