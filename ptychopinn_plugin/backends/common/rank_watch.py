"""Every rank keeps a connection to rank 0, which breaks where a rank dies.

What computes waits for all ranks, and without a look at the others it would wait for a dead one
until some time is over. The operating system closes the connections of a process that dies, however
that happens, within a moment; of a machine that is switched off, within `KEEPALIVE`'s seconds.
"""

import hmac
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from ptychopinn_plugin.errors import RankError

RANK_GRACE_S = 5.0
"""A process whose run has failed ends after this time, even if what it computes never returns."""

OWN_ERROR_S = 0.5
"""The error of another rank counts if rank 0 has no error of its own within this time."""

KEEPALIVE = (('TCP_KEEPIDLE', 10), ('TCP_KEEPINTVL', 5), ('TCP_KEEPCNT', 3))
"""A machine that is silent for 10 s is tried every 5 s, and counts as gone after three tries."""

JOIN_S = 300.0
"""The ranks find each other within this time."""

FAILED = 2
"""A run in which a rank has failed ends with this code."""

_WAKE = getattr(signal, 'SIGUSR2', None)


class RankWatch:
    """The connections between rank 0 and each other rank.

    Parameters
    ----------
    rank, size : int
    advise : callable
        Returns what to do after a failure, as a sentence.
    stderr : int
        The descriptor for the line about a failure.
    """

    def __init__(self, rank: int, size: int, advise: Callable[[], str], stderr: int = 2) -> None:
        self.rank, self.size, self._advise, self._stderr = rank, size, advise, stderr
        self.failure: str | None = None
        self._is_over = False
        self._lock = threading.Lock()
        self._peers: dict[int, socket.socket] = {}
        self._complete = threading.Event()

    def open_port(self, host: str, token: str) -> int:
        """Take the connections of the other ranks, which have the token; return the port."""
        server = socket.create_server((host, 0), backlog=self.size)
        self._watch_signals()
        self._start(self._accept, server, token)
        return int(server.getsockname()[1])

    def wait_for_all(self) -> None:
        """Wait until every rank has connected.

        Raises
        ------
        RankError
            If one does not within `JOIN_S`.
        """
        if not self._complete.wait(JOIN_S):
            missing = sorted(set(range(1, self.size)) - self._peers.keys())
            raise RankError(
                f'{self.size} ranks were to meet within {JOIN_S:g} s; missing: '
                f'{", ".join(map(str, missing))}. Are all machines started, and do they reach each '
                'other?'
            )

    def connect(self, host: str, port: int, token: str) -> None:
        """Connect to rank 0."""
        connection = socket.create_connection((host, port), timeout=JOIN_S)
        connection.settimeout(None)
        hello = f'{token} {self.rank} {os.getpid()} {socket.gethostname()}\n'
        connection.sendall(hello.encode())
        self._peers[0] = connection
        self._start(self._follow, connection)

    def report(self, message: str) -> None:
        """Send rank 0 the reason why this rank ends."""
        self._send(0, f'error {" ".join(message.split())}')

    def finish(self) -> None:
        """End in order: whatever happens to other ranks from now on is no failure."""
        with self._lock:
            self._is_over = True
        if self.rank > 0:
            self._send(0, 'done')

    def dismiss(self) -> None:
        """End the other ranks, as rank 0 ends, unless all have come to their end."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        for number in list(self._peers):
            self._send(number, 'leave')

    def wait_for_failure(self, seconds: float) -> str | None:
        """Return why the run has failed, which may become known a moment after its effects."""
        end = time.monotonic() + seconds
        while self.failure is None and time.monotonic() < end:
            time.sleep(0.02)
        return self.failure

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _watch_signals(self) -> None:
        """Let the thread that computes be woken, where it is not inside an exchange."""
        if _WAKE is not None and threading.current_thread() is threading.main_thread():
            signal.signal(_WAKE, self._wake)

    def _wake(self, number: int, frame: FrameType | None) -> None:
        if self.failure is not None:
            raise RankError(self.failure)

    def _accept(self, server: socket.socket, token: str) -> None:
        with server:
            while len(self._peers) < self.size - 1:
                connection, _ = server.accept()
                connection.settimeout(10)
                # Whoever else finds the port has no token.
                with suppress(OSError, ValueError):
                    hello = connection.makefile('r').readline().split(maxsplit=3)
                    if len(hello) == 4 and hmac.compare_digest(hello[0], token):
                        connection.settimeout(None)
                        _keep_alive(connection)
                        number = int(hello[1])
                        self._peers[number] = connection
                        where = f'process {hello[2]} on {hello[3].strip()}'
                        self._start(self._look_after, number, where, connection)
                        continue
                connection.close()
        self._complete.set()

    def _look_after(self, number: int, where: str, connection: socket.socket) -> None:
        """Read what a rank reports, as rank 0; its silence is nothing, its end is a failure."""
        with suppress(OSError), connection:
            for line in connection.makefile('r', errors='replace'):
                kind, _, text = line.strip().partition(' ')
                if kind == 'done':
                    return
                # What is wrong for all, as a file that is missing, rank 0 finds itself.
                time.sleep(OWN_ERROR_S)
                self._fail(f'Rank {number} ({where}) has failed: {text}')
                return
        self._fail(f'Rank {number} ({where}) was killed or lost.')

    def _follow(self, connection: socket.socket) -> None:
        """Wait for the end of rank 0."""
        _keep_alive(connection)
        with suppress(OSError):
            for line in connection.makefile('r'):
                if line.strip() == 'leave' and not self._is_over:
                    os._exit(FAILED)
        if not self._is_over:
            self._lose_rank_0()

    def _lose_rank_0(self) -> None:
        # One of those that are left reports it.
        if self.rank == 1:
            self._print('Rank 0 was killed or lost.')
        os._exit(FAILED)

    def _fail(self, reason: str) -> None:
        """End the run for what has happened to a rank, as rank 0."""
        with self._lock:
            if self._is_over or self.failure is not None:
                return
            self.failure = f'{reason} The other ranks were ended. {self._advise()}'
        # Their connections break, so that nothing here waits for them any more.
        for number in list(self._peers):
            self._send(number, 'leave')
        if _WAKE is not None:
            with suppress(OSError, ValueError):
                signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
        time.sleep(RANK_GRACE_S)
        with self._lock:
            if not self._is_over:
                self._print(self.failure, is_whole=True)
                os._exit(FAILED)

    def _print(self, reason: str, *, is_whole: bool = False) -> None:
        text = reason if is_whole else f'{reason} {self._advise()}'
        sys.stdout.flush()
        with suppress(OSError):
            os.write(self._stderr, f'error: {text}\n'.encode())

    def _send(self, number: int, line: str) -> None:
        # Who is gone needs no message.
        with suppress(OSError, KeyError):
            self._peers[number].sendall(f'{line}\n'.encode())


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
