"""Presets, the picture while it works, recent models, patterns alone, and a watched folder."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PyQt5.QtCore import QPoint, Qt, QUrl
from PyQt5.QtGui import QTextDocument
from PyQt5.QtWidgets import (
    QAction,
    QApplication,
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
)

from ptychopinn_plugin.host.automation import (
    DISPLAY_NAME,
    OUTPUT,
    PATTERNS_FILE,
    PRODUCT_FILE,
    ScanFolderWorkflow,
)
from ptychopinn_plugin.host.guide import guide_url
from ptychopinn_plugin.host.presets import CUSTOM, PRESETS
from ptychopinn_plugin.host.previews import REDRAW_S
from ptychopinn_plugin.host.product_files import UNFINISHED_PREFIX
from ptychopinn_plugin.host.view.guide_window import PICTURE_WIDTH_PX, GuideWindow
from ptychopinn_plugin.host.wording import stage_line
from ptychopinn_plugin.ptychodus_compat import positions_m

from .test_inference import object_of
from .test_panel import widget_of
from .user import STOP_S, Window, check_picture, load_model, press_choose_in_the_dialog

UNFINISHED = f'{UNFINISHED_PREFIX}product.*.h5'


def check_presets(window: Window) -> None:
    """Check that a preset sets rows and shows which, and that a row that is changed ends it."""
    field = widget_of(window.panel, 'Run', 'Preset')
    (box,), (note,) = field.findChildren(QComboBox), field.findChildren(QLabel)
    assert box.currentText() == CUSTOM, 'the settings file of this test has rows of its own'
    window.choose(box, 'Quick look')
    limit = widget_of(window.panel, 'Training', 'Max minutes')
    epochs = widget_of(window.panel, 'Training', 'Epochs')
    assert isinstance(limit, QLineEdit)
    assert isinstance(epochs, QSpinBox)
    assert (limit.text(), epochs.value()) == ('1', PRESETS['Quick look']['training.epochs'])
    # What a window without a training does is quicker, too.
    seconds = widget_of(window.panel, 'Refinement', 'Max seconds')
    assert isinstance(seconds, QLineEdit)
    assert seconds.text() == '5'
    assert note.text().startswith('Sets Max minutes 1, Epochs 20, ')
    window.set(Preset='Normal')
    assert note.text().endswith('Iterations by the overlap, Max seconds no limit.')
    window.set(Preset='Quick look')
    window.header.refresh()
    assert 'at most 1 min' in window.header.training.text()
    epochs.setValue(2)
    assert box.currentText() == CUSTOM
    assert 'differ' in note.text()


def recent(window: Window) -> dict[str, QAction]:
    """Open *Load Recent* and return its entries."""
    return {action.text(): action for action in window.recent_menu.actions()}


def choose_recent(window: Window, text: str) -> None:
    """Choose an entry of *Load Recent*."""
    recent(window)[text].trigger()


def test_presets_pictures_and_recent_models(
    window: Window, model_file: Path, tmp_path: Path
) -> None:
    products = window.parts._product_view_controller.get_widget()
    start = products.currentIndex()
    check_presets(window)
    window.set(RefinementIterations=12, TrainingTargetIterations=10, InferencePriorPasses=1)
    window.set(RefinementMaxSeconds=0)
    check_built_in_model(window)
    check_single_shots(window, start)
    window.set(SingleShot=False, RefinementIterations=1, RefinementMaxSeconds=0)
    products.setCurrentIndex(start)
    check_probe_from_patterns(window)
    products.setCurrentIndex(start)
    check_training_by_clicks(window, tmp_path)
    name = check_recent_models(window, model_file, tmp_path)
    check_model_row(window, name)


def check_built_in_model(window: Window) -> None:
    """Check that there is a picture on the way, and a line in words at the end."""
    window.infer()
    window.wait_for_end()
    check_picture(window, 'After a pass', 'Refined')
    quality = (
        r'iterations, on 80 patterns \(.*\); amplitude residual \S+ The object (fits|misses) .*'
        r'shot noise.*\. Standard deviation of a pixel \(median over the lit part\): '
        r'amplitude [\d.]+, phase [\d.]+ rad\.'
    )
    window.wait(lambda: re.search(quality, window.message) is not None)


def check_single_shots(window: Window, start: int) -> None:
    """Check that patterns which the product has overlap are laid side by side where wanted."""
    window.set(SingleShot=True, RefinementIterations=1000, RefinementMaxSeconds=0.3)
    number = window.infer()
    window.wait_for_end()
    # The last message states how many iterations there were, and why no more.
    ended = (
        r'([\d,]+) of 1,010 iterations, on 80 patterns .* Plan: 1 pass .*'
        r'the limit of 0.3 s ended them after \1 of 1010\. '
    )
    window.wait(lambda: re.match(ended, window.message) is not None)
    assert 'Each pattern is reconstructed alone; the patches lie' in window.log
    window.wait(lambda: window.status == 'Inference done.')
    before, after = (window.products[index].get_product() for index in (start, number))
    given, placed = (positions_m(product.probe_positions)[:, 1] for product in (before, after))
    assert np.ptp(np.diff(given)[:7]) > 1e-7, 'a scan with jitter'
    np.testing.assert_allclose(np.diff(placed)[:7], np.diff(placed)[0])
    pixel = after.object_.get_pixel_geometry().width_m
    width = pixel * after.object_.get_array().shape[-1]
    left = after.object_.get_center().x_m - width / 2
    assert left < placed.min(), 'the object lies where its positions are'
    assert left + width > placed.max()


def check_probe_from_patterns(window: Window) -> None:
    """Check that a click leaves the product's probe out, and the result states what is open."""
    box = widget_of(window.panel, 'Run', 'Probe from patterns')
    assert isinstance(box, QCheckBox)
    assert not window.library.settings.options.probe_from_patterns
    box.click()
    assert window.library.settings.options.probe_from_patterns
    window.infer()
    activity = window.library.activity
    window.wait(lambda: activity.stage == 'probe')
    assert 'Search for the probe, iteration' in stage_line(activity, time.monotonic())
    window.wait_for_end()
    window.wait(lambda: 'the phase is determined up to a slope only' in window.message)
    assert 'A measured probe decides: the probe of the product.' in window.log
    box.click()
    assert not window.library.settings.options.probe_from_patterns


def check_training_by_clicks(window: Window, tmp_path: Path) -> None:
    """Check that clicks alone train, into the folder of the product."""
    folders: list[Path] = []
    press_choose_in_the_dialog(window, folders)
    window.set(TrainingEpochs=1)
    window.click(window.train_button)
    window.wait(lambda: window.library.activity.kind == 'training')
    window.wait_for_end()
    assert folders == [tmp_path / 'data']
    window.wait(lambda: window.status == 'Training done.')
    assert 'Target' in dict(window.library.activity.pictures)
    window.header.refresh()
    assert window.header.picture.label.isVisible()


def check_recent_models(window: Window, model_file: Path, tmp_path: Path) -> str:
    """Check that models come back with a click and with settings; return the loaded one's name."""
    load_model(window, model_file)
    name = f'{model_file.parent.name}/{model_file.name}'
    assert list(recent(window)) == ['Built-in model', name, 'data/model.zip']
    choose_recent(window, 'Built-in model')
    assert window.model_line.startswith('Model: built-in model')
    choose_recent(window, 'data/model.zip')
    assert window.model_line.startswith('Model: data/model.zip, sweepnet')
    assert 'best validation loss' in window.model_line

    # A model that is gone is one red line, and no end of the window.
    choose_recent(window, 'Built-in model')
    settings = tmp_path / 'saved.ini'
    choose_recent(window, name)
    window.model.settings_registry.save_settings(settings)
    action = recent(window)['data/model.zip']
    shutil.move(tmp_path / 'data' / 'model.zip', tmp_path / 'moved.zip')
    action.trigger()
    window.wait_for_log('Load Model failed: ')
    assert window.model_line.startswith(f'Model: {name}, ')

    # The last model comes back with a settings file.
    choose_recent(window, 'Built-in model')
    assert window.reconstructor.loaded.is_built_in
    window.model.settings_registry.open_settings(settings)
    assert window.model_line.startswith(f'Model: {name}, ')
    return name


def check_model_row(window: Window, name: str) -> None:
    """Check that the dropdown of the models shows the one that is loaded, and loads others."""
    box = widget_of(window.panel, 'Run', 'Model')
    assert isinstance(box, QComboBox)
    window.wait(lambda: box.currentText() == name)
    assert [box.itemText(number) for number in range(box.count())] == ['Built-in model', name]
    assert 'built-in model' in box.toolTip()
    box.setCurrentIndex(0)
    box.activated.emit(0)
    assert window.reconstructor.loaded.is_built_in
    box.setCurrentIndex(1)
    box.activated.emit(1)
    assert window.model_line.startswith(f'Model: {name}, ')
    # A file that is damaged leaves the model from before, also in the dropdown.
    box.activated.emit(0)
    path = Path(window.library.settings.recent_models.paths()[0])
    content = path.read_bytes()
    path.write_bytes(b'no model')
    box.activated.emit(1)
    window.wait_for_log(f'Load Model failed: {path}')
    assert box.currentText() == 'Built-in model'
    path.write_bytes(content)


def test_help_opens_the_guide_without_a_network(window: Window) -> None:
    window.menu('Help')
    shown = [widget for widget in QApplication.topLevelWidgets() if isinstance(widget, GuideWindow)]
    (guide,) = (widget for widget in shown if widget.isVisible())
    window.qtbot.addWidget(guide)
    text = guide.toPlainText()
    # It is the whole page, without what only Sphinx understands.
    for words in ('Inside Ptychodus', 'Troubleshooting', 'Batch mode', 'Warning. On a machine'):
        assert words in text
    assert not re.search(r'\{(term|doc|warning)\}|<!--|:::', text)
    assert guide_url().endswith('/docs/ptychodus.md')
    assert f'This page on the web: {guide_url()}' in text
    assert guide_url() in guide.toHtml()
    pictures = re.findall(r'images/ptychodus-\w+\.png', guide.toHtml())
    assert len(pictures) == 6
    for picture in pictures:
        image = guide.loadResource(QTextDocument.ResourceType.ImageResource, QUrl(picture))
        assert 100 < image.width() <= PICTURE_WIDTH_PX
    window.wait(lambda: f'on the web it is {guide_url()}' in window.message)
    # Ptychodus may be closed while it is open.
    assert not guide.testAttribute(Qt.WidgetAttribute.WA_QuitOnClose)
    guide.close()
    window.menu('Help')
    assert guide.isVisible()


def test_the_log_pane_follows_its_end_until_somebody_scrolls_away(
    window: Window, tmp_path: Path
) -> None:
    window.view.resize(1200, 700)
    pane = window.view.processing_status_view.text_edit
    bar = pane.verticalScrollBar()
    logger = window.library.get_logger()
    for number in range(60):
        logger.info('Line %d of a long log.', number)
    window.wait_for_log('Line 59 of')
    window.wait(lambda: bar.maximum() > 20 and bar.value() == bar.maximum())

    # Lines that come while another page is shown.
    window.view.automation_action.trigger()
    window.wait(lambda: not pane.isVisible())
    for number in range(60, 70):
        logger.info('Line %d of a long log.', number)
    window.wait_for_log('Line 69 of')
    window.view.processing_action.trigger()

    def lines_seen() -> int:
        top = pane.cursorForPosition(QPoint(5, 5)).blockNumber()
        return int(pane.blockCount()) - top

    window.wait(lambda: bar.value() == bar.maximum() and lines_seen() > 3, 10_000)

    # Stop and the progress bar take a part of the pane's height while a run is under way.
    height = pane.viewport().height()
    window.set(TrainingEpochs=100_000)
    window.train(tmp_path / 'data')
    window.wait(lambda: pane.viewport().height() < height)
    window.wait_for_epochs(1)
    window.wait_for_log('Epoch 1: ')
    window.wait(lambda: bar.value() == bar.maximum(), 5_000)

    # What somebody reads stays where it is.
    bar.setValue(3)
    n_epochs = len(window.library.activity.epochs)
    window.wait_for_epochs(n_epochs + 2)
    window.wait_for_log(f'Epoch {n_epochs + 2}: ')
    assert bar.value() == 3
    window.stop()


@pytest.fixture
def watched(window: Window, tmp_path: Path) -> Iterator[Path]:
    """Return a folder that Ptychodus' *Automation* watches."""
    automation = window.model.automation_core
    if DISPLAY_NAME not in automation.presenter.available_workflows():
        pytest.skip('This Ptychodus has no workflows that could be added to.')
    watched = tmp_path / 'beamline'
    watched.mkdir()
    automation.presenter.workflow_parameter.set_value(DISPLAY_NAME)
    automation.settings.data_directory.set_value(watched)
    automation.settings.watchdog_delay_s.set_value(0)
    # The buttons of Ptychodus' own panel: this one starts the watcher.
    (watch,) = (
        button
        for button in window.view.automation_view.findChildren(QPushButton)
        if button.text() == 'Watch'
    )
    watch.click()
    assert automation.presenter.is_watcher_enabled()
    yield watched
    # Its thread would keep the tests from ending.
    watch.click()


def test_a_watched_folder_is_reconstructed_without_a_click(
    window: Window, model_file: Path, write_folder: Callable[..., Path], watched: Path
) -> None:
    before = len(window.products)
    folder = write_folder(watched / 'scan1')
    window.wait(lambda: 'amplitude residual' in window.log)
    window.wait_for_end()
    # The next scan is inferred with the model that was loaded meanwhile.
    load_model(window, model_file)
    second = write_folder(watched / 'scan2')
    window.wait(lambda: window.log.count('amplitude residual') == 2)
    window.wait_for_end()

    # The product as loaded, and what was made of it; nothing twice, though two files came.
    assert len(window.products) == before + 4
    for scan, number in ((folder, before + 1), (second, before + 3)):
        assert np.ptp(np.abs(object_of(window, number))) > 0.01
        written = sorted((scan / OUTPUT).glob('product.*.h5'))
        with h5py.File(written[-1]) as file:
            np.testing.assert_allclose(file['object'][0], object_of(window, number))
    assert window.log.count('Automation: ') == 2
    used = re.findall(r'Inferring from 80 patterns with .* Model: (.*)\.$', window.log, re.M)
    assert used == ['built-in model', f'{model_file.parent.name}/{model_file.name}']
    # A later session leaves what is done alone.
    window.model.automation_core.repository.clear()
    next_session = ScanFolderWorkflow(window.model._task_manager)
    next_session.execute(window.model.workflow_api, folder / PRODUCT_FILE)
    window.wait_for_log('is left alone')
    assert len(window.products) == before + 4
    assert 'ERROR' not in window.log


def kill_worker(window: Window) -> None:
    """End the worker as the system does where memory runs out."""
    pid = window.library.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_watched_folder_whose_run_fails_keeps_no_product_and_is_tried_again(
    window: Window, write_folder: Callable[..., Path], watched: Path, slow_start: Path
) -> None:
    window.set(RefinementIterations=100_000)
    folder = write_folder(watched / 'scan')
    output = folder / OUTPUT

    # The worker dies before there is a picture, but not before the window would draw one.
    window.wait(slow_start.is_file)
    window.qtbot.wait(int(2500 * REDRAW_S))
    assert [*output.rglob('*.h5')] == [], 'the object as it was given is no product'
    kill_worker(window)
    window.wait_for_log('left no product')
    assert 'Infer failed: ' in window.log
    assert [*output.iterdir()] == []

    # It is tried again once its product is written again. Now the worker dies after pictures.
    shutil.rmtree(slow_start.parent)
    product = folder / PRODUCT_FILE
    product.write_bytes(product.read_bytes())
    window.wait(lambda: len([*output.glob(UNFINISHED)]) > 1)
    users = output / 'product.999999.h5'
    users.write_bytes(b'what somebody has put there')
    kill_worker(window)
    window.wait(lambda: window.log.count('Infer failed: ') == 2)
    window.wait_for_end()
    assert [*output.iterdir()] == [users]
    users.unlink()

    # The next session begins with the folder.
    window.set(RefinementIterations=1)
    next_session = ScanFolderWorkflow(window.model._task_manager)
    next_session.execute(window.model.workflow_api, product)
    window.wait_for_log('amplitude residual')
    window.wait_for_end()
    with h5py.File(max(output.glob('product.*.h5'))) as file:
        assert np.ptp(np.abs(file['object'][0])) > 0.01
    assert window.log.count('left no product') == 1


def test_a_run_that_is_killed_leaves_no_product_in_a_watched_folder(
    window: Window, write_folder: Callable[..., Path], watched: Path, tmp_path: Path
) -> None:
    window.set(RefinementIterations=100_000)
    folder = write_folder(watched / 'scan')
    output = folder / OUTPUT
    window.wait(lambda: len([*output.glob(UNFINISHED)]) > 1)
    assert [*output.glob('product*.h5')] == []
    # What is on the disk now is what is left where Ptychodus is killed now.
    killed = shutil.copytree(folder, tmp_path / 'killed')

    assert window.stop() < STOP_S

    window.wait(lambda: len([*output.glob('product.*.h5')]) > 1)
    assert [*output.glob(UNFINISHED)] == []

    # The next session takes the folder for one that is not done, and clears it up.
    stale = {path.name for path in (killed / OUTPUT).iterdir()}
    assert len(stale) > 1
    window.set(RefinementIterations=1)
    # Stop at the moment at which a picture is written leaves no line of a result.
    results = window.log.count('amplitude residual')
    next_session = ScanFolderWorkflow(window.model._task_manager)
    next_session.execute(window.model.workflow_api, killed / PRODUCT_FILE)
    window.wait(lambda: window.log.count('amplitude residual') == results + 1)
    window.wait_for_end()
    left = {path.name for path in (killed / OUTPUT).iterdir()}
    assert left
    assert not stale & left, 'pictures of the run that was killed'
    next_session = ScanFolderWorkflow(window.model._task_manager)
    next_session.execute(window.model.workflow_api, killed / PRODUCT_FILE)
    window.wait_for_log('is left alone')


def test_stop_before_there_is_a_picture_lets_a_watched_folder_be_tried_again(
    window: Window, write_folder: Callable[..., Path], watched: Path, slow_start: Path
) -> None:
    window.set(RefinementIterations=1)
    folders = [write_folder(watched / name) for name in ('scan1', 'scan2')]
    window.wait(slow_start.is_file)
    window.wait(lambda: window.library.activity.runs_waiting() == 1)

    assert window.stop() < STOP_S

    # The second run ends with the first, as it waited.
    window.wait(lambda: window.log.count('left no product') == 2)
    assert not any(any((folder / OUTPUT).iterdir()) for folder in folders)
    shutil.rmtree(slow_start.parent)
    for folder in folders:
        patterns = folder / PATTERNS_FILE
        patterns.write_bytes(patterns.read_bytes())
    window.wait(lambda: window.log.count('amplitude residual') == 2)
    window.wait_for_end()
    assert all(any((folder / OUTPUT).iterdir()) for folder in folders)
