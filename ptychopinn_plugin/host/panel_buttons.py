"""What the buttons of the panel do with the product that is chosen in the window."""

import logging
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host.check_task import CheckTask
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.training_data import TRAINING_FILE

if TYPE_CHECKING:
    from ptychopinn_plugin.host.host_window import HostWindow

TRAINING_SUFFIX = '-training'
"""*Train on product* writes a folder whose name is the product's with this after it."""

logger = logging.getLogger('ptychopinn_plugin')


class PanelButtons:
    """*Check scan* and *Train on product*.

    Parameters
    ----------
    window : HostWindow
    arguments : dict
        What the host's controller was made of, by name.
    activity : Activity
        Shows that a run was refused.
    """

    def __init__(self, window: 'HostWindow', arguments: dict[str, Any], activity: Activity) -> None:
        self._window, self._activity = window, activity
        self._api = arguments['processing_api']
        self._algorithm = arguments['algorithm_parameter']
        self._dialogs = arguments['file_dialog_factory']
        self._choice = window.choice

    def check_scan(self) -> None:
        """Put a check of the product that is chosen into the queue of runs."""
        if self._product_for('Check scan', 'check') is None:
            return
        try:
            parameters = self._api.get_reconstruct_input(product_index=self._choice.currentIndex())
        except (ValueError, RuntimeError) as error:
            logger.error('Check scan failed: %s', error)
            self._refuse('check')
            return
        reconstructor = self._algorithm.get_current_reconstructor()
        self._window.queue.put(CheckTask(self._api.task_monitor, reconstructor, parameters))

    def train_on_product(self) -> None:
        """Write the product that is chosen to a folder of its own, and train on it."""
        item = self._product_for('Train on product', 'training')
        if item is None:
            return
        index, folder = self._choice.currentIndex(), self._training_folder(item)
        reconstructor = self._algorithm.get_current_reconstructor()
        try:
            parameters = self._api.get_reconstruct_input(product_index=index)
            # Nothing is written for a product that cannot be trained on.
            reconstructor.check_training_input(parameters, folder)
            folder.mkdir(exist_ok=True)
            self._api.export_training_data(folder / TRAINING_FILE, product_index=index)
        except PtychoPinnError:
            # The reason is in the log.
            self._refuse('training')
            return
        except (OSError, ValueError, RuntimeError) as error:
            logger.error('Train on product failed: %s', error)
            self._refuse('training')
            return
        # This product alone, whatever else lies in the folder.
        self._api.train(folder / TRAINING_FILE, folder, product_index=index)

    def _refuse(self, kind: str) -> None:
        self._activity.refuse(kind, self._algorithm.get_current_reconstructor().name)

    def _product_for(self, what: str, kind: str) -> Any | None:
        """Return the product that is chosen; where it has no patterns, None, and log an error."""
        item = self._window.chosen_item()
        if item is not None and n_patterns(item) is not None:
            return item
        logger.error(
            '%s failed: no product with patterns is chosen. Choose one above, or bind one to its '
            'patterns under Products.',
            what,
        )
        self._refuse(kind)
        return None

    def _training_folder(self, item: Any) -> Path:
        """Return where a training on a product lies: beside its files, else in the open folder."""
        product_folder = self._window.product_folders.of(item)
        if product_folder is not None and product_folder.name.endswith(TRAINING_SUFFIX):
            return product_folder
        if product_folder is None or not is_folder(product_folder):
            product_folder = Path(self._dialogs.get_open_working_directory())
        return product_folder / training_folder_name(item.get_name())


def training_folder_name(product: str) -> str:
    """Return the name of the folder of a product's training, another one for each product."""
    plain = re.sub(r'[^\w.+-]+', '_', product)
    if plain != product:
        # "scan 1" and "scan_1" are two products.
        plain += f'-{zlib.crc32(product.encode()):08x}'
    return plain + TRAINING_SUFFIX


def n_patterns(item: Any) -> int | None:
    """Return how many patterns a product is bound to; None where it is bound to none."""
    dataset = item.get_dataset()
    # Not the patterns themselves, which some releases copy to be counted.
    return None if dataset is None else len(dataset.get_assembled_data().get_indexes())


def is_folder(path: Path) -> bool:
    """Return whether a folder is there; one on a share that cannot be reached is not."""
    try:
        return path.is_dir()
    except OSError:
        return False
