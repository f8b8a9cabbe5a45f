"""The row of the panel that shows which model is loaded, and lets another one be chosen."""

from contextlib import suppress
from typing import Any

from PyQt5.QtCore import Qt, QTimer
from PyQt5.QtWidgets import QComboBox, QWidget

from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.reconstructor import PinnReconstructor
from ptychopinn_plugin.host.view.rows import ROWS_REFRESH_MS, wrapped

MODEL_TIP = (
    'Infer, and Train with Fine-tune ticked, use this model. The list has those that were loaded '
    'or trained lately; Load Model... in the menu beside Train opens any other. The default is the '
    'built-in model.'
)

MIN_CHARACTERS = 12
"""The dropdown is at least this number of characters wide; a longer name is cut."""

_parameters = versions.parameter_views()


class ModelView(_parameters.ParameterViewController):  # type: ignore[misc, name-defined]
    """A dropdown of models: the built-in one, and those that were loaded lately.

    Parameters
    ----------
    reconstructor : PinnReconstructor

    Attributes
    ----------
    combo_box : QComboBox
    """

    def __init__(self, reconstructor: PinnReconstructor) -> None:
        super().__init__()
        self._reconstructor = reconstructor
        self._shown: tuple[Any, ...] = ()
        self.combo_box = QComboBox()
        self.combo_box.setToolTip(wrapped(MODEL_TIP))
        policy = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.combo_box.setSizeAdjustPolicy(policy)
        self.combo_box.setMinimumContentsLength(MIN_CHARACTERS)
        self.combo_box.activated.connect(self._choose)
        # A model is loaded in the thread of a training, which must not touch the window.
        self._timer = QTimer(self.combo_box)
        self._timer.timeout.connect(self.refresh)
        self._timer.start(ROWS_REFRESH_MS)
        self.refresh()

    def get_widget(self) -> QWidget:
        """Return the widget."""
        return self.combo_box

    def refresh(self) -> None:
        """Show the model that is loaded now, and offer those that were loaded before."""
        loaded = self._reconstructor.loaded
        now = (loaded.path, self._reconstructor.recent_models_as_saved())
        if now == self._shown:
            # To look whether the files are there may take long on a share.
            return
        self._shown = now
        choices = self._reconstructor.model_choices()
        self.combo_box.clear()
        for number, choice in enumerate(choices):
            self.combo_box.addItem(choice.name, choice)
            self.combo_box.setItemData(number, choice.tool_tip, Qt.ItemDataRole.ToolTipRole)
        known = [number for number, choice in enumerate(choices) if choice.is_loaded]
        if not known:
            # Its file may be gone since it was loaded.
            self.combo_box.addItem(loaded.name)
        self.combo_box.setCurrentIndex(known[0] if known else self.combo_box.count() - 1)

    def _choose(self, index: int) -> None:
        choice = self.combo_box.itemData(index)
        # The reason of a failure is in the log and the panel; an exception would end the window.
        with suppress(PtychoPinnError, OSError):
            if choice is not None and not choice.is_loaded:
                choice.load()
        # Where it failed, the model from before is still the one that is loaded.
        self._shown = ()
        self.refresh()
