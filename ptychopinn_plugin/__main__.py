"""The command line as `python -m ptychopinn_plugin`, for launchers that start modules."""

from ptychopinn_plugin.cli import main

if __name__ == '__main__':
    main()
