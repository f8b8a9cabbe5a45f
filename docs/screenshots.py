"""Make the pictures of docs/ptychodus.md with Ptychodus' real window, in a tour of what it does.

    xvfb-run -a -s '-screen 0 1600x1000x24' python docs/screenshots.py docs/images --tour tour

It simulates two scans, trains on one for some minutes, infers the other, checks a copy whose x and
y are taken for each other, and takes a picture of the window each time there is something to see.
With ``--tour`` it goes through the rest as well, and leaves pictures of it in another folder:
presets, the mouse wheel over a row, failures, a run that waits, *Load Recent*, *Help* and
*Automation*. Each stop of the tour checks that what is to be seen is there.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
from ptychodus.model import ModelCore
from PyQt5.QtCore import QEventLoop, QPoint, QPointF, Qt
from PyQt5.QtGui import QImage, QPixmap, QWheelEvent
from PyQt5.QtWidgets import QApplication, QComboBox, QGroupBox, QLabel, QMenu, QPushButton, QWidget

from ptychopinn_plugin.host import bridge
from ptychopinn_plugin.host.automation import DISPLAY_NAME
from ptychopinn_plugin.host.example_scans import write_example_scans
from ptychopinn_plugin.host.view import Page

GUIDE = ('panel', 'training', 'result', 'check', 'failure')
"""The guide shows these pictures."""

EPOCHS_TO_SHOW = 4
"""A picture is taken of a training once its curve has this number of points."""

SETTINGS = """\
[Processing]
Algorithm = ptychopinn-plugin_PINN
"""


class Photographer:
    """Ptychodus' window and somebody who clicks in it and takes pictures."""

    def __init__(
        self, application: QApplication, model: ModelCore, target: Path, tour: Path | None
    ) -> None:
        # Qt's classes of the host need an application first.
        from ptychodus.controller import ControllerCore
        from ptychodus.view import ViewCore

        self.application, self.model = application, model
        self.target, self.tour = target, tour
        self.view = ViewCore()
        self.controller = ControllerCore(model, self.view)
        self.parts = self.controller._processing_controller
        self.buttons = self.parts._actions_view
        self.products = self.parts._product_view_controller.get_widget()
        self.view.resize(1400, 900)
        self.view.processing_action.trigger()
        self.controller.show_main_window('Ptychodus')
        self.view.splitter.setSizes([560, 720])

    def open(self, folder: Path) -> int:
        """Load patterns and product of a folder."""
        api = self.model.workflow_api
        patterns = api.load_assembled_diffraction_data(folder / 'diffraction.h5')
        product = api.load_product(folder / 'product.h5', diffraction=patterns)
        return int(product.get_product_index())

    def wait(self, is_over: Callable[[], bool], timeout_s: float = 900.0) -> None:
        """Let the window live until something is so."""
        deadline = time.monotonic() + timeout_s
        while not is_over():
            if time.monotonic() > deadline:
                raise SystemExit(f'What was waited for did not come within {timeout_s:.0f} s.')
            # Without a limit it returns once nothing is left to draw, which on a busy machine is
            # never.
            self.application.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
            time.sleep(0.02)

    def pause(self, seconds: float) -> None:
        """Let the window draw."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def is_idle(self) -> bool:
        """Return whether no run is under way and everything is drawn."""
        idle = not self.parts._processing_api.task_monitor.is_processing
        return idle and self.model._task_manager.foreground_queue_size == 0

    def shoot(self, name: str, *, with_menus: bool = False) -> None:
        """Take a picture for the guide, or one for the tour, if there is to be one."""
        folder = self.target if name in GUIDE else self.tour
        if folder is None:
            return
        self.pause(1.5)
        image = self._seen(with_menus).toImage().convertToFormat(QImage.Format.Format_RGB888)
        # Quality 0 is the best compression, without loss.
        path = folder / f'ptychodus-{name}.png'
        if not image.save(str(path), 'PNG', 0):
            raise OSError(f'{path} could not be written.')

    def _seen(self, with_menus: bool) -> QPixmap:
        if not with_menus:
            return self.view.grab()
        # A menu is a window of its own.
        frame = self.view.frameGeometry()
        place = (frame.x(), frame.y(), frame.width(), frame.height())
        return self.application.primaryScreen().grabWindow(0, *place)

    def expect(self, is_so: bool, what: str) -> None:
        """End the tour where the window does not show what it should."""
        if not is_so:
            raise SystemExit(f'The window does not show {what}.')

    def field(self, group: str, label: str) -> QWidget:
        """Return what stands beside a label of the panel."""
        boxes = [box for box in self.panel.findChildren(QGroupBox) if box.title() == group]
        labels = [each for box in boxes for each in box.findChildren(QLabel)]
        (found,) = (each for each in labels if each.text() == f'{label}:' and each.buddy())
        return found.buddy()

    def choose(self, box: QComboBox, text: str) -> None:
        """Choose an entry of a dropdown, as a click does."""
        box.setCurrentText(text)
        box.textActivated.emit(text)

    def status(self) -> str:
        """Return the line on the run."""
        text: str = self.panel.header.status.text()
        return text

    @property
    def panel(self) -> Page:
        """The panel of the chosen algorithm."""
        panel: Page = self.parts._stacked_widget.currentWidget()
        return panel

    def start_training(self, folder: Path) -> None:
        """Click Train and choose a folder."""
        self.controller._file_dialog_factory.get_existing_directory_path = lambda *_: folder
        self.buttons.train_button.click()

    def train_and_infer(self, folder: Path, other: int) -> None:
        """Train, take a picture once there is a curve, and let an inference wait for the end."""
        self.start_training(folder)
        self.pause(5)
        axes = self.panel.header.curve.axes
        self.wait(
            lambda: (
                self.is_idle()
                or (bool(axes.lines) and len(axes.lines[0].get_xdata()) >= EPOCHS_TO_SHOW)
            )
        )
        self.shoot('training')
        self.products.setCurrentIndex(other)
        self.buttons.reconstruct_button.click()
        self.pause(1)
        self.expect('1 run waits' in self.status(), 'that a run waits')
        self.shoot('waiting')
        self.wait(self.is_idle)

    def check(self) -> None:
        """Click Check scan, wait for the end and take a picture."""
        self.panel.check_button.click()
        self.pause(1)
        self.wait(self.is_idle)
        self.shoot('check')

    def show_object(self, index: int) -> None:
        """Show the phase of an object in Ptychodus' own view."""
        self.model.object_visualization_engine.set_renderer('Phase (Unwrapped)')
        self.view.object_action.trigger()
        tree = self.view.object_view.tree_view
        tree.setCurrentIndex(tree.model().index(index, 0))
        ribbon = self.view.object_image_view.image_ribbon
        ribbon.data_range_group_box.auto_button.click()
        self.pause(1)
        ribbon.image_tools_group_box.home_button.click()

    def show_presets(self) -> None:
        """Choose a preset, and change a row that belongs to it."""
        preset = self.field('Run', 'Preset')
        (box,) = preset.findChildren(QComboBox)
        self.choose(box, 'Best')
        self.shoot('preset')
        parameters = self.model.settings_registry['PtychoPINNPlugin'].parameters()
        parameters['TrainingEpochs'].set_value(7)
        self.expect(box.currentText() == 'Custom', 'that a row differs from the preset')
        self.shoot('custom')
        self.choose(box, 'Normal')

    def turn_the_wheel(self) -> None:
        """Unfold all rows, and turn the mouse wheel over one of them."""
        self.panel.all_settings.click()
        self.pause(1)
        box = self.field('Model', 'Architecture')
        assert isinstance(box, QComboBox)
        before, bar = box.currentText(), self.panel.area.verticalScrollBar()
        for _ in range(3):
            middle = QPointF(box.rect().center())
            event = QWheelEvent(
                *(middle, QPointF(box.mapToGlobal(middle.toPoint())), QPoint(), QPoint(0, -120)),
                *(Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier),
                *(Qt.ScrollPhase.NoScrollPhase, False),
            )
            self.application.sendEvent(box, event)
        self.expect(box.currentText() == before and bar.value() > 0, 'rows that scroll')
        self.shoot('wheel')
        self.panel.all_settings.click()

    def fail(self, folder: Path) -> None:
        """Train on a folder without data."""
        folder.mkdir(exist_ok=True)
        self.start_training(folder)
        self.wait(lambda: self.status() == 'Training failed.')
        self.shoot('failure')

    def open_menus(self) -> None:
        """Open *Load Recent*, and choose *Help*."""
        menu = self.buttons.actions_menu
        corner = self.buttons.rect().bottomRight() - QPoint(menu.sizeHint().width(), 0)
        menu.popup(self.buttons.mapToGlobal(corner))
        (recent,) = (action for action in menu.actions() if action.text() == 'Load Recent')
        submenu = recent.menu()
        assert isinstance(submenu, QMenu)
        menu.setActiveAction(recent)
        submenu.popup(menu.mapToGlobal(menu.actionGeometry(recent).topRight()))
        self.pause(1)
        self.expect(len(submenu.actions()) > 1, 'recent models')
        self.shoot('recent', with_menus=True)
        submenu.close()
        menu.close()
        next(action for action in menu.actions() if action.text() == 'Help').trigger()
        self.pause(1)
        self.expect('The guide is opened' in self.panel.header.message.text(), 'the guide')
        self.shoot('help')

    def automate(self, watched: Path, scan: Path) -> None:
        """Let Ptychodus watch a folder, and put a scan into it."""
        automation = self.model.automation_core
        automation.presenter.workflow_parameter.set_value(DISPLAY_NAME)
        automation.settings.data_directory.set_value(watched)
        automation.settings.watchdog_delay_s.set_value(1)
        self.view.automation_action.trigger()
        buttons = self.view.automation_view.findChildren(QPushButton)
        (watch,) = (button for button in buttons if button.text() == 'Watch')
        watch.click()
        try:
            before = self.products.count()
            shutil.copytree(scan, watched / 'scan1')
            self.wait(lambda: self.products.count() >= before + 2)
            self.shoot('automation')
            self.wait(self.is_idle)
        finally:
            # Its thread would keep the program from ending.
            watch.click()
        self.view.processing_action.trigger()
        self.shoot('automated')


def swapped(folder: Path) -> Path:
    """Return a copy of a scan whose x and y are taken for each other."""
    copy = folder.with_name('swapped')
    shutil.copytree(folder, copy)
    with h5py.File(copy / 'product.h5', 'a') as file:
        x, y = (file[f'probe_position_{axis}_m'][()] for axis in 'xy')
        file['probe_position_x_m'][...], file['probe_position_y_m'][...] = y, x
        file.attrs['name'] = 'swapped'
    return copy


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('target', type=Path, help='folder of the pictures')
    parser.add_argument(
        '--tour', type=Path, help='folder of the pictures that the guide leaves out'
    )
    parser.add_argument('--minutes', type=float, default=2.5, help='of training')
    parser.add_argument('--keep', type=Path, help='folder for the scans and the model')
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp())
    logging.getLogger('ptychodus').setLevel(logging.WARNING)
    bridge.install()
    known, unseen = write_example_scans(work)
    settings = work / 'settings.ini'
    settings.write_text(SETTINGS)
    for folder in filter(None, (options.target, options.tour)):
        folder.mkdir(parents=True, exist_ok=True)
    # *Help* opens a browser; this one does nothing.
    os.environ['BROWSER'] = 'true'
    application = QApplication(sys.argv[:1])
    with ModelCore(settings, log_level=logging.INFO) as model:
        window = Photographer(application, model, options.target, options.tour)
        first, second = window.open(known), window.open(unseen)
        window.products.setCurrentIndex(first)
        window.shoot('panel')
        window.show_presets()
        window.turn_the_wheel()
        window.fail(work / 'empty')
        rows = model.settings_registry['PtychoPINNPlugin'].parameters()
        rows['TrainingMaxMinutes'].set_value(options.minutes)
        window.train_and_infer(known, second)
        window.show_object(window.products.count() - 1)
        window.shoot('result')
        window.view.processing_action.trigger()
        window.products.setCurrentIndex(window.open(swapped(unseen)))
        window.check()
        window.open_menus()
        if options.tour is not None:
            (work / 'watched').mkdir()
            window.automate(work / 'watched', unseen)
        application.quit()


if __name__ == '__main__':
    main()
