"""What the tests without a framework share."""

import os

import pytest


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the requests to the disk, in order: a file or folder to sync, or a name to give.

    Each is named by its inode, as names change.
    """
    events: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        events.append(('sync', os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def record_name(source: str, target: str) -> None:
        events.append(('name', os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, 'fsync', record_sync)
    monkeypatch.setattr(os, 'replace', record_name)
    return events
