"""Memory that runs out: errors of each framework become one that explains what to do."""

import gc
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ptychopinn_plugin.backends.common.ranks import current_ranks
from ptychopinn_plugin.errors import DeviceMemoryError
from ptychopinn_plugin.text import count

Result = TypeVar('Result')

logger = logging.getLogger(__name__)

_RAN_OUT = re.compile(
    r'[Oo]ut of memory|OUT_OF_MEMORY|\bOOM\b|[Ff]ailed to allocate|allocate memory'
    r'|not enough memory|ALLOC_FAILED|Dst tensor is not initialized'
)
"""The allocators of PyTorch, TensorFlow and CUDA report this; the last is a copy to a full GPU."""


def ran_out(error: BaseException) -> bool:
    """Return whether a framework raises an error because a device's memory is full."""
    return isinstance(error, MemoryError) or _RAN_OUT.search(str(error)) is not None


def with_smaller_batches(
    compute: Callable[[int], Result], batch_size: int, release: Callable[[], None], what: str
) -> Result:
    """Compute something batch by batch, with half the batch where memory runs out.

    Parameters
    ----------
    compute : callable
        Gets the number of patterns in a batch. What it began when memory ran out counts for
        nothing: it begins again.
    batch_size : int
        The first one.
    release : callable
        Gives back what the framework keeps for later.
    what : str
        The name of what is computed, for the note.

    Raises
    ------
    Exception
        The framework's own, where a batch of one pattern is too large or something else is wrong.
    """
    while True:
        try:
            return compute(batch_size)
        except Exception as error:
            # Several ranks would go on with different batches.
            if batch_size <= 1 or not ran_out(error) or current_ranks().size > 1:
                raise
        # Outside of the handler, as the error holds all that was being computed.
        batch_size //= 2
        gc.collect()
        release()
        logger.warning(
            'Memory ran out; %s goes on with batches of %s.', what, count(batch_size, 'pattern')
        )


@contextmanager
def explaining_full_memory(device: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise DeviceMemoryError where the block ends in one of `errors` for want of memory.

    Raises
    ------
    DeviceMemoryError
        If the block ends so; the message has what to make smaller.
    """
    try:
        yield
    except errors as error:
        if not ran_out(error):
            raise
        raise DeviceMemoryError(
            f'The memory of {device} is too small for this. Use a smaller batch size '
            '(--batch-size) or another device (--device).'
        ) from error
