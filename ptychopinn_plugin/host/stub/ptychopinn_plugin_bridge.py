"""What Ptychodus finds among its plugins: the wheel puts this file into `ptychodus.plugins`."""

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def register_plugins(registry: Any) -> None:
    """Add PtychoPINN to Ptychodus; raises nothing, for that would end the application."""
    try:
        from ptychopinn_plugin.host import bridge

        bridge.install()
    except Exception as error:  # noqa: BLE001 - see above
        logging.getLogger(__name__).warning(
            'PtychoPINN is not added to Ptychodus %s (%s: %s). See: ptychopinn doctor.',
            _host_version(),
            type(error).__name__,
            error,
        )


def _host_version() -> str:
    try:
        return version('ptychodus')
    except PackageNotFoundError:
        return 'of unknown version'
