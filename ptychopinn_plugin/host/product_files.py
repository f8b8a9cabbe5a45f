"""Files of products that the host writes of a run: they get their names when the run has ended.

The host writes one for each picture. If it is killed amid a run, none of them may be taken for the
result, as a watched folder with products counts as done.
"""

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED_FOLDER = 'unfinished'
"""Pictures of the run under way lie in a folder of this name beside the products to come."""

logger = logging.getLogger('ptychopinn_plugin')


class ProductFiles:
    """The files of one run.

    Parameters
    ----------
    product_file : Path
        What the host was given; the file of an output has the number of its progress in its name.

    Attributes
    ----------
    folder : Path
        Where they lie while the run is under way.
    """

    def __init__(self, product_file: Path) -> None:
        self._product_file = product_file
        self.folder = product_file.parent / UNFINISHED_FOLDER

    def redirect(self, task: Any) -> Any:
        """Return the host's task, which is a dataclass, with its files in `folder`."""
        product_file = self.folder / self._product_file.name
        return dataclasses.replace(task, output_product_file=product_file)

    def begin(self) -> None:
        """Make the folder, and remove what a run that was killed has left in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem, suffix = self._product_file.stem, self._product_file.suffix
        for path in self.folder.glob(f'{stem}.{"[0-9]" * 6}{suffix}'):
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
            with _reported(path, 'could not be moved out of its folder', 'Move it'):
                os.replace(path, self._product_file.with_name(path.name))
        self._remove_folder()

    def discard(self, outputs: Iterable[int]) -> None:
        """Remove the files of a run that left no product; `outputs` as in `publish`."""
        for path in self._paths(outputs):
            with _reported(
                path, 'is of a run that left no product, and was not removed', 'Remove it'
            ):
                path.unlink()
        self._remove_folder()

    def _paths(self, outputs: Iterable[int]) -> list[Path]:
        stem, suffix = self._product_file.stem, self._product_file.suffix
        return [self.folder / f'{stem}.{number:06d}{suffix}' for number in sorted(set(outputs))]

    def _remove_folder(self) -> None:
        # Somebody may have put a file of his own there.
        with suppress(OSError):
            self.folder.rmdir()


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
