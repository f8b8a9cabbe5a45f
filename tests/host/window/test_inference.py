"""Infer by clicking: the object, its losses, pictures on the way, Stop, and the built-in model."""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin.host import reconstructor
from ptychopinn_plugin.model_file import read_model

from .user import STOP_S, Window, check_picture, load_model, needs_stopped_processes

pytestmark = pytest.mark.usefixtures('warm_worker')

LONG = 100_000
"""No test waits for this number of iterations."""


def test_a_fresh_application_infers_what_the_library_infers(
    window: Window, open_window: Callable[..., Window], tmp_path: Path
) -> None:
    folder = tmp_path / 'data'
    window.train(folder)
    window.wait_for_end()
    model = folder / 'model.zip'

    fresh = open_window(folder / 'settings.ini')
    fresh.open(folder)
    load_model(fresh, model)
    fresh.wait_for_log(f'Loaded {model}, trained with pytorch.')
    number = fresh.infer()
    assert np.allclose(object_of(fresh, number), 1), 'the copy that Ptychodus begins with'
    fresh.wait_for_end()

    config = fresh.library.settings.config('pinn')
    wanted = pp.reconstruct(
        model,
        pp.load_scan(folder),
        inference=config.inference,
        refinement=config.refinement,
    )
    np.testing.assert_allclose(object_of(fresh, number), wanted.object_, rtol=1e-3, atol=1e-3)
    losses = fresh.products[number].get_product().losses
    assert [loss.epoch for loss in losses] == [0, 1, 2, 3]
    np.testing.assert_allclose([loss.value for loss in losses], wanted.likelihoods, rtol=1e-4)
    # Ptychodus plots the losses of the product that is chosen.
    assert len(fresh.view.processing_status_view.axes.lines[0].get_xdata()) == 4
    assert 'amplitude residual' in fresh.log
    assert 'ERROR' not in fresh.log

    pid = fresh.library.worker.pid
    # 0.08 s where nothing else runs; a cold start takes seconds.
    assert min(seconds_to_first_event(fresh) for _ in range(3)) < 0.6
    assert fresh.library.worker.pid == pid


def seconds_to_first_event(window: Window) -> float:
    """Click Infer and return how long it takes until the worker sends its first event."""
    activity = window.library.activity
    received: list[float] = []

    def watch_stage() -> None:
        while not (activity.is_running and activity.stage != 'load'):
            time.sleep(0.002)
        received.append(time.monotonic())

    watcher = threading.Thread(target=watch_stage, daemon=True)
    watcher.start()
    clicked = time.monotonic()
    window.infer()
    window.wait_for_end()
    watcher.join(1)
    return received[0] - clicked


def test_stop_keeps_the_newest_picture(
    window: Window, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However busy the machine: the worker sends what it has.
    monkeypatch.setattr(reconstructor, 'RESULT_S', STOP_S)
    window.set(RefinementIterations=LONG)
    load_model(window, model_file)
    number = window.infer()
    activity = window.library.activity
    window.wait(lambda: activity.stage == 'refine' and activity.progress[1] > 3)
    window.wait(lambda: not np.allclose(object_of(window, number), 1))
    # The window shows what the run has while it goes on, and how long it may take.
    check_picture(window, 'Network alone', 'Refined')
    window.wait(
        lambda: (
            re.fullmatch(r'Refinement, iteration \d+ of 100000, \d+ s of .* left\.', window.status)
            is not None
        )
    )
    assert window.is_running
    window.click(window.infer_button)
    window.wait(lambda: window.status.endswith('1 run waits; Stop ends all.'))

    assert window.stop() < STOP_S
    # The line on the object is the last message, whatever waited.
    window.wait_for_log('1 run that waited was ended by Stop before it began.')

    window.wait(lambda: window.status == 'Inference stopped.')
    ended = r'Stopped after (\d+) of 100,000 iterations, on 80 patterns'
    window.wait(lambda: re.match(ended, window.message) is not None)
    stopped = re.match(ended, window.message)
    assert stopped is not None
    losses = window.products[number].get_product().losses
    assert 3 < len(losses) < LONG
    assert len(losses) == int(stopped[1]) + 1, 'that of the start comes first'
    assert 'amplitude residual' in window.log
    assert 'ERROR' not in window.log


def test_the_host_says_when_a_picture_is_drawn(window: Window) -> None:
    drawn: list[bool] = []
    window.library.activity.when_drawn(lambda: drawn.append(True))
    assert not drawn, 'nothing waits for the thread of the run'
    window.wait(lambda: bool(drawn))


@needs_stopped_processes
def test_stop_amid_a_long_iteration_keeps_the_picture_that_is_there(
    window: Window, model_file: Path
) -> None:
    window.set(RefinementIterations=LONG)
    load_model(window, model_file)
    number = window.infer()
    window.wait(lambda: window.library.activity.stage == 'refine')
    window.wait(lambda: not np.allclose(object_of(window, number), 1))
    window.freeze_worker()

    assert window.stop() < STOP_S

    last = 'Stopped: the object is that of the last picture. The worker did not stop within 5 s'
    assert last in window.log
    assert window.log.count('did not stop') == 1
    assert not np.allclose(object_of(window, number), 1)
    assert window.library.worker.pid is None


def test_stop_while_the_worker_starts(window: Window, model_file: Path, slow_start: Path) -> None:
    load_model(window, model_file)
    number = window.infer()
    window.wait(slow_start.is_file)

    assert window.stop() < STOP_S

    assert 'Stopped before there was a picture' in window.log
    window.wait(lambda: len(window.products) == number)


def object_of(window: Window, number: int) -> np.ndarray:
    (layer,) = window.products[number].get_product().object_.get_array()
    return np.asarray(layer)


def test_the_first_click_shows_an_object_with_the_built_in_model(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = window.parts._processing_api.task_monitor
    shares: list[tuple[int, int]] = []
    update = monitor.update_progress

    def update_and_note(progress: int, goal: int) -> None:
        shares.append((progress, goal))
        update(progress, goal)

    monkeypatch.setattr(monitor, 'update_progress', update_and_note)
    window.set(InferencePriorPasses=1)
    window.wait(lambda: window.status == 'Infer reconstructs small; nothing needs to be trained.')
    assert window.model_line.startswith('Model: built-in model, a learned prior')
    assert ' It runs on pytorch. ' in window.model_line
    assert window.infer_button.isEnabled()
    before = len(window.products)
    window.infer()
    window.wait_for_end()

    assert len(window.products) == before + 1
    # Ten iterations, one pass and three iterations; each picture shows how far the run has come.
    assert shares[-1] == (14, 14)
    assert [done for done, _ in shares] == sorted(done for done, _ in shares)
    names = [name for name, _ in window.library.activity.pictures]
    assert names == ['After a pass', 'Refined'], 'iterations came before the pass'
    assert 'Model: built-in model.' in window.log
    assert np.ptp(np.abs(object_of(window, before))) > 0.01
    assert window.train_button.isEnabled()


def test_a_file_that_is_no_model(window: Window, tmp_path: Path) -> None:
    path = tmp_path / 'notes.zip'
    path.write_text('no archive')
    load_model(window, path)
    window.wait_for_log('Load Model failed: ')
    assert len(window.errors) == 1, "Ptychodus' dialog"
    assert window.reconstructor.loaded.is_built_in


def test_a_model_file_that_changes_or_goes(
    window: Window, model_file: Path, tmp_path: Path
) -> None:
    """As when the other algorithm trains in the same folder."""
    path = tmp_path / 'model.zip'
    path.write_bytes(model_file.read_bytes())
    load_model(window, path)
    old = read_model(path)
    other = pp.ModelConfig(filters_scale=0.25, passes=1, pattern_size=16)
    config = pp.Config(model=other, training=pp.TrainingConfig(epochs=1, target_iterations=2))
    pp.save_model(path, pp.train(pp.load_scan(tmp_path / 'data'), config).model)

    window.infer()
    window.wait_for_end()
    assert f'{path} has changed since it was loaded, and was read again.' in window.log
    assert 'amplitude residual' in window.log
    assert 'ERROR' not in window.log
    # One pass and three iterations, not the former model's two.
    assert (old.network.passes, window.reconstructor.get_progress_goal()) == (2, 4)

    # Ptychodus chooses the new product. It has the pixels of its patterns, not of the model, so
    # that whatever is next can go on from it.
    window.infer()
    window.wait_for_end()
    assert 'ERROR' not in window.log
    first, _, last = [item.get_product() for item in window.products][-3:]
    assert last.probes.get_array().shape == first.probes.get_array().shape
    pixel = first.probes.get_pixel_geometry()
    assert last.probes.get_pixel_geometry() == pixel
    assert last.object_.get_pixel_geometry().width_m == pytest.approx(pixel.width_m)

    path.unlink()
    window.infer()
    window.wait_for_end()
    (line,) = [line for line in window.log.splitlines() if 'ERROR' in line]
    assert f'Infer failed: Infer needs the model file {path}, which is gone.' in line
    window.check_failure('Inference', 'which is gone. Put it back, open another one with Load')


def test_fine_tuning_starts_from_the_loaded_model(
    window: Window, model_file: Path, tmp_path: Path
) -> None:
    window.set(FineTune=True, TrainingEpochs=1)
    window.train(tmp_path / 'data')
    window.wait_for_end()
    assert 'Training failed: ' in window.log

    load_model(window, model_file)
    window.train(tmp_path / 'data')
    window.wait_for_end()
    assert 'Trained 1 epoch ' in window.log
    assert 'it trained the model' in window.log
