"""The way into a Ptychodus that knows no entry points: one argument more for two constructors.

``ptychodus/plugins/ptychopinn_plugin_bridge.py`` calls `install` while the host loads its plugins,
before it makes its cores. Whatever fails here costs the plugin, never the application.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import logging
import sys
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from ptychopinn_plugin.backends.spec import entry_points_of
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.activity import Activity

LIBRARIES_GROUP = 'ptychodus.reconstructor_libraries'
VIEWS_GROUP = 'ptychodus.view_controller_factories'

_MODEL = 'ptychodus.model.processing.core'
_CONTROLLER = 'ptychodus.controller.processing.core'

logger = logging.getLogger('ptychopinn_plugin')

_libraries: 'weakref.WeakKeyDictionary[Any, list[Any]]' = weakref.WeakKeyDictionary()
"""The libraries that were added, by the parameter that chooses among them: one for each window."""


def install() -> None:
    """Add the libraries of all entry points to Ptychodus, and their panels to its window.

    Calling it again changes nothing. Where Ptychodus reads entry points itself it stands down.
    """
    _when_imported(_MODEL, _extend_model)
    _when_imported(_CONTROLLER, _extend_controller)


def _extend_model(module: ModuleType) -> None:
    _extend(module, 'ProcessingCore', 'algorithm_libraries', _add_libraries, _after_model)


def _extend_controller(module: ModuleType) -> None:
    _extend(module, 'ProcessingController', 'view_controller_factories', _add_views)


def _extend(
    module: ModuleType,
    class_name: str,
    argument: str,
    add: Callable[[dict[str, Any]], Sequence[Any]],
    afterwards: Callable[[Any, Sequence[Any]], None] | None = None,
) -> None:
    """Let a constructor find more in one of its arguments, which is a sequence."""
    if versions.has_native_entry_points():
        return
    owner = getattr(module, class_name, None)
    construct: Any = getattr(owner, '__init__', None)
    if getattr(construct, '_is_extended', False):
        return
    signature = None if owner is None else inspect.signature(owner.__init__)
    if owner is None or signature is None or argument not in signature.parameters:
        logger.warning(
            'PtychoPINN cannot be added to Ptychodus %s: %s.%s takes no %s. It works in %s. '
            'See: ptychopinn doctor.',
            versions.host_version(),
            module.__name__,
            class_name,
            argument,
            versions.SUPPORTED,
        )
        return
    known = signature

    def extended(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = known.bind(self, *args, **kwargs)
        more = add(bound.arguments)
        bound.arguments[argument] = [*bound.arguments[argument], *more]
        construct(*bound.args, **bound.kwargs)
        if afterwards is not None:
            try:
                afterwards(self, more)
            except Exception:
                logger.warning('PtychoPINN is not wholly at home here.', exc_info=True)

    extended._is_extended = True  # type: ignore[attr-defined]
    owner.__init__ = extended


def _add_libraries(arguments: dict[str, Any]) -> list[Any]:
    registry = arguments.get('settings_registry')
    is_developer_mode = logging.getLogger('ptychodus').getEffectiveLevel() <= logging.DEBUG
    return _make_all(LIBRARIES_GROUP, registry, is_developer_mode)


def _after_model(core: Any, libraries: Sequence[Any]) -> None:
    parameter = core.algorithm_parameter
    _libraries[parameter] = list(libraries)
    known = list(parameter.available_reconstructors())
    if known and parameter.get_value() not in known:
        # The window would show the first one while the model holds none.
        parameter.set_value(known[0])
    monitor = core.processing_api.task_monitor
    _RunEnd.watch(monitor, parameter)
    for library in libraries:
        if isinstance(activity := getattr(library, 'activity', None), Activity):
            activity.is_stop_pressed = lambda: bool(monitor.is_stopping)


def _add_views(arguments: dict[str, Any]) -> list[Any]:
    dialogs = arguments.get('file_dialog_factory')
    libraries = _libraries.get(arguments.get('algorithm_parameter'), [])
    return [
        factory
        for library in libraries
        for factory in _make_all(VIEWS_GROUP, library, dialogs)
        if factory.name.casefold() == library.name.casefold()
    ]


def _make_all(group: str, *arguments: Any) -> list[Any]:
    made = []
    for entry in entry_points_of(group):
        try:
            made.append(entry.load()(*arguments))
        except Exception as error:  # noqa: BLE001 - anything that escapes ends the application
            logger.warning(
                '%s = %s does not load in Ptychodus %s and is left out (%s: %s). It works in %s. '
                'See: ptychopinn doctor.',
                entry.name,
                entry.value,
                versions.host_version(),
                type(error).__name__,
                error,
                versions.SUPPORTED,
            )
    return made


class _RunEnd:
    """Makes the host look again whether Infer has a model, when a run ends."""

    def __init__(self, monitor: Any, parameter: Any) -> None:
        self._monitor, self._parameter = monitor, parameter
        self._was_running = False

    @classmethod
    def watch(cls, monitor: Any, parameter: Any) -> None:
        """Begin to watch; the monitor keeps the watcher alive."""
        monitor.add_observer(cls(monitor, parameter))

    def _update(self, observable: Any) -> None:
        """Be told, in the window's thread, that the monitor has news."""
        is_running = self._monitor.is_processing
        if self._was_running and not is_running:
            self._parameter.notify_observers()
        self._was_running = is_running


def _when_imported(name: str, act: Callable[[ModuleType], None]) -> None:
    """Act on a module now, or as soon as somebody imports it: batch mode never imports Qt."""
    if name in sys.modules:
        act(sys.modules[name])
    elif not any(isinstance(item, _Hook) and item.name == name for item in sys.meta_path):
        sys.meta_path.insert(0, _Hook(name, act))


class _Hook(importlib.abc.MetaPathFinder):
    """Waits for the import of one module, once."""

    def __init__(self, name: str, act: Callable[[ModuleType], None]) -> None:
        self.name = name
        self._act = act

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module as the others do, and act when it has been executed."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._act)
        return spec


class _Loader(importlib.abc.Loader):
    """Another loader, and something to do afterwards."""

    def __init__(self, loader: Any, act: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._act = act

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Create the module as its loader does."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module and act on it."""
        self._loader.exec_module(module)
        self._act(module)
