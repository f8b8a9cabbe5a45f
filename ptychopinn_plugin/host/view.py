"""The panel: rows from `settings.ROWS`, the backend in force, and a live curve of the losses."""

from typing import Any

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from ptychodus.api.observer import Observable, Observer
from ptychodus.controller.data import FileDialogFactory
from ptychodus.controller.processing.core import ReconstructorViewControllerFactory
from PyQt5.QtCore import QCoreApplication, QTimer
from PyQt5.QtWidgets import QComboBox, QLabel, QVBoxLayout, QWidget

from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.activity import Activity
from ptychopinn_plugin.host.library import ALGORITHMS, LIBRARY_NAME, PtychoPinnLibrary
from ptychopinn_plugin.host.settings import ROWS, Row

REFRESH_MS = 1000

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
        model_type = {name.casefold(): kind for name, kind in ALGORITHMS.items()}.get(
            reconstructor_name.casefold(), 'pinn'
        )
        builder = _parameters.ParameterViewBuilder(self._dialogs)
        builder.add_view_controller_to_top(TrainingCurve(self._library.activity))
        for row in ROWS:
            if row.only_for in (None, model_type):
                _add_row(builder, row, self._library)
        widget: QWidget = builder.build_widget()
        return widget


def _add_row(builder: Any, row: Row, library: PtychoPinnLibrary) -> None:
    parameter, tip = library.settings.parameters[row.names[0]], row.tool_tip
    label = f'{row.label}:'
    if row.names == ('backend',):
        builder.add_view_controller(BackendView(library, row), label, group=row.group)
    elif row.choices:
        items = list(row.choices)
        if parameter.get_value() not in items:
            items.append(parameter.get_value())
        builder.add_combo_box(parameter, items, label, tool_tip=tip, group=row.group)
    elif row.kind is bool:
        builder.add_check_box(parameter, label, tool_tip=tip, group=row.group)
    elif row.kind is int:
        builder.add_spin_box(parameter, label, tool_tip=tip, group=row.group)
    else:
        builder.add_decimal_line_edit(parameter, label, tool_tip=tip, group=row.group)


class BackendView(_parameters.ParameterViewController, Observer):  # type: ignore[misc, name-defined]
    """The dropdown of the backend and, below it, which one is in force and why."""

    def __init__(self, library: PtychoPinnLibrary, row: Row) -> None:
        super().__init__()
        self._library = library
        self._parameter = library.settings.parameters['backend']
        self.combo_box = QComboBox()
        self.combo_box.addItems(row.choices)
        self.combo_box.setToolTip(row.tool_tip)
        self.note = QLabel()
        self.note.setWordWrap(True)
        self._widget = QWidget()
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo_box)
        layout.addWidget(self.note)
        self._widget.setLayout(layout)
        self.combo_box.textActivated.connect(self._parameter.set_value)
        self._parameter.add_observer(self)
        self._timer = QTimer(self._widget)
        self._timer.timeout.connect(self.refresh)
        self._timer.start(REFRESH_MS)
        self.refresh()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._widget

    def refresh(self) -> None:
        """Show what is in force now: the environment can change while the window is open."""
        value = str(self._parameter.get_value())
        if self.combo_box.findText(value) < 0:
            self.combo_box.addItem(value)
        self.combo_box.setCurrentText(value)
        try:
            choice = self._library.choose_backend()
        except PtychoPinnError as error:
            self.combo_box.setEnabled(True)
            self.note.setText(str(error))
            return
        decided = choice.source == 'environment'
        self.combo_box.setEnabled(not decided)
        why = {
            'environment': 'PTYCHOPINN_BACKEND decides; unset it to choose here',
            'setting': 'chosen here',
            'auto': 'the first that is installed; a loaded model runs on its own',
        }[choice.source]
        self.note.setText(f'In force: {choice.name} ({why}).')

    def _update(self, observable: Observable) -> None:
        """Be told that the setting has changed."""
        if observable is self._parameter:
            self.refresh()


class TrainingCurve(_parameters.ParameterViewController):  # type: ignore[misc, name-defined]
    """The losses of the training under way; Ptychodus draws those of products only."""

    def __init__(self, activity: Activity) -> None:
        super().__init__()
        self._activity = activity
        self._drawn: tuple[int, int] = (0, 0)
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
        # A new training has a new list, which may be as long as the last one's was.
        state = (id(epochs), len(epochs))
        if epochs and state != self._drawn:
            self._drawn = state
            self._canvas.show()
            self._draw(epochs)

    def _draw(self, epochs: list[dict[str, float]]) -> None:
        axes = self.axes
        axes.clear()
        numbers = range(1, len(epochs) + 1)
        for name, label in (('loss', 'training'), ('validation_loss', 'validation')):
            values = [row.get(name, float('nan')) for row in epochs]
            axes.semilogy(numbers, values, '.-', label=label)
        axes.set_xlabel('epoch')
        axes.set_ylabel('loss')
        axes.grid(visible=True)
        axes.legend()
        self._canvas.draw_idle()


def _status(activity: Activity) -> str:
    if not activity.is_running:
        return 'The last training:' if activity.kind == 'training' else 'Inference ended.'
    stages = {
        'load': 'starting ...',
        'teach': 'the teacher sweeps the training scan',
        'train': 'training',
        'predict': 'the network predicts',
        'refine': 'refinement',
    }
    stage = stages.get(activity.stage, activity.stage)
    return f'{stage} {activity.step}/{activity.total}' if activity.total else stage
