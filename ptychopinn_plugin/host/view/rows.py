"""The rows of the panel: each shows one setting, lets it be changed, and shows what it corrects."""

import logging
import math
import os
import textwrap
from abc import abstractmethod
from typing import Any

from ptychodus.api.observer import Observable, Observer
from ptychodus.api.parameters import Parameter
from PyQt5.QtCore import QEvent, QObject, Qt, QTimer
from PyQt5.QtGui import QResizeEvent, QValidator, QWheelEvent
from PyQt5.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QScrollArea,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from ptychopinn_plugin.backends.selection import AUTOMATIC, ENVIRONMENT_VARIABLE
from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.library import PtychoPinnLibrary
from ptychopinn_plugin.host.panel_wording import in_words_of_the_panel
from ptychopinn_plugin.host.presets import PRESETS
from ptychopinn_plugin.host.reconstructor import PinnReconstructor
from ptychopinn_plugin.host.settings import MAX_INTEGER, ROWS, Row

ROWS_REFRESH_MS = 1000

NO_EFFECT = 'no effect'
"""A row that has none shows this in place of its setting."""

TIP_COLUMNS = 64
"""A line of a tooltip has at most this number of characters."""

logger = logging.getLogger('ptychopinn_plugin')

_parameters = versions.parameter_views()


def view_of(row: Row, library: PtychoPinnLibrary, reconstructor: PinnReconstructor) -> 'RowView':
    """Make what shows a row and lets it be changed."""
    parameter = library.settings.parameters[row.names[0]]
    if row.names == ('backend',):
        return BackendView(library, reconstructor, row)
    if row.names == ('preset',):
        return PresetView(parameter, row)
    if row.choices:
        return ChoiceView(parameter, row)
    if row.kind is bool:
        return TickView(parameter, row)
    if row.kind is float:
        return NumberView(parameter, row)
    return WholeNumberView(parameter, row)


class RowView(_parameters.ParameterViewController, Observer):  # type: ignore[misc, name-defined]
    """What shows a setting, or the value that is in force in its place.

    Parameters
    ----------
    parameter : Parameter
    row : Row
    widget : QWidget
    """

    def __init__(self, parameter: Parameter[Any], row: Row, widget: QWidget) -> None:
        super().__init__()
        self.row = row
        self._parameter, self._widget = parameter, widget
        self._instead: tuple[Any, ...] = ()
        self._has_effect = True
        widget.setToolTip(wrapped(row.tool_tip))
        parameter.add_observer(self)
        self.refresh()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._widget

    @property
    def value(self) -> Any:
        """What is in force: the setting, or what decides in its place."""
        return self._instead[0] if self._instead else self._parameter.get_value()

    def show_instead(self, *value: Any) -> None:
        """Show another value than the setting, which stays as it is; none shows the setting."""
        if value != self._instead:
            self._instead = value
            self.refresh()

    def show_effect(self, has_effect: bool) -> None:
        """Show whether the row has an effect: where it has none, no value is in force."""
        if has_effect != self._has_effect:
            self._has_effect = has_effect
            self.refresh()

    def refresh(self) -> None:
        """Show the value that is in force."""
        if self._has_effect:
            self._show(self.value)
        else:
            self._show_no_effect()

    @abstractmethod
    def _show(self, value: Any) -> None:
        """Show a value in the widget."""

    @abstractmethod
    def _show_no_effect(self) -> None:
        """Show `NO_EFFECT` in the widget, which is grey."""

    def _update(self, observable: Observable) -> None:
        if observable is self._parameter:
            self.refresh()


def wrapped(tip: str) -> str:
    """Return a tooltip in lines that a screen can hold."""
    return textwrap.fill(tip, TIP_COLUMNS, break_on_hyphens=False)


def _report(row: Row, what: str) -> None:
    """Show in the log and in the panel what became of an input."""
    logger.warning('%s: %s', row.label, what)


class TickView(RowView):
    """A box to tick."""

    def __init__(self, parameter: Parameter[bool], row: Row) -> None:
        self.box = QCheckBox()
        super().__init__(parameter, row, self.box)
        # Not `toggled`: what is shown in place of the setting must not become it.
        self.box.clicked.connect(parameter.set_value)

    def _show(self, value: bool) -> None:
        self.box.setText('')
        self.box.setChecked(bool(value))

    def _show_no_effect(self) -> None:
        self.box.setText(NO_EFFECT)
        self.box.setChecked(False)


class WholeNumberBox(QSpinBox):
    """A box for whole numbers that takes any text, and shows what it makes of a bad one."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self._row = row

    def validate(self, text: str | None, position: int) -> tuple[QValidator.State, str, int]:
        """Let anything be typed; `fixup` has the last word."""
        state, text, position = super().validate(text, position)
        if state == QValidator.State.Invalid:
            state = QValidator.State.Intermediate
        # The box's own range begins with 0 where that stands for an open setting.
        if state == QValidator.State.Acceptable:
            value = self.valueFromText(text)
            if self._row.nearest(value) != value:
                state = QValidator.State.Intermediate
        return state, text, position

    def stepBy(self, steps: int) -> None:
        """Step over the numbers between an open setting and the lowest valid one."""
        wanted = self.value() + steps * self.singleStep()
        lowest_valid = self._row.field.metadata['minimum']
        if self.minimum() < wanted < lowest_valid:
            self.setValue(lowest_valid if steps > 0 else self.minimum())
        else:
            super().stepBy(steps)

    def fixup(self, text: str | None) -> str:
        """Return the nearest valid number, or the former one."""
        typed = (text or '').strip()
        try:
            wanted = int(typed)
        except ValueError:
            kept = self.textFromValue(self.value())
            if self.specialValueText() and self.value() == self.minimum():
                kept = self.specialValueText()
            _report(self._row, f'"{typed}" is no whole number; the value stays {kept}.')
            return kept
        nearest = self._row.nearest(wanted)
        _report(self._row, _limit(wanted, nearest))
        return self.textFromValue(nearest)


def _limit(wanted: float, taken: float) -> str:
    """Return that a number is outside the limits, of which the one that is taken is the nearer."""
    side = 'above' if wanted > taken else 'below'
    return f'{wanted:,.10g} is {side} the limit of {taken:,.10g}; {taken:,.10g} is taken.'


class WholeNumberView(RowView):
    """A whole number."""

    def __init__(self, parameter: Parameter[int], row: Row) -> None:
        self.box = WholeNumberBox(row)
        about = row.field.metadata
        low = int(row.lowest or 0)
        self.box.setRange(low, int(about['maximum'] or MAX_INTEGER))
        self.box.setSpecialValueText(row.zero)
        super().__init__(parameter, row, self.box)
        self.box.valueChanged.connect(parameter.set_value)

    def _show(self, value: int) -> None:
        # What is shown in place of the setting must not become it.
        self.box.blockSignals(True)
        self.box.setSpecialValueText(self.row.zero)
        self.box.setValue(value)
        self.box.blockSignals(False)

    def _show_no_effect(self) -> None:
        self.box.blockSignals(True)
        self.box.setSpecialValueText(NO_EFFECT)
        self.box.setValue(self.box.minimum())
        self.box.blockSignals(False)


class NumberView(RowView):
    """A number in a text field: any size, any locale, and nothing that is not a number.

    Ptychodus' own takes a decimal comma in some locales, which ends the application.
    """

    def __init__(self, parameter: Parameter[float], row: Row) -> None:
        self._line = QLineEdit()
        self._line.setPlaceholderText(row.zero)
        super().__init__(parameter, row, self._line)
        self._line.editingFinished.connect(self._take)

    def _take(self) -> None:
        if not self._has_effect:
            # A field that becomes grey loses the focus.
            return
        typed = self._line.text().strip()
        if typed == self._text(self.value):
            return
        try:
            value = float(typed.replace(',', '.') or ('0' if self.row.zero else ''))
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            taken = self.row.nearest(value)
            self._parameter.set_value(taken)
            if taken != value:
                _report(self.row, _limit(value, taken))
        else:
            kept = self._text(self.value) or self.row.zero
            _report(self.row, f'"{typed}" is no number; the value stays {kept}.')
        self.refresh()

    def _text(self, value: float) -> str:
        return '' if self.row.zero and value == 0 else f'{value:.9g}'

    def _show(self, value: float) -> None:
        self._line.setText(self._text(value))

    def _show_no_effect(self) -> None:
        self._line.setText(NO_EFFECT)


class ChoiceView(RowView):
    """A dropdown that shows the value in force, also where it is none of the choices.

    A settings file may name such a value; Ptychodus' own dropdown would show the one before.
    """

    def __init__(self, parameter: Parameter[str], row: Row, widget: QWidget | None = None) -> None:
        self.combo_box = QComboBox()
        self.combo_box.addItems(row.choices)
        self.combo_box.setToolTip(wrapped(row.tool_tip))
        self.combo_box.textActivated.connect(parameter.set_value)
        super().__init__(parameter, row, widget or self.combo_box)

    def _show(self, value: str) -> None:
        if (nothing := self.combo_box.findText(NO_EFFECT)) >= 0:
            self.combo_box.removeItem(nothing)
        self._add_and_choose(value)

    def _show_no_effect(self) -> None:
        self._add_and_choose(NO_EFFECT)

    def _add_and_choose(self, text: str) -> None:
        if self.combo_box.findText(text) < 0:
            self.combo_box.addItem(text)
        self.combo_box.setCurrentText(text)


class Note(QLabel):
    """A text below a field, always as high as its lines.

    Where several rows of a form have such texts, Qt's layout shares their height out evenly, which
    cuts the longest text off and leaves gaps around the others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)

    def setText(self, text: str | None) -> None:
        """Show a text."""
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Break the lines anew."""
        super().resizeEvent(event)
        if event is not None and event.size().width() != event.oldSize().width():
            self._fit()

    def _fit(self) -> None:
        # Qt counts the least height as needed.
        self.setMinimumHeight(0)
        self.setMinimumHeight(self.heightForWidth(self.width()))


class PresetView(ChoiceView):
    """The dropdown of the presets and, below it, what the chosen one sets."""

    def __init__(self, parameter: Parameter[str], row: Row) -> None:
        self.note = Note()
        super().__init__(parameter, row, QWidget())
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo_box)
        layout.addWidget(self.note)
        self._widget.setLayout(layout)

    def _show(self, value: str) -> None:
        super()._show(value)
        rows = {name: item for item in ROWS for name in item.names}
        values = PRESETS.get(value, {})
        text = ', '.join(
            f'{rows[name].label} {rows[name].in_words(wanted)}' for name, wanted in values.items()
        )
        self.note.setText(f'Sets {text}.' if text else 'Rows differ from every preset.')


class BackendView(ChoiceView):
    """The dropdown of the backend and, below it, which one is in force and why."""

    def __init__(
        self, library: PtychoPinnLibrary, reconstructor: PinnReconstructor, row: Row
    ) -> None:
        self._library, self._reconstructor = library, reconstructor
        self._decisive: tuple[str, ...] | None = None
        self.note = Note()
        super().__init__(library.settings.parameters['backend'], row, QWidget())
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo_box)
        layout.addWidget(self.note)
        self._widget.setLayout(layout)
        self._timer = QTimer(self._widget)
        self._timer.timeout.connect(self.refresh)
        self._timer.start(ROWS_REFRESH_MS)

    def refresh(self) -> None:
        """Show what is in force now: environment and model change while the window is open."""
        named = os.environ.get(ENVIRONMENT_VARIABLE, '').strip().lower()
        model_backend = self._reconstructor.model_backend
        decisive = (self._parameter.get_value(), named, model_backend)
        if decisive == self._decisive:
            # To look for what is installed reads hundreds of files.
            return
        self._decisive = decisive
        super().refresh()
        self.combo_box.setEnabled(named in ('', AUTOMATIC))
        try:
            choice = self._library.choose_backend()
            with_model = self._library.choose_backend(model_backend)
        except PtychoPinnError as error:
            self.note.setText(in_words_of_the_panel(str(error)))
            return
        why = {
            'environment': 'PTYCHOPINN_BACKEND decides; unset it to choose here',
            'setting': 'chosen here',
            'auto': 'the first that is installed; a loaded model runs on its own',
        }[choice.source]
        text = f'In force: {choice.name} ({why}).'
        if with_model.name != choice.name:
            text = (
                f'In force: {with_model.name} (it made the loaded model). '
                f'Training from scratch uses {choice.name}.'
            )
        self.note.setText(text)


NOTCH = 120
"""Most wheels turn by this number of eighths of a degree at a time."""


class WheelGuard(QObject):
    """Leaves the mouse wheel to the panel where a box or a slider does not have the focus.

    Qt's take it from under the pointer, so that settings change while one scrolls.
    """

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._rest = 0.0

    def guard(self, panel: QWidget) -> None:
        """Guard all boxes and sliders of a panel."""
        for kind in (QComboBox, QSlider, QSpinBox):
            for box in panel.findChildren(kind):
                # The wheel alone gives no focus.
                box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                box.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Pass a turn of the wheel on to what lies around the box."""
        if not isinstance(event, QWheelEvent) or not isinstance(watched, QWidget):
            return False
        if watched.hasFocus():
            return False
        area = watched.parentWidget()
        while area is not None and not isinstance(area, QScrollArea):
            area = area.parentWidget()
        bar = None if area is None else area.verticalScrollBar()
        scrolled = event.angleDelta().y()
        if bar is None or bar.value() == (bar.minimum() if scrolled > 0 else bar.maximum()):
            # What lies further out may scroll.
            event.ignore()
            return True
        # A touchpad turns by less than a pixel at a time, which adds up.
        self._rest += scrolled / NOTCH * QApplication.wheelScrollLines() * bar.singleStep()
        bar.setValue(bar.value() - int(self._rest))
        self._rest -= int(self._rest)
        return True
