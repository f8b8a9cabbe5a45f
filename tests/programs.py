"""Programs beside the package, for tests that run what is in them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load_program(path: str) -> ModuleType:
    """Return a program as a module, without running its `main`; its path begins at the root."""
    found = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    # Dataclasses look for their module there.
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module
