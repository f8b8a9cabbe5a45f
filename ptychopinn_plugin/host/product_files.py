"""Files of products that the host writes of a run: they get their names when the run has ended.

The host writes one for each picture. If it is killed amid a run, none of them may be taken for the
result, as a watched folder with products counts as done.
"""

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED_PREFIX = 'unfinished-'
"""Pictures of the run under way have names that begin so, beside the products to come."""

logger = logging.getLogger('ptychopinn_plugin')


class ProductFiles:
    """The files of one run.

    Parameters
    ----------
    product_file : Path
        What the host was given; the file of an output has the number of its progress in its name.
    """

    def __init__(self, product_file: Path) -> None:
        # No folder of their own: whoever watches the folder may stumble over two that are new.
        self._unfinished_file = product_file.with_name(UNFINISHED_PREFIX + product_file.name)

    def redirect(self, task: Any) -> Any:
        """Return the host's task, which is a dataclass, with the names of unfinished files."""
        return dataclasses.replace(task, output_product_file=self._unfinished_file)

    def begin(self) -> None:
        """Make the folder, and remove what a run that was killed has left in it."""
        folder, name = self._unfinished_file.parent, self._unfinished_file
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f'{name.stem}.{"[0-9]" * 6}{name.suffix}'):
            path.unlink()

    def publish(self, outputs: Iterable[int]) -> None:
        """Give the files their names, the result first: where it is, the run has ended.

        Parameters
        ----------
        outputs : iterable of int
            The progress of each output of the run. No other file is touched.
        """
        # The largest number is the result's.
        for path in reversed(self._paths(outputs)):
            with _reported(path, 'could not be given its name', 'Rename it'):
                os.replace(path, path.with_name(path.name.removeprefix(UNFINISHED_PREFIX)))

    def discard(self, outputs: Iterable[int]) -> None:
        """Remove the files of a run that left no product; `outputs` as in `publish`."""
        for path in self._paths(outputs):
            with _reported(
                path, 'is of a run that left no product, and was not removed', 'Remove it'
            ):
                path.unlink()

    def _paths(self, outputs: Iterable[int]) -> list[Path]:
        name = self._unfinished_file
        return [
            name.with_name(f'{name.stem}.{number:06d}{name.suffix}')
            for number in sorted(set(outputs))
        ]


@contextmanager
def _reported(path: Path, what: str, advice: str) -> Iterator[None]:
    """Log why a file stays where it is."""
    try:
        yield
    except FileNotFoundError:
        # The run was stopped before the host wrote this one.
        return
    except OSError as error:
        logger.error('%s %s (%s). %s.', path, what, error, advice)
