"""How long after one click on Infer Ptychodus' window shows an object, with the built-in model.

    xvfb-run -a python benchmarks/first_click.py [--rounds 3] [--at-once]

Each round starts Ptychodus in a new process, as its user does, and loads 1,024 patterns. Its
worker has imported the framework by the time of the click; with --at-once the click comes as
soon as the scan is there. Seconds from the click to the first picture in the panel, and to the
product. Needs ``pip install 'ptychopinn-plugin[pytorch,ptychodus]'``.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS = """\
[Processing]
Algorithm = ptychopinn-plugin_PINN
"""

THINKING_S = 10.0
"""A user looks at what was loaded before the click."""


def one_round(folder: Path, pause_s: float) -> dict[str, Any]:
    """Return the seconds of a round in this process, which must have no application yet."""
    from ptychodus.controller import ControllerCore
    from ptychodus.model import ModelCore
    from ptychodus.view import ViewCore
    from PyQt5.QtCore import QEventLoop
    from PyQt5.QtWidgets import QApplication

    from ptychopinn_plugin.host import bridge

    logging.getLogger('ptychodus').setLevel(logging.WARNING)
    bridge.install()
    settings = folder / 'first-click.ini'
    settings.write_text(SETTINGS)
    application = QApplication(sys.argv[:1])
    with ModelCore(settings, log_level=logging.WARNING) as model:
        view = ViewCore()
        controller = ControllerCore(model, view)
        parts = controller._processing_controller
        view.processing_action.trigger()
        controller.show_main_window('Ptychodus')

        def wait(is_over: Callable[[], bool]) -> float:
            begun = time.perf_counter()
            while not is_over():
                application.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
                time.sleep(0.01)
            return time.perf_counter() - begun

        api = model.workflow_api
        patterns = api.load_assembled_diffraction_data(folder / 'diffraction.h5')
        product = api.load_product(folder / 'product.h5', diffraction=patterns)
        products = parts._product_view_controller.get_widget()
        products.setCurrentIndex(int(product.get_product_index()))
        end = time.perf_counter() + pause_s
        wait(lambda: time.perf_counter() > end)

        panel = parts._stacked_widget.currentWidget()
        parts._actions_view.reconstruct_button.click()
        picture_s = wait(lambda: panel.header.picture.has_picture)
        monitor = parts._processing_api.task_monitor
        rest_s = wait(
            lambda: not monitor.is_processing and model._task_manager.foreground_queue_size == 0
        )
        application.quit()
    return {'picture': picture_s, 'product': picture_s + rest_s}


def main() -> None:
    """Print the seconds of each round and their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--at-once', action='store_true', help='click without a look at the scan')
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    pause_s = 0.5 if options.at_once else THINKING_S
    if options.folder is not None:
        sys.stdout.write(json.dumps(one_round(options.folder, pause_s)) + '\n')
        return
    from ptychopinn_plugin.host.example_scans import write_example_scans

    rows = []
    with tempfile.TemporaryDirectory() as name:
        _, unseen = write_example_scans(Path(name))
        for _ in range(options.rounds):
            command = [sys.executable, __file__, '--folder', str(unseen)]
            command += ['--at-once'] * options.at_once
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(found.stdout.splitlines()[-1]))
            sys.stdout.write(f'{rows[-1]}\n')
    for what in ('picture', 'product'):
        sys.stdout.write(f'{what}: {statistics.median(row[what] for row in rows):.1f} s\n')


if __name__ == '__main__':
    main()
