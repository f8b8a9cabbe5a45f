"""What stays above the rows of the panel: the run, its last message, the model and the losses."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PyQt5.QtCore import Qt, QTimer
from PyQt5.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from ptychopinn_plugin.backends.protocol import was_validated
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.library import PtychoPinnLibrary
from ptychopinn_plugin.host.loaded_model import MODEL_NAME
from ptychopinn_plugin.host.reconstructor import PinnReconstructor
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.view.picture import PictureView
from ptychopinn_plugin.host.view.rows import Note
from ptychopinn_plugin.host.wording import model_line, status_line, training_line

REFRESH_MS = 500
SPACING = 5
"""This number of pixels lies between parts."""

PICTURE_PX = 190
"""Picture and curve have this height where there is room."""

MIN_PICTURE_PX = 70
"""In a lower picture or curve nothing can be seen; it is left out."""

FONT = 8
CURVE_WIDTH = 170
"""The curve has this width in pixels, where the panel is at its narrowest."""

MARKED = 60
"""Up to this number of epochs, each gets a point in the curve."""

RED = 'color: #b00020'

_parameters = versions.parameter_views()


class Header(_parameters.ParameterViewController):  # type: ignore[misc, name-defined]
    """The run under way or the last one, its messages, its picture and the losses.

    Attributes
    ----------
    status, message : QLabel
    model, training : QLabel
        The loaded model, and what the next training learns from. They scroll with the rows.
    curve : TrainingCurve
    picture : PictureView
    """

    def __init__(self, library: PtychoPinnLibrary, reconstructor: PinnReconstructor) -> None:
        super().__init__()
        self._library, self._reconstructor = library, reconstructor
        self.status, self.message = _label(QLabel()), _label(QLabel())
        # These scroll with the rows, whose layout may give a line less than a new text needs.
        self.model, self.training = _label(Note()), _label(Note())
        font = self.status.font()
        font.setBold(True)
        self.status.setFont(font)
        self.curve = TrainingCurve(library.activity, reconstructor.name)
        self.picture = PictureView(library.activity)
        self._widget = QWidget()
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING)
        for part in (self.status, self.message, self.picture.get_bar()):
            layout.addWidget(part)
        # Beside each other, as a window may be low.
        pictures = QHBoxLayout()
        pictures.setSpacing(SPACING)
        pictures.addWidget(self.picture.get_widget(), 0, Qt.AlignmentFlag.AlignTop)
        pictures.addWidget(self.curve.get_widget(), 1, Qt.AlignmentFlag.AlignTop)
        layout.addLayout(pictures)
        self._widget.setLayout(layout)
        self._is_prepared = False
        self._timer = QTimer(self._widget)
        self._timer.timeout.connect(self._refresh_if_shown)
        self._timer.timeout.connect(self._prepare_if_needed)
        self._timer.start(REFRESH_MS)
        self.refresh()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._widget

    def text_height(self, width: int) -> int:
        """Return how high everything but the picture and the curve is, in pixels."""
        heights = [
            label.heightForWidth(width) for label in (self.status, self.message) if label.text()
        ]
        if self.picture.has_picture:
            heights.append(self.picture.get_bar().sizeHint().height())
        return sum(heights) + SPACING * len(heights)

    def set_picture_height(self, height: int) -> None:
        """Give picture and curve this height in pixels, or hide them where it is too low."""
        height = 0 if height < MIN_PICTURE_PX else min(height, PICTURE_PX)
        self.picture.set_height(height)
        self.curve.set_height(height)

    def _refresh_if_shown(self) -> None:
        if self._widget.isVisible():
            self.refresh()
            self._library.activity.keep_log_end()

    def _prepare_if_needed(self) -> None:
        """Start the worker once there is a scan: the first click on Infer shall not wait for it."""
        activity = self._library.activity
        if self._is_prepared or not self._widget.isVisible() or activity.chosen_product() is None:
            return
        self._is_prepared = True
        if not activity.kind:
            self._reconstructor.prepare()

    def refresh(self) -> None:
        """Show where the run is."""
        activity = self._library.activity
        _show(self.status, status_line(activity, time.monotonic()), activity.is_bad_end)
        message = activity.message
        _show(self.message, message.text, message.level >= logging.ERROR)
        loaded = self._reconstructor.loaded
        backend = self._library.backend_in_force(loaded.model.backend)
        _show(self.model, model_line(loaded.model, loaded.name, backend))
        self.model.setToolTip(str(loaded.path))
        options = self._library.settings.options
        base = ''
        if options.fine_tune:
            base = f'{MODEL_NAME} of the folder' if loaded.model.is_prior else loaded.name
        minutes = self._library.settings.parameters['training.max_minutes'].get_value()
        _show(self.training, training_line(activity, 60 * minutes or None, base))
        self.curve.refresh()
        self.picture.refresh()


def _label(label: QLabel) -> QLabel:
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    # The path of a file is one long word, which must not make the panel wider.
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    # An empty one would leave a gap.
    label.hide()
    return label


def _show(label: QLabel, text: str, is_bad: bool = False) -> None:
    """Show a text, in red where it is about a failure."""
    style = RED if is_bad else ''
    # Qt lays out anew with each style that is set, also with the same one.
    if label.styleSheet() != style:
        label.setStyleSheet(style)
    # A break may follow each folder of a path.
    text = text.replace('/', '/\u200b')
    if label.text() != text:
        label.setText(text)
        label.setVisible(bool(text))


class TrainingCurve(_parameters.ParameterViewController):  # type: ignore[misc, name-defined]
    """The losses of the training under way; Ptychodus draws those of products only.

    Parameters
    ----------
    activity : Activity
    algorithm : str
        Whose trainings it shows.
    """

    def __init__(self, activity: Activity, algorithm: str) -> None:
        super().__init__()
        self._activity, self._algorithm = activity, algorithm
        self._drawn: tuple[Any, ...] = ((), False)
        self.figure = Figure(figsize=(3.2, 1.9), layout='constrained')
        self.axes = self.figure.add_subplot()
        self._canvas: Any = FigureCanvasQTAgg(self.figure)  # type: ignore[no-untyped-call]
        self._canvas.setMinimumSize(CURVE_WIDTH, 0)
        self._height = PICTURE_PX
        self._canvas.setFixedHeight(self._height)
        self._canvas.hide()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        canvas: QWidget = self._canvas
        return canvas

    def refresh(self) -> None:
        """Draw the losses where there are new ones."""
        is_ours = self._activity.curve_of == self._algorithm
        epochs = self._activity.epochs if is_ours else ()
        is_cut = self._activity.is_last_cut
        # Each epoch makes a new tuple, so that what is in it need not be compared.
        if epochs is self._drawn[0] and is_cut == self._drawn[1]:
            return
        self._drawn = (epochs, is_cut)
        self.axes.clear()
        if epochs:
            self._draw(epochs, is_cut)
        # A training that has just begun has none, and leaves no other's curve there.
        self._canvas.setVisible(bool(epochs) and self._height > 0)

    def set_height(self, height: int) -> None:
        """Draw the curve in this height in pixels; 0 hides it."""
        if height == self._height:
            return
        self._height = height
        if height:
            self._canvas.setFixedHeight(height)
        self._canvas.setVisible(bool(self.axes.lines) and height > 0)

    def _draw(self, epochs: Sequence[Mapping[str, float]], is_cut: bool) -> None:
        axes, n = self.axes, len(epochs)
        drawn: list[float] = []
        labels = {'loss': 'training'}
        if was_validated(epochs):
            labels['validation_loss'] = 'validation'
        for name, label in labels.items():
            values = [row.get(name, math.nan) for row in epochs]
            drawn += [value for value in values if math.isfinite(value)]
            marker = '.-' if n <= MARKED else '-'
            (line,) = axes.plot(range(1, n + 1), values, marker, label=label, linewidth=1.2)
            if is_cut:
                # It saw a part of the patterns only.
                axes.plot([n], values[-1:], 'o', color=line.get_color(), mfc='white')
        if drawn and 0 < 10 * min(drawn) < max(drawn):
            axes.set_yscale('log')
        else:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        self._label_axes(n, is_cut)
        self._canvas.draw_idle()

    def _label_axes(self, n: int, is_cut: bool) -> None:
        axes = self.axes
        if n == 1:
            axes.set_xlim(0.5, 1.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axes.set_xlabel('epoch' + (f' ({n} was cut short)' if is_cut else ''), fontsize=FONT)
        axes.set_ylabel('loss', fontsize=FONT)
        axes.tick_params(which='both', labelsize=FONT - 1)
        axes.grid(visible=True, alpha=0.4)
        axes.legend(fontsize=FONT - 1, frameon=False)
