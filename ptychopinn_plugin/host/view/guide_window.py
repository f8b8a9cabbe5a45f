"""The guide in a window of its own."""

import logging
from typing import Any

from PyQt5.QtCore import QByteArray, Qt, QUrl
from PyQt5.QtGui import QImage, QTextDocument
from PyQt5.QtWidgets import QTextBrowser

from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host.guide import guide_folder, guide_markdown, guide_url

SIZE_PX = (900, 700)
"""The window has this width and height."""

PICTURE_WIDTH_PX = 820
"""Wider pictures are shown in this width."""

logger = logging.getLogger('ptychopinn_plugin')


class GuideWindow(QTextBrowser):
    """Shows the guide; links to other pages open in a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.setWindowTitle('PtychoPINN in Ptychodus')
        self.setOpenExternalLinks(True)
        self.resize(*SIZE_PX)
        # Ptychodus ends when its own window is closed.
        self.setAttribute(Qt.WidgetAttribute.WA_QuitOnClose, on=False)

    def open(self) -> None:
        """Show the guide, or log an error that names its address on the web."""
        if not self.toPlainText():
            try:
                self.setSearchPaths([str(guide_folder())])
                self.setMarkdown(guide_markdown())
            except (PtychoPinnError, OSError) as error:
                logger.error('Help failed: %s', error)
                return
        self.show()
        self.raise_()
        self.activateWindow()
        logger.info('The guide is opened in a window; on the web it is %s', guide_url())

    def loadResource(self, kind: int, name: QUrl) -> Any:
        """Return a picture of the guide, no wider than the window."""
        found = super().loadResource(kind, name)
        # A picture in a file comes as its bytes.
        if kind != QTextDocument.ResourceType.ImageResource or not isinstance(found, QByteArray):
            return found
        image = QImage.fromData(found)
        if image.width() <= PICTURE_WIDTH_PX:
            return image
        smooth = Qt.TransformationMode.SmoothTransformation
        return image.scaledToWidth(PICTURE_WIDTH_PX, smooth)
