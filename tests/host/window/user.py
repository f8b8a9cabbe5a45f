"""Ptychodus' real window, and the hands of a user; Qt draws it nowhere."""

import importlib.util
import logging
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PyQt5.QtCore import Qt, QTimer
from PyQt5.QtWidgets import (
    QApplication,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QLabel,
    QMenu,
    QPushButton,
)

import ptychopinn_plugin as pp
from ptychopinn_plugin.host import bridge
from ptychopinn_plugin.host.library import PtychoPinnLibrary
from ptychopinn_plugin.host.reconstructor import PinnReconstructor
from ptychopinn_plugin.host.view import Page
from ptychopinn_plugin.host.view.header import Header, TrainingCurve
from ptychopinn_plugin.host.worker.client import Worker

# Otherwise the first window of a session would import the plugin's stub and the others find it.
bridge.install()

PREPARE = PinnReconstructor.prepare
"""It starts the worker before the first run; the tests go without, but for one."""

TICK_MS = 50
"""The tests look at the queues of the window more often than once a second."""

PATIENCE_MS = 120_000

STOP_S = 20.0
"""The guide promises two seconds; a busy machine takes several times that, a run its minutes."""

needs_stopped_processes = pytest.mark.skipif(
    not hasattr(signal, 'SIGSTOP'), reason='There is no SIGSTOP here.'
)


class Window:
    """One application: its model, its window, and what a user does with it."""

    def __init__(self, model: Any, controller: Any, qtbot: Any) -> None:
        self.model, self.controller, self.qtbot = model, controller, qtbot
        self.view = controller.view
        self.parts = controller._processing_controller
        self.dialogs = controller._file_dialog_factory
        added = bridge._libraries[self.parts._algorithm_parameter]
        self.library: PtychoPinnLibrary = added['ptychopinn-plugin']
        self.errors: list[Exception] = []

    @property
    def log(self) -> str:
        """What the log pane shows."""
        text: str = self.view.processing_status_view.text_edit.toPlainText()
        return text

    @property
    def panel(self) -> Page:
        """The panel of the chosen algorithm."""
        widget: Page = self.parts._stacked_widget.currentWidget()
        return widget

    @property
    def algorithms(self) -> QComboBox:
        """The menu of the algorithms."""
        box: QComboBox = self.parts._algorithm_view_controller.get_widget()
        return box

    @property
    def infer_button(self) -> QPushButton:
        button: QPushButton = self.parts._actions_view.reconstruct_button
        return button

    @property
    def train_button(self) -> QPushButton:
        button: QPushButton = self.parts._actions_view.train_button
        return button

    @property
    def recent_menu(self) -> QMenu:
        """*Load Recent*, as it is once it is opened."""
        menu = self.parts._actions_view.actions_menu
        (action,) = (action for action in menu.actions() if action.text() == 'Load Recent')
        menu.aboutToShow.emit()
        assert action.isVisible()
        found: QMenu = action.menu()
        found.aboutToShow.emit()
        return found

    @property
    def curve(self) -> TrainingCurve:
        """The live curve of the panel."""
        return self.panel.header.curve

    @property
    def header(self) -> Header:
        """What stays above the rows of the panel."""
        return self.panel.header

    @property
    def message(self) -> str:
        """The last message as the panel shows it."""
        return _text(self.header.message)

    @property
    def status(self) -> str:
        """What the panel shows of the run."""
        return _text(self.header.status)

    @property
    def model_line(self) -> str:
        """What the panel shows of the loaded model."""
        self.header.refresh()
        return _text(self.header.model)

    @property
    def training_line(self) -> str:
        """What the panel shows of the next training."""
        self.header.refresh()
        return _text(self.header.training)

    @property
    def chosen(self) -> str:
        """The name of the product that is chosen."""
        text: str = self.parts._product_view_controller.get_widget().currentText()
        return text

    def check_failure(self, kind: str, *words: str) -> None:
        """Check that the panel shows in red that the run failed, and why."""
        self.check_bad_end(f'{kind} failed.', *words)

    def check_bad_end(self, status: str, *words: str) -> None:
        """Check that the panel shows in red how the run ended, and why."""
        self.wait(lambda: self.status == status)
        for label in (self.header.status, self.header.message):
            assert 'color' in label.styleSheet()
        for part in words:
            assert part in self.message, self.message

    @property
    def reconstructor(self) -> Any:
        """The algorithm that is chosen."""
        return self.parts._algorithm_parameter.get_current_reconstructor()

    def wait_for_log(self, text: str) -> None:
        """Let the window live until the log pane shows a text."""
        self.wait(lambda: text in self.log)

    @property
    def products(self) -> Any:
        """Ptychodus' products."""
        return self.model.product_core.product_repository

    @property
    def is_running(self) -> bool:
        """Whether a run is under way."""
        return bool(self.parts._processing_api.task_monitor.is_processing)

    def open(self, folder: Path) -> None:
        """Load the patterns and the product of a folder."""
        api = self.model.workflow_api
        patterns = api.load_assembled_diffraction_data(folder / 'diffraction.h5')
        product = api.load_product(folder / 'product.h5', diffraction=patterns)
        self.parts._product_view_controller.get_widget().setCurrentIndex(
            product.get_product_index()
        )

    def choose(self, box: QComboBox, text: str) -> None:
        """Choose an entry of a dropdown, as a click does."""
        box.setCurrentText(text)
        box.textActivated.emit(text)

    def set(self, **values: Any) -> None:
        """Set settings by their names in the settings file."""
        for name, value in values.items():
            self.model.settings_registry['PtychoPINNPlugin'].parameters()[name].set_value(value)

    def click(self, button: QPushButton) -> None:
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def train(self, folder: Path) -> None:
        """Click Train and choose a folder."""
        self.dialogs.get_existing_directory_path = lambda *_: folder
        self._start(self.train_button)

    def check(self) -> None:
        """Click Check scan."""
        self._start(self.panel.check_button)

    def infer(self) -> int:
        """Click Infer; return the number of the new product."""
        self._start(self.infer_button)
        return len(self.products) - 1

    def _start(self, button: QPushButton) -> None:
        before = self.parts._processing_api.task_monitor.get_completed_runs()
        self.click(button)
        monitor = self.parts._processing_api.task_monitor
        self.wait(lambda: self.is_running or monitor.get_completed_runs() > before)

    def stop(self) -> float:
        """Click Stop; return after how many seconds the run had ended."""
        self.click(self.view.processing_status_view.stop_button)
        started = time.monotonic()
        self.wait_for_end()
        return time.monotonic() - started

    def freeze_worker(self) -> None:
        """Let the worker take no message, as one that computes for minutes."""
        pid = self.library.worker.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)

    def wait(self, condition: Callable[[], bool], timeout_ms: int = PATIENCE_MS) -> None:
        """Let the window live until something is so."""
        self.qtbot.waitUntil(condition, timeout=timeout_ms)

    def wait_for_end(self, timeout_ms: int = PATIENCE_MS) -> None:
        """Let the window live until the run has ended and everything is drawn."""
        tasks = self.model._task_manager
        self.wait(lambda: not self.is_running, timeout_ms)
        self.wait(lambda: tasks.foreground_queue_size == 0)

    def wait_for_epochs(self, number: int) -> None:
        """Let the window live until a training has come so far."""
        self.wait(lambda: len(self.library.activity.epochs) >= number)

    def menu(self, text: str) -> None:
        """Choose an entry of the menu beside Train."""
        actions = {
            action.text(): action for action in self.parts._actions_view.actions_menu.actions()
        }
        actions[text].trigger()


def load_model(window: Window, path: Path) -> None:
    window.dialogs.get_open_file_path = lambda *_, **__: (path, '')
    window.menu('Load Model...')


def check_picture(window: Window, *names: str) -> None:
    """Check that the panel has a picture of each name, and that buttons choose between them."""
    picture = window.header.picture
    window.wait(lambda: [b.text() for b in picture.buttons if b.isVisible()] == [*names])
    assert picture.shown == names[-1]
    shades = []
    for button in picture.buttons[: len(names)]:
        window.click(button)
        assert picture.shown == button.text()
        assert button.isChecked()
        for part in ('Amplitude', 'Phase'):
            picture.part.setCurrentText(part)
            picture.part.activated.emit(picture.part.currentIndex())
            image = picture.label.pixmap().toImage()
            shades.append(image.bits().asstring(image.byteCount()))
    assert len(set(shades)) == 2 * len(names), 'each is another picture'


def press_first_button(dialog: QDialog) -> None:
    """Press the button that accepts what a dialog holds."""
    buttons = dialog.findChild(QDialogButtonBox)
    assert buttons is not None
    first = buttons.buttons()[0]
    assert isinstance(first, QPushButton)
    first.click()


def press_choose_in_the_dialog(window: Window, seen: list[Path]) -> None:
    """Press the first button of the dialog for a folder, as a user does."""
    timer = QTimer(window.view)
    timer.setInterval(50)

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        if isinstance(dialog, QFileDialog):
            timer.stop()
            seen.append(Path(dialog.directory().absolutePath()))
            press_first_button(dialog)

    timer.timeout.connect(look)
    timer.start()


def _text(label: QLabel) -> str:
    """Return a text without the places where a path may be broken."""
    return label.text().replace('\u200b', '')


@pytest.fixture(autouse=True)
def quiet_host(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Let Pty-Chi's search for devices take no time, and our lines reach the log."""
    if importlib.util.find_spec('ptychi') is not None:
        device = 'ptychodus.model.ptychi.device.probe_devices_via_subprocess'
        # Ptychodus 1.6 and earlier search in another way.
        monkeypatch.setattr(device, lambda: ['cpu'], raising=False)
    caplog.set_level(logging.INFO, 'ptychopinn_plugin')
    # Most tests need no worker, or look at how one starts.
    monkeypatch.setattr(PinnReconstructor, 'prepare', lambda self: None)


class WarmWorker:
    """A worker that windows hand on: its process imports PyTorch once, and not for each test.

    The files whose tests compute again and again ask for it with `warm_worker`; of these, a test
    that looks at how one starts has one of its own, with `own_worker`.
    """

    def __init__(self) -> None:
        self._worker = Worker()

    def serve(self, library: PtychoPinnLibrary) -> None:
        """Let an application compute with it."""
        library.worker = self._worker
        for reconstructor in library:
            reconstructor._worker = self._worker

    def take_back(self) -> None:
        """End the process where a test has left a run that does not end."""
        if self._worker._busy.acquire(timeout=2.0):
            self._worker._busy.release()
        else:
            self.close()

    def close(self) -> None:
        """End the process."""
        self._worker.close()
        self._worker = Worker()


@pytest.fixture(scope='session')
def warm_worker() -> Iterator[WarmWorker]:
    """Return the worker that windows hand on."""
    worker = WarmWorker()
    yield worker
    worker.close()


@pytest.fixture
def own_worker() -> None:
    """Give the windows of a test a worker of their own, which has not started yet."""


@pytest.fixture
def open_window(
    qtbot: Any, clean_environment: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Window]]:
    """Return a function that starts the application, which ends with the test."""
    shared: WarmWorker | None = None
    if 'warm_worker' in request.fixturenames and 'own_worker' not in request.fixturenames:
        shared = request.getfixturevalue('warm_worker')
    from ptychodus.controller import ControllerCore
    from ptychodus.model import ModelCore
    from ptychodus.view import ViewCore
    from ptychodus.view.widgets import ExceptionDialog

    with ExitStack() as stack:
        opened: list[Window] = []

        def start(settings: Path | None = None) -> Window:
            with warnings.catch_warnings():
                warnings.filterwarnings('ignore', "'xdrlib' is deprecated", DeprecationWarning)
                model = stack.enter_context(ModelCore(settings))
            controller = ControllerCore(model, ViewCore())
            timer = controller._run_tasks_timer
            timer.setInterval(TICK_MS)
            stack.callback(timer.stop)
            qtbot.addWidget(controller.view)
            controller.view.processing_action.trigger()
            controller.show_main_window('test')
            window = Window(model, controller, qtbot)
            # Its dialog would wait for a click.
            clean_environment.setattr(
                ExceptionDialog, 'show_exception', lambda _, error: window.errors.append(error)
            )
            if shared is None:
                stack.callback(window.library.worker.close)
            else:
                shared.serve(window.library)
                stack.callback(shared.take_back)
            stack.callback(window.library.close)
            opened.append(window)
            return window

        yield start
        for window in opened:
            for text in (window.log, window.message):
                assert not re.search(r'--[a-z]', text), 'an option, which a window does not have'


@pytest.fixture
def window(open_window: Callable[..., Window], write_folder: Any, tmp_path: Path) -> Window:
    """Return an application with our algorithm and a small scan."""
    folder = write_folder(tmp_path / 'data')
    window = open_window(folder / 'settings.ini')
    window.open(folder)
    return window


@pytest.fixture(scope='session')
def model_file(small_scan: pp.Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that was trained outside of Ptychodus."""
    config = pp.Config(
        model=pp.ModelConfig(filters_scale=0.25, passes=2),
        training=pp.TrainingConfig(epochs=2, target_iterations=10, device='cpu'),
    )
    path = tmp_path_factory.mktemp('model') / 'wts.h5.zip'
    pp.save_model(path, pp.train(small_scan, config).model)
    return path


@pytest.fixture
def slow_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_worker: None) -> Path:
    """Let workers import PyTorch for ever; return the file that is there once one does."""
    package, sign = tmp_path / 'slow' / 'torch', tmp_path / 'slow' / 'importing'
    package.mkdir(parents=True)
    code = f'import pathlib, time\npathlib.Path({str(sign)!r}).touch()\ntime.sleep(600)\n'
    (package / '__init__.py').write_text(code)
    # Not syspath_prepend: this process may import the real one.
    monkeypatch.setattr(sys, 'path', [str(package.parent), *sys.path])
    return sign
