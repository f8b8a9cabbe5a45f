"""What this package warns of goes to its log, which commands, files and windows show."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_PACKAGE = Path(__file__).parent

logger = logging.getLogger('ptychopinn_plugin')


@contextmanager
def logging_warnings() -> Iterator[None]:
    """Log what this package warns of, while the block runs; what others warn of stays on stderr."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def log(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            # NumPy's warnings of our lines keep their place, for whoever mends them.
            if issubclass(category, UserWarning) and Path(filename).is_relative_to(_PACKAGE):
                logger.warning('%s', message)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = log
        # Python shows a text once in a process, in which there may be many runs.
        warnings.filterwarnings('always', category=UserWarning, module='ptychopinn_plugin')
        yield
