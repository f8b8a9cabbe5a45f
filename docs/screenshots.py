"""Make the pictures of docs/ptychodus.md with Ptychodus' real window, or go on a tour of all of it.

    xvfb-run -a -s '-screen 0 1600x1000x24' python docs/screenshots.py docs/images --scans ~/trial

It simulates two scans and follows the guide: it infers one with the built-in model, checks a
copy whose x and y are taken for each other, trains on the other for three minutes, and infers with
that. A picture of the window is taken each time the guide has one. They show how fast the machine
is: nothing else should run on it.

    xvfb-run -a -s '-screen 0 1600x1000x24' python docs/screenshots.py tour --tour

This goes through the rest, in a run of its own, as it leaves much behind in the window: presets,
the mouse wheel over a row, bad input, a tooltip, failures, a run that waits, runs that *Stop* ends,
the slider, *Fine-tune*, *Train on product*, *Load Recent*, *Help* and *Automation*. Each stop of
the tour checks that what is to be seen is there, and leaves a picture.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
from ptychodus.model import ModelCore
from PyQt5.QtCore import QEvent, QEventLoop, QPoint, QPointF, Qt
from PyQt5.QtGui import QCursor, QHelpEvent, QImage, QPixmap, QWheelEvent
from PyQt5.QtTest import QTest
from PyQt5.QtWidgets import (
    QApplication,
    QComboBox,
    QGroupBox,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QToolTip,
    QWidget,
)

from ptychopinn_plugin.host import bridge
from ptychopinn_plugin.host.automation import DISPLAY_NAME
from ptychopinn_plugin.host.example_scans import write_example_scans
from ptychopinn_plugin.host.view import Page
from ptychopinn_plugin.host.view.guide_window import GuideWindow

GUIDE = ('panel', 'inferred', 'training', 'result', 'check', 'failure')
"""The guide shows these pictures."""

EPOCHS_TO_SHOW = 4
"""A picture is taken of a training once its curve has this number of points."""

SETTINGS = """\
[Processing]
Algorithm = ptychopinn-plugin_PINN
"""


class Photographer:
    """Ptychodus' window and somebody who clicks in it and takes pictures."""

    def __init__(self, application: QApplication, model: ModelCore, target: Path) -> None:
        # Qt's classes of the host need an application first.
        from ptychodus.controller import ControllerCore
        from ptychodus.view import ViewCore

        self.application, self.model = application, model
        self.target = target
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
        """Take a picture of what is there."""
        self.pause(1.5)
        image = self._seen(with_menus).toImage().convertToFormat(QImage.Format.Format_RGB888)
        # Quality 0 is the best compression, without loss.
        path = self.target / f'ptychodus-{name}.png'
        if not image.save(str(path), 'PNG', 0):
            raise OSError(f'{path} could not be written.')

    def _seen(self, with_menus: bool) -> QPixmap:
        if not with_menus:
            return self.view.grab()
        # A menu is a window of its own.
        frame = self.view.frameGeometry()
        place = (frame.x(), frame.y(), frame.width(), frame.height())
        return self.application.primaryScreen().grabWindow(0, *place)

    def require(self, is_so: bool, what: str) -> None:
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

    def message(self) -> str:
        """Return the last message, without the places where a path may be broken."""
        return self.panel.header.message.text().replace('\u200b', '')

    @property
    def panel(self) -> Page:
        """The panel of the chosen algorithm."""
        panel: Page = self.parts._stacked_widget.currentWidget()
        return panel

    def start_training(self, folder: Path) -> None:
        """Click Train and choose a folder."""
        self.controller._file_dialog_factory.get_existing_directory_path = lambda *_: folder
        self.buttons.train_button.click()

    def watch_training(self, folder: Path) -> None:
        """Train, and take a picture once there is a curve."""
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

    def let_wait(self, other: int) -> None:
        """Let an inference wait for the end of the run, and then run."""
        self.products.setCurrentIndex(other)
        self.buttons.reconstruct_button.click()
        self.wait(lambda: '1 run waits' in self.status() or self.is_idle())
        self.require(not self.is_idle(), 'that a run waits')
        self.shoot('waiting')
        self.wait(self.is_idle)

    def limit_training(self, minutes: float) -> None:
        """Type a number into Max minutes."""
        rows = self.model.settings_registry['PtychoPINNPlugin'].parameters()
        rows['TrainingMaxMinutes'].set_value(minutes)

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
        self.require(box.currentText() == 'Custom', 'that a row differs from the preset')
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
        self.require(box.currentText() == before and bar.value() > 0, 'rows that scroll')
        self.shoot('wheel')
        self.panel.all_settings.click()

    def type_nonsense(self) -> None:
        """Type what no row takes, and look at a tooltip."""
        limit = self.field('Training', 'Max minutes')
        assert isinstance(limit, QLineEdit)
        limit.selectAll()
        QTest.keyClicks(limit, 'soon')
        QTest.keyClick(limit, Qt.Key.Key_Return)
        self.wait(lambda: '"soon" is no number' in self.message())
        self.require(limit.text() == '10', 'that the value stays')
        self.shoot('bad-input')
        where = limit.rect().center()
        QCursor.setPos(limit.mapToGlobal(where))
        limit.clearFocus()
        self.pause(1)
        # Qt sends this by itself in a window that is active, which one without a manager is not.
        event = QHelpEvent(QEvent.Type.ToolTip, where, limit.mapToGlobal(where))
        self.application.sendEvent(limit, event)
        self.require(QToolTip.isVisible() and 'min' in QToolTip.text(), 'a tooltip')
        self.shoot('tooltip', with_menus=True)
        QToolTip.hideText()

    def kill_worker(self) -> None:
        """End the worker as the system does where memory runs out."""
        library = self.panel.header._library
        assert library.worker.pid is not None
        os.kill(library.worker.pid, signal.SIGKILL)

    def kill_runs(self, folder: Path, product: int) -> None:
        """Let the worker die in a training and in an inference."""
        self.start_training(folder)
        self.wait(lambda: self.status().startswith('Target reconstruction'))
        self.kill_worker()
        self.wait(lambda: self.status() == 'Training failed.')
        self.require('The worker died' in self.message(), 'why the training failed')
        self.shoot('training-killed')
        self.infer(product)
        self.wait(lambda: self.status().startswith('Refinement'))
        self.kill_worker()
        self.wait(lambda: self.status() == 'Inference failed.' and self.is_idle())
        self.require('is taken away again' in self.message(), 'what becomes of the product')
        self.shoot('inference-killed')

    def infer(self, product: int) -> None:
        """Choose a product and click Infer."""
        self.products.setCurrentIndex(product)
        self.buttons.reconstruct_button.click()
        self.pause(1)

    def infer_and_compare(self, product: int) -> None:
        """Infer with the built-in model, and draw the slider to the middle."""
        self.infer(product)
        self.wait(self.is_idle)
        self.wait(lambda: 'shot noise' in self.message())
        self.panel.header.picture.slider.setValue(50)
        self.shoot('inferred')

    def stop(self) -> None:
        """Click Stop and wait for the end."""
        self.view.processing_status_view.stop_button.click()
        self.wait(self.is_idle)

    def refuse(self, folder: Path) -> None:
        """Infer, and train on, a product whose positions are too far apart."""
        product = self.open(folder)
        self.infer(product)
        self.wait(lambda: self.status() == 'Inference failed.' and self.is_idle())
        self.require('illuminations must overlap' in self.message(), 'what is wrong')
        self.shoot('too-far-apart')
        self.products.setCurrentIndex(product)
        self.panel.train_button.click()
        self.wait(lambda: 'Train on product failed' in self.message())
        self.wait(lambda: self.status() == 'Training failed.')
        self.shoot('train-refused')

    def stop_runs(self, product: int) -> None:
        """Stop an inference, and one for which another run waits."""
        rows = self.model.settings_registry['PtychoPINNPlugin'].parameters()
        rows['RefinementIterations'].set_value(100_000)
        for name in ('stopped', 'stopped-with-a-run-that-waits'):
            self.infer(product)
            self.wait(lambda: self.status().startswith('Refinement, iteration'))
            self.pause(5)
            if name != 'stopped':
                self.infer(product)
                self.wait(lambda: '1 run waits' in self.status())
            self.stop()
            self.require(self.message().startswith('Stopped'), 'what is left')
            self.shoot(name)
        rows['RefinementIterations'].set_value(-1)

    def slide(self) -> None:
        """Draw the slider to the middle: before on the left, after on the right."""
        picture = self.panel.header.picture
        self.wait(picture.slider.isVisible)
        picture.slider.setValue(50)
        self.shoot('slider')

    def train_on_product(self, product: int) -> None:
        """Click Train on product, with Fine-tune ticked, and stop after an epoch."""
        self.panel.all_settings.click()
        self.products.setCurrentIndex(product)
        fine_tune = self.field('Training', 'Fine-tune')
        fine_tune.click()
        self.wait(lambda: 'fine-tuning' in self.panel.header.training.text())
        architecture = self.field('Model', 'Architecture')
        self.require(not architecture.isEnabled(), 'grey rows of the network')
        self.panel.area.ensureWidgetVisible(architecture)
        self.shoot('fine-tune')
        self.panel.all_settings.click()
        self.panel.train_button.click()
        self.wait(lambda: self.status().startswith('Epoch 3'))
        self.shoot('train-on-product')
        self.stop()
        self.require(self.status() == 'Training stopped.', 'that the training was stopped')
        self.shoot('training-stopped')
        fine_tune.click()

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
        self.require(len(submenu.actions()) > 1, 'recent models')
        self.shoot('recent', with_menus=True)
        submenu.close()
        menu.close()
        next(action for action in menu.actions() if action.text() == 'Help').trigger()
        self.pause(1)
        self.require('The guide is opened' in self.message(), 'the guide')
        guides = [each for each in QApplication.topLevelWidgets() if isinstance(each, GuideWindow)]
        (guide,) = (each for each in guides if each.isVisible())
        guide.raise_()
        self.shoot('help', with_menus=True)
        guide.close()

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


def far_apart(folder: Path) -> Path:
    """Return a copy of a scan whose positions are too far apart to overlap."""
    copy = folder.with_name('far')
    shutil.copytree(folder, copy)
    with h5py.File(copy / 'product.h5', 'a') as file:
        for axis in 'xy':
            file[f'probe_position_{axis}_m'][...] *= 60
        file.attrs['name'] = 'far'
    return copy


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
    parser.add_argument('--tour', action='store_true', help='show what the guide leaves out')
    parser.add_argument('--minutes', type=float, default=3.0, help='of training')
    parser.add_argument('--scans', type=Path, help='new folder for the scans, which pictures show')
    options = parser.parse_args()
    work = options.scans or Path(tempfile.mkdtemp()) / 'trial'
    logging.getLogger('ptychodus').setLevel(logging.WARNING)
    bridge.install()
    known, unseen = write_example_scans(work)
    settings = work / 'settings.ini'
    settings.write_text(SETTINGS)
    options.target.mkdir(parents=True, exist_ok=True)
    application = QApplication(sys.argv[:1])
    with ModelCore(settings, log_level=logging.INFO) as model:
        window = Photographer(application, model, options.target)
        show = go_on_tour if options.tour else follow_guide
        show(window, known, unseen, options.minutes)
        application.quit()


def follow_guide(window: Photographer, known: Path, unseen: Path, minutes: float) -> None:
    """Take the steps of the guide."""
    first, second = window.open(known), window.open(unseen)
    window.products.setCurrentIndex(second)
    window.shoot('panel')
    window.infer_and_compare(second)
    wrong = window.open(swapped(unseen))
    window.products.setCurrentIndex(wrong)
    window.check()
    window.model.product_core.product_repository.remove_product(wrong)
    window.products.setCurrentIndex(first)
    window.fail(known.with_name('empty'))
    window.limit_training(minutes)
    window.watch_training(known)
    window.wait(window.is_idle)
    window.infer(second)
    window.wait(window.is_idle)
    window.show_object(window.products.count() - 1)
    window.shoot('result')


def go_on_tour(window: Photographer, known: Path, unseen: Path, minutes: float) -> None:
    """Show everything else."""
    first, second = window.open(known), window.open(unseen)
    window.products.setCurrentIndex(first)
    window.show_presets()
    window.turn_the_wheel()
    window.type_nonsense()
    window.fail(known.with_name('empty'))
    window.limit_training(minutes)
    window.watch_training(known)
    window.let_wait(second)
    window.slide()
    window.stop_runs(second)
    window.train_on_product(second)
    window.products.setCurrentIndex(window.open(swapped(unseen)))
    window.check()
    window.refuse(far_apart(unseen))
    window.kill_runs(known, second)
    window.open_menus()
    watched = known.with_name('watched')
    watched.mkdir()
    window.automate(watched, unseen)


if __name__ == '__main__':
    main()
