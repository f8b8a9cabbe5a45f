"""Ranks that exchange tensors with `torch.distributed`: gloo on CPUs, NCCL on CUDA devices."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ptychopinn_plugin.backends.common.memory import ran_out
from ptychopinn_plugin.backends.common.rank_watch import JOIN_S, RankWatch
from ptychopinn_plugin.backends.common.ranks import Launch, SeveralRanks
from ptychopinn_plugin.errors import BackendUnavailableError, PtychoPinnError, RankError

EXCHANGE_HOURS = 24
"""An exchange waits this long for a rank that computes; one that has died is known at once."""

MAX_DIMENSIONS = 7

_LOCAL = ('localhost', '127.0.0.1', '::1')


class TorchRanks(SeveralRanks):
    """The ranks of a process group.

    Parameters
    ----------
    launch : Launch
    watch : RankWatch
        Names the rank that has died where an exchange fails.
    """

    def __init__(self, launch: Launch, watch: RankWatch) -> None:
        super().__init__(launch.rank, launch.size)
        self._watch, self._has_left = watch, False

    @torch.no_grad()
    def sums(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the sum of each tensor over all ranks, in place where its numbers lie in a row."""
        found = tuple(tensor.contiguous() for tensor in tensors)
        with self._exchanging():
            # None waits for the one before.
            works = [dist.all_reduce(_as_real(each), async_op=True) for each in found]
            for work in works:
                work.wait()
        return found

    @torch.no_grad()
    def broadcast(self, tensor: Tensor) -> Tensor:
        """Return the tensor of rank 0, in place where its numbers lie in a row."""
        found = tensor.contiguous()
        with self._exchanging():
            dist.broadcast(_as_real(found), src=0)
        return found

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the arrays of all ranks, joined along the first axis in the order of the ranks.

        They differ in their first axis alone; an empty one may have any shape.
        """
        shape = torch.zeros(MAX_DIMENSIONS, dtype=torch.int64)
        shape[: array.ndim] = torch.tensor(array.shape)
        shapes = [torch.zeros_like(shape) for _ in range(self.size)]
        with self._exchanging():
            dist.all_gather(shapes, shape)
        lengths = [int(each[0]) for each in shapes]
        if max(lengths) == 0:
            return array
        trailing = shapes[int(np.argmax(lengths))].tolist()[1:]
        trailing = [side for side in trailing if side > 0]
        # All send as much as the longest: gloo exchanges tensors of one size.
        own = np.zeros((max(lengths), *trailing), array.dtype)
        if len(array):
            own[: len(array)] = array
        sent = torch.from_numpy(own)
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        with self._exchanging():
            dist.all_gather([_as_real(part) for part in parts], _as_real(sent))
        return np.concatenate(
            [part.numpy()[:length] for part, length in zip(parts, lengths, strict=True)]
        )

    def decide(self, value: float) -> float:
        """Return the number of rank 0."""
        number = torch.tensor(value, dtype=torch.float64)
        return float(self.broadcast(number))

    def leave(self) -> None:
        """End what the ranks do together: rank 0 goes on alone."""
        if not self._has_left:
            # Nobody leaves before the last exchange has reached everyone.
            self.sum(torch.zeros(1))
            self._has_left = True
            self._watch.finish()

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        """Raise an error that names the rank which has ended an exchange.

        Raises
        ------
        RankError
        """
        try:
            yield
        except RuntimeError as error:
            if ran_out(error):
                raise
            reason = self._watch.wait_for_failure(2.0)
            reason = reason or f'The exchange with other ranks failed: {error}'
            raise RankError(reason) from error


@contextmanager
def joined(launch: Launch, advise: Callable[[], str], stderr: int) -> Iterator[TorchRanks]:
    """Join the other ranks, and leave them at the end of the block.

    Parameters
    ----------
    launch : Launch
    advise : callable
        Returns what to do where a rank dies, as a sentence.
    stderr : int
        The descriptor for the line about it.

    Raises
    ------
    BackendUnavailableError
        If this PyTorch was built without `torch.distributed`.
    RankError
        If a rank fails or dies.
    """
    if not dist.is_available():
        raise BackendUnavailableError(
            'Several processes need torch.distributed, which this build of PyTorch lacks. Install '
            'PyTorch from PyPI, or compute with one process.'
        )
    # A card for each rank of this machine, or they exchange through its memory.
    has_cards = torch.cuda.is_available() and torch.cuda.device_count() >= launch.local_size
    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        'cpu:gloo,cuda:nccl' if has_cards else 'gloo',
        store=_meet(launch),
        rank=launch.rank,
        world_size=launch.size,
        timeout=timedelta(hours=EXCHANGE_HOURS),
    )
    watch = RankWatch(launch.rank, launch.size, advise, stderr)
    try:
        _connect(watch)
        ranks = TorchRanks(launch, watch)
        # From here on all are connected.
        ranks.sum(torch.zeros(1))
        yield ranks
        ranks.leave()
        # After a failure that may wait for the dead for ever; the process ends anyway.
        dist.destroy_process_group()
    except BaseException as error:
        if launch.rank > 0:
            name = '' if isinstance(error, PtychoPinnError) else f'{type(error).__name__}: '
            watch.report(f'{name}{error}')
        raise
    finally:
        watch.dismiss()


def _meet(launch: Launch) -> Any:
    """Return the store of all ranks, once all of them are there.

    Raises
    ------
    RankError
        If one is not within `JOIN_S`.
    """
    limit = timedelta(seconds=JOIN_S)
    try:
        store, _, _ = next(rendezvous('env://', launch.rank, launch.size, timeout=limit))
        store.set(f'ptychopinn/{launch.rank}', 'here')
        store.wait([f'ptychopinn/{number}' for number in range(launch.size)], limit)
    except RuntimeError as error:
        raise RankError(
            f'{launch.size} processes were to meet at {os.environ["MASTER_ADDR"]} within '
            f'{JOIN_S:g} s; they did not ({error}). Are all machines started, and do they reach '
            'each other?'
        ) from error
    return store


def _connect(watch: RankWatch) -> None:
    """Connect each rank with rank 0, whose address and token all get."""
    address = os.environ['MASTER_ADDR']
    meeting: list[Any] = [None, None]
    if watch.rank == 0:
        token = secrets.token_hex(16)
        host = '127.0.0.1' if address in _LOCAL else ''
        meeting = [watch.open_port(host, token), token]
    dist.broadcast_object_list(meeting, src=0, device=torch.device('cpu'))
    if watch.rank == 0:
        watch.wait_for_all()
    else:
        port, token = meeting
        watch.connect('127.0.0.1' if address in _LOCAL else address, port, token)


def _as_real(tensor: Tensor) -> Tensor:
    """Return a view of the numbers: NCCL and gloo have no complex ones."""
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
