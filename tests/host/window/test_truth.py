"""The panel shows the truth: how a run ended, which model is loaded, what waits, what was typed."""

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PyQt5.QtCore import QPoint, QPointF, Qt
from PyQt5.QtGui import QWheelEvent
from PyQt5.QtWidgets import QApplication, QComboBox, QFormLayout, QSpinBox, QWidget

from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.host.example_scans import write_example_scans
from ptychopinn_plugin.host.reconstructor import PRODUCT_GOES

from .test_panel import widget_of
from .user import Window, load_model, needs_stopped_processes

pytestmark = pytest.mark.usefixtures('warm_worker')

LONG = 100_000


def turn_wheel(widget: QWidget) -> None:
    """Turn the mouse wheel by a notch, towards the user, over a widget."""
    middle = QPointF(widget.rect().center())
    where = QPointF(widget.mapToGlobal(middle.toPoint()))
    notch = QPoint(0, -120)
    event = QWheelEvent(
        *(middle, where, QPoint(), notch, Qt.MouseButton.NoButton),
        *(Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False),
    )
    QApplication.sendEvent(widget, event)


def kill_worker(window: Window) -> None:
    pid = window.library.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def check_fold(window: Window) -> None:
    """Check that few rows are shown until all are wanted."""
    folded, basic = (
        widget_of(window.panel, *names)
        for names in (('Model', 'Architecture'), ('Training', 'Max minutes'))
    )
    window.wait(basic.isVisible)
    assert not folded.isVisible()
    assert not folded.parentWidget().isVisible(), 'a box without rows is left out'
    few = rows_of(basic)
    assert all(row.isVisible() for row in few), 'a hidden row would leave a gap'
    window.click(window.panel.all_settings)
    assert folded.isVisible()
    assert basic.isVisible()
    every = rows_of(basic)
    window.click(window.panel.all_settings)
    assert rows_of(basic) == few == [row for row in every if row in few]
    window.click(window.panel.all_settings)
    assert rows_of(basic) == every, 'in the same order'


def rows_of(field: QWidget) -> list[QWidget]:
    """Return the fields that the layout of a row's box holds."""
    form = field.parentWidget().layout()
    assert isinstance(form, QFormLayout)
    items = [form.itemAt(i, QFormLayout.ItemRole.FieldRole) for i in range(form.rowCount())]
    return [item.widget() for item in items]


@needs_stopped_processes
def test_every_failure_is_red_and_leaves_no_product(
    window: Window,
    model_file: Path,
    small_scan: Scan,
    write_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    before = len(window.products)
    (tmp_path / 'empty').mkdir()
    window.train(tmp_path / 'empty')
    window.wait_for_end()
    window.check_failure('Training', 'holds no training data', 'Infer still uses the built-in')

    load_model(window, model_file)
    window.wait(lambda: window.message.startswith('Loaded '))
    name = f'{model_file.parent.name}/{model_file.name}'
    assert re.fullmatch(
        rf'Model: {name}, sweepnet, pytorch, patterns of 32 x 32 px, 2 epochs, '
        r'80 patterns of 1 scan \(small\), best validation loss \S+, \d{4}-\d\d-\d\d \d\d:\d\d\.',
        window.model_line,
    )
    window.set(RefinementIterations=LONG)
    window.infer()
    window.wait(lambda: window.library.activity.stage == 'refine')
    window.wait(lambda: window.status.startswith('Refinement, iteration '))
    kill_worker(window)
    window.wait_for_end()
    window.check_failure('Inference', 'The worker died while it worked (killed')
    window.wait(lambda: len(window.products) == before)

    window.set(TrainingEpochs=LONG)
    window.train(tmp_path / 'data')
    window.wait_for_epochs(1)
    kill_worker(window)
    window.wait_for_end()
    still = f'Infer still uses the model that was loaded before, {name}.'
    window.check_failure('Training', 'The worker died while it worked (killed', still)

    # What is wrong with a scan is known before a worker starts.
    window.library.worker.close()
    far = replace(small_scan, positions_px=60 * small_scan.positions_px)
    window.open(write_folder(tmp_path / 'far', scan=far))
    before = len(window.products)
    window.infer()
    window.wait_for_end()
    window.check_failure('Inference', 'neighbouring illuminations must overlap', PRODUCT_GOES)
    assert window.library.worker.pid is None
    window.wait(lambda: len(window.products) == before)


def test_stop_ends_the_run_that_waits_as_well(window: Window, tmp_path: Path) -> None:
    window.set(TrainingEpochs=LONG)
    window.train(tmp_path / 'data')
    window.wait_for_epochs(1)
    bad = window.panel.header.curve.axes
    window.wait(lambda: bool(bad.lines))
    window.click(window.train_button)
    window.wait(lambda: window.status.endswith('1 run waits; Stop ends all.'))
    monitor = window.parts._processing_api.task_monitor
    ended = monitor.get_completed_runs()

    window.stop()

    window.wait_for_log('1 run that waited was ended by Stop before it began.')
    assert not window.is_running
    assert monitor.get_completed_runs() == ended + 1
    window.wait(lambda: window.status == 'Training stopped.')
    # What the training has left comes last, and not the run that never began.
    assert window.message.startswith('Trained ')
    assert re.search(r' its best loss is \S+, that of epoch \d+\. ', window.message)

    # Another model is loaded: the curve is not that of its training.
    load_model(window, tmp_path / 'data' / 'model.zip')
    window.wait(lambda: not window.curve.get_widget().isVisible())


def test_rows_take_no_wheel_and_say_what_they_correct(
    window: Window,
    model_file: Path,
    small_scan: Scan,
    tmp_path: Path,
) -> None:
    window.view.resize(1200, 700)
    check_fold(window)
    architecture = widget_of(window.panel, 'Model', 'Architecture')
    size = widget_of(window.panel, 'Model', 'Pattern size [px]')
    assert isinstance(architecture, QComboBox)
    assert isinstance(size, QSpinBox)
    check_wheel(window, architecture, size, small_scan)
    check_typed_sizes(window, size)
    check_typed_limits(window)

    # A model that is fine-tuned brings its own settings of the box Model.
    passes = widget_of(window.panel, 'Model', 'Passes')
    window.set(ModelPasses=5, FineTune=True)
    load_model(window, model_file)
    window.wait(lambda: not passes.isEnabled() and passes.value() == 2)
    assert (passes.value(), architecture.isEnabled(), size.value()) == (2, False, 32)
    window.wait(lambda: 'fine-tuning' in window.header.training.text())
    window.set(FineTune=False)
    assert (passes.value(), passes.isEnabled(), size.value()) == (5, True, 0)


def check_wheel(window: Window, architecture: QComboBox, size: QSpinBox, small_scan: Scan) -> None:
    """Check that the wheel scrolls the rows, and changes only a box that has the focus."""
    bar = window.panel.area.verticalScrollBar()
    window.wait(lambda: bar.maximum() > 0)
    for stage in ('target', 'train'):
        window.library.activity.show(stage, small_scan.object_)
    part, slider = window.header.picture.part, window.header.picture.slider
    window.wait(slider.isVisible)
    slider.setValue(50)
    top = window.header.status.mapTo(window.panel, QPoint())
    for box in (architecture, size, part, slider):
        box.clearFocus()
        for _ in range(2):
            turn_wheel(box)
    assert (architecture.currentText(), size.value()) == ('sweepnet', 0)
    assert (part.currentText(), slider.value()) == ('Phase', 50)
    assert bar.value() > 0, 'the rows scroll instead'
    assert window.header.status.mapTo(window.panel, QPoint()) == top, 'and the status stays'
    architecture.setFocus()
    turn_wheel(architecture)
    assert architecture.currentText() == 'cnn', 'a box that has the focus takes the wheel'
    window.choose(architecture, 'sweepnet')


def check_typed_sizes(window: Window, size: QSpinBox) -> None:
    """Check that a number that is typed is corrected with a message."""
    typed = {
        '9': (16, 'Pattern size [px]: 9 is below the limit of 16; 16 is taken.'),
        '0': (0, None),
        '99999': (1024, 'Pattern size [px]: 99,999 is above the limit of 1,024; 1,024 is taken.'),
        'abc': (1024, 'Pattern size [px]: "abc" is no whole number; the value stays 1024.'),
    }
    for text, (value, message) in typed.items():
        size.lineEdit().selectAll()
        window.qtbot.keyClicks(size, text)
        window.qtbot.keyClick(size, Qt.Key.Key_Return)
        assert size.value() == value
        assert window.library.settings.parameters['model.pattern_size'].get_value() == value
        if message is not None:
            window.wait(lambda wanted=message: window.message == wanted)
    size.setValue(16)
    size.stepDown()
    assert size.value() == 0, 'what lies between 0, as the data, and 16 is stepped over'
    size.stepUp()
    assert size.value() == 16
    size.setValue(0)


def check_typed_limits(window: Window) -> None:
    """Check that numbers with a fraction, and open settings, have their limits too."""
    for names, low in {
        ('Training', 'Max minutes'): '0.01',
        ('Refinement', 'Max seconds'): '0.01',
        ('Run', 'Photons'): '1',
    }.items():
        line = widget_of(window.panel, *names)
        line.setText('0.001')
        line.editingFinished.emit()
        assert line.text() == low
        reported = f'{names[1]}: 0.001 is below the limit of {low}; {low} is taken.'
        window.wait(lambda wanted=reported: window.message == wanted)
        line.setText('')
        line.editingFinished.emit()
        assert line.text() == '', 'an empty line leaves the setting open'
    rate = widget_of(window.panel, 'Training', 'Learning rate')
    rate.setText('fast')
    rate.editingFinished.emit()
    window.wait(lambda: window.message.endswith('"fast" is no number; the value stays 0.001.'))


def test_the_panel_tells_where_the_chosen_product_lies(
    window: Window, tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    other = write_example_folder(tmp_path)
    folder = tmp_path / 'data'
    box = window.parts._product_view_controller.get_widget()
    small = box.currentIndex()
    window.open(other)
    box.setCurrentIndex(small)
    end = (
        'Train on product: small, 80 patterns. Either way: no time limit; from scratch, with the '
        'rows of the box Model.'
    )
    opens = f'Train opens {folder}: 1 scan: diffraction.h5 with its product'
    assert window.training_line == f'{opens}. {end}'

    # Train learns from every NPZ scan in the folder, whichever product is chosen.
    for name in ('one', 'test', 'two'):
        (folder / f'{name}.npz').touch()
    opens = f'Train opens {folder}: 2 scans: one.npz, two.npz; validated on test.npz'
    assert window.training_line == f'{opens}. {end}'
    for number in range(5):
        (folder / f'more-{number}.npz').touch()
    assert ': 7 scans: more-0.npz, more-1.npz, more-2.npz, more-3.npz, more-4.npz, 2 more; ' in (
        window.training_line
    )
    # However long it is, all of it is seen, at once.
    label = window.header.training
    assert label.minimumHeight() == label.heightForWidth(label.width())
    for path in (*folder.glob('*.npz'), folder / 'diffraction.h5'):
        path.unlink()
    opens = f'Train opens {folder}, where there is nothing to learn from'
    assert window.training_line == f'{opens}. {end}'

    window.set(TrainingEpochs=1, TrainingMaxMinutes=1.0)
    window.train(other)
    window.wait_for_end()
    assert f'The product that is chosen, small, lies in {folder}.' in window.log


def test_a_product_is_known_by_itself_and_not_by_its_name(window: Window, tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    window.set(RefinementIterations=1, InferencePriorPasses=0, TrainingEpochs=1)
    box = window.parts._product_view_controller.get_widget()
    first = box.currentIndex()
    number = window.infer()
    window.wait_for_end()
    # What Infer makes has the patterns of the product that it was made from.
    window.wait(lambda: box.currentIndex() == number)
    assert window.training_line.startswith(f'Train opens {folder}: 1 scan: ')

    # One that was made in the window gets the name, and has no files.
    api = window.parts._processing_api._product_api
    window.products[first].set_name('renamed')
    given = window.products[first].get_product()
    made = api.insert_product(given, name='small', dataset=window.products[first].get_dataset())
    assert window.products[made].get_name() == 'small'
    box.setCurrentIndex(first)
    assert window.training_line.startswith(f'Train opens {folder}: 1 scan: ')
    box.setCurrentIndex(made)
    assert window.training_line.startswith('Train takes a folder, ')
    window.train(folder)
    window.wait_for_end()
    unknown = 'small, came from no folder that is known; Train on product learns from it.'
    assert f'Training learns from the files of {folder}. The product that is chosen, {unknown}' in (
        window.log
    )


def write_example_folder(folder: Path) -> Path:
    known, _ = write_example_scans(folder / 'trial')
    return known
