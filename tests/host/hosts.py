"""Ptychodus in processes of its own: as installed, or a copy with something broken on purpose."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ptychopinn_plugin

WITHOUT_PTYCHI = Path(__file__).parents[1] / 'fixtures' / 'without_ptychi'
"""A Python with this folder first cannot import Pty-Chi."""

OURS = ['ptychopinn-plugin_pinn', 'ptychopinn-plugin_supervised']

PRELUDE = """
import json, logging, sys
sys.modules['ptychi'] = None  # as if not installed: it imports torch, which takes seconds
from ptychodus.model import ModelCore

def report(model, **more):
    parameter = model.processing_core.algorithm_parameter
    names = {name.partition('.')[0] for name in sys.modules}
    sys.stdout.write('\\n' + json.dumps({
        'algorithms': list(parameter.available_reconstructors()),
        'current': parameter.get_value(),
        'heavy': sorted(names & {'PyQt5', 'keras', 'tensorflow', 'torch'}),
        **more,
    }) + '\\n')

def open_window(model):
    from PyQt5.QtWidgets import QApplication
    global application
    application = QApplication.instance() or QApplication([])
    from ptychodus.view import ViewCore
    view = ViewCore(is_developer_mode_enabled=False)
    from ptychodus.controller import ControllerCore
    controller = ControllerCore(model, view)
    controller.show_main_window('window')
    application.processEvents()
    return view, controller
"""

START = 'model = ModelCore(log_level=logging.INFO)\nreport(model)'

WINDOW = """
with ModelCore(log_level=logging.INFO) as model:
    view, controller = open_window(model)
    from PyQt5.QtWidgets import QComboBox, QLabel
    report(
        model,
        menus=[
            [box.itemText(index) for index in range(box.count())]
            for box in view.processing_view.findChildren(QComboBox)
        ],
        labels=[label.text() for label in view.processing_view.findChildren(QLabel)],
    )
    view.close()
"""


def python_path(*first: Path) -> str:
    """Return `PYTHONPATH` with the folders `first` before all others."""
    root = Path(ptychopinn_plugin.__file__).parents[1]
    before = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    return os.pathsep.join([*map(str, first), *filter(None, before), str(root)])


def run_python(code: str, *first: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh Python that looks into the folders `first` before all others."""
    return subprocess.run(
        [sys.executable, '-c', code],
        env={
            **os.environ,
            'PYTHONPATH': python_path(*first),
            'QT_QPA_PLATFORM': 'offscreen',
            **environment,
        },
        capture_output=True,
        text=True,
        # A machine may be busy; pytest ends what takes longer than ten minutes.
        timeout=550,
        check=False,
    )


def run_host(code: str, *first: Path) -> tuple[dict[str, Any], list[str]]:
    """Start Ptychodus, and return what `report` printed and the warnings that are about us."""
    run = run_python(PRELUDE + code, *first)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    about_us = [line for line in lines if '[WARNING]' in line and 'ptychopinn_plugin' in line]
    (reported,) = (line for line in lines if line.startswith('{"algorithms"'))
    return json.loads(reported), about_us


def copy_host(folder: Path) -> Path:
    """Copy the installed Ptychodus into a folder, with our stub, and return the package."""
    installed = importlib.util.find_spec('ptychodus')
    assert installed is not None
    assert installed.origin is not None
    copy = folder / 'ptychodus'
    shutil.copytree(Path(installed.origin).parent, copy)
    stub = Path(ptychopinn_plugin.__file__).parent / 'host/stub/ptychopinn_plugin_bridge.py'
    shutil.copy(stub, copy / 'plugins')
    return copy


def edit(path: Path, old: str, new: str) -> None:
    """Replace text of a file, which must hold it."""
    text = path.read_text()
    assert old in text, f'{path} holds no {old!r}'
    path.write_text(text.replace(old, new))


def add_distribution(folder: Path, name: str, code: str, entry_points: str) -> None:
    """Install a distribution of one module into a folder."""
    information = folder / f'{name}-1.0.dist-info'
    information.mkdir(parents=True)
    (information / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
    (information / 'entry_points.txt').write_text(entry_points)
    (folder / f'{name}.py').write_text(code)
