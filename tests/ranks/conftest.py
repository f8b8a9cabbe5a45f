"""Processes that compute together, as a launcher starts them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

Launched = list['subprocess.Popen[str]']
LaunchRanks = Callable[[int, Sequence[str]], Launched]


@pytest.fixture(scope='module')
def launch_ranks() -> Iterator[LaunchRanks]:
    """Return a function that starts a Python command in several ranks; the first is rank 0."""
    pytest.importorskip('torch')
    started: Launched = []

    def launch(size: int, command: Sequence[str]) -> Launched:
        with socket.create_server(('127.0.0.1', 0)) as free:
            port = free.getsockname()[1]
        # What a test has set for its own process is of no use here.
        inherited = {k: v for k, v in os.environ.items() if k != 'PTYCHOPINN_BACKEND'}
        ranks: Launched = []
        for rank in range(size):
            variables = {
                'RANK': str(rank),
                'WORLD_SIZE': str(size),
                'LOCAL_RANK': str(rank),
                'LOCAL_WORLD_SIZE': str(size),
                'MASTER_ADDR': '127.0.0.1',
                'MASTER_PORT': str(port),
                'OMP_NUM_THREADS': '1',
            }
            ranks.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    env={**inherited, **variables},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        started.extend(ranks)
        return ranks

    yield launch
    for process in started:
        process.kill()
        process.communicate()
