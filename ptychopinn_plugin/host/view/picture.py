"""The object so far, small, above the rows of the panel: before and after, amplitude or phase."""

import numpy as np
from PyQt5.QtCore import Qt
from PyQt5.QtGui import QImage, QPixmap
from PyQt5.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.run_state import Activity

HEIGHT = 170
"""Of the picture, in pixels."""

PERCENTILES = (1, 99)
"""Values beyond these are black and white."""

PARTS = ('Phase', 'Amplitude')

_parameters = versions.parameter_views()


class PictureView(_parameters.ParameterViewController):  # type: ignore[misc, name-defined]
    """Shows `Activity.pictures`: the network's object beside the refined one, or the target.

    Attributes
    ----------
    part : QComboBox
        Amplitude or phase.
    buttons : list of QPushButton
        One for each picture that there is, 'Network alone' and 'Refined' or 'Target' and 'Network'.
    label : QLabel
        Holds the picture.
    """

    def __init__(self, activity: Activity) -> None:
        super().__init__()
        self._activity = activity
        self._drawn: ComplexArray | None = None
        self._drawn_part = ''
        self._chosen = ''
        self.part = QComboBox()
        self.part.addItems(PARTS)
        self.part.setToolTip('Show the phase or the amplitude of the object.')
        self.part.activated.connect(self.refresh)
        self.buttons = [QPushButton(), QPushButton()]
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.part)
        for button in self.buttons:
            button.setCheckable(True)
            button.setAutoDefault(False)
            button.clicked.connect(self._choose)
            row.addWidget(button)
        row.addStretch(1)
        self.label = QLabel()
        self.label.setAlignment(Qt.AlignmentFlag.AlignLeft)
        self._widget = QWidget()
        layout = QVBoxLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self.label)
        self._widget.setLayout(layout)
        self._widget.hide()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self._widget

    @property
    def shown(self) -> str:
        """The name of the picture that is shown; empty for none."""
        names = [name for name, _ in self._activity.pictures]
        if self._chosen in names:
            return self._chosen
        return names[-1] if names else ''

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
        self.refresh()

    def refresh(self) -> None:
        """Draw the newest picture where it is another one than before."""
        pictures = dict(self._activity.pictures)
        if self._chosen not in pictures:
            # The newest is shown until somebody chooses, and again with the next run.
            self._chosen = ''
        for button, name in zip(self.buttons, [*pictures, '', ''], strict=False):
            button.setText(name)
            button.setVisible(bool(name))
            button.setChecked(name == self.shown)
        object_, part = pictures.get(self.shown), self.part.currentText()
        if object_ is self._drawn and part == self._drawn_part:
            return
        # The picture itself is kept, as another one could get its place in memory.
        self._drawn, self._drawn_part = object_, part
        if object_ is not None:
            self.label.setPixmap(_pixmap(object_, part))
        self._widget.setVisible(object_ is not None)


def _pixmap(object_: ComplexArray, part: str) -> QPixmap:
    """Return a picture in shades of grey."""
    # The free global phase would put the cut of the angle anywhere.
    turned = object_ * np.conj(object_.mean())
    values = np.angle(turned) if part == 'Phase' else np.abs(object_)
    low, high = np.percentile(values, PERCENTILES)
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    shades = np.ascontiguousarray((255 * scaled).astype(np.uint8))
    height, width = shades.shape
    image = QImage(shades.tobytes(), width, height, width, QImage.Format.Format_Grayscale8)
    return QPixmap.fromImage(image).scaledToHeight(
        HEIGHT, Qt.TransformationMode.SmoothTransformation
    )
