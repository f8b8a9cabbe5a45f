"""Acting on a module now, or as soon as somebody imports it."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def when_imported(name: str, act: Callable[[], None]) -> None:
    """Act once a module has been imported: now if it is there, else when it comes.

    Parameters
    ----------
    name : str
        Its import is acted on once, however often this function is called before.
    act : callable
        Must raise nothing: that would look like a failed import.
    """
    if name in sys.modules:
        act()
    elif not any(isinstance(item, _Hook) and item.name == name for item in sys.meta_path):
        # It must come before the finders that would find the module and end the search.
        sys.meta_path.insert(0, _Hook(name, act))


class _Hook(importlib.abc.MetaPathFinder):
    """Waits for the import of one module, once."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self.name = name
        self._act = act
        self._is_asking = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module as the others do, with something to do when it has been executed."""
        if fullname != self.name or self._is_asking:
            return None
        # The search goes through all finders again, this one among them.
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec

    def end(self) -> None:
        """Act once, when the module has been imported; a mere search for it is no import."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self._act()


class _Loader(importlib.abc.Loader):
    """Another loader, and something to do afterwards."""

    def __init__(self, loader: Any, hook: _Hook) -> None:
        self._loader = loader
        self._hook = hook

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Create the module as its loader does."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, whose loader is its own again, and act."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._hook.end()
