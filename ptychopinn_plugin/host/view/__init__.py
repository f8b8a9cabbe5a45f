"""The panel: the run and the model above, and rows from `settings.ROWS` below, which scroll."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ptychodus.api.observer import Observable, Observer
from ptychodus.controller.data import FileDialogFactory
from ptychodus.controller.processing.core import ReconstructorViewControllerFactory
from PyQt5.QtCore import QCoreApplication, QSize, Qt, QTimer
from PyQt5.QtGui import QHideEvent, QResizeEvent, QShowEvent
from PyQt5.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QFrame,
    QGroupBox,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.library import LIBRARY_NAME, PtychoPinnLibrary
from ptychopinn_plugin.host.reconstructor import PinnReconstructor
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.settings import BASIC, MODEL_ROW, ROWS, Row
from ptychopinn_plugin.host.view.guide_window import GuideWindow
from ptychopinn_plugin.host.view.header import REFRESH_MS, Header
from ptychopinn_plugin.host.view.model_row import ModelView
from ptychopinn_plugin.host.view.rows import RowView, WheelGuard, view_of, wrapped
from ptychopinn_plugin.model import Model

FIELD_WIDTH = 104
"""The fields beside the labels have this width in pixels where the panel is at its narrowest."""

ROWS_HEIGHT = 120
"""The rows have at least this height in pixels; where there is less room, picture and curve become
lower."""

MARGIN = 6
"""This number of pixels lies between the parts of the panel."""

ONLY_FOR_SWEEPNET = 'inference.test_time_rotations'
"""A loaded model of another architecture leaves this setting of inference without effect."""

NOT_FOR_PRIOR = (
    'inference.batch_size',
    'inference.phase_synchronization',
    'inference.stitching_weights',
    'inference.intensity_scale',
)
"""These settings of inference concern patches, of which a learned prior has none."""

CHECK_TIP = (
    'Find out whether the patterns and the positions of the chosen product go together, by trial '
    "reconstructions of a part of it, and which of Ptychodus' settings mends it. It takes about a "
    'minute; Stop ends it.'
)

TRAIN_TIP = (
    'Write the chosen product to a folder of its own, beside its files, and train on it at once. '
    'The model is left there.'
)

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
        self._guide: GuideWindow | None = None
        library.activity.open_guide = self._open_guide
        application = QCoreApplication.instance()
        if application is not None:
            # Ptychodus waits for the run under way when its window closes.
            application.aboutToQuit.connect(library.close)

    def _open_guide(self) -> None:
        if self._guide is None:
            self._guide = GuideWindow()
        self._guide.open()

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
        model = ModelView(reconstructor)
        # It comes first in its box, and keeps no setting of its own: the settings file names it.
        builder.add_view_controller(model, 'Model:', group=ROWS[0].group)
        views = []
        for row in ROWS:
            if row.only_for in (None, reconstructor.model_type):
                view = view_of(row, self._library, reconstructor)
                builder.add_view_controller(view, f'{row.label}:', group=row.group)
                views.append(view)
        rows: QWidget = builder.build_widget()
        _align(rows)
        header = Header(self._library, reconstructor)
        rules = RowRules(model, views, self._library, reconstructor)
        return Page(header, rows, rules, self._library.activity)


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


class ScrolledRows(QWidget):
    """What scrolls, as high as its texts need at the width that it has.

    By itself it would be as high as at its least width, where texts have more lines, and there
    would be empty space to scroll to.
    """

    def minimumSizeHint(self) -> QSize:
        """Return the least width; the scroll area finds the height that belongs to its own."""
        return QSize(super().minimumSizeHint().width(), 0)


class RowsArea(QScrollArea):
    """The rows and lines above them, as wide as they need to be and as high as there is room."""

    def __init__(self, above: Sequence[QWidget], rows: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._rows = ScrolledRows()
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(MARGIN)
        for part in (*above, rows):
            layout.addWidget(part)
        layout.addStretch(1)
        self._rows.setLayout(layout)
        self.setWidget(self._rows)

    def minimumSizeHint(self) -> QSize:
        """Return the width of the rows and of the bar beside them."""
        rows, bar = self.widget(), self.verticalScrollBar()
        assert rows is not None
        assert bar is not None
        return QSize(rows.minimumSizeHint().width() + bar.sizeHint().width(), ROWS_HEIGHT)


class Page(QWidget):
    """A panel in Ptychodus' stack, which makes every panel as large as its largest.

    While this one is shown it alone decides, so that it needs no scroll bar for the others' sake.

    Attributes
    ----------
    header : Header
    area : RowsArea
    all_settings : QCheckBox
        Unfolds the rows that are not `settings.BASIC`.
    check_button, train_button : QPushButton
    """

    def __init__(
        self,
        header: Header,
        rows: QWidget,
        rules: 'RowRules',
        activity: Activity,
    ) -> None:
        super().__init__()
        self.check_button = _button('Check scan', CHECK_TIP, lambda: activity.check_scan())
        self.train_button = _button(
            'Train on product', TRAIN_TIP, lambda: activity.train_on_product()
        )
        self.all_settings = QCheckBox('All settings')
        self.all_settings.setToolTip('Show every setting, or those alone that most runs need.')
        self.all_settings.toggled.connect(rules.fold)
        self.header, self.area = header, RowsArea((header.model, header.training), rows)
        # The host keeps no reference to its observers.
        self._rules = rules
        self._guard = WheelGuard(self)
        for part in (header.get_widget(), rows):
            self._guard.guard(part)
        self._bar = QWidget()
        bar = QHBoxLayout()
        bar.setContentsMargins(0, 0, 0, 0)
        bar.setSpacing(3)
        bar.addWidget(self.all_settings)
        bar.addStretch(1)
        bar.addWidget(self.train_button)
        bar.addWidget(self.check_button)
        self._bar.setLayout(bar)
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(MARGIN)
        layout.addWidget(header.get_widget())
        layout.addWidget(self._bar)
        layout.addWidget(self.area, 1)
        self.setLayout(layout)
        self._timer = QTimer(self)
        self._timer.timeout.connect(rules.refresh)
        self._timer.timeout.connect(self._share_height)
        self._timer.start(REFRESH_MS)
        self._others: list[tuple[QWidget, QSizePolicy]] = []

    def _fixed_height(self) -> int:
        """Return how high everything is that has to be seen, in pixels."""
        text = self.header.text_height(self.width())
        return text + self._bar.sizeHint().height() + ROWS_HEIGHT + 3 * MARGIN

    def minimumSizeHint(self) -> QSize:
        """Return a size at which nothing but the rows scrolls: picture and curve give way."""
        return QSize(super().minimumSizeHint().width(), self._fixed_height())

    def hasHeightForWidth(self) -> bool:
        """Return that the width does not decide: the host's area would take it for the least."""
        return False

    def heightForWidth(self, width: int) -> int:
        """Return that there is no such height."""
        return -1

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Share the new height out."""
        super().resizeEvent(event)
        self._share_height()

    def _share_height(self) -> None:
        self.header.set_picture_height(self.height() - self._fixed_height())

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


@dataclass(frozen=True)
class FormRow:
    """A row of a box: the name of its setting, and its widgets."""

    name: str
    label: QWidget
    field: QWidget


def _rows_of_boxes(views: Mapping[str, ModelView | RowView]) -> dict[QGroupBox, list[FormRow]]:
    """Return the rows of each box, from top to bottom."""
    boxes: dict[QGroupBox, list[FormRow]] = {}
    for name, view in views.items():
        field = view.get_widget()
        box = field.parentWidget()
        form = None if box is None else box.layout()
        if isinstance(box, QGroupBox) and isinstance(form, QFormLayout):
            label = form.labelForField(field)
            assert label is not None
            boxes.setdefault(box, []).append(FormRow(name, label, field))
    return boxes


def _wants(row: Row, value: str) -> str:
    """Return what a row has to be for another one to have an effect."""
    return f'"{row.label}" is not ticked' if value == 'True' else f'"{row.label}" is not {value}'


def _button(text: str, tip: str, act: Callable[[], None]) -> QPushButton:
    button = QPushButton(text)
    button.setAutoDefault(False)
    button.setToolTip(wrapped(tip))
    button.clicked.connect(lambda *_: act())
    return button


class RowRules(Observer):
    """Greys the rows that have no effect, and shows what is in force in place of them.

    A model that is fine-tuned brings the settings of the box Model with it.
    """

    def __init__(
        self,
        model: ModelView,
        views: Sequence[RowView],
        library: PtychoPinnLibrary,
        reconstructor: PinnReconstructor,
    ) -> None:
        super().__init__()
        self._views = {view.row.names[0]: view for view in views}
        self._library, self._reconstructor = library, reconstructor
        self._boxes = _rows_of_boxes({MODEL_ROW: model, **self._views})
        self._labels = {row.name: row.label for rows in self._boxes.values() for row in rows}
        self.fold(shows_all=False)
        for parameter in library.settings.parameters.values():
            parameter.add_observer(self)
        self.refresh()

    def fold(self, shows_all: bool) -> None:
        """Show all rows, or those of `BASIC` alone."""
        for box, rows in self._boxes.items():
            form = box.layout()
            assert isinstance(form, QFormLayout)
            # A row that is only hidden would leave the gap between two rows. `takeRow` would leave
            # items behind that keep the heights of the rows as they are, whatever is written there.
            for row in rows:
                form.removeWidget(row.label)
                form.removeWidget(row.field)
            while form.rowCount():
                form.removeRow(0)
            for row in rows:
                is_shown = shows_all or row.name in BASIC
                for widget in (row.label, row.field):
                    widget.setVisible(is_shown)
                if is_shown:
                    form.addRow(row.label, row.field)
            box.setVisible(form.rowCount() > 0)

    def refresh(self) -> None:
        """Look again: a model may have been loaded."""
        model = self._reconstructor.loaded.model
        fine_tunes = bool(self._library.settings.parameters['fine_tune'].get_value())
        base = model.config.model if fine_tunes and not model.is_prior else None
        for name, view in self._views.items():
            section, _, field = name.rpartition('.')
            if section == 'model' and base is not None:
                view.show_instead(getattr(base, field) or 0)
            else:
                view.show_instead()
        for name, view in self._views.items():
            is_overridden = name.startswith('model.') and base is not None
            reason = self._why_no_effect(view.row, model)
            view.show_effect(not reason)
            if is_overridden and not reason:
                reason = 'Fine-tuning takes this from the loaded model.'
            self._grey(name, reason)

    def _why_no_effect(self, row: Row, model: Model) -> str:
        """Return why a row has no effect, as a sentence; empty where it has one."""
        name = row.names[0]
        if row.needs is not None:
            other = self._views[row.needs[0]]
            if str(other.value) != row.needs[1]:
                return f'It has no effect here: {_wants(other.row, row.needs[1])}.'
        if name in NOT_FOR_PRIOR and model.is_prior:
            return 'It has no effect here: the built-in model has no patches.'
        if name == ONLY_FOR_SWEEPNET and model.network.architecture != 'sweepnet':
            return 'It has no effect here: the loaded model is no sweepnet.'
        return ''

    def _grey(self, name: str, reason: str) -> None:
        """Grey a row, and let its tooltip begin with the reason; an empty one ends that."""
        view = self._views[name]
        widget = view.get_widget()
        if widget.isEnabled() == bool(reason):
            widget.setEnabled(not reason)
        tip = wrapped(f'{reason} {view.row.tool_tip}'.lstrip())
        for part in (self._labels[name], widget):
            if part.toolTip() != tip:
                part.setToolTip(tip)

    def _update(self, observable: Observable) -> None:
        self.refresh()
