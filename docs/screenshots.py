"""Make the pictures of docs/ptychodus.md with Ptychodus' real window.

    xvfb-run -a -s '-screen 0 1600x1000x24' python docs/screenshots.py docs/images

It simulates two scans, trains on one for some minutes, infers the other, checks a copy whose x and
y are taken for each other, and takes a picture of the window each time there is something to see.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
from ptychodus.model import ModelCore
from PyQt5.QtCore import QEventLoop
from PyQt5.QtGui import QImage
from PyQt5.QtWidgets import QApplication

from ptychopinn_plugin.host import bridge
from ptychopinn_plugin.host.example_scans import write_example_scans
from ptychopinn_plugin.host.view import Page

EPOCHS_TO_SHOW = 4
"""A picture is taken of a training once its curve has so many points."""

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

        self.application, self.model, self.target = application, model, target
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

    def shoot(self, name: str) -> None:
        """Take a picture."""
        self.pause(1.5)
        image = self.view.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
        # Quality 0 is the best compression, without loss.
        path = self.target / f'ptychodus-{name}.png'
        if not image.save(str(path), 'PNG', 0):
            raise OSError(f'{path} could not be written.')

    @property
    def panel(self) -> Page:
        """The panel of the chosen algorithm."""
        panel: Page = self.parts._stacked_widget.currentWidget()
        return panel

    def train(self, folder: Path) -> None:
        """Click Train, take a picture once there is a curve and wait for the end."""
        self.controller._file_dialog_factory.get_existing_directory_path = lambda *_: folder
        self.buttons.train_button.click()
        self.pause(5)
        axes = self.panel.header.curve.axes
        self.wait(
            lambda: (
                self.is_idle()
                or (bool(axes.lines) and len(axes.lines[0].get_xdata()) >= EPOCHS_TO_SHOW)
            )
        )
        self.shoot('training')
        self.wait(self.is_idle)

    def check(self) -> None:
        """Click Check scan, wait for the end and take a picture."""
        self.panel.check_button.click()
        self.pause(1)
        self.wait(self.is_idle)
        self.shoot('check')

    def infer(self) -> None:
        """Click Infer and wait for the end."""
        self.buttons.reconstruct_button.click()
        self.pause(1)
        self.wait(self.is_idle)

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
    parser.add_argument('--minutes', type=float, default=2.5, help='of training')
    parser.add_argument('--keep', type=Path, help='folder for the scans and the model')
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp())
    logging.getLogger('ptychodus').setLevel(logging.WARNING)
    bridge.install()
    known, unseen = write_example_scans(work)
    settings = work / 'settings.ini'
    settings.write_text(SETTINGS)
    options.target.mkdir(parents=True, exist_ok=True)
    application = QApplication(sys.argv[:1])
    with ModelCore(settings, log_level=logging.INFO) as model:
        window = Photographer(application, model, options.target)
        first, second = window.open(known), window.open(unseen)
        window.products.setCurrentIndex(first)
        window.shoot('panel')
        rows = model.settings_registry['PtychoPINNPlugin'].parameters()
        rows['TrainingMaxMinutes'].set_value(options.minutes)
        window.train(known)
        window.products.setCurrentIndex(second)
        window.infer()
        window.show_object(window.products.count() - 1)
        window.shoot('result')
        window.view.processing_action.trigger()
        window.products.setCurrentIndex(window.open(swapped(unseen)))
        window.check()
        application.quit()


if __name__ == '__main__':
    main()
