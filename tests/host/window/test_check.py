"""*Check scan* by clicking, what leads to it, and a panel that stays in view."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PyQt5.QtCore import QPoint
from PyQt5.QtWidgets import QWidget

from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.reorientation import reorient
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.host.view import ROWS_HEIGHT
from ptychopinn_plugin.host.view.header import MIN_PICTURE_PX, PICTURE_PX
from ptychopinn_plugin.orientation import Orientation

from .user import STOP_S, Window

WriteFolder = Callable[..., Path]

RUNNING = r'Check of the scan, \d+ trials?, \d+ s; most checks take about a minute\.'


@pytest.fixture
def swapped(small_scan: Scan, write_folder: WriteFolder, tmp_path: Path) -> Path:
    """Return the folder of a scan whose x and y were taken for each other."""
    wrong = reorient(replace(small_scan, object_=None), Orientation(swap_positions=True))
    flat = np.ones((96, 96), np.complex64)
    return write_folder(tmp_path / 'swapped', scan=replace(wrong, object_=flat, name='swapped'))


def check_slider(window: Window) -> None:
    """Check that the slider shows the first picture, the second one, and parts of both."""
    picture = window.header.picture
    shades = {}
    for value in (100, 50, 0):
        picture.slider.setValue(value)
        image = picture.label.pixmap().toImage()
        shades[value] = [image.pixel(x, image.height() // 2) for x in range(image.width())]
        assert picture.buttons[0].isChecked() == (value == 100)
    width = len(shades[50])
    # A first picture of another size is drawn in the size of the second one.
    if len(shades[100]) == width:
        assert shades[50][: width // 4] == shades[100][: width // 4]
    assert shades[50][: width // 4] != shades[0][: width // 4]
    assert shades[50][-width // 4 :] == shades[0][-width // 4 :]
    assert shades[100] != shades[0]


def test_a_run_that_misses_its_counts_leads_to_the_check_that_tells_why(
    window: Window, swapped: Path
) -> None:
    # One of the patterns has lost its position.
    with h5py.File(swapped / 'product.h5', 'a') as file:
        for name in ('probe_position_indexes', 'probe_position_x_m', 'probe_position_y_m'):
            kept = file[name][:-1]
            attributes = dict(file[name].attrs)
            del file[name]
            file[name] = kept
            file[name].attrs.update(attributes)
    window.open(swapped)
    window.set(RefinementIterations=12, InferencePriorPasses=1)
    chosen = window.parts._product_view_controller.get_widget().currentIndex()
    window.infer()
    window.wait_for_end()
    window.wait(lambda: window.status == 'Inference done.')
    window.wait(lambda: ' on 79 patterns and 1 left out (1 without a position) ' in window.message)
    cause = 'positions, probe or orientation may be wrong; "Check scan" finds which. '
    assert cause in window.message
    # It would be that of noise alone.
    assert 'cannot be estimated' in window.message.partition(cause)[2]
    check_slider(window)

    n_products = len(window.products)
    window.parts._product_view_controller.get_widget().setCurrentIndex(chosen)
    assert '--' not in window.log
    window.check()
    window.wait(lambda: re.fullmatch(RUNNING, window.status) is not None)
    bar = window.view.processing_status_view.progress_bar
    window.wait(bar.isVisible)
    window.wait_for_end()
    window.wait(lambda: window.status == 'Check done.')
    for words in (
        'swapped: The scan is wrong as it is loaded. Load the positions again, and choose the '
        'preset (x, y) \u2192 (+y, +x) in the box Transformation',
        '. Or, with another orientation of the object: ',
        'with Transpose ticked in the box Transform',
    ):
        assert words in window.message, window.message
    assert len(window.products) == n_products
    names = [button.text() for button in window.header.picture.buttons]
    assert names == ['As loaded', 'Mended', 'Best trials']
    assert window.header.picture.shown == 'Mended'
    check_slider(window)
    window.click(window.header.picture.buttons[2])
    assert not window.header.picture.slider.isVisible()

    window.check()
    activity = window.library.activity
    window.wait(lambda: activity.stage == 'check' and activity.progress[1] > 0)
    assert window.stop() < STOP_S
    window.wait(lambda: window.status == 'Check stopped.')
    assert window.message == 'The check was stopped, and has found nothing.'
    assert 'ERROR' not in window.log


def test_a_check_that_cannot_be_is_red_before_a_worker_starts(
    window: Window, small_scan: Scan, write_folder: WriteFolder, tmp_path: Path
) -> None:
    window.set(SingleShot=True)
    window.check()
    window.wait_for_end()
    window.check_failure('Check', '"Single shot" is ticked', 'Untick it.')
    window.set(SingleShot=False)
    window.open(write_folder(tmp_path / 'few', scan=small_scan.subset(np.arange(8))))
    window.check()
    window.wait_for_end()
    window.wait(lambda: 'At least 12 positions with overlapping illum' in window.message)
    window.check_failure('Check')
    window.parts._product_view_controller.get_widget().setCurrentIndex(-1)
    window.click(window.panel.check_button)
    window.wait(lambda: 'no product with patterns is chosen' in window.message)
    assert window.library.worker.pid is None


def is_in_view(window: Window, part: QWidget) -> bool:
    """Return whether all of a part of the panel lies in the area that the host has for panels."""
    area = window.parts._scroll_area.viewport()
    top = part.mapTo(area, QPoint(0, 0)).y()
    return part.isVisible() and top >= 0 and top + part.height() <= area.height()


def test_what_a_run_says_stays_in_view_in_a_low_window(window: Window) -> None:
    header, page = window.header, window.panel
    activity = window.library.activity
    with activity.running('training', 'PINN'):
        activity.show('target', np.ones((90, 400), np.complex64))
        for number in (1, 2):
            activity.epochs = (*activity.epochs, {'loss': 1 / number, 'validation_loss': 2.0})
    window.library.get_logger().warning('A long message. ' * 20)
    fixed = (header.status, header.message, page.check_button)
    outer = window.parts._scroll_area
    for height in (900, 600):
        window.view.resize(1000, height)
        window.wait(lambda: outer.verticalScrollBar().maximum() == 0)
        window.wait(lambda: all(is_in_view(window, part) for part in fixed))
        window.wait(lambda: is_in_view(window, header.curve.get_widget()))
        assert is_in_view(window, header.picture.label)
        assert page.area.height() >= ROWS_HEIGHT
    # As low as no window of Ptychodus is with these fonts: the picture and the curve give way.
    holder = QWidget()
    window.qtbot.addWidget(holder)
    page.setParent(holder)
    holder.show()
    page.show()
    # A narrow panel has more lines.
    page.resize(400, 900)
    least = page.minimumSizeHint().height()
    for more, pictures in ((PICTURE_PX, PICTURE_PX), (MIN_PICTURE_PX + 5, MIN_PICTURE_PX + 5)):
        page.resize(400, least + more)
        window.wait(lambda wanted=pictures: header.curve.get_widget().height() == wanted, 20_000)
    page.resize(400, least)
    window.wait(lambda: not header.curve.get_widget().isVisible())
    assert not header.picture.label.isVisible()
    assert header.message.isVisible()
    # What is still to be drawn is drawn before the panel goes.
    window.qtbot.wait(100)


def test_a_product_of_the_near_field_is_inferred_and_cannot_be_checked(
    window: Window, write_folder: WriteFolder, tmp_path: Path
) -> None:
    """What to do in place of a check is done in the window too."""
    near = simulate(
        SimulationConfig(
            size=32, rows=5, columns=5, step_px=5.0, fresnel_number=0.06, probe_kind='diffuser'
        )
    )
    window.open(write_folder(tmp_path / 'near', scan=near))
    product = next(item for item in window.products if item.get_name() == near.name).get_product()
    if not hasattr(product.metadata, 'far_field'):
        pytest.skip('This Ptychodus knows no near field.')
    window.check()
    window.wait_for_end()
    window.wait(lambda: 'is of the near field' in window.message)
    window.check_failure('Check', 'in the box Transform', 'click "Infer" for each')
    assert 'command line' not in window.message
    window.set(RefinementIterations=3)
    number = window.infer()
    window.wait_for_end()
    window.wait(lambda: window.status == 'Inference done.')
    assert 'has never met the near field' in window.log
    assert not window.products[number].get_product().metadata.far_field
    assert [name for name, _ in window.library.activity.pictures] == ['Refined']
