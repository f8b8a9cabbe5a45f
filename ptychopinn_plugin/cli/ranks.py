"""Commands that several processes do together: how these start, and what rank 0 does alone."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptychopinn_plugin.backends.common.rank_watch import FAILED, RANK_GRACE_S
from ptychopinn_plugin.backends.common.ranks import Launch, Ranks, using_ranks
from ptychopinn_plugin.errors import ConfigError, PtychoPinnError

if TYPE_CHECKING:
    from ptychopinn_plugin.backends.selection import Choice

COMMANDS = ('train', 'reconstruct', 'refine')
"""Several processes do these together; any other command is one process."""

LEAVING_S = 20.0
"""The other processes end within this time after rank 0, or are ended."""

Devices = Annotated[
    int | None,
    typer.Option(
        '--devices',
        metavar='N',
        min=1,
        max=1024,
        help='Compute with this number of processes on this machine, each with a GPU of its own '
        'where there are GPUs (only PyTorch; several machines: torchrun).',
    ),
]


class _State:
    """What this process is for the others; there is one for it."""

    stderr = 2
    """Errors go to this descriptor, which other ranks than 0 keep although they print nothing."""

    has_joined = False


def refuse_several_processes(command: str | None) -> None:
    """Refuse a command that a launcher has started several times.

    Raises
    ------
    ConfigError
        If several processes do not do it together: they would do the same side by side.
    """
    launch = Launch.of_environment()
    if launch.size > 1 and command not in COMMANDS:
        raise ConfigError(
            f'`{command}` computes in one process; a launcher has started {launch.size} (WORLD_SIZE'
            f'). Start it without torchrun. Together they do {", ".join(COMMANDS)}.'
        )


@contextmanager
def keeping_quiet() -> Iterator[None]:
    """Let only rank 0 print; errors of the others reach the user through it.

    The trace of an error in the program itself is printed by any rank.
    """
    if Launch.of_environment().rank == 0:
        yield
        return
    _State.stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    try:
        yield
    except (PtychoPinnError, MemoryError):
        raise
    except Exception:
        with suppress(OSError):
            os.write(_State.stderr, traceback.format_exc().encode())
        raise


@contextmanager
def several_processes(devices: int | None) -> Iterator[None]:
    """Start further processes that do the same command, and end them with this one, rank 0.

    Parameters
    ----------
    devices : int, optional
        How many there are to be with this one. A process that a launcher has started starts none.

    Raises
    ------
    ConfigError
        If a launcher has started another number.
    """
    launch = Launch.of_environment()
    if launch.size > 1 and devices not in (None, launch.size):
        raise ConfigError(
            f'--devices {devices} was given to {launch.size} processes that a launcher has '
            'started. Leave it out: torchrun --nproc-per-node has the number.'
        )
    if devices is None or devices == 1 or launch.size > 1:
        yield
        return
    variables = _variables(devices)
    former = {name: os.environ.get(name) for name in variables}
    command = [sys.executable, '-m', 'ptychopinn_plugin', *sys.argv[1:]]
    others = []
    try:
        for rank in range(1, devices):
            own = {**os.environ, **variables, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}
            # In a session of their own: Ctrl-C is for rank 0, which takes the others along.
            others.append(
                subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, start_new_session=True)
            )
        os.environ.update(variables)
        threading.Thread(target=_watch_starts, args=(others,), daemon=True).start()
        yield
    finally:
        _end(others)
        _reset_variables(former)


@contextmanager
def computing_together(choice: 'Choice', checkpoint: Path | None = None) -> Iterator[Ranks]:
    """Join the other processes that a launcher has started, where there are some.

    `leave` goes on with rank 0 alone.

    Parameters
    ----------
    choice : Choice
        The backend.
    checkpoint : Path, optional
        From which a training continues after a failure.

    Raises
    ------
    ConfigError
        If the backend cannot compute in several processes.
    """
    launch = Launch.of_environment()
    if launch.size == 1:
        yield Ranks()
        return
    from ptychopinn_plugin.backends.selection import find_joining

    join = find_joining(choice)
    advise = partial(_advise, checkpoint, time.time())
    with join(launch, advise, _State.stderr) as ranks, using_ranks(ranks):
        _State.has_joined = True
        if launch.rank > 0:
            for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):
                # Launchers send signals to all; what becomes of the run, rank 0 decides.
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
        yield ranks


def leave(ranks: Ranks) -> None:
    """Go on with rank 0 alone, which writes and prints; the others end here.

    Raises
    ------
    typer.Exit
        In the others.
    """
    ranks.leave()
    if ranks.rank > 0:
        raise typer.Exit


def _variables(devices: int) -> dict[str, str]:
    """Return the variables of the environment for rank 0, as torchrun sets them."""
    # The system chooses a port that is free, and rank 0 opens it again a moment later.
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    found = {
        'RANK': '0',
        'LOCAL_RANK': '0',
        'WORLD_SIZE': str(devices),
        'LOCAL_WORLD_SIZE': str(devices),
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
    }
    if 'OMP_NUM_THREADS' not in os.environ:
        # More threads than cores would wait for each other.
        found['OMP_NUM_THREADS'] = str(max(1, (os.cpu_count() or 1) // devices))
    return found


def _advise(checkpoint: Path | None, started: float) -> str:
    """Return what to do after a rank has died."""
    try:
        # An older one is of another training.
        is_ours = checkpoint is not None and checkpoint.stat().st_mtime >= started - 1
    except OSError:
        is_ours = False
    if is_ours:
        return (
            'What was learned until the last checkpoint is kept; to continue, use --resume '
            f'{checkpoint}.'
        )
    if checkpoint is not None:
        return 'There is no checkpoint yet: start again.'
    return 'Nothing was written: start again.'


def _watch_starts(others: list['subprocess.Popen[bytes]']) -> None:
    """End this process where another one ends before all have met; later ends are seen anyway."""
    # A process that died before it joined is one that the others would wait for without an end:
    # PyTorch notices only those that have joined.
    while not _State.has_joined:
        for rank, process in enumerate(others, 1):
            if process.poll() not in (None, 0):
                # Where the cause is common to all, this process names it better.
                time.sleep(RANK_GRACE_S)
                with suppress(OSError):
                    text = f'error: Rank {rank} ended at its start with code {process.returncode}.'
                    os.write(2, f'{text}\n'.encode())
                for each in others:
                    each.kill()
                os._exit(FAILED)
        time.sleep(0.2)


def _end(others: list['subprocess.Popen[bytes]']) -> None:
    """Wait for processes that have nothing left to do, and kill those that hang."""
    limit = LEAVING_S if _State.has_joined else 0.0
    end = time.monotonic() + limit
    _State.has_joined = True
    for process in others:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reset_variables(former: Mapping[str, str | None]) -> None:
    for name, value in former.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
