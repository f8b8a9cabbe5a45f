"""``ptychodus-pinn``: Ptychodus with this plugin, wherever its own plugins lie."""

import sys
from importlib import import_module

from ptychopinn_plugin.host import bridge


def main() -> int:
    """Add the plugin and start Ptychodus with the arguments of the command line."""
    try:
        start = import_module('ptychodus.__main__').main
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f'Ptychodus cannot be started: {error}. '
            "Run: pip install 'ptychopinn-plugin[ptychodus]'.\n"
        )
        return 2
    bridge.install()
    code: int = start()
    return code


if __name__ == '__main__':
    sys.exit(main())
