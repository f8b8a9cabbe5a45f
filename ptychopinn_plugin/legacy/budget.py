"""What the pickles of one file may cost: instructions, and bytes that are made or copied.

References are free in a pickle: a few bytes each could copy a large value any number of times.
"""

from typing import Any

import numpy as np

from ptychopinn_plugin.errors import ArchiveError

MAX_INSTRUCTIONS = 1 << 20
"""Settings and weights take far fewer instructions."""

MAX_GROWTH_BYTES = 512 << 20
"""A pickle may make or copy as many bytes as this while it is read."""

ITEM_BYTES = 32
"""An item of a list, dictionary or set costs this: its place, and the time to go there."""


class Budget:
    """Counts down, and refuses the file where nothing is left.

    Parameters
    ----------
    source : str
        The file and member, for messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._instructions = MAX_INSTRUCTIONS
        self._bytes = MAX_GROWTH_BYTES

    def step(self) -> None:
        """Pay for an instruction.

        Raises
        ------
        ArchiveError
            After `MAX_INSTRUCTIONS`.
        """
        self._instructions -= 1
        if self._instructions < 0:
            raise ArchiveError(
                f'{self.source} is refused: more than {MAX_INSTRUCTIONS} instructions, too many '
                'for settings or weights.'
            )

    def charge(self, *values: Any) -> None:
        """Pay for values that are made, or gone through.

        Raises
        ------
        ArchiveError
            After `MAX_GROWTH_BYTES`.
        """
        self._bytes -= sum(map(_size, values))
        if self._bytes < 0:
            raise ArchiveError(
                f'{self.source} is refused: it would grow beyond {MAX_GROWTH_BYTES} bytes.'
            )


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, list | tuple | dict | set | frozenset):
        # Its parts were paid for when they were made; here they are places alone.
        return ITEM_BYTES * len(value)
    # A number is no larger than the instruction that makes it, and instructions are counted.
    return 0
