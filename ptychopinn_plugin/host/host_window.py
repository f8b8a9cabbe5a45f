"""What the plugin does in Ptychodus' window besides its panels.

It keeps the chosen product and the folder of its files, counts the runs that wait, lets Stop end
those as well, and takes away the product of a run that left nothing.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from ptychopinn_plugin.errors import DataError, PtychoPinnError
from ptychopinn_plugin.host.panel_buttons import PanelButtons, is_folder, n_patterns
from ptychopinn_plugin.host.product_files import ProductFiles
from ptychopinn_plugin.host.run_state import Activity, ChosenProduct
from ptychopinn_plugin.host.training_data import find_training_files
from ptychopinn_plugin.text import count

logger = logging.getLogger('ptychopinn_plugin')


class HostWindow:
    """One window of Ptychodus.

    Parameters
    ----------
    controller : ptychodus.controller.processing.ProcessingController
    arguments : dict
        What it was made of, by name.
    activity : Activity
    reconstructors : sequence
        Those whose runs are ours.

    Attributes
    ----------
    choice : QComboBox
        The dropdown of the products.
    product_folders : ProductFolders
    queue : RunQueue
    """

    def __init__(
        self,
        controller: Any,
        arguments: dict[str, Any],
        activity: Activity,
        reconstructors: Sequence[Any],
    ) -> None:
        self._products = arguments['product_repository']
        self._algorithm = arguments['algorithm_parameter']
        self._dialogs = arguments['file_dialog_factory']
        self.choice = controller._product_view_controller.get_widget()
        self._reconstructors = reconstructors
        api = arguments['processing_api']
        self.product_folders = ProductFolders(api._product_api, api)
        self.queue = RunQueue(api.task_monitor, activity, reconstructors, self)
        activity.runs_waiting = self.queue.count
        activity.chosen_product = self.chosen_product
        buttons = PanelButtons(self, arguments, activity)
        activity.check_scan = buttons.check_scan
        activity.train_on_product = buttons.train_on_product
        # The host's own slot, which ends the run under way, comes first.
        arguments['status_view'].stop_button.clicked.connect(self._drop_waiting_runs)
        activity.takes_products_away = True
        activity.keep_log_end = LogEnd(arguments['status_view'].text_edit).keep
        self._menu = ModelMenu(controller, self._algorithm, reconstructors, activity)
        # Qt sends this before the click that opens the dialog.
        controller._actions_view.train_button.pressed.connect(self._open_dialog_at_product)

    def chosen_item(self) -> Any | None:
        """Return the product that is chosen; None where there is none."""
        index = self.choice.currentIndex()
        return self._products[index] if 0 <= index < len(self._products) else None

    def chosen_product(self) -> ChosenProduct | None:
        """Return what the panel shows of the product that is chosen."""
        item = self.chosen_item()
        patterns = None if item is None else n_patterns(item)
        if item is None or patterns is None:
            return None
        name = item.get_name()
        product_folder = self.product_folders.of(item)
        return ChosenProduct(name, patterns, '' if product_folder is None else str(product_folder))

    def choose(self, item: Any) -> None:
        """Choose a product, if it is still there."""
        for index, other in enumerate(self._products):
            if other is item:
                self.choice.setCurrentIndex(index)

    def remove(self, item: Any) -> None:
        """Take a product away, and choose the one from which it was made."""
        for index, other in enumerate(self._products):
            if other is item:
                was_chosen = self.choice.currentIndex() == index
                self._products.remove_product(index)
                if was_chosen and (before := self.queue.made_from.get(id(item))) is not None:
                    self.choose(before)
                break
        self.queue.made_from.pop(id(item), None)

    def _drop_waiting_runs(self) -> None:
        self.queue.drop_all()

    def _open_dialog_at_product(self) -> None:
        """Let the dialog of Train open at the files of the chosen product."""
        item = self.chosen_item()
        product_folder = None if item is None else self.product_folders.of(item)
        ours = self._algorithm.get_current_reconstructor() in self._reconstructors
        if product_folder is not None and ours and is_folder(product_folder):
            self._dialogs.set_open_working_directory(product_folder)


class LogEnd:
    """Keeps the end of the host's log pane in view, unless somebody has scrolled away from it.

    By itself the pane loses its end when it becomes lower, as it does where a run begins.

    Parameters
    ----------
    text_edit : QPlainTextEdit
    """

    def __init__(self, text_edit: Any) -> None:
        self._text_edit, self._bar = text_edit, text_edit.verticalScrollBar()
        self._is_at_end, self._is_stale = True, False
        self._bar.valueChanged.connect(self._note_place)
        self._bar.rangeChanged.connect(self._follow)

    def _note_place(self, value: int) -> None:
        self._is_at_end = value >= self._bar.maximum()

    def _follow(self, *_: int) -> None:
        # While it is hidden Qt takes the last line for the only one that is seen.
        if not self._text_edit.isVisible():
            self._is_stale = True
        elif self._is_at_end:
            self._bar.setValue(self._bar.maximum())

    def keep(self) -> None:
        """Show the end again, after lines have come while the pane was hidden."""
        if not self._is_stale or not self._text_edit.isVisible():
            return
        self._is_stale = False
        was_at_end = self._is_at_end
        # Both together change nothing but let Qt find again how far the pane scrolls.
        self._text_edit.setCenterOnScroll(True)
        self._text_edit.setCenterOnScroll(False)
        if was_at_end:
            self._bar.setValue(self._bar.maximum())


class ModelMenu:
    """Entries in the host's menu beside Train: the recent models, and the guide.

    Parameters
    ----------
    controller : ptychodus.controller.processing.ProcessingController
    algorithm : ptychodus.model.processing.ProcessingAlgorithmParameter
    reconstructors : sequence
        Those whose models these are.
    activity : Activity
        Opens the guide.
    """

    def __init__(
        self, controller: Any, algorithm: Any, reconstructors: Sequence[Any], activity: Activity
    ) -> None:
        self._algorithm, self._reconstructors = algorithm, reconstructors
        self._show_model = controller._sync_model_to_view
        menu = controller._actions_view.actions_menu
        self.recent = menu.addMenu('Load Recent')
        self.recent.aboutToShow.connect(self._fill)
        self.help = menu.addAction('Help')
        self.help.triggered.connect(lambda *_: activity.open_guide())
        menu.aboutToShow.connect(self._hide_from_others)

    def _hide_from_others(self) -> None:
        """Show our entries for our algorithms alone."""
        is_ours = self._algorithm.get_current_reconstructor() in self._reconstructors
        self.recent.menuAction().setVisible(is_ours)
        self.help.setVisible(is_ours)

    def _fill(self) -> None:
        self.recent.clear()
        reconstructor = self._algorithm.get_current_reconstructor()
        if reconstructor not in self._reconstructors:
            return
        for choice in reconstructor.model_choices():
            self._add(choice.name, choice.load).setToolTip(choice.tool_tip)
        self.recent.setToolTipsVisible(True)

    def _add(self, text: str, act: Callable[[], None]) -> Any:
        action = self.recent.addAction(text)
        action.triggered.connect(lambda *_: self._load(act))
        return action

    def _load(self, act: Callable[[], None]) -> None:
        # The reason of a failure is in the log and the panel; an exception would end the window.
        with suppress(PtychoPinnError, OSError):
            act()
        self._show_model()


class ProductFolders:
    """The folders that products were read from or written to, which the host does not keep.

    Parameters
    ----------
    api : ptychodus.model.product.ProductAPI
        Its `open_product` and `save_product` are listened to.
    processing_api : ptychodus.model.processing.ProcessingAPI
        So is its `export_training_data`.
    """

    def __init__(self, api: Any, processing_api: Any) -> None:
        self._api = api
        # By the product itself: a name may be given to another one.
        self._folders: WeakKeyDictionary[Any, Path] = WeakKeyDictionary()
        open_product, save_product = api.open_product, api.save_product
        export = processing_api.export_training_data

        def open_and_note(file_path: Path, *args: Any, **more: Any) -> int:
            index: int = open_product(file_path, *args, **more)
            if index >= 0:
                self._note_if_trainable(index, Path(file_path).parent)
            return index

        def save_and_note(index: int, file_path: Path, *args: Any, **more: Any) -> None:
            save_product(index, file_path, *args, **more)
            self._note_if_trainable(index, Path(file_path).parent)

        def export_and_note(file_path: Path, *args: Any, product_index: int, **more: Any) -> None:
            export(file_path, *args, product_index=product_index, **more)
            self._note_if_trainable(product_index, Path(file_path).parent)

        api.open_product, api.save_product = open_and_note, save_and_note
        processing_api.export_training_data = export_and_note

    def of(self, item: Any) -> Path | None:
        """Return the folder of a product, which may be gone; None where it is unknown."""
        return self._folders.get(item)

    def inherit(self, item: Any, source: Any | None) -> None:
        """Note that a product was made from another one, if it has the same patterns."""
        if source is None or item.get_dataset() is not source.get_dataset():
            return
        if (product_folder := self.of(source)) is not None:
            self._folders[item] = product_folder

    def _note_if_trainable(self, index: int, folder: Path) -> None:
        """Note the folder of a product where Train would find something in it."""
        try:
            find_training_files(folder)
            self._folders[self._api.get_item(index)] = folder.absolute()
        except (DataError, OSError, IndexError):
            # A product that was saved elsewhere, or that is gone, keeps the folder it had.
            return


class RunQueue:
    """Our runs that the host has put into its queue.

    By itself the host starts the next one when Stop has ended the one under way.

    Parameters
    ----------
    monitor : ptychodus.model.processing.ProcessingTaskMonitor
    activity : Activity
    reconstructors : sequence
    window : HostWindow

    Attributes
    ----------
    made_from : dict
        By the `id` of the product of an inference: the product that was chosen for it.
    """

    def __init__(
        self, monitor: Any, activity: Activity, reconstructors: Sequence[Any], window: HostWindow
    ) -> None:
        self._tasks = monitor._foreground_task_manager
        self._activity, self._reconstructors = activity, reconstructors
        self._window = window
        # Stop comes from the thread of the window, and runs begin in another.
        self._lock = threading.Lock()
        self._waiting: set[QueuedRun] = set()
        self.made_from: dict[int, Any] = {}
        put = self._tasks.put_background_task

        def put_and_count(task: Any) -> None:
            put(self._counted(task))

        self._tasks.put_background_task = put_and_count

    def put(self, task: Any) -> None:
        """Put a run behind those that wait."""
        self._tasks.put_background_task(task)

    def count(self) -> int:
        """Return how many of our runs wait."""
        with self._lock:
            return len(self._waiting)

    def drop_all(self) -> None:
        """Let the runs that wait now end as soon as it is their turn."""
        with self._lock:
            number = len(self._waiting)
            for run in self._waiting:
                run.is_dropped = True
            self._waiting.clear()
        if number:
            # Now, and not when it is their turn: what the run under way leaves comes last.
            was, it = ('was', 'it') if number == 1 else ('were', 'they')
            runs = f'{count(number, "run")} that waited'
            logger.warning('%s %s ended by Stop before %s began.', runs, was, it)

    def _counted(self, task: Any) -> Any:
        """Return a task that reports when it begins, if it is a run of ours."""
        maker = getattr(task, 'trainer', None) or getattr(task, 'reconstructor', None)
        if maker not in self._reconstructors:
            return task
        run = QueuedRun(task, self)
        # The host chooses the new product after this.
        before = self._window.chosen_item()
        if run.product is not None:
            # Of two runs in a row the second begins from what the first is to make.
            self.made_from[id(run.product)] = self.made_from.get(id(before), before)
            self._window.product_folders.inherit(run.product, before)
        elif before is not None and hasattr(task, 'input_path'):
            source = Path(task.input_path)
            self._compare(before, source.parent if source.is_file() else source)
        with self._lock:
            self._waiting.add(run)
        return run

    def _compare(self, item: Any, folder: Path) -> None:
        """Warn where a training may learn from another scan than that of the chosen product."""
        product_folder = self._window.product_folders.of(item)
        if product_folder == folder.absolute():
            return
        where = f'lies in {product_folder}.'
        if product_folder is None:
            where = 'came from no folder that is known; Train on product learns from it.'
        logger.warning(
            'Training learns from the files of %s. The product that is chosen, %s, %s',
            *(folder, item.get_name(), where),
        )

    def begin(self, run: 'QueuedRun') -> bool:
        """Note that it is a run's turn; return whether it is still wanted."""
        with self._lock:
            self._waiting.discard(run)
        self._activity.measured, self._activity.outputs = run.n_measured, ()
        return not run.is_dropped

    def end(self, product: Any, *, keeps_product: bool) -> None:
        """Take away the product of a run that left nothing for it."""
        if product is None:
            return
        if keeps_product:
            self.made_from.pop(id(product), None)
        else:
            # Products belong to the window, and only its thread may change them.
            self._tasks.put_foreground_task(lambda: self._window.remove(product))

    def keeps_product(self) -> bool:
        """Return whether the inference that has just ended has a product."""
        return self._activity.keeps_product

    def outputs(self) -> tuple[int, ...]:
        """Return the progress of each output of the inference that has just ended."""
        return self._activity.outputs


class QueuedRun:
    """A run in the host's queue.

    Attributes
    ----------
    is_dropped : bool
        Whether Stop was pressed while it waited.
    product : object, optional
        The product that an inference fills; the host makes it before the run.
    n_measured : int, optional
        How many patterns it is bound to.
    """

    def __init__(self, task: Callable[[], Any], queue: RunQueue) -> None:
        self._queue = queue
        self.is_dropped = False
        self.product = getattr(task, 'product_item', None)
        product_file: Path | None = getattr(task, 'output_product_file', None)
        self._files = None if product_file is None else ProductFiles(product_file)
        self._task = task if self._files is None else self._files.redirect(task)
        self.n_measured = None if self.product is None else n_patterns(self.product)

    def __call__(self) -> Any:
        """Do it, in the thread of the host's runs."""
        keeps_product = False
        if not self._queue.begin(self):
            self._queue.end(self.product, keeps_product=False)
            return None
        try:
            if self._files is not None:
                self._files.begin()
            result = self._task()
            keeps_product = self._queue.keeps_product()
            return result
        finally:
            if self._files is not None:
                end_files = self._files.publish if keeps_product else self._files.discard
                end_files(self._queue.outputs())
            self._queue.end(self.product, keeps_product=keeps_product)
