"""Tests reach no network: what watches over that works, here and in processes that tests start."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REACH_OUT = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"


def test_this_process_reaches_nothing(no_network: Path) -> None:
    for host in ('192.0.2.1', 'example.org'):
        with pytest.raises(PermissionError, match='Tests reach no network'):
            socket.create_connection((host, 80), timeout=1)
    assert '192.0.2.1' in no_network.read_text()
    no_network.unlink()


def test_a_process_that_a_test_starts_reaches_nothing(no_network: Path) -> None:
    done = subprocess.run([sys.executable, '-c', REACH_OUT], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'Tests reach no network' in done.stderr
    assert '192.0.2.1' in no_network.read_text()
    no_network.unlink()


def test_processes_of_this_machine_talk_to_each_other() -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    for ends in (socket.socketpair(), socket.socketpair(socket.AF_UNIX)):
        for end in ends:
            end.close()
    assert asyncio.run(asyncio.sleep(0, result=1)) == 1
