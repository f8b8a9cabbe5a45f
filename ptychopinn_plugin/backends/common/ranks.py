"""Processes that compute together: which of them this is, and what they exchange.

A launcher (`torchrun`, or the option `--devices`) starts the same command several times; each
process is a rank. All ranks go through the same course: they read the same scan, draw the same
random numbers, and differ only in the patterns that each computes. Sums over patterns are summed
over the ranks, and what depends on a clock, a signal or an observer is decided by rank 0
(decision 29).
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ptychopinn_plugin.array_types import IntArray
from ptychopinn_plugin.errors import ConfigError

if TYPE_CHECKING:
    # The command line imports this module, and not what scans need.
    from ptychopinn_plugin.backends.protocol import Observer, Progress

VARIABLES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE')
"""Launchers set these variables of the environment, and the next ones."""

ADDRESS_VARIABLES = ('MASTER_ADDR', 'MASTER_PORT')
"""These variables name the machine and the port where the ranks meet."""


@dataclass(frozen=True)
class Launch:
    """Which rank a launcher has made this process.

    Attributes
    ----------
    rank, size : int
        Among all processes, and how many these are.
    local_rank, local_size : int
        The same on this machine alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> 'Launch':
        """Return what the variables of a launcher give; one process where they are not set.

        Raises
        ------
        ConfigError
            If they are incomplete or contradict each other.
        """
        variables = os.environ if environment is None else environment
        if any(not variables.get(name) for name in ('RANK', *ADDRESS_VARIABLES)):
            # Some systems set single ones of these variables in every shell.
            return cls()
        texts = [variables.get(name, '') for name in VARIABLES]
        try:
            rank, size, local_rank, local_size = map(int, texts)
        except ValueError:
            rank, size, local_rank, local_size = -1, 0, 0, 0
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
            given = ', '.join(f'{name}={text}' for name, text in zip(VARIABLES, texts, strict=True))
            raise ConfigError(
                'A launcher must set RANK below WORLD_SIZE and LOCAL_RANK below LOCAL_WORLD_SIZE; '
                f'got {given}. Start with torchrun or --devices, or unset RANK.'
            )
        return cls(rank, size, local_rank, local_size)


class Ranks:
    """What the ranks of a run exchange; of this class itself there is one process alone.

    Each method but `share` must be called by all ranks, in the same order.

    Attributes
    ----------
    rank : int
    size : int
        The number of ranks.
    """

    rank: int = 0
    size: int = 1

    def sum(self, tensor: Any) -> Any:
        """Return the sum of a tensor of the framework over all ranks; it may be in place."""
        (whole,) = self.sums(tensor)
        return whole

    def sums(self, *tensors: Any) -> tuple[Any, ...]:
        """Return the sum of each of some tensors, which are exchanged at once; see `sum`."""
        return tensors

    def broadcast(self, tensor: Any) -> Any:
        """Return the tensor of rank 0, which has the same shape in all; it may be in place."""
        return tensor

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the arrays of all ranks, joined along the first axis in the order of the ranks."""
        return array

    def decide(self, value: float) -> float:
        """Return the number of rank 0."""
        return value

    def leave(self) -> None:
        """End what the ranks do together: rank 0 goes on alone."""

    def share(self, count: int) -> slice:
        """Return which of `count` things in a row this rank has; the last ranks may have none."""
        return slice(-(-count * self.rank // self.size), -(-count * (self.rank + 1) // self.size))

    def shared_clock(self, clock: Callable[[], float]) -> Callable[[], float]:
        """Return the clock of rank 0, by which all ranks take the same decisions."""
        return clock

    def shared_observer(self, observer: 'Observer') -> 'Observer':
        """Return an observer that only rank 0 has, and whose answer all ranks get."""
        return observer


class SeveralRanks(Ranks):
    """What several ranks share whatever the framework: one clock and one observer."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._is_alone = False

    def shared_clock(self, clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
        """Return the clock of rank 0, by which all ranks take the same decisions."""

        def read() -> float:
            # What an observer of rank 0 measures is of no interest to the others.
            return clock() if self._is_alone else self.decide(clock())

        return read

    def shared_observer(self, observer: 'Observer') -> 'Observer':
        """Return an observer that only rank 0 has, and whose answer all ranks get."""

        def watch(progress: 'Progress') -> bool:
            is_ending = False
            if self.rank == 0:
                self._is_alone = True
                try:
                    is_ending = bool(observer(progress))
                finally:
                    self._is_alone = False
            return bool(self.decide(float(is_ending)))

        return watch


class _Current:
    """The ranks of this process; there is one set of them, as there is one of the launcher."""

    ranks = Ranks()


def current_ranks() -> Ranks:
    """Return the ranks with which this process computes."""
    return _Current.ranks


@contextmanager
def using_ranks(ranks: Ranks) -> Iterator[None]:
    """Let backends that are made in the block compute with these ranks."""
    former, _Current.ranks = _Current.ranks, ranks
    try:
        yield
    finally:
        _Current.ranks = former


def own_part(indices: IntArray, part: slice) -> IntArray:
    """Return those of some indices that lie in a part, in the same order."""
    found: IntArray = indices[(indices >= part.start) & (indices < part.stop)]
    return found
