"""Skip these tests, with the reason, where there is no window to open."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

MISSING = [
    name for name in ('PyQt5', 'pytestqt', 'torch') if importlib.util.find_spec(name) is None
]

if MISSING:

    class NotHere(pytest.Module):
        """A file of tests that cannot even be imported."""

        def collect(self) -> Iterator[pytest.Item]:
            """Skip it all."""
            pytest.skip(f'{", ".join(MISSING)} is not installed.', allow_module_level=True)

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
        """Leave every file unread."""
        return NotHere.from_parent(parent, path=module_path)

else:
    os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')
    from .user import (  # noqa: F401 - fixtures
        model_file,
        open_window,
        own_worker,
        quiet_host,
        slow_start,
        warm_worker,
        window,
    )
