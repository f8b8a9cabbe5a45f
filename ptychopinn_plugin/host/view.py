"""The panel: rows from `settings.ROWS`, the backend in force, and a live curve of the losses."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from ptychodus.api.observer import Observable, Observer
from ptychodus.api.parameters import Parameter
from ptychodus.controller.data import FileDialogFactory
from ptychodus.controller.processing.core import ReconstructorViewControllerFactory
from PyQt5.QtCore import QCoreApplication, QTimer
from PyQt5.QtGui import QHideEvent, QShowEvent
from PyQt5.QtWidgets import (
    QComboBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from ptychopinn_plugin.backends.protocol import was_validated
from ptychopinn_plugin.backends.selection import AUTOMATIC, ENVIRONMENT_VARIABLE
from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.library import LIBRARY_NAME, PtychoPinnLibrary
from ptychopinn_plugin.host.reconstructor import PinnReconstructor
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.settings import ROWS, Row

REFRESH_MS = 1000
FONT = 8
FIELD_WIDTH = 115
"""In pixels, beside the labels, in a panel that is as narrow as it can be."""
MARKED = 60
"""Up to this number of epochs, each gets a point in the curve."""

_parameters = versions.parameter_views()


class PinnViewControllerFactory(ReconstructorViewControllerFactory):
    """Makes the panel of each algorithm.

    Parameters
    ----------
    library : PtychoPinnLibrary
    file_dialog_factory : FileDialogFactory
    """

    def __init__(self, library: PtychoPinnLibrary, file_dialog_factory: FileDialogFactory) -> None:
        super().__init__()
        self._library = library
        self._dialogs = file_dialog_factory
        application = QCoreApplication.instance()
        if application is not None:
            # Ptychodus waits for the run under way when its window closes.
            application.aboutToQuit.connect(library.close)

    @property
    def name(self) -> str:
        """The library's name."""
        return LIBRARY_NAME

    def create_view_controller(self, reconstructor_name: str) -> QWidget:
        """Make the panel of an algorithm, which Ptychodus names in lower case."""
        reconstructor = next(
            item for item in self._library if item.name.casefold() == reconstructor_name.casefold()
        )
        builder = _parameters.ParameterViewBuilder(self._dialogs)
        curve = TrainingCurve(self._library.activity)
        builder.add_view_controller_to_top(curve)
        switches = []
        for row in ROWS:
            if row.only_for in (None, reconstructor.model_type):
                view = _view_of(row, self._library, reconstructor)
                builder.add_view_controller(view, f'{row.label}:', group=row.group)
                if row.needs is not None:
                    switches.append(_Switch(view.get_widget(), row.needs, self._library))
        panel: QWidget = builder.build_widget()
        _align(panel)
        return Page(panel, curve, switches)


def _view_of(row: Row, library: PtychoPinnLibrary, reconstructor: PinnReconstructor) -> Any:
    """Make what shows a row and lets it be changed."""
    parameter, tip = library.settings.parameters[row.names[0]], row.tool_tip
    if row.names == ('backend',):
        return BackendView(library, reconstructor, row)
    if row.choices:
        return ChoiceView(parameter, row)
    if row.kind is bool:
        return _parameters.CheckBoxParameterViewController(parameter, '', tool_tip=tip)
    if row.kind is float:
        return NumberView(parameter, row)
    view = _parameters.SpinBoxParameterViewController(parameter, tool_tip=tip)
    box = view.get_widget()
    assert isinstance(box, QSpinBox)
    box.setSpecialValueText(row.zero)
    return view


def _align(panel: QWidget) -> None:
    """Give all labels one width and the tooltips of their fields, and make wide fields narrower."""
    labels = []
    for form in panel.findChildren(QFormLayout):
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for number in range(form.rowCount()):
            item = form.itemAt(number, QFormLayout.ItemRole.FieldRole)
            field = None if item is None else item.widget()
            label = None if field is None else form.labelForField(field)
            if field is not None and label is not None:
                label.setToolTip(field.toolTip())
                labels.append(label)
                # By itself a box takes the width of the largest number that fits its limits.
                field.setMinimumWidth(min(field.minimumSizeHint().width(), FIELD_WIDTH))
    width = max((label.sizeHint().width() for label in labels), default=0)
    for label in labels:
        label.setMinimumWidth(width)


class Page(QWidget):
    """A panel in Ptychodus' stack, which makes every panel as large as its largest.

    While this one is shown it alone decides, so that it needs no scroll bar for the others' sake.

    Attributes
    ----------
    curve : TrainingCurve
    """

    def __init__(self, panel: QWidget, curve: 'TrainingCurve', switches: 'list[_Switch]') -> None:
        super().__init__()
        self.curve = curve
        # The host keeps no reference to its observers.
        self._switches = switches
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(panel)
        self.setLayout(layout)
        self._others: list[tuple[QWidget, QSizePolicy]] = []

    def showEvent(self, event: QShowEvent | None) -> None:
        """Let the stack disregard the sizes of other panels."""
        stack = self.parentWidget()
        if isinstance(stack, QStackedWidget) and not self._others:
            for number in range(stack.count()):
                other = stack.widget(number)
                if other is not None and other is not self:
                    self._others.append((other, other.sizePolicy()))
                    other.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        super().showEvent(event)

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Leave the stack as it was."""
        for other, policy in self._others:
            other.setSizePolicy(policy)
        self._others.clear()
        super().hideEvent(event)


class _Switch(Observer):
    """Greys a row while another setting leaves it without effect."""

    def __init__(self, widget: QWidget, needs: tuple[str, str], library: PtychoPinnLibrary) -> None:
        super().__init__()
        self._widget, self._value = widget, needs[1]
        self._decides = library.settings.parameters[needs[0]]
        self._decides.add_observer(self)
        self._update(self._decides)

    def _update(self, observable: Observable) -> None:
        self._widget.setEnabled(str(self._decides.get_value()) == self._value)


class NumberView(_parameters.ParameterViewController, Observer):  # type: ignore[misc, name-defined]
    """A number in a text field: any size, any locale, and nothing that is not a number.

    Ptychodus' own takes a decimal comma in some locales, which ends the application.
    """

    def __init__(self, parameter: Parameter[float], row: Row) -> None:
        super().__init__()
        self._parameter, self._zero = parameter, row.zero
        self._line = QLineEdit()
        self._line.setToolTip(row.tool_tip)
        self._line.setPlaceholderText(row.zero)
        self._line.editingFinished.connect(self._take)
        parameter.add_observer(self)
        self._show()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._line

    def _take(self) -> None:
        try:
            value = float(self._line.text().replace(',', '.') or ('0' if self._zero else ''))
        except ValueError:
            value = math.nan
        if math.isfinite(value):
            self._parameter.set_value(value)
            # What lies outside the limits is kept as the limit.
            self._parameter.set_value(self._parameter.get_value())
        self._show()

    def _show(self) -> None:
        value = self._parameter.get_value()
        self._line.setText('' if self._zero and value == 0 else f'{value:.9g}')

    def _update(self, observable: Observable) -> None:
        if observable is self._parameter:
            self._show()


class ChoiceView(_parameters.ParameterViewController, Observer):  # type: ignore[misc, name-defined]
    """A dropdown that shows the value in force, also where it is none of the choices.

    A settings file may name such a value; Ptychodus' own dropdown would show the one before.
    """

    def __init__(self, parameter: Parameter[str], row: Row) -> None:
        super().__init__()
        self._parameter = parameter
        self.combo_box = QComboBox()
        self.combo_box.addItems(row.choices)
        self.combo_box.setToolTip(row.tool_tip)
        self.combo_box.textActivated.connect(parameter.set_value)
        parameter.add_observer(self)
        self._show()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self.combo_box

    def _show(self) -> None:
        value = str(self._parameter.get_value())
        if self.combo_box.findText(value) < 0:
            self.combo_box.addItem(value)
        self.combo_box.setCurrentText(value)

    def _update(self, observable: Observable) -> None:
        if observable is self._parameter:
            self._show()


class BackendView(ChoiceView):
    """The dropdown of the backend and, below it, which one is in force and why."""

    def __init__(
        self, library: PtychoPinnLibrary, reconstructor: PinnReconstructor, row: Row
    ) -> None:
        super().__init__(library.settings.parameters['backend'], row)
        self._library, self._reconstructor = library, reconstructor
        self._decisive: tuple[str | None, ...] | None = None
        self.note = QLabel()
        self.note.setWordWrap(True)
        self._widget = QWidget()
        self._widget.setToolTip(row.tool_tip)
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo_box)
        layout.addWidget(self.note)
        self._widget.setLayout(layout)
        self._timer = QTimer(self._widget)
        self._timer.timeout.connect(self.refresh)
        self._timer.start(REFRESH_MS)
        self.refresh()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._widget

    def refresh(self) -> None:
        """Show what is in force now: environment and model change while the window is open."""
        named = os.environ.get(ENVIRONMENT_VARIABLE, '').strip().lower()
        model_backend = self._reconstructor.model_backend
        decisive = (self._parameter.get_value(), named, model_backend)
        if decisive == self._decisive:
            # To look for what is installed reads hundreds of files.
            return
        self._decisive = decisive
        self.combo_box.setEnabled(named in ('', AUTOMATIC))
        try:
            choice = self._library.choose_backend()
            with_model = self._library.choose_backend(model_backend)
        except PtychoPinnError as error:
            self.note.setText(str(error))
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

    def _update(self, observable: Observable) -> None:
        """Take note that the setting has changed."""
        super()._update(observable)
        self.refresh()


class TrainingCurve(_parameters.ParameterViewController):  # type: ignore[misc, name-defined]
    """The losses of the training under way; Ptychodus draws those of products only."""

    def __init__(self, activity: Activity) -> None:
        super().__init__()
        self._activity = activity
        self._drawn: Sequence[Mapping[str, float]] = ()
        self.status = QLabel('Train shows its losses here.')
        self.figure = Figure(figsize=(3.2, 1.9), layout='constrained')
        self.axes = self.figure.add_subplot()
        self._canvas: Any = FigureCanvasQTAgg(self.figure)  # type: ignore[no-untyped-call]
        self._canvas.setMinimumHeight(170)
        self._canvas.hide()
        self._widget = QWidget()
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.status)
        layout.addWidget(self._canvas)
        self._widget.setLayout(layout)
        self._timer = QTimer(self._widget)
        self._timer.timeout.connect(self.refresh)
        self._timer.start(REFRESH_MS)

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._widget

    def refresh(self) -> None:
        """Show where the run is."""
        activity = self._activity
        if activity.kind:
            self.status.setText(_status(activity))
        epochs = activity.epochs
        if epochs is not self._drawn:
            self._drawn = epochs
            self.axes.clear()
            if epochs:
                self._draw(epochs)
            # A training that has just begun has none, and leaves no other's curve there.
            self._canvas.setVisible(bool(epochs))

    def _draw(self, epochs: Sequence[Mapping[str, float]]) -> None:
        axes = self.axes
        numbers = range(1, len(epochs) + 1)
        drawn: list[float] = []
        labels = {'loss': 'training'}
        if was_validated(epochs):
            labels['validation_loss'] = 'validation'
        for name, label in labels.items():
            values = [row.get(name, math.nan) for row in epochs]
            drawn += [value for value in values if math.isfinite(value)]
            marker = '.-' if len(epochs) <= MARKED else '-'
            axes.plot(numbers, values, marker, label=label, linewidth=1.2)
        if drawn and 0 < 10 * min(drawn) < max(drawn):
            axes.set_yscale('log')
        else:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel('epoch', fontsize=FONT)
        axes.set_ylabel('loss', fontsize=FONT)
        axes.tick_params(which='both', labelsize=FONT - 1)
        axes.grid(visible=True, alpha=0.4)
        axes.legend(fontsize=FONT - 1, frameon=False)
        self._canvas.draw_idle()


def _status(activity: Activity) -> str:
    name, step, total = activity.progress
    if not activity.is_running and activity.kind == 'inference':
        return 'Inference ended.'
    if not activity.is_running:
        return 'The last training:' if activity.epochs else 'Training ended before its first epoch.'
    stages = {
        'load': 'Starting ...',
        'target': 'The target is reconstructed from the training scan',
        'train': f'Training, epoch {len(activity.epochs) + 1}',
        'predict': 'The network predicts',
        'refine': 'Iterations refine the object',
    }
    stage = stages.get(name, name)
    return f'{stage}: {step / total:.0%}' if total else stage
