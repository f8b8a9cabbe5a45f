"""Train by clicking: progress, losses, Stop, a worker that is killed, a window that closes."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PyQt5.QtCore import QTimer

from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.host import reconstructor
from ptychopinn_plugin.host.training_watch import TrainingWatch
from ptychopinn_plugin.host.worker.client import Event
from ptychopinn_plugin.host.worker.messages import TrainingDone
from ptychopinn_plugin.model_file import read_model

from .user import STOP_S, Window, needs_stopped_processes

pytestmark = pytest.mark.usefixtures('warm_worker')

LONG = 100_000
"""No test waits for this number of epochs or iterations."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder that the window's data came from."""
    return tmp_path / 'data'


@pytest.mark.usefixtures('own_worker')
def test_training_shows_what_it_does_and_loads_the_model(window: Window, folder: Path) -> None:
    # Ptychodus looks whether there is a model when the algorithm changes.
    for name in ('supervised', 'pinn'):
        window.choose(window.algorithms, f'ptychopinn-plugin_{name}')
    assert window.reconstructor.loaded.is_built_in
    window.set(TrainingEpochs=3)

    window.train(folder)
    window.wait_for_end()

    assert (
        'Training on data (80 patterns of 32 x 32 px, data); 3 epochs; with pytorch (the first '
        'that is installed).'
    ) in window.log
    assert re.search(r'The target takes \d+ iterations of the training scan', window.log)
    for number in (1, 2, 3):
        assert re.search(
            rf'Epoch {number}: training loss \S+, validation loss \S+; [\d,]+ patterns per second',
            window.log,
        )
    assert f'The model is loaded; it lies in {folder / "model.zip"}.' in window.log
    # Told by the end of the run, not by a change of the product.
    window.wait(lambda: not window.reconstructor.loaded.is_built_in)
    assert read_model(folder / 'model.zip').config.training.epochs == 3
    check_that_the_worker_imports_from_here(window.library.worker.pid)


def check_that_the_worker_imports_from_here(pid: int | None) -> None:
    file = Path(f'/proc/{pid}/environ')
    if file.is_file():
        variables = dict(item.partition('=')[::2] for item in file.read_text().split('\0'))
        folders = variables['PYTHONPATH'].split(os.pathsep)
        assert folders == [path for path in sys.path if path and os.path.isdir(path)]


def test_the_curve_is_live_and_stop_keeps_the_best_model(window: Window, folder: Path) -> None:
    window.set(TrainingEpochs=LONG)
    window.train(folder)
    curve = window.curve
    window.wait(lambda: bool(curve.axes.lines) and len(curve.axes.lines[0].get_xdata()) >= 3)
    assert window.is_running
    bar = window.view.processing_status_view.progress_bar
    window.wait(lambda: bar.value() >= 100)
    assert bar.isVisible()
    assert bar.maximum() == 1000
    window.wait(
        lambda: re.fullmatch(r'Epoch \d+ of 100000; training .* left\.', window.status) is not None
    )
    assert [line.get_label() for line in curve.axes.lines] == ['training', 'validation']
    assert curve.axes.get_xlabel() == 'epoch'
    assert all(value > 0 for value in curve.axes.lines[0].get_ydata())

    assert window.stop() < STOP_S

    ended = re.search(
        r'Trained ([\d,]+) epochs until it was stopped; its best loss is 0', window.log
    )
    assert ended is not None
    # The epoch that Stop has cut is not counted: it is neither drawn nor in the log.
    n_epochs = int(ended[1].replace(',', ''))
    window.wait(lambda: len(curve.axes.lines[0].get_xdata()) == n_epochs)
    assert curve.axes.get_xlabel() == 'epoch'
    assert len(re.findall(r'Epoch \d+: .*patterns per second\.', window.log)) == n_epochs
    assert 'cut short' not in window.log
    assert read_model(folder / 'model.zip').config.training.epochs == LONG
    assert not window.reconstructor.loaded.is_built_in
    window.wait(lambda: window.status == 'Training stopped.')


def test_stop_before_the_first_epoch_leaves_the_model_alone(window: Window, folder: Path) -> None:
    (folder / 'model.zip').write_bytes(b'precious')
    window.set(TrainingEpochs=LONG, TrainingTargetIterations=LONG)
    window.train(folder)
    # The host by itself would show this with the first epoch.
    window.wait_for_log('The target takes ')
    assert window.library.activity.stage == 'target'

    assert window.stop() < STOP_S

    assert 'Stopped before the first epoch ended: there is no new model.' in window.log
    assert (folder / 'model.zip').read_bytes() == b'precious'
    assert not list(folder.glob('*previous*'))


@needs_stopped_processes
def test_stop_where_there_is_nothing_to_keep_does_not_wait(window: Window, folder: Path) -> None:
    """An iteration of a large scan, or the first step of TensorFlow, takes no message for long."""
    window.set(TrainingEpochs=LONG, TrainingTargetIterations=LONG)
    window.train(folder)
    window.wait(lambda: window.library.activity.stage == 'target')
    window.freeze_worker()

    assert window.stop() < STOP_S

    assert 'Stopped before the first epoch ended: there is no new model.' in window.log
    assert 'ERROR' not in window.log


@needs_stopped_processes
def test_a_model_that_is_not_handed_over_is_said_to_be_lost(
    window: Window, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstructor, 'GRACE_S', 3.0)
    window.set(TrainingEpochs=LONG)
    window.train(folder)
    window.wait_for_epochs(1)
    window.freeze_worker()

    # The line of an epoch does not wait for what comes after it.
    window.qtbot.wait(500)
    window.wait_for_log(f'Epoch {len(window.library.activity.epochs)}: ')

    assert window.stop() >= 3

    ended = 'The worker did not stop within 3 s and was ended.'
    window.wait_for_log(ended)
    assert window.log.count(ended) == 1
    reported = (
        rf'There is no model of the \d+ epochs?\. {ended} There is no checkpoint yet, as one comes '
        r'once a minute: train again\. Infer still uses the built-in model\.'
    )
    window.wait(lambda: re.fullmatch(reported, window.message) is not None)


def test_stop_while_the_worker_starts(window: Window, folder: Path, slow_start: Path) -> None:
    window.train(folder)
    window.wait(slow_start.is_file)
    assert window.library.activity.stage == 'load'
    window.wait(window.view.processing_status_view.stop_button.isVisible)

    assert window.stop() < STOP_S

    assert 'there is no new model' in window.log
    assert not (folder / 'model.zip').exists()


def test_a_killed_worker_is_an_error_and_the_next_training_works(
    window: Window, folder: Path
) -> None:
    window.set(TrainingEpochs=LONG)
    window.train(folder)
    window.wait_for_epochs(1)
    pid = window.library.worker.pid
    assert pid is not None
    # As the worker does once a minute.
    checkpoint = folder / 'model.checkpoint.zip'
    checkpoint.write_bytes(b'what was learned')

    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    window.wait(lambda: 'Training failed: The worker died while it worked (killed' in window.log)
    assert time.monotonic() - killed < 15
    window.wait_for_end()
    kept = f'is kept in {checkpoint}; Load Model... opens it'
    window.check_failure('Training', 'The worker died while it worked', kept, 'Infer still uses')

    window.set(TrainingEpochs=1)
    window.train(folder)
    window.wait_for_end()
    assert 'Trained 1 epoch ' in window.log
    assert window.library.worker.pid not in (None, pid)


def test_a_training_that_diverged_is_shown_as_a_failure_that_left_a_model(
    window: Window, model_file: Path
) -> None:
    activity = window.library.activity
    with activity.running('training', window.reconstructor.name):
        watch = TrainingWatch(activity, window.reconstructor.loaded, model_file)
        # The worker's last report, where the loss of the third epoch is no number.
        assert watch.note(Event(TrainingDone(2, 'diverged', 2, 0.5)))

    window.check_bad_end('Training diverged.', 'the loss was no longer a number', 'learning rate')
    assert 'The model of the best of these epochs is loaded' in window.message
    assert window.model_line.startswith(f'Model: {model_file.parent.name}/{model_file.name}, ')


def test_a_model_that_cannot_be_written_leaves_the_one_so_far(window: Window, folder: Path) -> None:
    # As a disk that fills up does, and easier to arrange.
    (folder / 'model.zip').mkdir()
    window.set(TrainingEpochs=LONG)
    window.train(folder)
    window.wait_for_epochs(1)
    # As the worker does once a minute.
    checkpoint = folder / 'model.checkpoint.zip'
    checkpoint.write_bytes(b'what was learned')

    assert window.stop() < STOP_S

    reason = 'model.zip: it is a folder. Choose another name for the file.'
    kept = f'is kept in {checkpoint}; Load Model... opens it'
    window.check_failure('Training', 'There is no model of the ', reason, kept, 'Infer still uses')
    assert window.log.count(reason) == 1
    assert window.reconstructor.loaded.is_built_in


def test_closing_the_application_ends_a_training_with_its_model(
    window: Window, folder: Path, qapp: Any
) -> None:
    window.set(TrainingEpochs=LONG)
    window.train(folder)
    window.wait_for_epochs(2)

    closed = time.monotonic()
    QTimer.singleShot(0, qapp.quit)
    qapp.exec_()
    # As Ptychodus leaves its main function: it waits for the run.
    window.model._task_manager.stop(await_finish=False)

    assert time.monotonic() - closed < 9
    assert read_model(folder / 'model.zip').config.training.epochs == LONG


def test_one_click_trains_on_the_chosen_product(window: Window, folder: Path) -> None:
    target = folder / 'small-training'
    target.mkdir()
    # Of another day, or another product's: only the one that is chosen is trained on.
    (target / 'another.npz').write_bytes(b'no scan')
    window.set(TrainingEpochs=1, TrainingMaxMinutes=2.0)
    for _ in range(2):
        # The second time it has that folder already.
        window.click(window.panel.train_button)
        window.wait(lambda: window.is_running)
        window.wait_for_end()
    assert window.log.count(f'Wrote 80 patterns to {target / "train_data.npz"}.') == 2
    reported = (
        'Training on small (80 patterns of 32 x 32 px, train_data.npz); 1 epoch, at most 2 min; '
    )
    assert window.log.count(reported) == 2
    lines = window.log.splitlines()
    begun = next(number for number, line in enumerate(lines) if reported in line)
    assert begun < next(number for number, line in enumerate(lines) if 'Epoch 1: ' in line)
    assert read_model(target / 'model.zip').data_summary['scans'] == ['small']
    assert sorted(path.name for path in target.iterdir() if path.suffix in ('.npz', '.zip')) == [
        'another.npz',
        'model.previous.zip',
        'model.zip',
        'train_data.npz',
    ]
    assert 'WARNING' not in window.log
    assert not window.reconstructor.loaded.is_built_in
    assert window.training_line.startswith(
        f'Train opens {target}: 2 scans: another.npz, train_data.npz. Train on product: small, '
        '80 patterns. Either way: at most 2 min; '
    )


def test_exported_data_can_be_trained_on(window: Window, tmp_path: Path) -> None:
    target = tmp_path / 'training'
    target.mkdir()
    window.dialogs.get_save_file_path = lambda *_, **__: (target / 'train_data', '')
    window.menu('Export Training Data...')
    window.wait_for_log(f'Wrote 80 patterns to {target / "train_data.npz"}.')

    window.train(target)
    window.wait_for_end()
    assert 'Training on small (80 patterns of 32 x 32 px, train_data.npz); 2 epochs; ' in window.log
    assert (target / 'model.zip').is_file()


def test_a_folder_without_data_is_one_line(window: Window, tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    window.train(tmp_path / 'empty')
    window.wait_for_end()
    lines = [line for line in window.log.splitlines() if 'Training failed' in line]
    assert len(lines) == 1
    assert 'holds no training data' in lines[0]
    assert 'Traceback' not in window.log


@pytest.mark.usefixtures('own_worker')
def test_what_is_wrong_with_scans_is_known_before_a_worker_starts(
    window: Window, small_scan: Scan, write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    def fails(name: str, scan: Scan, *words: str) -> None:
        window.train(write_folder(tmp_path / name, scan=scan))
        window.wait_for_end()
        window.wait(lambda: words[0] in window.message)
        window.check_failure('Training', *words, 'Infer still uses the built-in model.')
        assert window.library.worker.pid is None

    def scaled(factor: float) -> Scan:
        return replace(small_scan, positions_px=factor * small_scan.positions_px)

    fails(
        'far',
        scaled(20),
        'neighbouring illuminations must overlap',
        'alone with "Single shot" in the box Run, or',
    )
    editor = 'the factors of x and y in the box Transformation of the editor under Positions'
    fails('metres', scaled(1e-6), 'must be object pixels', editor, '"Check scan" finds')
    window.set(ModelGridsize=2)
    fails('few', small_scan.subset(np.arange(3)), 'A group holds 4 patterns')
    window.set(ModelGridsize=1, ModelArchitecture='cnn')
    fails('small', small_scan, 'Architecture cnn takes patterns of 64')
    window.set(ModelArchitecture='sweepnet')
    other = write_folder(tmp_path / 'other')
    with h5py.File(other / 'diffraction.h5', 'a') as file:
        attributes = dict(file['patterns'].attrs)
        del file['patterns'], file['bad_pixels']
        file['patterns'] = np.ones((80, 16, 16))
        file['patterns'].attrs.update(attributes)
    window.train(other)
    window.wait_for_end()
    window.wait(lambda: 'probe must have shape (n_modes, 16, 16) as the' in window.message)

    # The same by one click, which writes no product that cannot be trained on.
    window.open(tmp_path / 'far')
    window.click(window.panel.train_button)
    window.wait(lambda: 'Train on product failed: small-1: neighbouring il' in window.message)
    window.check_failure('Training')
    window.open(tmp_path / 'few')
    for row, value, words in (
        ('ModelGridsize', 2, 'A group holds 4 patterns, but there are only 3. Use a smaller'),
        ('TrainingNSubsample', 2, 'A group holds 4 patterns, but there are only 2.'),
        ('FineTune', True, 'Fine-tuning needs a trained model'),
    ):
        window.set(**{row: value})
        window.click(window.panel.train_button)
        window.wait(lambda wanted=words: f'Train on product failed: {wanted}' in window.message)
        window.check_failure('Training')
    assert not list(tmp_path.glob('*/*-training'))
    assert not window.is_running
    assert window.library.worker.pid is None


@pytest.mark.usefixtures('own_worker')
def test_a_group_of_the_model_that_does_not_fit_the_scan_is_known_before_a_worker_starts(
    window: Window, small_scan: Scan, write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    window.open(write_folder(tmp_path / 'few', scan=small_scan.subset(np.arange(3))))
    loaded = window.reconstructor.loaded
    grouped = loaded.model.config.model.replace(gridsize=2)
    loaded.model = replace(loaded.model, config=loaded.model.config.replace(model=grouped))
    window.infer()
    window.wait_for_end()
    window.check_failure('Inference', 'A group holds 4 patterns, but there are only 3.')
    assert window.library.worker.pid is None
