"""What is known of a backend before its framework is imported."""

import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptychopinn_plugin.packages import is_importable, release

if sys.version_info >= (3, 13):
    from importlib import metadata
else:
    # The package has one API on every Python that Ptychodus supports.
    import importlib_metadata as metadata

if TYPE_CHECKING:
    from ptychopinn_plugin.backends.common.ranks import Launch, Ranks
    from ptychopinn_plugin.backends.protocol import Backend

    Join = Callable[[Launch, Callable[[], str], int], AbstractContextManager[Ranks]]


@dataclass(frozen=True)
class BackendSpec:
    """One backend; entry points of the group `ptychopinn_plugin.backends` name such objects.

    Attributes
    ----------
    name : str
        As users write it, in lower case.
    framework : str
        Import name of the framework.
    distribution : str
        Its name for pip, by which the version is found.
    minimum_version : str
    loader : str
        ``module:attribute`` that makes a `Backend` when called; imported when one is needed.
    extra : str
        Extra of ptychopinn-plugin that installs the framework; empty for a backend that does not
        come from this package.
    aliases : tuple of str
        Other names that users may write.
    joining : str
        ``module:attribute`` of a context in which several processes compute together, see
        `pytorch.ranks.joined`; empty for a backend that computes in one.
    """

    name: str
    framework: str
    distribution: str
    minimum_version: str
    loader: str
    extra: str = ''
    aliases: tuple[str, ...] = ()
    joining: str = ''

    @property
    def install_command(self) -> str:
        """What to run where the framework is missing or too old."""
        if self.extra:
            return f"pip install 'ptychopinn-plugin[{self.extra}]'"
        return f"pip install '{self.distribution}>={self.minimum_version}'"

    def is_installed(self) -> bool:
        """Return whether the framework can be found; it is not imported."""
        return is_importable(self.framework)

    def version(self) -> str | None:
        """Return the framework's version, or None where it is not known."""
        return installed_version(self.distribution)

    def problem(self) -> str | None:
        """Return why the backend cannot run here, or None if it can."""
        if not self.is_installed():
            return 'is not installed'
        version = self.version()
        if version is not None and release(version) < release(self.minimum_version):
            return f'needs {self.distribution} {self.minimum_version} or newer; found {version}'
        return None

    def load(self) -> 'Callable[[], Backend]':
        """Import the backend, and with it the framework."""
        made: Callable[[], Backend] = _imported(self.loader)
        return made

    def load_joining(self) -> 'Join':
        """Import what joins several processes, and with it the framework."""
        join: Join = _imported(self.joining)
        return join


def _imported(name: str) -> Any:
    """Return what ``module:attribute`` names."""
    module, _, attribute = name.partition(':')
    return getattr(importlib.import_module(module), attribute)


def entry_points_of(group: str) -> metadata.EntryPoints:
    """Return what installed distributions offer under the name of a group."""
    return metadata.entry_points(group=group)


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None where it is not known."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
