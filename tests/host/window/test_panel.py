"""Menu and panel: what they show, what they take, what they keep."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ptychodus.api.settings import SettingsRegistry
from PyQt5.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialogButtonBox,
    QGroupBox,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QWidget,
)
from pytestqt.qtbot import QtBot

from ptychopinn_plugin.backends import selection
from ptychopinn_plugin.host.library import PtychoPinnLibrary
from ptychopinn_plugin.host.settings import GROUP_NAME, ROWS
from ptychopinn_plugin.host.view.header import REFRESH_MS
from ptychopinn_plugin.host.view.rows import NO_EFFECT, BackendView

from .user import Window, load_model

SHIPPED = {'pinn', 'supervised'}


def widget_of(panel: QWidget, group: str, label: str) -> QWidget:
    """Return what stands beside a label."""
    for box in panel.findChildren(QGroupBox):
        for name in box.findChildren(QLabel) if box.title() == group else ():
            field = name.buddy()
            if field is not None and name.text() == f'{label}:':
                assert name.toolTip() == field.toolTip()
                return field
    raise AssertionError(f'There is no row {label!r} in the box {group!r}.')


def backend_row(window: Window) -> tuple[QComboBox, QLabel]:
    field = widget_of(window.panel, 'Run', 'Backend')
    (box,), (note,) = field.findChildren(QComboBox), field.findChildren(QLabel)
    return box, note


def test_algorithms_are_in_the_menu(window: Window) -> None:
    entries = {window.algorithms.itemText(i) for i in range(window.algorithms.count())}
    assert {f'ptychopinn-plugin_{name}' for name in SHIPPED} <= entries
    assert window.algorithms.currentText() == 'ptychopinn-plugin_pinn'
    assert window.train_button.isVisible()
    assert window.infer_button.text() == 'Infer'


@pytest.mark.parametrize('algorithm', sorted(SHIPPED))
def test_each_row_has_a_widget_that_explains_itself(window: Window, algorithm: str) -> None:
    window.choose(window.algorithms, f'ptychopinn-plugin_{algorithm}')

    shown = [row for row in ROWS if row.only_for in (None, algorithm)]
    for row in shown:
        field = widget_of(window.panel, row.group, row.label)
        tip = field.toolTip()
        reason, text, rest = ' '.join(tip.split()).partition(row.tool_tip)
        assert (text, rest) == (row.tool_tip, '')
        assert reason.startswith('It has no effect here: ') != field.isEnabled()
        assert max(map(len, tip.splitlines())) <= 64
        assert 'default' in tip
    boxes = {row.group for row in shown}
    assert {box.title() for box in window.panel.findChildren(QGroupBox)} == boxes
    labels = [label for label in window.panel.findChildren(QLabel) if label.text().endswith(':')]
    # The model that is loaded is no setting.
    assert len(labels) == len(shown) + 1


def test_tooltips_give_units_and_limits() -> None:
    tips = {row.names[0]: row.tool_tip for row in ROWS}
    assert '16 to 1,024 px' in tips['model.pattern_size']
    assert 'The default is 0, which stands for: as the data.' in tips['model.pattern_size']
    assert 'must be at least 0.01 min.' in tips['training.max_minutes']
    assert 'The default is 0.001.' in tips['training.learning_rate']
    assert not [tip for tip in tips.values() if 'None' in tip or ';.' in tip or ';;' in tip]
    # Whole sentences: each begins as one does, or with a word that is typed as it stands.
    for row in ROWS:
        first, *others = row.tool_tip.rstrip('.').split('. ')
        assert first[0].isupper() or first.split()[0] in row.choices, row.tool_tip
        assert all(sentence[0].isupper() for sentence in others), row.tool_tip


def test_the_panel_is_as_wide_as_it_needs_to_be(window: Window) -> None:
    window.view.resize(1400, 900)
    area = window.parts._scroll_area
    window.wait(lambda: window.panel.width() > 0)
    assert window.panel.minimumSizeHint().width() <= 380
    assert not area.horizontalScrollBar().isVisible()

    # Another panel decides for itself once it is shown.
    stack = window.parts._stacked_widget
    own = stack.currentIndex()
    assert stack.widget(0).sizePolicy().horizontalPolicy() == QSizePolicy.Policy.Ignored
    window.choose(window.algorithms, window.algorithms.itemText(own + 1))
    assert stack.widget(own + 1).sizePolicy().horizontalPolicy() != QSizePolicy.Policy.Ignored
    assert stack.widget(own).sizePolicy().horizontalPolicy() == QSizePolicy.Policy.Ignored


@pytest.mark.parametrize('height', [600, 880])
def test_the_rows_scroll_as_far_as_they_go(window: Window, height: int) -> None:
    window.view.resize(1600, height)
    # In a wide panel texts have fewer lines than in the narrowest.
    window.view.splitter.setSizes([900, 600])
    # Rows that were unfolded once leave nothing behind.
    for _ in range(2):
        window.click(window.panel.all_settings)
    area = window.panel.area
    rows, bar = area.widget(), area.verticalScrollBar()
    assert rows is not None
    assert bar is not None

    def empty_px() -> int:
        """Return how much empty space lies below the lowest box, where one scrolls to the end."""
        boxes = [box for box in rows.findChildren(QGroupBox) if box.isVisible()]
        ends = max(box.mapTo(rows, box.rect().bottomLeft()).y() for box in boxes)
        return area.viewport().height() + bar.maximum() - ends

    # It is laid out in several steps.
    window.qtbot.wait(3 * REFRESH_MS)
    assert bar.isVisible() == (height == 600)
    assert 0 < empty_px() < (40 if bar.isVisible() else height)


def test_the_dropdown_switches_the_backend(window: Window) -> None:
    box, note = backend_row(window)
    assert box.isEnabled()
    assert note.text().startswith('In force: pytorch (the first that is installed')

    window.choose(box, 'pytorch')
    assert note.text() == 'In force: pytorch (chosen here).'
    assert window.library.choose_backend().source == 'setting'

    window.choose(box, 'auto')
    assert window.library.choose_backend().source == 'auto'


def test_the_environment_beats_the_dropdown(
    window: Window, clean_environment: pytest.MonkeyPatch
) -> None:
    box, note = backend_row(window)
    clean_environment.setenv('PTYCHOPINN_BACKEND', 'Torch')
    window.wait(lambda: not box.isEnabled())
    assert note.text() == (
        'In force: pytorch (PTYCHOPINN_BACKEND decides; unset it to choose here).'
    )

    clean_environment.setenv('PTYCHOPINN_BACKEND', '')
    window.wait(box.isEnabled)


def test_the_panel_looks_for_backends_only_when_something_changed(
    qtbot: QtBot, clean_environment: pytest.MonkeyPatch
) -> None:
    library = PtychoPinnLibrary(SettingsRegistry())
    looked: list[str] = []
    find = selection.entry_points_of
    clean_environment.setattr(
        selection, 'entry_points_of', lambda group: looked.append(group) or find(group)
    )
    (row,) = (row for row in ROWS if row.names == ('backend',))
    view = BackendView(library, next(iter(library)), row)
    qtbot.addWidget(view.get_widget())
    looked.clear()
    view.refresh()
    view.refresh()
    assert not looked

    library.settings.parameters['backend'].set_value('pytorch')
    assert looked
    looked.clear()
    clean_environment.setenv('PTYCHOPINN_BACKEND', 'pytorch')
    view.refresh()
    assert looked


def test_an_unknown_backend_is_an_error_that_the_panel_shows(
    window: Window, clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    box, note = backend_row(window)
    window.set(Backend='jax')
    assert box.currentText() == 'jax'
    assert "Backend 'jax' (requested by the saved setting) is not known; valid: " in note.text()
    assert 'installed: pytorch' in note.text()
    window.train(tmp_path / 'data')
    window.wait_for_end()
    assert "Training failed: Backend 'jax'" in window.log

    clean_environment.setenv('PTYCHOPINN_BACKEND', 'theano')
    window.wait(lambda: 'theano' in note.text())
    assert 'requested by PTYCHOPINN_BACKEND' in note.text()
    assert not box.isEnabled()


def test_a_dropdown_shows_what_a_settings_file_says(window: Window, tmp_path: Path) -> None:
    box = widget_of(window.panel, 'Run', 'Device')
    assert isinstance(box, QComboBox)
    assert box.currentText() == 'cpu'
    file = tmp_path / 'other.ini'
    file.write_text(f'[{GROUP_NAME}]\nTrainingDevice = cuda:12\n')
    window.model.settings_registry.open_settings(file)
    assert box.currentText() == 'cuda:12'

    window.choose(box, 'auto')
    assert window.library.settings.config('pinn').training.device == 'auto'


def shown_rows(panel: QWidget) -> list[tuple[str, str]]:
    """Return box and label of each row that can be seen, from top to bottom."""
    labels = [
        (label.mapTo(panel, label.rect().topLeft()).y(), box.title(), label.text().rstrip(':'))
        for box in panel.findChildren(QGroupBox)
        for label in box.findChildren(QLabel)
        if label.buddy() is not None and label.isVisible() and label.buddy().isVisible()
    ]
    return [(box, label) for _, box, label in sorted(labels)]


def test_few_rows_are_shown_until_all_are_asked_for(window: Window) -> None:
    few = [
        ('Run', 'Model'),
        ('Run', 'Preset'),
        ('Run', 'Backend'),
        ('Run', 'Device'),
        ('Training', 'Max minutes'),
        ('Training', 'Fine-tune'),
        ('Refinement', 'Iterations'),
        ('Refinement', 'Refine probe'),
        ('Refinement', 'Refine positions'),
    ]
    every = [('Run', 'Model'), *((row.group, row.label) for row in ROWS)]
    window.wait(lambda: shown_rows(window.panel) == few)
    window.click(window.panel.all_settings)
    window.wait(lambda: shown_rows(window.panel) == every)
    window.click(window.panel.all_settings)
    window.wait(lambda: shown_rows(window.panel) == few)


@pytest.mark.parametrize('is_unfolded', [False, True])
def test_the_note_below_a_dropdown_takes_the_height_of_its_text(
    window: Window, is_unfolded: bool
) -> None:
    window.view.resize(1400, 900)
    if is_unfolded:
        window.click(window.panel.all_settings)
    field = widget_of(window.panel, 'Run', 'Preset')
    (box,), (note,) = field.findChildren(QComboBox), field.findChildren(QLabel)
    heights = []
    for name in ('Normal', '', 'Best', ''):
        if name:
            window.choose(box, name)
        else:
            window.set(TrainingMaxMinutes=2.0)
            assert note.text() == 'Rows differ from every preset.'
        alone = QLabel(note.text())
        alone.setWordWrap(True)
        alone.setFont(note.font())
        window.qtbot.addWidget(alone)
        # Lower, it would cut its text off; higher, gaps would lie around it.
        window.wait(lambda a=alone: note.height() == a.heightForWidth(note.width()), 20_000)
        assert note.y() - box.geometry().bottom() <= 8
        heights.append(note.height())
    assert heights[0] > heights[1] == heights[3] < heights[2]


def shown_value(field: QWidget) -> Any:
    """Return what a field shows."""
    if isinstance(field, QSpinBox | QCheckBox | QLineEdit) and field.text() == NO_EFFECT:
        return NO_EFFECT
    if isinstance(field, QComboBox):
        return field.currentText()
    if isinstance(field, QSpinBox):
        return field.value()
    if isinstance(field, QCheckBox):
        return field.isChecked()
    assert isinstance(field, QLineEdit)
    return float(field.text())


def test_a_model_that_is_fine_tuned_greys_the_rows_of_the_network_and_shows_its_own(
    window: Window, model_file: Path
) -> None:
    chosen = {
        'architecture': 'cnn',
        'pattern_size': 128,
        'gridsize': 3,
        'overlap_constraint': False,
        'filters_scale': 4.0,
        'passes': 5,
        'amplitude_activation': 'swish',
        'pad_object': False,
        'border_decoder': False,
    }
    rows = {row.names[0].removeprefix('model.'): row for row in ROWS if row.group == 'Model'}
    assert set(rows) == set(chosen)
    window.set(**{rows[name].key: value for name, value in chosen.items()})
    fields = {name: widget_of(window.panel, 'Model', row.label) for name, row in rows.items()}
    chosen['passes'] = NO_EFFECT
    assert {name: shown_value(field) for name, field in fields.items()} == chosen
    assert not fields['passes'].isEnabled(), 'cnn has none'
    load_model(window, model_file)
    model = window.reconstructor.loaded.model.config.model
    in_force = {name: getattr(model, name) for name in chosen}
    assert not [name for name, value in in_force.items() if value == chosen[name]]

    fine_tune = widget_of(window.panel, 'Training', 'Fine-tune')
    assert isinstance(fine_tune, QCheckBox)
    fine_tune.click()
    in_force |= dict.fromkeys(('amplitude_activation', 'pad_object', 'border_decoder'), NO_EFFECT)
    assert {name: shown_value(field) for name, field in fields.items()} == in_force
    assert not [name for name, field in fields.items() if field.isEnabled()]
    assert fields['gridsize'].toolTip().startswith('Fine-tuning takes this from the loaded model.')
    fine_tune.click()
    assert {name: shown_value(field) for name, field in fields.items()} == chosen
    assert [name for name, field in fields.items() if not field.isEnabled()] == ['passes']


def test_rows_that_the_loaded_model_makes_meaningless_are_greyed(
    window: Window, model_file: Path
) -> None:
    rows = [row.label for row in ROWS if row.group == 'Inference']

    def greyed() -> list[str]:
        fields = {label: widget_of(window.panel, 'Inference', label) for label in rows}
        return [label for label, field in fields.items() if not field.isEnabled()]

    def without_effect() -> list[str]:
        fields = {label: widget_of(window.panel, 'Inference', label) for label in rows}
        return [label for label, field in fields.items() if shown_value(field) == NO_EFFECT]

    # The built-in model is a learned prior: it has neither patches nor rotations.
    window.wait(lambda: greyed() == [label for label in rows if label != 'Prior passes'])
    assert without_effect() == greyed(), 'the setting is no value in force'
    weights = widget_of(window.panel, 'Inference', 'Stitching weights')
    assert isinstance(weights, QComboBox)
    assert 'built-in model has no patches.' in ' '.join(weights.toolTip().split())
    load_model(window, model_file)
    window.wait(lambda: greyed() == [])
    assert without_effect() == greyed()
    assert weights.currentText() == 'intensity'
    assert weights.findText(NO_EFFECT) < 0, 'nobody can choose it'
    assert 'no patches' not in weights.toolTip()


def test_rows_without_effect_are_greyed(window: Window) -> None:
    panel = window.panel
    passes, activation = (
        widget_of(panel, 'Model', name) for name in ('Passes', 'Amplitude activation')
    )
    assert passes.isEnabled()
    assert not activation.isEnabled()
    window.set(ModelArchitecture='cnn')
    assert activation.isEnabled()
    assert not passes.isEnabled()

    weight = widget_of(panel, 'Training', 'Target weight')
    assert isinstance(weight, QLineEdit)
    assert weight.isEnabled()
    weight.setFocus()
    window.set(TrainingTarget='none')
    assert not weight.isEnabled()
    assert weight.text() == NO_EFFECT
    window.set(TrainingTarget='iterations')
    assert weight.text() == '2', 'the setting stays as it was'
    assert 'no number' not in window.log


def test_numbers_that_may_be_left_open_say_so(window: Window) -> None:
    size = widget_of(window.panel, 'Model', 'Pattern size [px]')
    assert isinstance(size, QSpinBox)
    assert size.text() == 'as the data'
    limit = widget_of(window.panel, 'Training', 'Max minutes')
    assert isinstance(limit, QLineEdit)
    assert (limit.text(), limit.placeholderText()) == ('', 'no limit')
    assert window.library.settings.config('pinn').model.pattern_size is None

    size.setValue(64)
    assert window.library.settings.config('pinn').model.pattern_size == 64


def test_a_number_is_taken_or_stays_as_it_was(window: Window) -> None:
    line = widget_of(window.panel, 'Training', 'Learning rate')
    assert isinstance(line, QLineEdit)
    typed = {
        '0.0001': ('0.0001', 1e-4),
        '2e-7': ('2e-07', 2e-7),
        '0,5': ('0.5', 0.5),
        '7': ('1', 1.0),
        '-1': ('0', 0.0),
    }
    for text, (shown, value) in typed.items():
        line.setText(text)
        line.editingFinished.emit()
        assert line.text() == shown
        assert window.library.settings.config('pinn').training.learning_rate == value
    for text in ('fast', 'nan', ''):
        line.setText(text)
        line.editingFinished.emit()
        assert line.text() == '0'


def test_settings_are_saved_and_loaded(
    window: Window, open_window: Callable[..., Window], tmp_path: Path
) -> None:
    path = tmp_path / 'saved.ini'
    window.set(TrainingEpochs=7, TrainingLearningRate=2e-5, ModelPadObject=False)
    window.choose(backend_row(window)[0], 'pytorch')
    window.choose(window.algorithms, 'ptychopinn-plugin_supervised')
    window.dialogs.get_save_file_path = lambda *_, **__: (path, '')
    settings = window.view.settings_view
    window.click(settings.button_box.button(QDialogButtonBox.StandardButton.Save))
    window.controller._settings_controller._sync_dialog.accept()
    assert f'[{GROUP_NAME}]' in path.read_text()

    fresh = open_window()
    fresh.dialogs.get_open_file_path = lambda *_, **__: (path, '')
    fresh.click(fresh.view.settings_view.button_box.button(QDialogButtonBox.StandardButton.Open))
    assert fresh.algorithms.currentText() == 'ptychopinn-plugin_supervised'
    assert backend_row(fresh)[0].currentText() == 'pytorch'
    config = fresh.library.settings.config('pinn')
    assert config == window.library.settings.config('pinn')
    assert config.training.learning_rate == 2e-5


def test_bad_values_in_a_settings_file_leave_the_defaults(
    open_window: Callable[..., Window],
    write_folder: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = 'TrainingBatchSize = many\nModelArchitecture = transformer\nTrainingLearningRate = -3'
    folder = write_folder(tmp_path / 'data', more=more)
    window = open_window(folder / 'settings.ini')

    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for name in ('TrainingBatchSize', 'ModelArchitecture', 'TrainingLearningRate'):
        assert any(re.search(rf'{GROUP_NAME}\.{name}: .+ Kept: ', text) for text in warnings)
        window.wait_for_log(f'{GROUP_NAME}.{name}: ')
    config = window.library.settings.config('pinn')
    assert (config.training.batch_size, config.training.learning_rate) == (32, 1e-3)
    assert config.model.architecture == 'sweepnet'
    # What was good in the same file counts.
    assert config.training.epochs == 2
