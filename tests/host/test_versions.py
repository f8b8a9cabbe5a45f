"""Batch and window of whichever Ptychodus is imported: ``tox -e hosts`` runs this with several."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from ptychodus.api.io import StandardFileLayout

from ptychopinn_plugin import ptychodus_compat
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.host import versions

from .conftest import PIXEL_M, needs
from .hosts import OURS, START, WITHOUT_PTYCHI, run_host, run_python

SUPPORTED = ptychodus_compat.is_supported(versions.host_version())

BATCH = """
import sys
from ptychodus.__main__ import main
sys.argv = ['ptychodus', '-b', {action!r}, '-i', {source!r}, '-o', {target!r}]
if __name__ == '__main__':
    code = main()
    assert not any(name.startswith('PyQt') for name in sys.modules), 'batch mode imported Qt'
    assert 'torch' not in sys.modules, 'torch in the host'
    sys.exit(int(code))
"""

# Clicks as a user does; the dialog for the folder is answered before it opens.
CLICKS = """
import time
from pathlib import Path

def wait_until(condition, what):
    deadline = time.monotonic() + 400
    while not condition():
        log = view.processing_status_view.text_edit
        assert time.monotonic() < deadline, (what, log.toPlainText())
        application.processEvents()
        time.sleep(0.02)

if __name__ == '__main__':
    folder = Path({folder!r})
    with ModelCore(folder / 'settings.ini', log_level=logging.INFO) as model:
        view, controller = open_window(model)
        workflow = model.workflow_api
        patterns = workflow.load_assembled_diffraction_data(folder / 'diffraction.h5')
        product = workflow.load_product(folder / 'product.h5', diffraction=patterns)
        parameter = model.processing_core.algorithm_parameter
        reconstructor = parameter.get_current_reconstructor()
        processing = controller._processing_controller
        processing._file_dialog_factory.get_existing_directory_path = lambda *_, **__: folder
        box = processing._product_view_controller.get_widget()
        box.setCurrentIndex(product.get_product_index())
        buttons = processing._actions_view
        wait_until(buttons.train_button.isEnabled, 'Train is not offered')
        parameter.notify_observers()
        assert reconstructor.is_model_loaded(), 'the built-in model is there'
        buttons.train_button.click()
        monitor = model.processing_core.processing_api.task_monitor
        wait_until(lambda: monitor.get_completed_runs() == 1, 'Train does not end')
        wait_until(buttons.reconstruct_button.isEnabled, 'Infer is not offered')
        assert not reconstructor.loaded.is_built_in
        box.setCurrentIndex(product.get_product_index())
        buttons.reconstruct_button.click()
        repository = model.product_core.product_repository
        wait_until(lambda: monitor.get_completed_runs() == 2, 'Infer does not end')
        application.processEvents()
        result = repository[box.currentIndex()]
        wait_until(result.get_losses, "no losses")
        product = result.get_product()
        report(
            model,
            losses=[loss.value for loss in product.losses],
            shape=product.object_.get_array().shape,
            error=str(monitor.get_last_error()),
        )
        view.close()
"""


def _run_batch(action: str, source: Path, target: Path) -> str:
    code = BATCH.format(action=action, source=str(source), target=str(target))
    run = run_python(code, WITHOUT_PTYCHI)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.skipif(not SUPPORTED, reason='this Ptychodus is not supported')
@needs('torch')
def test_batch_trains_and_reconstructs(
    write_folder: Callable[..., Path], small_scan: Scan, tmp_path: Path
) -> None:
    source, target = write_folder(tmp_path / 'in', iterations=30), tmp_path / 'out'
    # 1.5 has another name for the product that goes in, and for the one that comes out.
    product = source / getattr(StandardFileLayout, 'PRODUCT_IN', 'product.h5')
    (source / 'product.h5').rename(product)
    _run_batch('train', source, target)
    (target / 'model.zip').rename(source / 'model.zip')
    output = _run_batch('reconstruct', source, target)
    assert '[WARNING] ptychopinn_plugin' not in output
    products = sorted(target.glob('product*.*.h5'))
    assert products[-1].name.endswith('.000032.h5')
    with h5py.File(product) as before, h5py.File(products[-1]) as after:
        ours, start = after['object'], before['object']
        # Sizes and centres in metres, of the object that the host has cropped or grown for itself.
        for name in ('pixel_width_m', 'pixel_height_m'):
            assert ours.attrs[name] == pytest.approx(PIXEL_M, rel=1e-6)
        corners = {}
        for key, item in (('ours', ours), ('start', start)):
            centre = np.array([item.attrs['center_y_m'], item.attrs['center_x_m']]) / PIXEL_M
            corners[key] = centre - (np.array(item.shape[-2:]) - 1) / 2
        offset = np.round(corners['ours'] - corners['start']).astype(int)
        np.testing.assert_allclose(corners['ours'] - corners['start'], offset, atol=0.51)
        assert after['loss_values'][-1] < after['loss_values'][0]
        for axis in 'xy':
            name = f'probe_position_{axis}_m'
            np.testing.assert_allclose(after[name], before[name])


@pytest.mark.skipif(not SUPPORTED, reason='this Ptychodus is not supported')
@needs('torch', 'PyQt5')
def test_window_trains_and_infers(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / 'in', epochs=1, iterations=3)
    reported, warnings = run_host(CLICKS.format(folder=str(folder)))
    assert reported['current'] == OURS[0]
    assert reported['error'] == 'None'
    assert reported['losses'][-1] < reported['losses'][0]
    assert (folder / 'model.zip').is_file()
    assert not warnings


@pytest.mark.skipif(SUPPORTED, reason='this Ptychodus is supported')
def test_a_host_that_is_too_old_logs_and_starts() -> None:
    reported, warnings = run_host(START)
    assert not any('plugin' in name for name in reported['algorithms'])
    (line,) = warnings
    assert ptychodus_compat.SUPPORTED in line
    assert 'ptychopinn doctor' in line
