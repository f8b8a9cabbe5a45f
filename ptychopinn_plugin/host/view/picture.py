"""The object so far, small, above the rows of the panel: before and after, amplitude or phase."""

import operator
from itertools import zip_longest

import numpy as np
from PyQt5.QtCore import QRect, Qt
from PyQt5.QtGui import QImage, QPainter, QPixmap
from PyQt5.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.run_state import Activity

HEIGHT = 170
"""The picture has this height in pixels where there is room."""

MAX_WIDTH = 230
"""The picture has at most this width in pixels: the curve stands beside it."""

PERCENTILES = (1, 99)
"""Values beyond these are black and white."""

PARTS = ('Phase', 'Amplitude')

MAX_PICTURES = 3

WHOLE = 100
"""At the slider's right end, which this is, all of the picture is the first one."""

_parameters = versions.parameter_views()


class PictureView(_parameters.ParameterViewController):  # type: ignore[misc, name-defined]
    """Shows `Activity.pictures`: the network's object beside the refined one, or the target.

    Attributes
    ----------
    part : QComboBox
        Amplitude or phase.
    buttons : list of QPushButton
        One for each picture that there is, 'Network alone' and 'Refined' or 'Target' and 'Network'.
    slider : QSlider
        How much of the second picture the first one covers, from the left.
    label : QLabel
        Holds the picture.
    """

    def __init__(self, activity: Activity) -> None:
        super().__init__()
        self._activity = activity
        self._drawn: list[ComplexArray | None] = []
        self._how: tuple[object, ...] = ()
        self._chosen = ''
        self._height = HEIGHT
        self.part = QComboBox()
        self.part.addItems(PARTS)
        self.part.setToolTip('Show the phase or the amplitude of the object.')
        self.part.activated.connect(self.refresh)
        self.buttons = [QPushButton() for _ in range(MAX_PICTURES)]
        self._bar = QWidget()
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.part)
        for button in self.buttons:
            button.setCheckable(True)
            button.setAutoDefault(False)
            button.clicked.connect(self._choose)
            # Long names must not make the panel wider.
            button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
            row.addWidget(button)
        row.addStretch(1)
        self._bar.setLayout(row)
        self._bar.hide()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, WHOLE)
        self.slider.setToolTip('Draw the first picture over the second one, from the left.')
        self.slider.valueChanged.connect(self._slide)
        self.label = QLabel()
        self.label.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._widget = QWidget()
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.label)
        layout.addWidget(self.slider)
        self._widget.setLayout(layout)
        self._widget.hide()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._widget

    def get_bar(self) -> QWidget:
        """Return what chooses between the pictures."""
        return self._bar

    @property
    def has_picture(self) -> bool:
        """Whether there is one."""
        return bool(self._activity.pictures)

    @property
    def shown(self) -> str:
        """The name of the picture that is shown, of most of it; empty for none."""
        names = [name for name, _ in self._activity.pictures]
        if self._chosen in names:
            return self._chosen
        # The third of a check is of other trials.
        return names[min(len(names), 2) - 1] if names else ''

    def set_height(self, height: int) -> None:
        """Draw the picture and its slider in this height in pixels; 0 hides them."""
        if height != self._height:
            self._height = height
            self.refresh()

    def _choose(self) -> None:
        pressed = next(
            (
                button
                for button in self.buttons
                if button.text() != self.shown and button.isChecked()
            ),
            None,
        )
        if pressed is not None:
            self._chosen = pressed.text()
        self._show_ends()
        self.refresh()

    def _show_ends(self) -> None:
        """Put the slider to the end that shows the chosen picture alone."""
        names = [name for name, _ in self._activity.pictures]
        # Only a hand on the slider chooses a picture.
        self.slider.blockSignals(True)
        self.slider.setValue(WHOLE if names[:1] == [self.shown] and len(names) > 1 else 0)
        self.slider.blockSignals(False)

    def _slide(self, value: int) -> None:
        names = [name for name, _ in self._activity.pictures]
        if len(names) > 1:
            self._chosen = names[0] if 2 * value > WHOLE else names[1]
        self.refresh()

    def refresh(self) -> None:
        """Draw the newest picture where it is another one than before."""
        pictures = dict(self._activity.pictures)
        if self._chosen not in pictures:
            # The newest is shown until somebody chooses, and again with the next run.
            self._chosen = ''
            self._show_ends()
        names = list(pictures)
        for button, name in zip_longest(self.buttons, names[: len(self.buttons)], fillvalue=''):
            assert isinstance(button, QPushButton)
            button.setText(str(name))
            button.setVisible(bool(name))
            button.setChecked(name == self.shown)
        is_pair = self.shown in names[:2] and len(names) > 1
        self.slider.setVisible(is_pair)
        room = self._height - (self.slider.sizeHint().height() + 2 if is_pair else 0)
        two = [pictures[name] for name in names[:2]] if is_pair else []
        one = pictures.get(self.shown)
        objects = [one, *two]
        how = (self.part.currentText(), self.slider.value(), room)
        self._bar.setVisible(bool(names))
        self._widget.setVisible(bool(names) and room > 0)
        is_drawn = how == self._how and len(objects) == len(self._drawn)
        if is_drawn and all(map(operator.is_, objects, self._drawn)):
            return
        # The pictures themselves are kept, as others could get their place in memory.
        self._drawn, self._how = objects, how
        if one is None or room <= 0:
            return
        part = self.part.currentText()
        share = self.slider.value() / WHOLE
        pixmap = _pixmap(one, part, room)
        if is_pair and 0 < share < 1:
            before, after = (_pixmap(object_, part, room) for object_ in two)
            pixmap = _beside(before, after, share)
        self.label.setPixmap(pixmap)
        self.slider.setFixedWidth(max(pixmap.width(), 40))


def _pixmap(object_: ComplexArray, part: str, height_px: int) -> QPixmap:
    """Return a picture in shades of grey."""
    # The free global phase would put the cut of the angle anywhere.
    in_phase = object_ * np.conj(object_.mean())
    values = np.angle(in_phase) if part == 'Phase' else np.abs(object_)
    low, high = np.percentile(values, PERCENTILES)
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    shades = np.ascontiguousarray((255 * scaled).astype(np.uint8))
    height, width = shades.shape
    image = QImage(shades.tobytes(), width, height, width, QImage.Format.Format_Grayscale8)
    return QPixmap.fromImage(image).scaled(
        *(MAX_WIDTH, height_px),
        Qt.AspectRatioMode.KeepAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )


def _beside(before: QPixmap, after: QPixmap, share: float) -> QPixmap:
    """Return one picture whose left part is that of another, with a line between them."""
    both = QPixmap(after)
    edge = round(share * both.width())
    left = QRect(0, 0, edge, both.height())
    painter = QPainter(both)
    # The two may differ by a pixel.
    painter.drawPixmap(left, before.scaled(both.size()), left)
    painter.fillRect(QRect(edge - 1, 0, 2, both.height()), Qt.GlobalColor.red)
    painter.end()
    return both
