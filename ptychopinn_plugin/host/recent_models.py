"""The models that were loaded or trained lately, kept in Ptychodus' settings file."""

import json
import logging
from pathlib import Path

from ptychodus.api.parameters import ParameterGroup

KEPT = 8
"""This number of models is remembered."""

logger = logging.getLogger('ptychopinn_plugin')


class RecentModels:
    """Paths of model files, newest first, and the one that each algorithm has loaded.

    Parameters
    ----------
    group : ParameterGroup
        Gets the settings `RecentModels`, and `PINNModel` and the like.
    algorithms : iterable of str
        Names of the algorithms.
    """

    def __init__(self, group: ParameterGroup, algorithms: tuple[str, ...]) -> None:
        self._recent = group.create_string_parameter('RecentModels', '[]')
        self._loaded = {
            name: group.create_string_parameter(f'{name}Model', '') for name in algorithms
        }

    def paths(self) -> list[Path]:
        """Return the models, the newest first; files that are gone are left out."""
        try:
            listed = json.loads(self._recent.get_value())
        except json.JSONDecodeError:
            logger.warning('Settings file: RecentModels is no list of paths and is left out.')
            listed = []
        texts = listed if isinstance(listed, list) else []
        found = [Path(text) for text in texts if isinstance(text, str)]
        return [path for path in found[:KEPT] if _is_file(path)]

    @property
    def as_saved(self) -> str:
        """The list as the settings file has it, with files that may be gone."""
        text: str = self._recent.get_value()
        return text

    def loaded(self, algorithm: str) -> Path | None:
        """Return the model that an algorithm has, or had when the settings were saved."""
        text = self._loaded[algorithm].get_value()
        return Path(text) if text else None

    def note(self, algorithm: str, path: Path | None) -> None:
        """Note which model an algorithm has loaded; None for the built-in one."""
        if path is None:
            self._loaded[algorithm].set_value('')
            return
        path = path.absolute()
        self._loaded[algorithm].set_value(str(path))
        others = [other for other in self.paths() if other != path]
        # No character of a path may end the line of the settings file.
        self._recent.set_value(json.dumps([str(item) for item in [path, *others][:KEPT]]))


def _is_file(path: Path) -> bool:
    """Return whether a file is there; one on a share that cannot be reached is not."""
    try:
        return path.is_file()
    except OSError:
        return False
