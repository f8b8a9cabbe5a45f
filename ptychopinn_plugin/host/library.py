"""The library that Ptychodus finds: two algorithms, one worker, one group of settings."""

import os
from collections.abc import Iterator
from functools import partial

from ptychodus.api.observer import Observable, Observer
from ptychodus.api.reconstruct import ReconstructorLibrary
from ptychodus.api.settings import SettingsRegistry

from ptychopinn_plugin.backends.selection import ENVIRONMENT_VARIABLE, Choice, choose
from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host.panel_wording import PanelWording
from ptychopinn_plugin.host.reconstructor import PinnReconstructor
from ptychopinn_plugin.host.run_state import Activity, LastMessage
from ptychopinn_plugin.host.settings import PluginSettings
from ptychopinn_plugin.host.worker.client import Worker

LIBRARY_NAME = 'PtychoPINN-Plugin'
"""It has no underscore, as Ptychodus splits ``library_algorithm`` at the first one."""

ALGORITHMS = {'PINN': 'pinn', 'Supervised': 'supervised'}


class PtychoPinnLibrary(ReconstructorLibrary, Observer):
    """PtychoPINN on whichever backend is chosen at the moment of use.

    Attributes
    ----------
    settings : PluginSettings
    activity : Activity
    worker : Worker
    """

    def __init__(self, settings_registry: SettingsRegistry) -> None:
        super().__init__('ptychopinn_plugin')
        self.settings = PluginSettings(settings_registry, tuple(ALGORITHMS))
        self.activity = Activity()
        self._last_message = LastMessage(self.activity)
        # It is the first handler: the log pane and the console get the same words.
        self._last_message.addFilter(PanelWording())
        self.get_logger().addHandler(self._last_message)
        self._in_force: tuple[tuple[str | None, ...], str] = ((), '')
        self.worker = Worker()
        self._reconstructors = [
            PinnReconstructor(name, model_type, self.settings, self.worker, self.activity)
            for name, model_type in ALGORITHMS.items()
        ]
        for reconstructor in self._reconstructors:
            note = partial(self.settings.recent_models.note, reconstructor.name)
            reconstructor.loaded.when_loaded = note
        self._registry = settings_registry
        settings_registry.add_observer(self)

    @property
    def name(self) -> str:
        """Name in the menu, before the algorithm's."""
        return LIBRARY_NAME

    def __iter__(self) -> Iterator[PinnReconstructor]:
        """Iterate over the algorithms."""
        return iter(self._reconstructors)

    def _update(self, observable: Observable) -> None:
        """Load the models that a settings file names, once it is read."""
        if observable is not self._registry:
            return
        for reconstructor in self._reconstructors:
            path = self.settings.recent_models.loaded(reconstructor.name)
            if path is None or reconstructor.loaded.is_of(path):
                continue
            try:
                reconstructor.load_model_from_file(path)
            except (PtychoPinnError, OSError):
                # The reason is in the log. What is loaded stays, and is what a new file names.
                reconstructor.loaded.notify()

    def choose_backend(self, model_backend: str | None = None) -> Choice:
        """Return which backend would be used now, and why.

        Parameters
        ----------
        model_backend : str, optional
            The one that made the model, where a model is to be used.

        Raises
        ------
        UnknownBackendError, BackendUnavailableError
            What the panel shows in its place.
        """
        return choose(setting=self.settings.backend, model_backend=model_backend)

    def backend_in_force(self, model_backend: str) -> str:
        """Return the name of the backend that would run a model; empty where none can.

        Parameters
        ----------
        model_backend : str
            The one that made the model.
        """
        decisive = (self.settings.backend, os.environ.get(ENVIRONMENT_VARIABLE), model_backend)
        # To look for what is installed reads hundreds of files, and the panel looks often.
        if decisive != self._in_force[0]:
            try:
                name = self.choose_backend(model_backend).name
            except PtychoPinnError:
                # The row Backend shows the reason.
                name = ''
            self._in_force = (decisive, name)
        return self._in_force[1]

    def close(self) -> None:
        """End runs with what they have; the application is closing."""
        self.activity.close()
        self.get_logger().removeHandler(self._last_message)


def create_library(
    settings_registry: SettingsRegistry,
    is_developer_mode_enabled: bool = False,
) -> PtychoPinnLibrary:
    """Make the library; the entry point of the group ``ptychodus.reconstructor_libraries``.

    Parameters
    ----------
    settings_registry : SettingsRegistry
    is_developer_mode_enabled : bool
        Ptychodus passes it to every library; this one does not use it.
    """
    return PtychoPinnLibrary(settings_registry)
