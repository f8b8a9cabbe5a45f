"""Ptychodus' *Automation*: each new scan in a watched folder is reconstructed with no click."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from ptychodus.api.workflow import FileBasedWorkflow, WorkflowAPI

from ptychopinn_plugin.host.run_state import ASIDE

logger = logging.getLogger('ptychopinn_plugin')

SIMPLE_NAME, DISPLAY_NAME = 'PtychoPINN', 'PtychoPINN'
"""The workflow has these names in the settings file and in the menu *Workflow*."""

ALGORITHM = 'ptychopinn-plugin_pinn'

PATTERNS_FILE, PRODUCT_FILE = 'diffraction.h5', 'product.h5'
"""A folder that holds both is a scan, as in batch mode."""

OUTPUT = 'output'
"""The folder beside them gets the products when the run has ended: `product.NNNNNN.h5` for each
picture on the way, as in batch mode. The one with the largest number is the result."""


class ScanFolderWorkflow(FileBasedWorkflow):
    """Reconstructs a folder with patterns and a product, once both are complete.

    Parameters
    ----------
    tasks : ptychodus.model.task_manager.TaskManager
        The host's queue of runs, of which each ends before the next one begins.
    """

    def __init__(self, tasks: Any) -> None:
        super().__init__()
        self._tasks = tasks
        self._begun: set[Path] = set()

    @property
    def is_watch_recursive(self) -> bool:
        """Each scan has a folder of its own."""
        return True

    def get_watch_file_pattern(self) -> str:
        """Return a pattern that both names match, and few others: either may come last."""
        return '[dp][ir][fo]*[nt].h5'

    def execute(self, api: WorkflowAPI, file_path: Path) -> None:
        """Reconstruct the scan that a file belongs to, if it is all there and new.

        Parameters
        ----------
        api : WorkflowAPI
        file_path : Path
            A file that was written and has not changed for a while.
        """
        folder = file_path.parent
        patterns, product = folder / PATTERNS_FILE, folder / PRODUCT_FILE
        if file_path not in (patterns, product) or folder in self._begun:
            return
        if not (patterns.is_file() and product.is_file()):
            return
        target = folder / OUTPUT / PRODUCT_FILE
        # After a restart each scan of the watched folder looks new.
        if _has_products(target.parent):
            logger.info(
                'Automation: %s is left alone, as %s holds products. Move them away to reconstruct '
                'it anew.',
                *(folder, target.parent),
            )
            return
        self._begun.add(folder)
        try:
            measured = api.load_assembled_diffraction_data(patterns)
            loaded = api.load_product(product, diffraction=measured)
            target.parent.mkdir(exist_ok=True)
            loaded.reconstruct_local(algorithm=ALGORITHM, output_product_file=target)
            # It comes after the run in the queue; what it returns is called in the window's thread.
            self._tasks.put_background_task(lambda: partial(self._note_end, folder))
        except Exception as error:  # noqa: BLE001 - the next scan of the night must not miss its turn
            # It is tried again when one of its files is written once more.
            self._begun.discard(folder)
            logger.error('Automation: %s was not reconstructed: %s', folder, error)
        else:
            logger.info(
                'Automation: %s waits for its turn; its products go to %s.', folder, target.parent
            )

    def _note_end(self, folder: Path) -> None:
        """Let a folder be tried again whose run has left no product; such a run has no files."""
        if not _has_products(folder / OUTPUT):
            self._begun.discard(folder)
            logger.warning(
                'Automation: the run of %s left no product. It is tried again when %s or %s is '
                'written once more, and in the next session.',
                *(folder, PATTERNS_FILE, PRODUCT_FILE),
                extra=ASIDE,
            )


def _has_products(folder: Path) -> bool:
    return any(folder.glob('product*.h5'))


def add_workflow(arguments: dict[str, Any]) -> dict[str, Any]:
    """Add the workflow to those among which the host's *Automation* chooses.

    Parameters
    ----------
    arguments : dict
        Those of the host's `AutomationCore`, by name.
    """
    chooser = arguments['workflow_chooser']
    known = {plugin.simple_name for plugin in chooser}
    if SIMPLE_NAME not in known:
        chooser.register_plugin(
            ScanFolderWorkflow(arguments['task_manager']),
            simple_name=SIMPLE_NAME,
            display_name=DISPLAY_NAME,
        )
    return {}
