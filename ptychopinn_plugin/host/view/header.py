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
from PyQt5.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from ptychopinn_plugin.backends.protocol import was_validated
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.library import PtychoPinnLibrary
from ptychopinn_plugin.host.loaded_model import MODEL_NAME
from ptychopinn_plugin.host.reconstructor import PinnReconstructor
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.view.picture import PictureView
from ptychopinn_plugin.host.wording import model_line, status_line, training_line

REFRESH_MS = 500
FONT = 8
MARKED = 60
"""Up to this number of epochs, each gets a point in the curve."""

RED = 'color: #b00020'

_parameters = versions.parameter_views()


class Header(_parameters.ParameterViewController):  # type: ignore[misc, name-defined]
    """The run under way or the last one, what it says, the loaded model, and the losses.

    Attributes
    ----------
    status, message, model, training : QLabel
    curve : TrainingCurve
    picture : PictureView
    """

    def __init__(self, library: PtychoPinnLibrary, reconstructor: PinnReconstructor) -> None:
        super().__init__()
        self._library, self._reconstructor = library, reconstructor
        self.status, self.message, self.model, self.training = (_label() for _ in range(4))
        font = self.status.font()
        font.setBold(True)
        self.status.setFont(font)
        self.curve = TrainingCurve(library.activity, reconstructor.name)
        self.picture = PictureView(library.activity)
        self._widget = QWidget()
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        above = (self.status, self.message, self.curve.get_widget(), self.picture.get_widget())
        for part in (*above, self.model, self.training):
            layout.addWidget(part)
        self._widget.setLayout(layout)
        self._timer = QTimer(self._widget)
        self._timer.timeout.connect(self._refresh_if_shown)
        self._timer.start(REFRESH_MS)
        self.refresh()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._widget

    def _refresh_if_shown(self) -> None:
        if self._widget.isVisible():
            self.refresh()

    def refresh(self) -> None:
        """Show where the run is."""
        activity = self._library.activity
        _show(self.status, status_line(activity, time.monotonic()), activity.outcome == 'failed')
        message = activity.message
        _show(self.message, message.text, message.level >= logging.ERROR)
        loaded = self._reconstructor.loaded
        _show(self.model, model_line(loaded.model, loaded.name))
        self.model.setToolTip(loaded.tool_tip)
        options = self._library.settings.options
        base = ''
        if options.fine_tune:
            base = f'{MODEL_NAME} of that folder' if loaded.model.is_prior else loaded.name
        minutes = self._library.settings.parameters['training.max_minutes'].get_value()
        _show(self.training, training_line(activity, 60 * minutes or None, base))
        self.curve.refresh()
        self.picture.refresh()


def _label() -> QLabel:
    label = QLabel()
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
        self._canvas.setMinimumHeight(170)
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
        if epochs is self._drawn[0] and is_cut == self._drawn[1]:
            return
        self._drawn = (epochs, is_cut)
        self.axes.clear()
        if epochs:
            self._draw(epochs, is_cut)
        # A training that has just begun has none, and leaves no other's curve there.
        self._canvas.setVisible(bool(epochs))

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
