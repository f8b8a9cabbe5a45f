"""The way into a Ptychodus without entry points: two constructors get more in one argument.

``ptychodus/plugins/ptychopinn_plugin_bridge.py`` calls `install` while the host loads its plugins,
before it makes its cores. Whatever fails here costs the plugin, never the application.
"""

import functools
import inspect
import logging
import sys
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ptychopinn_plugin.backends.spec import entry_points_of
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.host_window import HostWindow
from ptychopinn_plugin.host.import_hook import when_imported
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.ptychodus_compat import LIBRARIES_GROUP, SUPPORTED, VIEWS_GROUP

# Each package has imported the module of its seam when it is there itself.
_MODEL = 'ptychodus.model'
_CONTROLLER = 'ptychodus.controller'

logger = logging.getLogger('ptychopinn_plugin')

_libraries: 'weakref.WeakKeyDictionary[Any, dict[str, Any]]' = weakref.WeakKeyDictionary()
"""These libraries were added to each window, whose parameter for the algorithm is the key."""


def install() -> None:
    """Add the libraries of all entry points to Ptychodus, and their panels to its window.

    Calling it again changes nothing. Where Ptychodus reads entry points itself it stands down.
    """
    # The panels wait for an import: batch mode never imports Qt.
    when_imported(_MODEL, _extend_model)
    when_imported(_CONTROLLER, _extend_controller)


def _extend_model() -> None:
    module, name = f'{_MODEL}.processing.core', 'ProcessingCore'
    _guarded(_extend, module, name, 'algorithm_libraries', _add_libraries, _after_model)
    _guarded(_extend_automation)


def _extend_automation() -> None:
    """Let a watched folder be reconstructed, where this Ptychodus has such workflows."""
    module, name, argument = f'{_MODEL}.automation.core', 'AutomationCore', 'workflow_chooser'
    owner = getattr(sys.modules.get(module), name, None)
    if owner is None or argument not in inspect.signature(owner.__init__).parameters:
        logger.debug('This Ptychodus has no workflows that could be added to.')
        return
    _extend(module, name, argument, _add_workflow, lambda *_: None)


def _add_workflow(arguments: dict[str, Any]) -> dict[str, Any]:
    # Ptychodus' classes are imported once it is there.
    from ptychopinn_plugin.host.automation import add_workflow

    return add_workflow(arguments)


def _extend_controller() -> None:
    module, name = f'{_CONTROLLER}.processing.core', 'ProcessingController'
    _guarded(_extend, module, name, 'view_controller_factories', _add_views, _after_controller)


def _extend(
    module_name: str,
    class_name: str,
    argument: str,
    add: Callable[[dict[str, Any]], dict[str, Any]],
    afterwards: Callable[[Any, dict[str, Any], dict[str, Any]], None],
) -> None:
    """Let a constructor find more in one of its arguments, which is a sequence."""
    if versions.has_native_entry_points():
        return
    owner = getattr(sys.modules.get(module_name), class_name, None)
    signature = inspect.Signature() if owner is None else inspect.signature(owner.__init__)
    if owner is None or argument not in signature.parameters:
        _warn_of_seam(f'{module_name}.{class_name} takes no {argument}')
        return
    construct = owner.__init__
    if getattr(construct, '_is_extended', False):
        return

    @functools.wraps(construct)
    def extended(self: Any, *args: Any, **kwargs: Any) -> None:
        # The host may pass the argument by its place or by its name.
        bound = signature.bind(self, *args, **kwargs)
        more: dict[str, Any] = _guarded(add, bound.arguments) or {}
        if more:
            bound.arguments[argument] = [*bound.arguments.get(argument, ()), *more.values()]
        construct(*bound.args, **bound.kwargs)
        _guarded(afterwards, self, bound.arguments, more)

    extended._is_extended = True  # type: ignore[attr-defined]
    owner.__init__ = extended


def _add_libraries(arguments: dict[str, Any]) -> dict[str, Any]:
    is_developer_mode = logging.getLogger('ptychodus').getEffectiveLevel() <= logging.DEBUG
    made = {}
    for entry in entry_points_of(LIBRARIES_GROUP):
        library = _make(entry, arguments['settings_registry'], is_developer_mode)
        if library is not None:
            made[entry.name] = library
    return made


def _after_model(core: Any, arguments: dict[str, Any], libraries: dict[str, Any]) -> None:
    parameter = core.algorithm_parameter
    _libraries[parameter] = libraries
    known = list(parameter.available_reconstructors())
    if known and parameter.get_value() not in known:
        # The window would show the first one while the model holds none.
        parameter.set_value(known[0])
    monitor = core.processing_api.task_monitor
    # What the window is to draw waits in this queue; a call that is put there comes after it.
    tasks: Any = getattr(monitor, '_foreground_task_manager', None)

    def is_stop_pressed() -> bool:
        # Ctrl-C in batch mode shows in the queue alone: the host closes it and waits for the run.
        return bool(monitor.is_stopping or getattr(tasks, 'is_stopping', False))

    for library in libraries.values():
        if isinstance(activity := getattr(library, 'activity', None), Activity):
            activity.is_stop_pressed, activity.is_stop_known = is_stop_pressed, True
            if hasattr(tasks, 'put_foreground_task'):
                activity.when_drawn = tasks.put_foreground_task
                # It comes after the host's own handler, which keeps the line until it is shown.
                library.get_logger().addHandler(_LogWatch(monitor, tasks.put_foreground_task))


def _add_views(arguments: dict[str, Any]) -> dict[str, Any]:
    libraries = _libraries.get(arguments['algorithm_parameter'], {})
    made = {}
    for entry in entry_points_of(VIEWS_GROUP):
        if entry.name in libraries:
            library = libraries[entry.name]
            factory = _make(entry, library, arguments['file_dialog_factory'])
            if factory is not None:
                made[entry.name] = _GuardedPanels(library.name, factory)
    return made


def _after_controller(controller: Any, arguments: dict[str, Any], views: dict[str, Any]) -> None:
    for library in _libraries.get(arguments['algorithm_parameter'], {}).values():
        if isinstance(activity := getattr(library, 'activity', None), Activity):
            # The host's own objects keep it alive.
            HostWindow(controller, arguments, activity, tuple(library))


def _make(entry: Any, *arguments: Any) -> Any | None:
    """Return what an entry point makes; None where that fails or lacks the names the host reads."""
    try:
        made = entry.load()(*arguments)
        for named in (made, *(made if hasattr(made, '__iter__') else ())):
            named.name.casefold()
    except Exception as error:  # noqa: BLE001 - anything that escapes ends the application
        _warn(f'{entry.name} = {entry.value} is left out', error)
        return None
    return made


class _GuardedPanels:
    """Another factory of panels, whose errors become a text in the panel's place."""

    def __init__(self, name: str, factory: Any) -> None:
        self.name = name
        self._factory = factory

    def create_view_controller(self, reconstructor_name: str) -> Any:
        """Make the panel of an algorithm."""
        try:
            return self._factory.create_view_controller(reconstructor_name)
        except Exception as error:  # noqa: BLE001 - the window would not open
            _warn(f'The panel of {self.name} is left out', error)
            label = import_module('PyQt5.QtWidgets').QLabel(
                f'The panel does not open ({type(error).__name__}: {error}). '
                'The settings are in force as they are. See: ptychopinn doctor.'
            )
            label.setWordWrap(True)
            return label


class _LogWatch(logging.Handler):
    """Lets the window show a line of the log at once.

    By itself the host shows what was logged when the progress of a run changes.
    """

    def __init__(self, monitor: Any, put: Callable[[Callable[[], None]], None]) -> None:
        super().__init__()
        self._monitor, self._put = monitor, put
        self._is_waiting = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._put(self._show)

    def _show(self) -> None:
        """Run in the window's thread."""
        # This comes first, so that a line which comes meanwhile is shown as well.
        self._is_waiting = False
        self._monitor.notify_observers()


def _guarded(act: Callable[..., Any], *arguments: Any) -> Any | None:
    """Return what `act` returns, or log a warning and return None where it fails."""
    try:
        return act(*arguments)
    except Exception as error:  # noqa: BLE001 - anything that escapes ends the application
        _warn('PtychoPINN was not added completely', error)
        return None


def _warn(what: str, error: Exception) -> None:
    logger.warning(
        '%s (%s: %s). Ptychodus %s is installed; the plugin works in %s. See: ptychopinn doctor.',
        what,
        type(error).__name__,
        error,
        versions.host_version(),
        SUPPORTED,
    )


@functools.cache
def _warn_of_seam(what: str) -> None:
    """Warn once, however often the host loads its plugins."""
    logger.warning(
        'PtychoPINN cannot be added to Ptychodus %s: %s. It works in %s. See: ptychopinn doctor.',
        versions.host_version(),
        what,
        SUPPORTED,
    )
